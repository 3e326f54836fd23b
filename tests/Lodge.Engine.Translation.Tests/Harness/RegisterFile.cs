using System.Text;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Tests.Harness;

/// <summary>The registers that instruction tests set and compare.</summary>
internal sealed unsafe class RegisterFile
{
    /// <summary>Bytes of the FXSAVE image that hold x87 and MMX state.</summary>
    public const int X87Length = 160;

    public const ulong ArithmeticFlags = 0x8D5;

    private static readonly string[] Names = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

    public readonly ulong[] Gpr = new ulong[16];
    public readonly byte[] Ymm = new byte[512];
    public readonly byte[] X87 = new byte[X87Length];
    public ulong Flags = 2;
    public uint Mxcsr = 0x1F80;

    /// <summary>Puts them into a processor that does not run.</summary>
    public void Load(ProcessorBlock* b)
    {
        Gpr.CopyTo(new Span<ulong>(b->Gpr, 16));
        Ymm.CopyTo(new Span<byte>(b->Ymm, 512));
        X87.CopyTo(new Span<byte>(b->ExtendedState, X87Length));
        b->PackedFlags = ((Flags & 0xD5) << 8) | 0x200 | ((Flags >> 11) & 1);
        b->SystemFlags = (Flags & ~ArithmeticFlags) | 2;
        b->Mxcsr = Mxcsr;
    }

    /// <summary>Takes them from a processor that does not run.</summary>
    public static RegisterFile Save(ProcessorBlock* b)
    {
        var file = new RegisterFile();
        new ReadOnlySpan<ulong>(b->Gpr, 16).CopyTo(file.Gpr);
        new ReadOnlySpan<byte>(b->Ymm, 512).CopyTo(file.Ymm);
        new ReadOnlySpan<byte>(b->ExtendedState, X87Length).CopyTo(file.X87);
        file.Flags = ((b->PackedFlags >> 8) & 0xD5) | ((b->PackedFlags & 1) << 11) | b->SystemFlags;
        file.Mxcsr = b->Mxcsr;
        return file;
    }

    /// <summary>What differs, or null. The last x87 instruction's opcode and pointers do not count.</summary>
    public string? Difference(RegisterFile other, ulong flagMask = ArithmeticFlags)
    {
        var text = new StringBuilder();
        for (int i = 0; i < 16; i++)
        {
            if (Gpr[i] != other.Gpr[i])
            {
                text.Append($"{Names[i]} {Gpr[i]:x} / {other.Gpr[i]:x}; ");
            }
        }
        if (((Flags ^ other.Flags) & flagMask) != 0)
        {
            text.Append($"flags {Flags & flagMask:x} / {other.Flags & flagMask:x}; ");
        }
        if (Mxcsr != other.Mxcsr)
        {
            text.Append($"MXCSR {Mxcsr:x} / {other.Mxcsr:x}; ");
        }
        for (int i = 0; i < 16; i++)
        {
            Compare(text, $"YMM{i}", Ymm.AsSpan(i * 32, 32), other.Ymm.AsSpan(i * 32, 32));
        }
        Compare(text, "x87 control, status, tags", X87.AsSpan(0, 5), other.X87.AsSpan(0, 5));
        for (int i = 0; i < 8; i++)
        {
            Compare(text, $"ST{i}", X87.AsSpan(32 + (i * 16), 10), other.X87.AsSpan(32 + (i * 16), 10));
        }
        return text.Length == 0 ? null : text.ToString();
    }

    private static void Compare(StringBuilder text, string name, ReadOnlySpan<byte> a, ReadOnlySpan<byte> b)
    {
        if (!a.SequenceEqual(b))
        {
            text.Append($"{name} {Convert.ToHexString(a)} / {Convert.ToHexString(b)}; ");
        }
    }
}
