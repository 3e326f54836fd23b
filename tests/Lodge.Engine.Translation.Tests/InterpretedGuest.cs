using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>A guest whose instructions are executed one by one by C#, in any mode, for tests of single instructions.</summary>
internal sealed unsafe class InterpretedGuest : IDisposable
{
    public const ulong Code = FlatGuest.CodeBase, Data = FlatGuest.DataBase, Stack = FlatGuest.StackTop;

    public InterpretedGuest() => Vcpu.B->ExitRequest = 0;

    public FlatGuest Machine { get; } = new();

    public Vcpu Vcpu => Machine.Processor;

    public ref ulong Gpr(int number) => ref Vcpu.B->Gpr[number];

    /// <summary>32-bit protected mode, flat, without paging.</summary>
    public void Protected32(uint cpl = 0)
    {
        Mode(0x11, 2, i => i == 1 ? new SegmentState((ushort)(8 | cpl), 0, uint.MaxValue, 0xC09B | (cpl << 5)) : new SegmentState((ushort)(0x10 | cpl), 0, uint.MaxValue, 0xC093 | (cpl << 5)));
        Gpr(4) = Stack;
    }

    /// <summary>Real mode; CS at <see cref="Code"/> (a base that reset alone can make), data segments at <see cref="Data"/>, stack segment at <see cref="Stack"/>.</summary>
    public void Real()
    {
        Mode(0x10, 2, i => i == 1 ? new SegmentState(0, Code, 0xFFFF, 0x9B) : new SegmentState(0, i == 2 ? Stack : Data, 0xFFFF, 0x93));
    }

    /// <summary>Virtual-8086 mode, segments at 0x1000 (code), 0x20000 (data), 0x30000 (stack).</summary>
    public void Virtual8086(ulong flags, ulong cr4 = 0)
    {
        Mode(0x11, flags | 0x2_0002, i => i == 1 ? new SegmentState(0x100, 0x1000, 0xFFFF, 0xFB) : new SegmentState((ushort)(i == 2 ? 0x3000 : 0x2000), i == 2 ? 0x30000UL : 0x20000UL, 0xFFFF, 0xF3), cr4);
    }

    private void Mode(ulong cr0, ulong flags, Func<int, SegmentState> segment, ulong cr4 = 0)
    {
        var state = new ProcessorState { Cr0 = cr0, Cr4 = cr4, Flags = flags };
        for (int i = 0; i < 6; i++)
        {
            state.Segments[i] = segment(i);
        }
        state.TaskRegister = new SegmentState(0x20, 0x1000, 0x67, 0x8B);
        state.LocalDescriptorTable = new SegmentState(0, 0, 0, 0x10082);
        Vcpu.RestoreState(state);
        Vcpu.B->ExitRequest = 0;
    }

    /// <summary>Puts code at CS:RIP 0 (real modes) or <see cref="Code"/> and executes its first instruction.</summary>
    public void Execute(params byte[] code)
    {
        bool segmented = Vcpu.Segment(Seg.Cs)->Base != 0;
        Vcpu.B->Rip = segmented ? 0 : Code;
        Machine.Memory.TryWrite(Vcpu.Segment(Seg.Cs)->Base + Vcpu.B->Rip, code);
        Vcpu.ExecuteOne();
    }

    /// <summary>The instruction must fault with the vector, leaving registers and RIP alone.</summary>
    public GuestFault Faults(Vector vector, params byte[] code)
    {
        ulong[] before = new ReadOnlySpan<ulong>(Vcpu.B->Gpr, 16).ToArray();
        ulong flags = Vcpu.Rflags;
        GuestFault fault = Assert.Throws<GuestFault>(() => Execute(code));
        Assert.Equal(vector, fault.Vector);
        Assert.Equal(before, new ReadOnlySpan<ulong>(Vcpu.B->Gpr, 16).ToArray());
        Assert.Equal(flags, Vcpu.Rflags);
        return fault;
    }

    public void Write(ulong address, params byte[] data) => Assert.True(Machine.Memory.TryWrite(address, data));

    public byte[] Read(ulong address, int length)
    {
        byte[] data = new byte[length];
        Assert.True(Machine.Memory.TryRead(address, data));
        return data;
    }

    public ulong Read64(ulong address) => BitConverter.ToUInt64(Read(address, 8));

    /// <summary>Takes a 4 KiB page out of the long mode page tables.</summary>
    public void Unmap(ulong page)
    {
        Assert.True(Machine.Memory.TryWrite(FlatGuest.Tables + 0x3000 + ((page >> 12) * 8), 0UL));
        Vcpu.TlbFlushAll(true);
    }

    public void Dispose() => Machine.Dispose();
}
