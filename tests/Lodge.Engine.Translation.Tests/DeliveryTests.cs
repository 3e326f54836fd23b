using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Processor;
using Xunit;
using F = Lodge.Engine.Translation.Tests.ProtectionFixture;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class DeliveryTests
{
    private const uint Interrupt = 0x8E, Trap = 0x8F, UserTrap = 0xEF;
    private const ulong Handler = 0xFFFF_8000_0000_2000;

    [Fact]
    public void Long_mode_interrupt_from_user_and_back()
    {
        using F f = F.Long(3);
        f.Gate(0x40, F.Code0, Handler, Interrupt);
        f.Vcpu.Rflags = 0x4746; // NT, DF, IF, TF and arithmetic flags
        Assert.True(f.Vcpu.DeliverInterrupt(0x40));
        Assert.Equal((Handler, 0u, F.Stack0 - 40, (ushort)0), (f.B->Rip, f.B->Cpl, f.B->Gpr[4], f.Vcpu.Segment(Seg.Ss)->Selector));
        Assert.Equal([F.Code, F.Code3, 0x4746, F.Stack3, F.Data3], f.Stack(5));
        Assert.Equal(0x446UL, f.Vcpu.Rflags);
        f.B->NmiBlocked = 1;
        f.Guest.Write64(f.B->Gpr[4] + 16, 0x346);
        f.Execute(0x48, 0xCF);
        Assert.Equal((F.Code, 3u, F.Stack3, 0x346UL, 0u), (f.B->Rip, f.B->Cpl, f.B->Gpr[4], f.Vcpu.Rflags, f.B->NmiBlocked));
        Assert.Equal(F.Data3, f.Vcpu.Segment(Seg.Ss)->Selector);
    }

    [Fact]
    public void Long_mode_fault_in_the_kernel_aligns_the_stack_and_sets_cr2()
    {
        using F f = F.Long();
        f.Gate(14, F.Code0, Handler, Trap);
        f.B->Gpr[4] = Stack(0x7008);
        f.Vcpu.Rflags = 0x202;
        Assert.True(f.Vcpu.DeliverException(Vector.PageFault, 2, 0x1234));
        Assert.Equal((0x1234UL, Stack(0x7000) - 48), (f.B->Cr2, f.B->Gpr[4]));
        Assert.Equal([2, F.Code, F.Code0, 0x1_0202, Stack(0x7008), F.Data0], f.Stack(6));
        Assert.Equal(0x202UL, f.Vcpu.Rflags);
        f.B->Gpr[4] += 8;
        f.Execute(0x48, 0xCF);
        Assert.Equal((Stack(0x7008), 0x1_0202UL), (f.B->Gpr[4], f.Vcpu.Rflags));
    }

    private static ulong Stack(ulong address) => address;

    [Fact]
    public void Interrupt_stack_table()
    {
        using F f = F.Long();
        f.Guest.Write64(F.Tss + 0x24 + 8, 0xA008);
        f.Gate(2, F.Code0, Handler, Interrupt, 2);
        Assert.True(f.Vcpu.DeliverNmi());
        Assert.Equal((0xA000UL - 40, 1u, F.Data0), (f.B->Gpr[4], f.B->NmiBlocked, f.Vcpu.Segment(Seg.Ss)->Selector));
        f.Guest.Write64(F.Tss + 0x24 + 8, 0x8000_0000_0000);
        f.Gate(12, F.Code0, Handler, Interrupt);
        Assert.True(f.Vcpu.DeliverInterrupt(2));
        Assert.Equal(1UL, f.Stack(1)[0]); // #SS with EXT
    }

    [Fact]
    public void Faults_while_delivering_become_double_faults_and_shutdown()
    {
        using F f = F.Long();
        f.Gate(8, F.Code0, Handler, Interrupt);
        f.Gate(11, F.Code0, Handler + 1, Interrupt);
        Assert.True(f.Vcpu.DeliverException(Vector.PageFault, 0, 5)); // no gate 14: #GP on top of #PF
        Assert.Equal((Handler, 0UL), (f.B->Rip, f.Stack(1)[0]));
        f.Gate(0x50, F.Code0, Handler, 0x0E);
        Assert.True(f.Vcpu.DeliverInterrupt(0x50)); // absent: #NP of the gate, external
        Assert.Equal((Handler + 1, (0x50UL * 8) | 3), (f.B->Rip, f.Stack(1)[0]));
        f.B->IdtrLimit = 0;
        Assert.False(f.Vcpu.DeliverException(Vector.GeneralProtection, 0, 0));
        Assert.Equal((uint)ActivityState.Shutdown, f.B->Activity);
    }

    [Fact]
    public void Page_fault_after_a_contributory_fault_is_served_in_turn()
    {
        using F f = F.Long();
        f.Gate(14, F.Code0, Handler, Interrupt, 1);
        f.Guest.Write64(F.Tss + 0x24, 0xA000);
        f.Gate(13, F.Code0, Handler + 1, Interrupt, 2);
        f.Guest.Write64(F.Tss + 0x2C, 0x7FFF_0000_0000); // not mapped
        Assert.True(f.Vcpu.DeliverException(Vector.GeneralProtection, 0, 0));
        Assert.Equal((Handler, 0x7FFE_FFFF_FFD0UL, 2UL), (f.B->Rip, f.B->Cr2, f.Stack(1)[0]));
    }

    [Fact]
    public void Debug_exception_sets_dr6_and_is_a_trap()
    {
        using F f = F.Long();
        f.Gate(1, F.Code0, Handler, Interrupt);
        f.B->Dr6 |= 3;
        f.B->Dr7 = 0x2400;
        Assert.True(f.Vcpu.DeliverException(Vector.Debug, null, 0x4004));
        Assert.Equal((0xFFFF_4FF4UL, 0x400UL, 2UL), (f.B->Dr6, f.B->Dr7, f.Stack(3)[2]));
    }

    [Fact]
    public void Software_interrupts_need_the_level_of_their_gate()
    {
        using F f = F.Long(3);
        f.Gate(0x80, F.Code0, Handler, UserTrap);
        f.Gate(3, F.Code0, Handler, Trap);
        f.Gate(1, F.Code0, Handler, Interrupt);
        f.Faults(Vector.GeneralProtection, (3 * 8) + 2, 0xCC);
        f.Faults(Vector.GeneralProtection, (0x81 * 8) + 2, 0xCD, 0x81);
        f.Execute(0xCD, 0x80);
        Assert.Equal((Handler, F.Code + 2), (f.B->Rip, f.Stack(1)[0]));
        f.B->Rip = F.Code;
        f.Execute(0xF1);
        Assert.Equal((Handler, F.Code + 1), (f.B->Rip, f.Stack(1)[0]));
    }

    [Fact]
    public void Protected_mode_inner_and_same_level()
    {
        using F f = F.Protected(3);
        f.Gate(13, F.Code0, 0x1_2000, Interrupt);
        f.Vcpu.Rflags = 0x202;
        Assert.True(f.Vcpu.DeliverException(Vector.GeneralProtection, 0x55, 0));
        Assert.Equal((0x1_2000UL, 0u, F.Stack0 - 24, 2UL), (f.B->Rip, f.B->Cpl, f.B->Gpr[4], f.Vcpu.Rflags));
        Assert.Equal([0x55, F.Code, F.Code3, 0x1_0202, F.Stack3, F.Data3], f.Stack(6, 4));
        f.Gate(0x30, F.Code0, 0x3000, 0x86); // 16-bit
        Assert.True(f.Vcpu.DeliverInterrupt(0x30));
        Assert.Equal([0x2000, F.Code0, 2], f.Stack(3, 2));
        f.Execute(0x66, 0xCF);
        Assert.Equal((0x2000UL, F.Stack0 - 24), (f.B->Rip, f.B->Gpr[4]));
        f.B->Gpr[4] += 4;
        f.Execute(0xCF);
        Assert.Equal((F.Code, 3u, F.Stack3, 0x1_0202UL), (f.B->Rip, f.B->Cpl, f.B->Gpr[4], f.Vcpu.Rflags));
    }

    [Fact]
    public void User_return_cannot_change_interrupt_flag_or_iopl()
    {
        using F f = F.Protected(3);
        f.Vcpu.Rflags = 0x202;
        f.Write32(F.Stack3, 0x4000);
        f.Write32(F.Stack3 + 4, F.Code3);
        f.Write32(F.Stack3 + 8, 0x0018_3000 | 0x41);
        f.Execute(0xCF);
        Assert.Equal(0x243UL, f.Vcpu.Rflags);
    }

    [Fact]
    public void Sixteen_bit_stack_takes_the_low_half()
    {
        using F f = F.Protected();
        f.Descriptor(F.Free, 0, 0xFFFF, 0x00F2);
        ulong esp = f.B->Gpr[4];
        uint[] frame = [0x4000, F.Code3, 0x202, 0x1111_2222, F.Free | 3];
        for (int i = 0; i < frame.Length; i++)
        {
            f.Write32(esp + ((ulong)i * 4), frame[i]);
        }
        f.Execute(0xCF);
        Assert.Equal((esp & 0xFFFF_0000) | 0x2222, f.B->Gpr[4]);
    }

    [Fact]
    public void Virtual_8086_out_and_in()
    {
        using F f = F.Protected();
        ulong esp = f.B->Gpr[4];
        uint[] frame = [0x100, 0x2000, 0x2_0202, 0x800, 0x3000, 0x11, 0x22, 0x33, 0x44];
        for (int i = 0; i < frame.Length; i++)
        {
            f.Write32(esp + ((ulong)i * 4), frame[i]);
        }
        f.Execute(0xCF);
        Assert.True(f.Vcpu.Virtual8086);
        Assert.Equal((0x100UL, 3u, 0x20000UL, 0x330UL, 0xF3u, 0x220UL), (f.B->Rip, f.B->Cpl, f.Vcpu.Segment(Seg.Cs)->Base, f.Vcpu.Segment(Seg.Fs)->Base, f.Vcpu.Segment(Seg.Fs)->Attributes, f.Vcpu.Segment(Seg.Ds)->Base));
        f.Gate(0x20, F.Code0, 0x5000, Interrupt);
        f.Gate(13, F.Code0, 0x5000, Interrupt);
        f.Faults(Vector.GeneralProtection, 0, 0xCD, 0x20);
        f.Faults(Vector.GeneralProtection, 0, 0xCF);
        Assert.True(f.Vcpu.DeliverException(Vector.GeneralProtection, 0, 0));
        Assert.Equal((0x5000UL, 0u, false, true), (f.B->Rip, f.B->Cpl, f.Vcpu.Virtual8086, f.Vcpu.Segment(Seg.Ds)->Unusable));
        Assert.Equal([0, 0x100, 0x2000, 0x3_0202, 0x800, 0x3000, 0x11, 0x22, 0x33, 0x44], f.Stack(10, 4));
    }

    [Fact]
    public void Virtual_8086_interrupts_are_redirected_by_the_bitmap()
    {
        using F f = F.Protected();
        f.B->Cr4 = 1;
        f.B->Tr.Limit = 0x200;
        f.Guest.Memory.TryWrite(F.Tss + 102, (ushort)(0x68 + 32));
        f.Write32(0x21 * 4, 0x4000_0010);
        f.Vcpu.Rflags = 0x2_0002 | (1 << 19);
        f.B->Cpl = 3;
        for (int i = 0; i < 6; i++)
        {
            *f.Vcpu.Segment(i) = new Segment { Limit = 0xFFFF, Attributes = 0xF3 };
        }
        (f.B->Rip, f.B->Gpr[4]) = (0x100, 0x7000);
        f.Execute(0xCD, 0x21);
        Assert.Equal((0x10UL, 0x40000UL, 0x6FFAUL), (f.B->Rip, f.Vcpu.Segment(Seg.Cs)->Base, f.B->Gpr[4]));
        Assert.Equal([0x102, 0, 0x3202], f.Stack(3, 2));
        Assert.Equal(0UL, f.Vcpu.Rflags & (1 << 19));
        f.Execute(0xCF);
        Assert.Equal((0x102UL, 1UL << 19), (f.B->Rip, f.Vcpu.Rflags & (1 << 19)));
    }

    [Fact]
    public void Real_mode_uses_the_vector_table()
    {
        using F f = F.Protected();
        f.B->Cr0 = 0x10;
        (f.B->IdtrBase, f.B->IdtrLimit) = (0, 0x3FF);
        for (int i = 0; i < 6; i++)
        {
            *f.Vcpu.Segment(i) = new Segment { Limit = 0xFFFF, Attributes = 0x93 };
        }
        (f.B->Rip, f.B->Gpr[4]) = (0x100, 0x7000);
        f.Write32(0x40, 0xF000_1234);
        f.Vcpu.Rflags = 0x247;
        f.Execute(0xCD, 0x10);
        Assert.Equal((0x1234UL, 0xF0000UL, 0x47UL), (f.B->Rip, f.Vcpu.Segment(Seg.Cs)->Base, f.Vcpu.Rflags));
        Assert.Equal([0x102, 0, 0x247], f.Stack(3, 2));
        f.Execute(0xCF);
        Assert.Equal((0x102UL, 0x247UL, 0x7000UL), (f.B->Rip, f.Vcpu.Rflags, f.B->Gpr[4]));
        f.B->IdtrLimit = 0x3F;
        f.Faults(Vector.GeneralProtection, (0x10 * 8) + 2, 0xCD, 0x10);
    }
}
