using System.Globalization;
using System.Text.Json;
using Lodge.Engine.Translation.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>
/// Runs a directory of assembled instruction tests (flat binaries NAME.bin with NAME.json: register values expected at HLT, memory regions, needed
/// features) given by LODGE_FEX_TESTS, in the conventions of FEX-Emu's unittests/ASM. Nothing of that suite is part of this repository.
/// </summary>
public sealed unsafe class ThirdPartySuiteTests(ITestOutputHelper output)
{
    private static readonly string[] Registers = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

    // What is not a test of the processor.
    private static readonly (string Name, string Reason)[] NotOfTheProcessor =
    [
        ("32Bit_ASM/FEX_bugs/InlineSyscall", "Linux system call"),
        ("ASM/FEX_bugs/32bit_syscall", "Linux system call"),
        ("ASM/TwoByte/0F_02", "Linux system call"),
        ("32Bit_ASM/Primary/Primary_8C", "selectors beyond the descriptor table, which fault"),
        ("32Bit_ASM/Primary/Primary_8C_2", "selectors beyond the descriptor table, which fault"),
        ("ASM/Primary/Primary_8C", "selectors beyond the descriptor table, which fault"),
        ("ASM/Primary/Primary_8C_2", "selectors beyond the descriptor table, which fault"),
        ("32Bit_ASM/Primary/Pop_Segments", "a null SS, which faults"),
        ("32Bit_ASM/Primary/Primary_CF", "64-bit code selector in a 32-bit test"),
        ("32Bit_ASM/Secondary/07_XX_00", "Linux's emulation of SGDT under UMIP"),
        ("ASM/Secondary/07_XX_00", "Linux's emulation of SGDT under UMIP"),
        ("ASM/Secondary/07_XX_04", "Linux's emulation of SMSW under UMIP"),
        ("ASM/Primary/Primary_E8", "leaves the mapped code"),
        ("ASM/Primary/Primary_E9", "leaves the mapped code"),
        ("ASM/VEX/vldmxcsr", "MXCSR bits as on the suite's own emulator"),
        ("ASM/PrimaryGroup/5_FF_05", "far pointer with REX.W as on AMD processors"),
        ("ASM/PrimaryGroup/5_FF_05_03_o64", "far pointer with REX.W as on AMD processors"),
        ("ASM/PrimaryGroup/5_FF_05_03_o64_imm", "far pointer with REX.W as on AMD processors"),
        ("ASM/X87/FXAM_Simple", "class of zero as on the suite's own emulator"),
        ("ASM/X87/X87MMXInteraction", "tags as on the suite's own emulator"),
        ("ASM/modrm_oob/DDD", "3DNow!, which is not advertised"),
        ("32Bit_ASM/X87/D9_F2", "beyond the operand range that the manual defines"),
        ("32Bit_ASM/X87/D9_F9", "beyond the operand range that the manual defines"),
        ("ASM/X87/D9_F2", "beyond the operand range that the manual defines"),
        ("ASM/X87/D9_F9", "beyond the operand range that the manual defines"),
        ("ASM/X87/precision_test_ftan", "last digit differs between processors"),
        ("ASM/X87/precision_test_neg_ftan", "last digit differs between processors"),
    ];

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void EveryTestOfTheSuiteEndsWithTheExpectedRegisters(bool interpret)
    {
        string? directory = Environment.GetEnvironmentVariable("LODGE_FEX_TESTS");
        Assert.SkipWhen(directory is null, "LODGE_FEX_TESTS does not name a directory of assembled tests");
        int passed = 0;
        List<string> failed = [], notApplicable = [];
        string? only = Environment.GetEnvironmentVariable("LODGE_FEX_ONLY");
        foreach (string json in Directory.EnumerateFiles(directory!, "*.json", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
        {
            string name = Path.GetRelativePath(directory!, json)[..^5];
            if (only is not null && !name.Contains(only, StringComparison.Ordinal))
            {
                continue;
            }
            string? problem, reason = null;
            try
            {
                problem = Run(name, json, Path.ChangeExtension(json, ".bin"), interpret, out reason);
            }
            catch (Exception failure)
            {
                problem = failure.ToString().Replace('\n', ' ');
            }
            if (reason is not null)
            {
                notApplicable.Add($"{name}: {reason}");
            }
            else if (problem is not null)
            {
                failed.Add($"{name}: {problem}");
            }
            else
            {
                passed++;
            }
        }
        output.WriteLine($"passed {passed}, failed {failed.Count}, not applicable {notApplicable.Count}");
        failed.ForEach(output.WriteLine);
        notApplicable.ForEach(output.WriteLine);
        if (Environment.GetEnvironmentVariable("LODGE_FEX_REPORT") is { } report)
        {
            File.WriteAllLines($"{report}.{(interpret ? "t0" : "t1")}", [$"passed {passed}, failed {failed.Count}, not applicable {notApplicable.Count}", .. failed, .. notApplicable]);
        }
        Assert.Empty(failed);
    }

    private static string? Run(string name, string json, string binary, bool interpret, out string? notApplicable)
    {
        using JsonDocument document = JsonDocument.Parse(File.ReadAllText(json));
        JsonElement root = document.RootElement;
        notApplicable = null;
        foreach (string feature in Strings(root, "HostFeatures"))
        {
            if (feature is "3DNOW" or "SSE4A" or "CLZERO" or "EMMI" or "LINUX")
            {
                notApplicable = $"needs {feature}, which is not advertised";
                return null;
            }
        }
        foreach ((string test, string reason) in NotOfTheProcessor)
        {
            if (name == test)
            {
                notApplicable = reason;
                return null;
            }
        }
        int bits = root.GetProperty("Bits").GetInt32();
        bool large = Properties(root, "MemoryRegions").Any(r => Number(r.Item2.GetString()!) > 16 << 20);
        using var guest = new ExceptionGuest(large ? 6UL << 30 : 64 << 20);
        byte[] code = File.ReadAllBytes(binary);
        guest.MapFresh(0xE000_0000, 10 * 4096);
        guest.MapFresh(0xE800_0000 - 4096, 2 * 4096);
        guest.MapFresh(0x10000, (ulong)code.Length);
        guest.MapFresh(0xC000_0000, 4096);
        foreach ((string address, JsonElement size) in Properties(root, "MemoryRegions"))
        {
            guest.MapFresh(Number(address), Number(size.GetString()!));
        }
        guest.Write(0x10000, code);
        foreach ((string address, JsonElement data) in Properties(root, "MemoryData"))
        {
            List<byte> bytes = [];
            foreach (string word in data.GetString()!.Split(' '))
            {
                string digits = word.StartsWith("0x", StringComparison.Ordinal) ? word[2..] : word;
                for (int end = digits.Length; end > 0; end -= 2)
                {
                    bytes.Add(byte.Parse(digits.AsSpan(Math.Max(0, end - 2), Math.Min(2, end)), NumberStyles.HexNumber, CultureInfo.InvariantCulture));
                }
            }
            guest.Write(Number(address), bytes.ToArray());
        }
        guest.Enter(bits, true);
        guest.Processor.ForceInterpret = interpret;
        guest.B->Rip = 0x10000;
        if (bits == 32)
        {
            guest.B->Gpr[4] = 0xC000_1000;
        }
        using var watchdog = new Timer(_ => guest.Processor.RequestStop(), null, interpret ? 60_000 : 20_000, Timeout.Infinite);
        int vector = guest.Run();
        if (vector != 13)
        {
            return vector == -2 ? "does not end" : $"ended by exception {vector} at {guest.Frame(Math.Max(vector, 0)).Rip:x}, CR2 {guest.B->Cr2:x}";
        }
        var frame = guest.Frame(13);
        byte[] at = new byte[1];
        guest.Processor.TryTranslateQuietly(frame.Rip, out ulong physical);
        guest.Memory.TryRead(physical, at);
        if (at[0] != 0xF4)
        {
            return $"ended by #GP at {frame.Rip:x}";
        }
        foreach ((string register, JsonElement expected) in Properties(root, "RegData"))
        {
            if (Compare(guest, register.ToUpperInvariant(), expected, frame.Rsp) is { } difference)
            {
                return difference;
            }
        }
        return null;
    }

    private static string? Compare(ExceptionGuest guest, string register, JsonElement expected, ulong rsp)
    {
        string[] values = expected.ValueKind == JsonValueKind.Array ? [.. expected.EnumerateArray().Select(e => e.GetString()!)] : [expected.GetString()!];
        ulong[] actual;
        int number = Array.IndexOf(Registers, register);
        ProcessorBlock* b = guest.B;
        if (register == "RSP")
        {
            actual = [rsp];
        }
        else if (number >= 0)
        {
            actual = [b->Gpr[number]];
        }
        else if (register.StartsWith("XMM", StringComparison.Ordinal))
        {
            ulong* ymm = (ulong*)b->Ymm + (int.Parse(register.AsSpan(3), CultureInfo.InvariantCulture) * 4);
            actual = [ymm[0], ymm[1], ymm[2], ymm[3]];
        }
        else if (register.StartsWith("MM", StringComparison.Ordinal))
        {
            int top = (b->ExtendedState[3] >> 3) & 7;
            ulong* st = (ulong*)(b->ExtendedState + 32 + (((register[2] - '0' - top) & 7) * 16));
            actual = [st[0], st[1] & 0xFFFF];
        }
        else if (register is "FS" or "GS")
        {
            actual = [guest.Processor.Segment(register == "FS" ? 4 : 5)->Base];
        }
        else
        {
            return $"unknown register {register}";
        }
        for (int i = 0; i < Math.Min(values.Length, actual.Length); i++)
        {
            if (actual[i] != Number(values[i]))
            {
                return $"{register}[{i}] is 0x{actual[i]:X}, expected {values[i]}";
            }
        }
        return null;
    }

    private static ulong Number(string text)
    {
        text = text.Replace("_", "", StringComparison.Ordinal);
        return text.StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? ulong.Parse(text.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture)
            : text.StartsWith("0b", StringComparison.OrdinalIgnoreCase) ? ulong.Parse(text.AsSpan(2), NumberStyles.BinaryNumber, CultureInfo.InvariantCulture)
            : text.StartsWith('-') ? (ulong)long.Parse(text, CultureInfo.InvariantCulture)
            : ulong.Parse(text, CultureInfo.InvariantCulture);
    }

    private static IEnumerable<string> Strings(JsonElement root, string name) => Find(root, name) is { } value ? value.EnumerateArray().Select(e => e.GetString()!.ToUpperInvariant()) : [];

    private static IEnumerable<(string, JsonElement)> Properties(JsonElement root, string name) => Find(root, name) is { } value ? value.EnumerateObject().Select(p => (p.Name, p.Value)) : [];

    private static JsonElement? Find(JsonElement root, string name)
    {
        foreach (JsonProperty property in root.EnumerateObject())
        {
            if (property.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
            {
                return property.Value;
            }
        }
        return null;
    }
}
