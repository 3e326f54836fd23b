using System.Globalization;
using Iced.Intel;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>
/// Every instruction that is executed by being copied, and the others that need no system: random instances on the host CPU itself, in T0 and in T1,
/// with flag producers before and consumers after, at operands in one page, across pages, in absent and read-only pages and in device memory.
/// LODGE_INSTRUCTION_ROUNDS sets the number of instances of each code, LODGE_INSTRUCTION_SEED the seed.
/// </summary>
public sealed unsafe class InstructionMatrixTests(ITestOutputHelper output)
{
    private static readonly HashSet<Mnemonic> AlsoTested =
    [
        Mnemonic.Push, Mnemonic.Pop, Mnemonic.Leave, Mnemonic.Lahf, Mnemonic.Sahf, Mnemonic.Xlatb, Mnemonic.Movsb, Mnemonic.Movsw, Mnemonic.Movsd, Mnemonic.Movsq,
        Mnemonic.Stosb, Mnemonic.Stosw, Mnemonic.Stosd, Mnemonic.Stosq, Mnemonic.Lodsb, Mnemonic.Lodsw, Mnemonic.Lodsd, Mnemonic.Lodsq, Mnemonic.Scasb,
        Mnemonic.Scasw, Mnemonic.Scasd, Mnemonic.Scasq, Mnemonic.Cmpsb, Mnemonic.Cmpsw, Mnemonic.Cmpsd, Mnemonic.Cmpsq, Mnemonic.Maskmovq, Mnemonic.Maskmovdqu,
        Mnemonic.Vmaskmovdqu, Mnemonic.Vmaskmovps, Mnemonic.Vmaskmovpd, Mnemonic.Vpmaskmovd, Mnemonic.Vpmaskmovq, Mnemonic.Vgatherdpd, Mnemonic.Vgatherdps,
        Mnemonic.Vgatherqpd, Mnemonic.Vgatherqps, Mnemonic.Vpgatherdd, Mnemonic.Vpgatherdq, Mnemonic.Vpgatherqd, Mnemonic.Vpgatherqq, Mnemonic.Clc, Mnemonic.Stc,
        Mnemonic.Cmc, Mnemonic.Ldmxcsr, Mnemonic.Stmxcsr, Mnemonic.Vldmxcsr, Mnemonic.Vstmxcsr,
    ];

    // They store pointers to the last x87 instruction.
    private static readonly HashSet<Mnemonic> StoresPointers = [Mnemonic.Fnstenv, Mnemonic.Fstenv, Mnemonic.Fnsave, Mnemonic.Fsave];

    // Producers change flags only; consumers follow the instruction.
    private static readonly byte[][] Producers =
    [
        [], [0xF9], [0xF8], [0xF5], [0x48, 0x39, 0xD8], [0x85, 0xC9], [0x3C, 0x41], [0x0F, 0xBA, 0xE1, 0x05], [0x4D, 0x39, 0xF5], [0x4C, 0x39, 0xE4],
    ];

    private static readonly (byte[] Code, bool Kills)[] Consumers =
    [
        ([], false), ([0x41, 0x0F, 0x92, 0xC2], false), ([0x41, 0x0F, 0x9C, 0xC6], false), ([0x4D, 0x11, 0xE3], false), ([0x49, 0xD1, 0xD1], false),
        ([0x4D, 0x01, 0xDA], true), ([0x49, 0xFF, 0xC2], false), ([0x4D, 0x0F, 0x44, 0xCA], false), ([0x71, 0x02, 0x90, 0x90], false), ([0x9F], false),
        ([0x4D, 0x85, 0xFF, 0x74, 0x01, 0x90], true),
    ];

    // Without REX prefixes, which are INC and DEC there.
    private static readonly byte[][] Producers32 = [[], [0xF9], [0xF8], [0xF5], [0x39, 0xD8], [0x85, 0xC9], [0x3C, 0x41], [0x0F, 0xBA, 0xE1, 0x05]];

    private static readonly (byte[] Code, bool Kills)[] Consumers32 =
    [
        ([], false), ([0x0F, 0x92, 0xC2], false), ([0x11, 0xDE], false), ([0xD1, 0xD6], false), ([0x01, 0xDA], true), ([0x42], false), ([0x0F, 0x44, 0xCA], false),
        ([0x71, 0x02, 0x90, 0x90], false), ([0x9F], false),
    ];

    private readonly byte[] _template = new byte[HostProcessor.WindowLength];
    private readonly byte[] _hostAfter = new byte[HostProcessor.WindowLength];
    private readonly byte[] _t0After = new byte[HostProcessor.WindowLength];
    private readonly byte[] _t1After = new byte[HostProcessor.WindowLength];
    private Segment _codeSegment, _stackSegment;
    private readonly ulong[] _physical = new ulong[10];
    private readonly Dictionary<int, int> _vectors = [];

    private sealed record Outcome(RegisterFile Registers, int Vector, ulong Rip, ulong ErrorCode, ulong Cr2);

    [Theory]
    [InlineData(64)]
    [InlineData(32)] // T0 and T1 only
    public void HostT0AndT1Agree(int bits)
    {
        int rounds = Number("LODGE_INSTRUCTION_ROUNDS", 12), seed = Number("LODGE_INSTRUCTION_SEED", 20251121);
        string? only = Environment.GetEnvironmentVariable("LODGE_INSTRUCTION_ONLY");
        using var guest = new ExceptionGuest();
        using HostProcessor? host = bits == 64 ? new HostProcessor() : null;
        MapWindow(guest);
        guest.MapFresh(InstanceGenerator.CodeStart, 1 << 20);
        guest.Enter(bits, false);
        (_codeSegment, _stackSegment) = (guest.B->Segment1, guest.B->Segment2);
        byte[][] producers = bits == 64 ? Producers : Producers32;
        (byte[] Code, bool Kills)[] consumers = bits == 64 ? Consumers : Consumers32;
        int cases = 0, codes = 0;
        ulong at = InstanceGenerator.CodeStart;
        List<string> failures = [];
        foreach (Code code in Enum.GetValues<Code>())
        {
            if (!InstanceGenerator.IsInstruction(code, bits) || (only is not null && !code.ToString().Contains(only, StringComparison.OrdinalIgnoreCase)))
            {
                continue;
            }
            var generator = new InstanceGenerator(HashCode(seed, (int)code), bits);
            int failed = 0;
            bool tested = false;
            for (int round = 0; round < rounds && failed < 2; round++)
            {
                Placement placement = generator.Random.Next(3) != 0 ? Placement.Inside : (Placement)generator.Random.Next(7);
                byte[] producer = producers[generator.Random.Next(producers.Length)];
                (byte[] consumer, bool kills) = consumers[generator.Random.Next(consumers.Length)];
                if (!generator.TryGenerate(code, at + (ulong)producer.Length, out TestInstance instance, placement) || instance.Decoded.Code != code)
                {
                    continue;
                }
                if (!Tested(guest, instance))
                {
                    break;
                }
                tested = true;
                cases++;
                FillTemplate(generator, instance);
                string? problem = RunCase(guest, host, instance, at, producer, consumer, kills);
                if (problem is not null)
                {
                    failed++;
                    failures.Add($"{code} round {round} ({instance.Placement}, target {instance.Target:x}): {Convert.ToHexString(producer)} {instance.Decoded} {Convert.ToHexString(consumer)}: {problem}");
                }
                at += (ulong)(producer.Length + instance.Bytes.Length + consumer.Length + 2);
                if (at > InstanceGenerator.CodeStart + (1 << 20) - 64)
                {
                    at = InstanceGenerator.CodeStart;
                }
            }
            codes += tested ? 1 : 0;
        }
        output.WriteLine($"{codes} codes, {cases} cases, exceptions {string.Join(", ", _vectors.OrderBy(v => v.Key).Select(v => $"{v.Key}: {v.Value}"))}, seed {seed}");
        Assert.True(failures.Count == 0, $"seed {seed}, {failures.Count} failures of {cases} cases:\n{string.Join('\n', failures.Take(80))}");
        Assert.True(only is not null || codes > 1000, $"only {codes} codes were tested");
    }

    private static int HashCode(int seed, int code) => (seed * 31) + (code * 7919);

    private static int Number(string variable, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int value) ? value : otherwise;

    private static bool Tested(ExceptionGuest guest, TestInstance instance)
    {
        if (guest.Processor.ClassOf(instance.Decoded) == AvailabilityClass.Never)
        {
            return false;
        }
        InstructionKind kind = InstructionKinds.Of(instance.Decoded);
        if (kind is InstructionKind.Copy or InstructionKind.CopyX87 or InstructionKind.Lea)
        {
            return true;
        }
        bool segment = instance.Decoded.OpCount > 0 && instance.Decoded.Op0Kind == OpKind.Register && instance.Decoded.Op0Register.IsSegmentRegister();
        return AlsoTested.Contains(instance.Decoded.Mnemonic) && !segment;
    }

    private void MapWindow(ExceptionGuest guest)
    {
        for (int page = 0; page < 10; page++)
        {
            ulong linear = InstanceGenerator.DataStart + ((ulong)page * 4096);
            if (page is 4 or 7)
            {
                continue;
            }
            guest.TakePage(); // neighbours are not neighbours in physical memory
            _physical[page] = page == 8 ? 0xF000_0000 : guest.TakePage();
            guest.Map(linear, _physical[page], page == 5 ? 5UL : 7);
        }
    }

    private void FillTemplate(InstanceGenerator generator, TestInstance instance)
    {
        // Round the operand interesting values, elsewhere what shows a stray access.
        int from = (int)Math.Clamp((long)(instance.Target - InstanceGenerator.DataStart) - 64, 0, HostProcessor.WindowLength - 256);
        for (int i = Math.Max(0, from - 512); i < Math.Min(_template.Length, from + 1024); i++)
        {
            _template[i] = (byte)(i * 13);
        }
        generator.FillVectors(_template.AsSpan(from & ~7, 192));
        if (instance.Target != 0 && generator.Random.Next(2) == 0)
        {
            BitConverter.TryWriteBytes(_template.AsSpan((int)Math.Min(instance.Target - InstanceGenerator.DataStart, HostProcessor.WindowLength - 16)), generator.Value());
        }
        if (instance.Decoded.Mnemonic is Mnemonic.Ldmxcsr or Mnemonic.Vldmxcsr)
        {
            BitConverter.TryWriteBytes(_template.AsSpan((int)(instance.Target - InstanceGenerator.DataStart)), (uint)generator.Random.Next(0x10000) | 0x1F80);
        }
        if (instance.Decoded.Mnemonic is Mnemonic.Fldenv or Mnemonic.Frstor or Mnemonic.Fldcw)
        {
            BitConverter.TryWriteBytes(_template.AsSpan((int)(instance.Target - InstanceGenerator.DataStart)), (ushort)(generator.Random.Next(0x1000) | 0x7F));
            if (instance.Decoded.Mnemonic != Mnemonic.Fldcw)
            {
                int status = instance.Size is 14 or 94 ? 2 : 4;
                BitConverter.TryWriteBytes(_template.AsSpan((int)(instance.Target - InstanceGenerator.DataStart) + status), (ushort)(generator.Random.Next(8) << 11));
            }
        }
    }

    private string? RunCase(ExceptionGuest guest, HostProcessor? host, TestInstance instance, ulong at, byte[] producer, byte[] consumer, bool kills)
    {
        byte[] code = [.. producer, .. instance.Bytes, .. consumer, 0xE6, 0xF4];
        guest.Write(at, code);
        Outcome t0 = RunGuest(guest, instance, at, true, _t0After), t1 = RunGuest(guest, instance, at, false, _t1After);
        _vectors[t0.Vector] = _vectors.GetValueOrDefault(t0.Vector) + 1;
        if (t0.Vector != t1.Vector || t0.Rip != t1.Rip || t0.ErrorCode != t1.ErrorCode || (t0.Vector == 14 && t0.Cr2 != t1.Cr2))
        {
            return $"T0 exception {t0.Vector} at {t0.Rip:x} code {t0.ErrorCode:x} CR2 {t0.Cr2:x}, T1 exception {t1.Vector} at {t1.Rip:x} code {t1.ErrorCode:x} CR2 {t1.Cr2:x}";
        }
        if (t0.Registers.Difference(t1.Registers) is { } difference)
        {
            return $"T0 / T1 (exception {t0.Vector} at {t0.Rip:x} of {at:x} {Convert.ToHexString(code)}, code {t0.ErrorCode:x}): {difference}";
        }
        bool pointers = StoresPointers.Contains(instance.Decoded.Mnemonic);
        if (!pointers && MemoryDifference(_t0After, _t1After) is { } memory)
        {
            return $"T0 / T1 memory: {memory}";
        }
        if (host is null || instance.Placement is not (Placement.Inside or Placement.Crossing) || instance.FsBase != 0 || instance.GsBase != 0
            || instance.Decoded.SegmentPrefix is Register.FS or Register.GS)
        {
            return null;
        }
        // The host has the same window, but code elsewhere.
        byte[] hostCode = code;
        if (instance.Decoded.IsIPRelativeMemoryOperand)
        {
            Instruction absolute = instance.Decoded;
            ulong address = absolute.IPRelativeMemoryAddress;
            absolute.MemoryBase = Register.None;
            absolute.MemoryDisplSize = 8;
            absolute.MemoryDisplacement64 = address;
            var writer = new ByteWriter();
            Iced.Intel.Encoder.Create(64, writer).Encode(absolute, 0);
            hostCode = [.. producer, .. writer.Bytes, .. consumer];
        }
        else
        {
            hostCode = code[..^2];
        }
        _template.CopyTo(HostProcessor.Window);
        int signal = host.Run(hostCode, instance.Registers, out RegisterFile native);
        if ((signal != 0) != (t0.Vector >= 0))
        {
            return $"host signal {signal}, guest exception {t0.Vector}";
        }
        if (signal != 0)
        {
            return null;
        }
        if (native.Difference(t0.Registers) is { } other)
        {
            return $"host / T0: {other}";
        }
        HostProcessor.Window.CopyTo(_hostAfter);
        return !pointers && MemoryDifference(_hostAfter, _t0After) is { } hostMemory ? $"host / T0 memory: {hostMemory}" : null;
    }

    private Outcome RunGuest(ExceptionGuest guest, TestInstance instance, ulong at, bool interpret, byte[] after)
    {
        for (int page = 0; page < 10; page++)
        {
            if (page is not (4 or 7 or 8))
            {
                _template.AsSpan(page * 4096, 4096).CopyTo(new Span<byte>(guest.Memory.Pointer(_physical[page], 4096), 4096));
            }
        }
        instance.Apply(guest.B);
        guest.B->Rip = at;
        guest.B->Cr2 = 0;
        guest.B->Cpl = 0;
        guest.B->Segment1 = _codeSegment; // delivery has loaded others
        guest.B->Segment2 = _stackSegment;
        guest.Processor.ForceInterpret = interpret;
        int vector = guest.Run();
        var frame = vector >= 0 ? guest.Frame(vector) : default;
        RegisterFile registers = RegisterFile.Save(guest.B);
        if (vector >= 0)
        {
            registers.Gpr[4] = frame.Rsp;
            registers.Flags = frame.Flags;
        }
        for (int page = 0; page < 10; page++)
        {
            if (page is 4 or 7 or 8)
            {
                _template.AsSpan(page * 4096, 4096).CopyTo(after.AsSpan(page * 4096));
            }
            else
            {
                new Span<byte>(guest.Memory.Pointer(_physical[page], 4096), 4096).CopyTo(after.AsSpan(page * 4096));
            }
        }
        return new Outcome(registers, vector, frame.Rip, frame.ErrorCode, guest.B->Cr2);
    }

    private static string? MemoryDifference(byte[] a, byte[] b)
    {
        int first = a.AsSpan().CommonPrefixLength(b);
        if (first == a.Length)
        {
            return null;
        }
        int from = Math.Max(0, first - 4), length = Math.Min(40, a.Length - from);
        return $"from {InstanceGenerator.DataStart + (ulong)from:x}: {Convert.ToHexString(a, from, length)} / {Convert.ToHexString(b, from, length)}";
    }

    private sealed class ByteWriter : CodeWriter
    {
        public readonly List<byte> Bytes = [];

        public override void WriteByte(byte value) => Bytes.Add(value);
    }
}
