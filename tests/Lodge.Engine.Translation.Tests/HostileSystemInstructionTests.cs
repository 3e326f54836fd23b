using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class HostileSystemInstructionTests
{
    private static readonly byte[] s_opcodes = [0x01, 0x06, 0x08, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0xAE, 0xC7];
    private static readonly byte[][] s_prefixes = [[], [0x66], [0xF2], [0xF3], [0x48], [0xF3, 0x48], [0x67], [0x64], [0x65]];
    private static readonly uint[] s_msrs =
    [
        Msr.Tsc, Msr.TscAdjust, Msr.SpecCtrl, Msr.PredCmd, Msr.MtrrCap, Msr.MtrrDefType, Msr.Pat, Msr.MiscEnable, Msr.Efer, Msr.Lstar, Msr.FsBase, Msr.KernelGsBase, Msr.KvmWallClockNew,
        Msr.KvmSystemTimeNew, Msr.MtrrPhysBase0, Msr.MtrrFix4KC0000, Msr.McgStatus, Msr.DebugCtl, Msr.AmdHwcr, 0x277 + 1, 0xFFFF_FFFF, 0,
    ];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_system_instructions_execute_or_fault(int seed)
    {
        var random = new Random(seed);
        using var guest = new GuestFixture();
        guest.Vcpu.ResetRegisters();
        int executed = 0, faulted = 0;
        byte[] code = new byte[16];
        for (int i = 0; i < 20_000; i++)
        {
            Scramble(guest, random);
            random.NextBytes(code);
            byte[] prefix = s_prefixes[random.Next(s_prefixes.Length)];
            prefix.CopyTo(code, 0);
            code[prefix.Length] = 0x0F;
            code[prefix.Length + 1] = s_opcodes[random.Next(s_opcodes.Length)];
            var decoder = Decoder.Create(guest.Vcpu.CodeBits, new ByteArrayCodeReader(code));
            decoder.Decode(out Instruction instruction);
            if (instruction.IsInvalid || instruction.Op0Register == Register.CR8 || instruction.Op1Register == Register.CR8)
            {
                continue; // CR8 is the local APIC's
            }
            try
            {
                guest.Vcpu.CheckAvailability(instruction);
                executed += guest.Vcpu.TryExecuteSystem(instruction) ? 1 : 0;
            }
            catch (GuestFault)
            {
                faulted++;
            }
            Assert.Equal((guest.B->Efer & EferBits.Lma) != 0, (guest.B->Efer & EferBits.Lme) != 0 && (guest.B->Cr0 & Cr0Bits.Pg) != 0);
            Assert.Equal(0u, guest.B->Mxcsr >> 16);
            Assert.Equal(1UL, guest.B->Xcr0 & 1);
        }
        Assert.True(executed > 500 && faulted > 500, $"{executed} executed, {faulted} faulted");
    }

    private static void Scramble(GuestFixture guest, Random random)
    {
        ProcessorBlock* b = guest.B;
        for (int i = 0; i < 16; i++)
        {
            b->Gpr[i] = random.Next(4) switch
            {
                0 => (ulong)random.NextInt64(),
                1 => (ulong)random.Next(0x40_0000) & ~63UL,
                2 => (ulong)random.Next(16),
                _ => (ulong)random.NextInt64() | 0xFFFF_8000_0000_0000,
            };
        }
        if (random.Next(2) == 0)
        {
            b->Gpr[1] = s_msrs[random.Next(s_msrs.Length)];
        }
        switch (random.Next(4))
        {
            case 0:
                guest.EnterProtectedMode();
                b->Efer = 0;
                b->Cr4 = 0;
                break;
            case 1:
                guest.Vcpu.ResetRegisters();
                break;
            default:
                guest.EnterLongMode((ulong)random.Next(64) << 12, Cr4Bits.Osfxsr | Cr4Bits.Osxsave | Cr4Bits.FsGsBase);
                if (random.Next(2) == 0)
                {
                    // A self-map: whatever is written becomes page tables.
                    guest.Write64(b->Cr3, b->Cr3 | 0x67);
                    guest.Write64(b->Cr3 + 8, 0x67 | 0x80);
                }
                break;
        }
        b->Cpl = (b->Cr0 & Cr0Bits.Pe) != 0 && random.Next(4) == 0 ? 3u : 0;
        guest.Vcpu.Segment(Seg.Ds)->Limit = random.Next(2) == 0 ? uint.MaxValue : (uint)random.Next();
    }
}
