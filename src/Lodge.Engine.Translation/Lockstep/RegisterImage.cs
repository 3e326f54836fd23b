using System.Runtime.InteropServices;
using System.Text;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Lockstep;

/// <summary>A copy of the architectural registers of a processor block, without what other threads write (requests, pending interrupts).</summary>
internal sealed unsafe class RegisterImage : IDisposable
{
    private static readonly string[] GeneralNames = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];
    private static readonly string[] SegmentNames = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];

    // Only the part before the first-level TLB is used.
    private readonly ProcessorBlock* _b = (ProcessorBlock*)NativeMemory.AlignedAlloc((nuint)sizeof(ProcessorBlock), 64);

    /// <summary>The copy; fields behind the vector registers are not there.</summary>
    public ProcessorBlock* Registers => _b;

    /// <summary>Copies from a processor; x87 state must be in memory.</summary>
    public void Take(ProcessorBlock* from) => Copy(from, _b);

    /// <summary>Copies to a processor.</summary>
    public void Put(ProcessorBlock* to) => Copy(_b, to);

    private static void Copy(ProcessorBlock* from, ProcessorBlock* to)
    {
        CopyRange(from, to, from->Gpr, &from->ExitRequest);
        CopyRange(from, to, &from->Cpl, &from->Index);
        to->Mxcsr = from->Mxcsr;
        to->SystemCallMode = from->SystemCallMode;
        CopyRange(from, to, &from->Segment0, &from->Running);
        CopyRange(from, to, from->ExtendedState, from->Windows);
    }

    private static void CopyRange(ProcessorBlock* from, ProcessorBlock* to, void* start, void* end)
    {
        long offset = (byte*)start - (byte*)from, length = (byte*)end - (byte*)start;
        Buffer.MemoryCopy(start, (byte*)to + offset, length, length);
    }

    /// <summary>What differs, one a line; null when nothing does. This one is T1's.</summary>
    /// <param name="zero">T0's.</param>
    public string? Difference(RegisterImage zero)
    {
        ProcessorBlock* a = zero._b, b = _b;
        StringBuilder? text = null;
        for (int i = 0; i < 16; i++)
        {
            Check(ref text, GeneralNames[i], a->Gpr[i], b->Gpr[i]);
        }
        Check(ref text, "RIP", a->Rip, b->Rip);
        Check(ref text, "flags (SF ZF - AF - PF - CF at 15-8, OF at 0)", a->PackedFlags & 0xD501, b->PackedFlags & 0xD501);
        Check(ref text, "RFLAGS without them", a->SystemFlags, b->SystemFlags);
        Check(ref text, "CPL", a->Cpl, b->Cpl);
        Check(ref text, "mode", a->Mode, b->Mode);
        Check(ref text, "mode across a system call", a->SystemCallMode, b->SystemCallMode);
        Check(ref text, "MXCSR", a->Mxcsr, b->Mxcsr);
        for (int i = 0; i < 8; i++)
        {
            Segment* x = ProcessorBlock.SegmentOf(a, i), y = ProcessorBlock.SegmentOf(b, i);
            Check(ref text, SegmentNames[i], x->Selector, y->Selector);
            Check(ref text, SegmentNames[i] + " base", x->Base, y->Base);
            Check(ref text, SegmentNames[i] + " limit", x->Limit, y->Limit);
            Check(ref text, SegmentNames[i] + " attributes", x->Attributes, y->Attributes);
        }
        // Descriptor tables, control and debug registers, MSRs of fast calls, TSC offset, PKRU, interrupt shadow, NMI blocking, activity.
        int words = (int)((byte*)&a->Running - (byte*)&a->GdtrBase) / 4;
        uint* p = (uint*)&a->GdtrBase, q = (uint*)&b->GdtrBase;
        for (int i = 0; i < words; i++)
        {
            if (p[i] != q[i])
            {
                Check(ref text, $"system register at offset {i * 4} behind GDTR", p[i], q[i]);
            }
        }
        CheckBytes(ref text, "x87 control, status, tags", a->ExtendedState, b->ExtendedState, 24);
        for (int i = 0; i < 8; i++)
        {
            CheckBytes(ref text, $"ST({i})", a->ExtendedState + 32 + (i * 16), b->ExtendedState + 32 + (i * 16), 10);
        }
        for (int i = 0; i < 16; i++)
        {
            CheckBytes(ref text, $"YMM{i}", a->Ymm + (i * 32), b->Ymm + (i * 32), 32);
        }
        return text?.ToString();
    }

    private static void Check(ref StringBuilder? text, string name, ulong zero, ulong one)
    {
        if (zero != one)
        {
            (text ??= new StringBuilder()).Append('\n').Append(name).Append(": T0 ").Append(zero.ToString("x")).Append(", T1 ").Append(one.ToString("x"));
        }
    }

    private static void CheckBytes(ref StringBuilder? text, string name, byte* zero, byte* one, int length)
    {
        var a = new ReadOnlySpan<byte>(zero, length);
        var b = new ReadOnlySpan<byte>(one, length);
        if (!a.SequenceEqual(b))
        {
            (text ??= new StringBuilder()).Append('\n').Append(name).Append(": T0 ").Append(Convert.ToHexString(a)).Append(", T1 ").Append(Convert.ToHexString(b));
        }
    }

    /// <inheritdoc/>
    public void Dispose() => NativeMemory.AlignedFree(_b);
}
