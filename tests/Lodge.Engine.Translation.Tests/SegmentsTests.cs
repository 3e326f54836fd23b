using Lodge.Engine.Translation.Processor;
using Xunit;
using F = Lodge.Engine.Translation.Tests.ProtectionFixture;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class SegmentsTests
{
    private static readonly byte[] s_movDs = [0x8E, 0xD8], s_movSs = [0x8E, 0xD0];

    [Fact]
    public void Load_parses_the_descriptor_and_marks_it_accessed()
    {
        using F f = F.Protected();
        f.Descriptor(F.Free, 0x1234_5678, 0x12345, 0x40F2);
        f.B->Gpr[0] = F.Free | 3;
        f.Execute(s_movDs);
        Segment ds = *f.Vcpu.Segment(Seg.Ds);
        Assert.Equal((0x1234_5678UL, 0x12345u, 0x40F3u, (ushort)(F.Free | 3)), (ds.Base, ds.Limit, ds.Attributes, ds.Selector));
        Assert.Equal(0x13u, f.DescriptorType(F.Free));
    }

    [Fact]
    public void Wrong_selectors_fault_with_their_index()
    {
        using F f = F.Protected(3);
        (ushort Selector, Vector Vector)[] cases = [(F.Data0, Vector.GeneralProtection), (0x100, Vector.GeneralProtection), (0x0C, Vector.GeneralProtection), (F.Task, Vector.GeneralProtection), (F.Code0, Vector.GeneralProtection)];
        foreach ((ushort selector, Vector vector) in cases)
        {
            f.B->Gpr[0] = selector;
            f.Faults(vector, selector & 0xFFFCu, s_movDs);
        }
        f.Descriptor(F.Absent, 0, 0xFFFFF, 0xC072);
        f.B->Gpr[0] = F.Absent;
        f.Faults(Vector.SegmentNotPresent, F.Absent, s_movDs);
        f.B->Gpr[0] = F.Absent | 3;
        f.Faults(Vector.StackFault, F.Absent, s_movSs);
        f.B->Gpr[0] = 0;
        f.Faults(Vector.GeneralProtection, 0, s_movSs);
        f.Execute(s_movDs);
        Assert.True(f.Vcpu.Segment(Seg.Ds)->Unusable);
    }

    [Fact]
    public void Stack_segment_holds_interrupts_and_null_is_for_inner_64_bit_code()
    {
        using F f = F.Long();
        f.B->Gpr[0] = 0;
        f.Execute(s_movSs);
        Assert.Equal(Shadow.StackSegment, f.B->InterruptShadow);
        Assert.True(f.Vcpu.Segment(Seg.Ss)->Unusable);
        using F user = F.Long(3);
        user.B->Gpr[0] = 3;
        user.Faults(Vector.GeneralProtection, 0, s_movSs);
    }

    [Fact]
    public void Real_mode_keeps_the_limit()
    {
        using F f = F.Protected();
        f.B->Cr0 = 0x10;
        f.Vcpu.Segment(Seg.Cs)->Attributes = 0x9B;
        f.B->Gpr[0] = 0x1234;
        f.Execute(s_movDs);
        Assert.Equal((0x12340UL, uint.MaxValue), (f.Vcpu.Segment(Seg.Ds)->Base, f.Vcpu.Segment(Seg.Ds)->Limit));
    }

    [Fact]
    public void Push_and_pop_move_by_the_operand_size()
    {
        using F f = F.Long();
        *f.Vcpu.Segment(Seg.Fs) = new Segment { Selector = F.Data3, Attributes = 0xC0F3, Base = 0x99 };
        ulong rsp = f.B->Gpr[4];
        f.Execute(0x0F, 0xA0);
        Assert.Equal((rsp - 8, (ulong)F.Data3), (f.B->Gpr[4], f.Guest.Read64(rsp - 8)));
        f.Execute(0x66, 0x0F, 0xA1);
        Assert.Equal((rsp - 6, 0UL), (f.B->Gpr[4], f.Vcpu.Segment(Seg.Fs)->Base));
        using F p = F.Protected();
        rsp = p.B->Gpr[4];
        p.Write32(rsp - 4, 0xABCD_0000);
        p.Execute(0x1E);
        Assert.Equal(0xABCD_0000u | F.Data3, p.Read32(rsp - 4));
        p.Write32(rsp - 4, F.Data0);
        p.Execute(0x17);
        Assert.Equal((rsp, Shadow.StackSegment), (p.B->Gpr[4], p.B->InterruptShadow));
    }

    [Fact]
    public void Far_pointer_loads_segment_and_register_together()
    {
        using F f = F.Protected();
        f.B->Gpr[3] = 0x5000;
        f.Write32(0x5000, 0x1122_3344);
        f.Write32(0x5004, F.Absent);
        f.Faults(Vector.SegmentNotPresent, F.Absent, 0xC4, 0x03);
        Assert.Equal(0UL, f.B->Gpr[0]);
        f.Write32(0x5004, F.Data0);
        f.Execute(0xC4, 0x03);
        Assert.Equal((0x1122_3344UL, F.Data0), (f.B->Gpr[0], f.Vcpu.Segment(Seg.Es)->Selector));
    }

    [Fact]
    public void Table_registers_load_and_store_in_every_width()
    {
        using F f = F.Protected();
        f.B->Gpr[3] = 0x5000;
        f.Guest.Write64(0x5000, 0x1122_3344_0FFF);
        f.Execute(0x66, 0x0F, 0x01, 0x13);
        Assert.Equal((0x22_3344UL & 0xFF_FFFF, 0xFFFu), (f.B->GdtrBase, f.B->GdtrLimit));
        f.Execute(0x0F, 0x01, 0x1B);
        Assert.Equal(0x1122_3344UL, f.B->IdtrBase);
        f.Guest.Write64(0x5000, ulong.MaxValue);
        f.Execute(0x0F, 0x01, 0x0B);
        Assert.Equal(0xFFFF_1122_3344_0FFF, f.Guest.Read64(0x5000));
        using F l = F.Long(3);
        l.B->Gpr[3] = 0x5000;
        l.Execute(0x0F, 0x01, 0x03);
        Assert.Equal(F.Gdt, l.Guest.Read64(0x5002));
        l.B->Cr4 |= 1 << 11;
        l.Faults(Vector.GeneralProtection, 0, 0x0F, 0x01, 0x03);
        l.Faults(Vector.GeneralProtection, 0, 0x0F, 0x00, 0xC8);
        l.Faults(Vector.GeneralProtection, 0, 0x0F, 0x01, 0x13);
    }

    [Fact]
    public void Task_register_takes_16_byte_descriptors_and_marks_them_busy()
    {
        using F f = F.Long();
        f.Descriptor(F.Free, 0x9000_0000, 0x67, 0x89);
        f.Guest.Write64(F.Gdt + F.Free + 8, 0xFFFF_8000);
        f.B->Gpr[0] = F.Free;
        f.Execute(0x0F, 0x00, 0xD8);
        Assert.Equal((0xFFFF_8000_9000_0000, 0x8Bu), (f.B->Tr.Base, f.B->Tr.Attributes));
        Assert.Equal(0x0Bu, f.DescriptorType(F.Free));
        f.Faults(Vector.GeneralProtection, F.Free, 0x0F, 0x00, 0xD8);
        f.Descriptor(F.Free2, 0x1000, 0xFF, 0x82);
        f.Guest.Write64(F.Gdt + F.Free2 + 8, 0);
        f.B->Gpr[0] = F.Free2;
        f.Execute(0x0F, 0x00, 0xD0);
        Assert.Equal((0x1000UL, F.Free2), (f.B->Ldtr.Base, f.B->Ldtr.Selector));
    }

    [Theory]
    [InlineData(F.Data3, true, 0x00C0F200u, true, true)]
    [InlineData(F.Data0, false, 0u, false, false)]
    [InlineData(F.Conforming, true, 0x00C09E00u, true, false)]
    [InlineData(0x100, false, 0u, false, false)]
    public void Inspection_tells_what_the_program_may_know(int selector, bool visible, uint rights, bool readable, bool writable)
    {
        using F f = F.Protected(3);
        f.B->Gpr[0] = 0x5555;
        f.B->Gpr[1] = (ulong)selector;
        f.Execute(0x0F, 0x02, 0xC1);
        Assert.Equal(visible, (f.Vcpu.Rflags & 0x40) != 0);
        Assert.Equal(visible ? rights : 0x5555u, f.B->Gpr[0]);
        f.Execute(0x0F, 0x03, 0xC1);
        Assert.Equal(visible ? uint.MaxValue : 0x5555u, f.B->Gpr[0]);
        f.Execute(0x0F, 0x00, 0xE1);
        Assert.Equal(readable, (f.Vcpu.Rflags & 0x40) != 0);
        f.Execute(0x0F, 0x00, 0xE9);
        Assert.Equal(writable, (f.Vcpu.Rflags & 0x40) != 0);
    }

    [Fact]
    public void Arpl_raises_the_requested_level()
    {
        using F f = F.Protected(3);
        (f.B->Gpr[0], f.B->Gpr[1]) = (0x20, 0x13);
        f.Execute(0x63, 0xC8);
        Assert.Equal((0x23UL, 0x40UL), (f.B->Gpr[0], f.Vcpu.Rflags & 0x40));
        f.Execute(0x63, 0xC8);
        Assert.Equal((0x23UL, 0UL), (f.B->Gpr[0], f.Vcpu.Rflags & 0x40));
    }

    [Fact]
    public void Ports_follow_the_bitmap_of_the_task()
    {
        using F f = F.Protected(3);
        f.B->Tr.Limit = 0x68 + 4;
        f.Guest.Memory.TryWrite(F.Tss + 102, (ushort)0x68);
        f.Write32(F.Tss + 0x68, 0xFFFF_00FE);
        f.Vcpu.CheckPortAccess(0, 1);
        Assert.Throws<GuestFault>(() => f.Vcpu.CheckPortAccess(0, 2));
        f.Vcpu.CheckPortAccess(12, 4);
        Assert.Throws<GuestFault>(() => f.Vcpu.CheckPortAccess(13, 4));
        Assert.Throws<GuestFault>(() => f.Vcpu.CheckPortAccess(0x400, 1));
        f.Vcpu.Rflags |= 3 << 12;
        f.Vcpu.CheckPortAccess(0x400, 1);
    }
}
