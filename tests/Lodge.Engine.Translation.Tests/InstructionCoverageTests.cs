using Iced.Intel;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>Every instruction of the features that CPUID shows is executed by somebody: #UD only where the manual says so.</summary>
public sealed unsafe class InstructionCoverageTests
{
    private static readonly HashSet<Mnemonic> RightlyUndefined = [Mnemonic.Ud0, Mnemonic.Ud1, Mnemonic.Ud2, Mnemonic.Rsm, Mnemonic.Getsec];

    [Theory]
    [InlineData(64)]
    [InlineData(32)]
    public void EveryCodeOfAnAdvertisedFeatureIsExecuted(int bits)
    {
        using var guest = new ExceptionGuest();
        var generator = new InstanceGenerator(1234, bits);
        List<string> unexecuted = [];
        foreach (Code code in Enum.GetValues<Code>())
        {
            bool compatibilityOnly = bits == 32 && code.Mnemonic() is Mnemonic.Syscall or Mnemonic.Sysret; // of a 64-bit segment's only
            if (!InstanceGenerator.IsInstruction(code, bits) || RightlyUndefined.Contains(code.Mnemonic()) || compatibilityOnly)
            {
                continue;
            }
            for (int attempt = 0; attempt < 4; attempt++)
            {
                if (!generator.TryGenerate(code, InstanceGenerator.CodeStart, out TestInstance instance) || instance.Decoded.Code != code)
                {
                    continue;
                }
                if (guest.Processor.ClassOf(instance.Decoded) == AvailabilityClass.Never || InstructionKinds.Of(instance.Decoded) is not (InstructionKind.Helper or InstructionKind.Flow))
                {
                    break;
                }
                guest.Enter(bits, false);
                guest.B->Cr4 |= Cr4Bits.FsGsBase | Cr4Bits.Pke;
                ulong address = InstanceGenerator.CodeStart;
                guest.MapFresh(address, 4096);
                guest.MapFresh(InstanceGenerator.DataStart, 4096 * 4);
                guest.Write(address, instance.Bytes);
                guest.B->Rip = address;
                instance.Apply(guest.B);
                guest.B->Gpr[4] = InstanceGenerator.DataStart + 0x800;
                bool undefined = false;
                Lodge.Engine.Translation.Emission.HostSignals.SetGsBase(guest.B);
                try
                {
                    guest.Processor.ExecuteOne();
                }
                catch (GuestFault fault)
                {
                    undefined = fault.Vector == Vector.InvalidOpcode;
                }
                if (!undefined)
                {
                    break;
                }
                if (attempt == 3)
                {
                    unexecuted.Add(code.ToString());
                }
            }
        }
        Assert.True(unexecuted.Count == 0, string.Join(", ", unexecuted));
    }
}
