using System.Globalization;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>Whole random programs end alike in T0 and T1. LODGE_PROGRAM_ROUNDS sets how many, LODGE_PROGRAM_FIRST the first one's number.</summary>
public sealed unsafe class LockstepTests
{
    private const ulong Code = 0x4FF_F000, Data = 0x500_0000, Stack = 0x600_0000;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void RandomProgramsEndAlikeInBothTiers(bool absentPage)
    {
        int rounds = Number("LODGE_PROGRAM_ROUNDS", 150), first = Number("LODGE_PROGRAM_FIRST", 1);
        using var guest = new ExceptionGuest();
        guest.MapFresh(Code - 0x3000, 0x8000 - 0x1000 - 0x3000);
        // The second page is absent in half of the programs: they end at their first access to it.
        guest.MapFresh(Data, absentPage ? 0x1000UL : 0x3000);
        guest.MapFresh(Stack - 0x2000, 0x2000);
        guest.Enter(64, false);
        var random = new Random(first);
        for (int number = first; number < first + rounds; number++)
        {
            ulong at = Code - 0x3000 + (ulong)((number * 0x137) & 0xFFF);
            guest.Assemble(at, new ProgramGenerator(number).Write);
            var registers = new RegisterFile();
            for (int i = 0; i < 16; i++)
            {
                registers.Gpr[i] = (ulong)random.NextInt64() << random.Next(2);
            }
            registers.Gpr[1] = (ulong)random.Next(1, 60);
            registers.Gpr[3] = Data;
            registers.Gpr[4] = Stack - 0x100;
            random.NextBytes(registers.Ymm);
            registers.X87[0] = 0x7F;
            registers.X87[1] = 3;
            byte[] data = new byte[absentPage ? 0x1000 : 0x3000];
            random.NextBytes(data);
            (int vector0, RegisterFile end0, byte[] memory0) = Run(guest, at, registers, data, true);
            (int vector1, RegisterFile end1, byte[] memory1) = Run(guest, at, registers, data, false);
            Assert.True(vector0 == vector1, $"program {number} ends by exception {vector0} in T0, {vector1} in T1");
            Assert.True(end0.Difference(end1) is null, $"program {number} (T0 / T1, exception {vector0}): {end0.Difference(end1)}");
            Assert.True(memory0.AsSpan().SequenceEqual(memory1), $"program {number}: memory differs at {memory0.AsSpan().CommonPrefixLength(memory1):x}");
        }
    }

    private static int Number(string variable, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int value) ? value : otherwise;

    private static (int Vector, RegisterFile End, byte[] Memory) Run(ExceptionGuest guest, ulong at, RegisterFile registers, byte[] data, bool interpret)
    {
        guest.Write(Data, data);
        registers.Load(guest.B);
        guest.B->Rip = at;
        guest.Processor.ForceInterpret = interpret;
        int vector = guest.Run();
        RegisterFile end = RegisterFile.Save(guest.B);
        if (vector >= 0)
        {
            var frame = guest.Frame(vector);
            (end.Gpr[4], end.Flags) = (frame.Rsp, frame.Flags);
        }
        byte[] memory = new byte[data.Length];
        for (int page = 0; page < memory.Length; page += 0x1000)
        {
            guest.Processor.TryTranslateQuietly(Data + (ulong)page, out ulong physical);
            guest.Memory.TryRead(physical, memory.AsSpan(page, 0x1000));
        }
        return (vector, end, memory);
    }
}
