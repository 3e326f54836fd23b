using System.Globalization;
using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>
/// Random instruction bytes in every mode: whatever the guest executes, the engine neither fails nor hangs nor grows. LODGE_FUZZ_CASES sets the number of
/// cases of each mode, LODGE_FUZZ_FIRST the number of the first one (a failing case's number is in the message).
/// </summary>
public sealed unsafe class InstructionFuzzTests(ITestOutputHelper output)
{
    private const ulong Code = InstanceGenerator.CodeStart, Data = InstanceGenerator.DataStart, RealCode = 0x8_0000;
    private const int DataPages = 16;
    private static readonly Code[] Codes = [.. Enum.GetValues<Code>().Where(c => InstanceGenerator.IsInstruction(c, 64))];
    private static readonly Code[] Codes32 = [.. Enum.GetValues<Code>().Where(c => InstanceGenerator.IsInstruction(c, 32))];

    [Theory]
    [InlineData(64, false, 4000)]
    [InlineData(64, true, 6000)]
    [InlineData(32, false, 3000)]
    [InlineData(32, true, 4000)]
    [InlineData(16, false, 3000)]
    public void RandomInstructionsDoNoHarm(int bits, bool user, int cases)
    {
        if (long.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), CultureInfo.InvariantCulture, out long asked))
        {
            cases = (int)asked;
        }
        _ = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_FIRST"), CultureInfo.InvariantCulture, out int first);
        using var guest = new ExceptionGuest(32 << 20);
        guest.MapFresh(Code, 3 * 4096, user ? 7UL : 3);
        guest.MapFresh(Data, DataPages * 4096, user ? 7UL : 3);
        guest.MapFresh(Data - 0x10000, 4096, 5);
        byte[] pristine = new byte[guest.Used];
        guest.PrepareReal();
        guest.Memory.TryRead(0, pristine);
        byte[] code = new byte[96];
        int current = -1;
        bool ended = false;
        var watchdog = new Thread(() =>
        {
            int seen = -1, patience = 0;
            while (!Volatile.Read(ref ended))
            {
                Thread.Sleep(1);
                int now = Volatile.Read(ref current);
                patience = now == seen ? patience + 1 : 0;
                seen = now;
                if (patience > 0)
                {
                    guest.Processor.RequestStop();
                }
                if (patience > 120_000)
                {
                    Environment.FailFast($"fuzz case {now} of {bits}-bit {(user ? "user" : "supervisor")} code does not stop");
                }
            }
        })
        { IsBackground = true };
        watchdog.Start();
        int[] ends = new int[260];
        long before = Environment.WorkingSet;
        var generator = new InstanceGenerator(first, bits == 64 ? 64 : 32);
        try
        {
            for (int number = first; number < first + cases; number++)
            {
                var random = new Random(number * 2654435 + bits + (user ? 7 : 0));
                if (number % 1024 == 0)
                {
                    generator = new InstanceGenerator(number, bits == 64 ? 64 : 32);
                }
                if (!user || number % 256 == 0)
                {
                    guest.Memory.TryWrite(0, pristine);
                }
                Fill(random, generator, code, bits);
                if (bits == 16)
                {
                    guest.EnterReal((ushort)(RealCode >> 4));
                    guest.Memory.TryWrite(RealCode, code);
                    guest.B->Rip = 0;
                }
                else
                {
                    guest.Enter(bits, user);
                    ulong at = Code + (ulong)(random.Next(3) == 0 ? 4096 - random.Next(1, 40) : random.Next(4000));
                    guest.Write(at, code);
                    guest.B->Rip = at;
                }
                SetRegisters(random, guest, bits);
                guest.Processor.ForceInterpret = random.Next(4) == 0;
                Volatile.Write(ref current, number);
                int end;
                try
                {
                    end = guest.Run();
                }
                catch (Exception failure)
                {
                    throw new InvalidOperationException($"case {number}: {Convert.ToHexString(code)}", failure);
                }
                ends[end + 3]++;
            }
        }
        finally
        {
            Volatile.Write(ref ended, true);
            watchdog.Join();
        }
        output.WriteLine(string.Join(", ", Enumerable.Range(0, ends.Length).Where(i => ends[i] != 0).Select(i => $"{i - 3}: {ends[i]}")));
        Assert.True(Environment.WorkingSet - before < 1L << 30, $"grew by {Environment.WorkingSet - before} bytes");
        Assert.True(ends.Count(n => n != 0) > 3, "the cases all end alike");
    }

    private static void Fill(Random random, InstanceGenerator generator, byte[] code, int bits)
    {
        random.NextBytes(code);
        int at = 0;
        Code[] codes = bits == 64 ? Codes : Codes32;
        switch (random.Next(4))
        {
            case 0:
                break;
            case 1:
                // Prefixes and escapes come up more often.
                ReadOnlySpan<byte> likely = [0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x0F, 0x0F, 0x0F, 0x48, 0x4C, 0x41, 0x2E, 0x64, 0x65, 0xC4, 0xC5, 0x38, 0x3A, 0x62, 0x8E, 0xFF, 0xCF, 0xCD];
                for (int i = 0; i < code.Length; i++)
                {
                    if (random.Next(3) == 0)
                    {
                        code[i] = likely[random.Next(likely.Length)];
                    }
                }
                break;
            default:
                bool mutate = random.Next(2) == 0;
                for (int tries = 0; tries < 12 && at < code.Length - 20; tries++)
                {
                    if (generator.TryGenerate(codes[random.Next(codes.Length)], Code + (ulong)at, out TestInstance instance, (Placement)random.Next(7)))
                    {
                        instance.Bytes.CopyTo(code, at);
                        if (mutate && random.Next(2) == 0)
                        {
                            code[at + random.Next(instance.Bytes.Length)] ^= (byte)(1 << random.Next(8));
                        }
                        at += instance.Bytes.Length;
                    }
                }
                break;
        }
    }

    private static void SetRegisters(Random random, ExceptionGuest guest, int bits)
    {
        for (int i = 0; i < 16; i++)
        {
            guest.B->Gpr[i] = random.Next(6) switch
            {
                0 => (ulong)random.NextInt64() << 1,
                1 => (ulong)random.Next(64),
                2 => ulong.MaxValue - (ulong)random.Next(64),
                3 => ExceptionGuest.Window + (ulong)random.Next(0x10000),
                _ => Data + (ulong)random.Next(DataPages * 4096),
            };
            if (bits != 64)
            {
                guest.B->Gpr[i] = (uint)guest.B->Gpr[i];
            }
        }
        if (bits == 16)
        {
            guest.B->Gpr[4] = 0x7000;
        }
    }
}
