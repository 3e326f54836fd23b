using Iced.Intel;
using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>A processor with a hand-made GDT, LDT, IDT and TSS in flat memory.</summary>
internal sealed unsafe class ProtectionFixture : IDisposable
{
    public const ulong Gdt = 0x1_0000, Idt = 0x2_0000, Tss = 0x3_0000, Tables = 0x4_0000, Stack0 = 0x8_0000, Stack3 = 0x9_0000, Code = 0x10_0000;

    public const ushort Code0 = 0x08, Data0 = 0x10, Code3 = 0x18 | 3, Data3 = 0x20 | 3, Task = 0x28, Conforming = 0x38, Absent = 0x40, ReadOnly = 0x48,
        Free = 0x50, Free2 = 0x60, Code16 = 0x70, Stack16 = 0x78;

    public readonly GuestFixture Guest = new();

    public ProcessorBlock* B => Guest.B;

    public Vcpu Vcpu => Guest.Vcpu;

    public static ProtectionFixture Protected(uint cpl = 0)
    {
        var fixture = new ProtectionFixture();
        fixture.Guest.EnterProtectedMode();
        fixture.Fill(0xC09A, 0xC0FA, 0xC09E);
        fixture.SetTask(0x0089, 0x67);
        fixture.Guest.Memory.TryWrite(Tss + 4, (uint)Stack0);
        fixture.Guest.Memory.TryWrite(Tss + 8, (uint)Data0);
        fixture.SetLevel(cpl);
        return fixture;
    }

    /// <summary>64-bit mode; the first GiB maps itself, user pages.</summary>
    public static ProtectionFixture Long(uint cpl = 0)
    {
        var fixture = new ProtectionFixture();
        fixture.Guest.Write64(Tables, (Tables + 0x1000) | 7);
        fixture.Guest.Write64(Tables + 0x1000, 0x87);
        fixture.Guest.EnterLongMode(Tables);
        fixture.Fill(0xA09A, 0xA0FA, 0xA09E);
        fixture.SetTask(0x0089, 0x67);
        fixture.Guest.Write64(Tss + 4, Stack0);
        fixture.SetLevel(cpl);
        return fixture;
    }

    private void Fill(uint code0, uint code3, uint conforming)
    {
        B->GdtrBase = Gdt;
        B->GdtrLimit = 0x7F;
        B->IdtrBase = Idt;
        B->IdtrLimit = 0xFFF;
        B->Dr6 = 0xFFFF_0FF0;
        Descriptor(Code0, 0, 0xFFFFF, code0);
        Descriptor(Data0, 0, 0xFFFFF, 0xC092);
        Descriptor(Code3, 0, 0xFFFFF, code3);
        Descriptor(Data3, 0, 0xFFFFF, 0xC0F2);
        Descriptor(Conforming, 0, 0xFFFFF, conforming);
        Descriptor(Absent, 0, 0xFFFFF, 0xC012);
        Descriptor(ReadOnly, 0, 0xFFFFF, 0xC090);
        Descriptor(Code16, 0, 0xFFFF, 0x009A);
        Descriptor(Stack16, 0, 0xFFFF, 0x0092);
        B->Ldtr = new Segment { Attributes = Segment.AttributeUnusable };
        B->Rip = Code;
    }

    private void SetTask(uint attributes, uint limit)
    {
        Descriptor(Task, (uint)Tss, limit, attributes | 2);
        B->Tr = new Segment { Base = Tss, Limit = limit, Attributes = attributes | 2, Selector = Task };
    }

    private void SetLevel(uint cpl)
    {
        B->Cpl = cpl;
        Vcpu.Rflags = 2;
        *Vcpu.Segment(Seg.Cs) = Register(cpl == 0 ? Code0 : Code3);
        *Vcpu.Segment(Seg.Ss) = Register(cpl == 0 ? Data0 : Data3);
        *Vcpu.Segment(Seg.Ds) = *Vcpu.Segment(Seg.Es) = Register(Data3);
        B->Gpr[4] = cpl == 0 ? Stack0 - 0x100 : Stack3;
    }

    private Segment Register(ushort selector)
    {
        ulong raw = Guest.Read64(Gdt + (selector & ~7u));
        return new Segment { Limit = uint.MaxValue, Attributes = (uint)(raw >> 40) & 0xF0FF, Selector = selector };
    }

    /// <summary>Puts a descriptor in the GDT; attributes as in <see cref="Segment"/>.</summary>
    public void Descriptor(int selector, uint address, uint limit, uint attributes) => Guest.Write64(
        Gdt + ((uint)selector & ~7u),
        (limit & 0xFFFF) | ((ulong)(address & 0xFF_FFFF) << 16) | ((ulong)attributes << 40) | ((ulong)(limit & 0xF_0000) << 32) | ((ulong)(address >> 24) << 56));

    public uint DescriptorType(int selector) => (uint)(Guest.Read64(Gdt + ((uint)selector & ~7u)) >> 40) & 0x1F;

    /// <summary>Gate of any kind; attributes: type, DPL, P.</summary>
    public static ulong GateBits(ushort selector, ulong offset, uint attributes, int low = 0) =>
        (offset & 0xFFFF) | ((ulong)selector << 16) | ((ulong)(uint)low << 32) | ((ulong)attributes << 40) | ((offset & 0xFFFF_0000) << 32);

    public void Gate(int vector, ushort selector, ulong offset, uint attributes, int interruptStack = 0)
    {
        if (Vcpu.LongModeActive)
        {
            Guest.Write64(Idt + ((ulong)vector * 16), GateBits(selector, offset, attributes, interruptStack));
            Guest.Write64(Idt + ((ulong)vector * 16) + 8, offset >> 32);
        }
        else
        {
            Guest.Write64(Idt + ((ulong)vector * 8), GateBits(selector, offset, attributes));
        }
    }

    /// <summary>Executes as T0 does: RIP follows.</summary>
    public void Execute(params byte[] code)
    {
        Instruction instruction = Guest.Decode(code);
        B->NextRip = B->Rip + (ulong)instruction.Length;
        Assert.True(Vcpu.TryExecuteProtection(instruction));
        B->Rip = B->NextRip;
    }

    public void Faults(Vector vector, uint? errorCode, params byte[] code)
    {
        ulong rip = B->Rip, rsp = B->Gpr[4];
        var fault = Assert.Throws<GuestFault>(() => Execute(code));
        Assert.Equal((vector, errorCode), (fault.Vector, fault.ErrorCode));
        Assert.Equal((rip, rsp), (B->Rip, B->Gpr[4]));
    }

    public uint Read32(ulong address)
    {
        Assert.True(Guest.Memory.TryRead(address, out uint value));
        return value;
    }

    public void Write32(ulong address, uint value) => Assert.True(Guest.Memory.TryWrite(address, value));

    /// <summary>Words of a stack from its top on.</summary>
    public ulong[] Stack(int count, int size = 8) => [.. Enumerable.Range(0, count).Select(i =>
        size == 8 ? Guest.Read64(B->Gpr[4] + ((ulong)i * 8)) : size == 4 ? Read32(B->Gpr[4] + ((ulong)i * 4)) : Read32(B->Gpr[4] + ((ulong)i * 2)) & 0xFFFF)];

    public void Dispose() => Guest.Dispose();
}
