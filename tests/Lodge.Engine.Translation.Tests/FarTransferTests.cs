using Lodge.Engine.Translation.Processor;
using Xunit;
using F = Lodge.Engine.Translation.Tests.ProtectionFixture;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class FarTransferTests
{
    private static byte[] CallTo(ushort selector, uint offset) => [0x9A, .. BitConverter.GetBytes(offset), .. BitConverter.GetBytes(selector)];

    private static byte[] JumpTo(ushort selector, uint offset) => [0xEA, .. BitConverter.GetBytes(offset), .. BitConverter.GetBytes(selector)];

    [Fact]
    public void Call_and_return_in_one_level()
    {
        using F f = F.Protected();
        ulong esp = f.B->Gpr[4];
        f.Execute(CallTo(F.Code0, 0x4000));
        Assert.Equal((0x4000UL, esp - 8), (f.B->Rip, f.B->Gpr[4]));
        Assert.Equal([F.Code + 7, F.Code0], f.Stack(2, 4));
        f.Execute(0xCA, 0x04, 0x00);
        Assert.Equal((F.Code + 7, esp + 4), (f.B->Rip, f.B->Gpr[4]));
    }

    [Fact]
    public void Direct_targets_need_their_privilege()
    {
        using F f = F.Protected(3);
        f.Faults(Vector.GeneralProtection, F.Code0, JumpTo(F.Code0, 0));
        f.Faults(Vector.GeneralProtection, 0, JumpTo(0, 0));
        f.Faults(Vector.GeneralProtection, F.Data0, JumpTo(F.Data0, 0));
        f.Execute(JumpTo(F.Conforming, 0x77));
        Assert.Equal((F.Conforming | 3, 3u, 0x77UL), (f.Vcpu.Segment(Seg.Cs)->Selector, f.B->Cpl, f.B->Rip));
        f.Descriptor(F.Code3, 0, 0xFFF, 0x40FA);
        f.Faults(Vector.GeneralProtection, 0, JumpTo(F.Code3, 0x1000));
        f.Descriptor(F.Code3, 0, 0xFFF, 0x407A);
        f.Faults(Vector.SegmentNotPresent, F.Code3 & 0xFC, JumpTo(F.Code3, 0));
    }

    [Fact]
    public void Call_gate_switches_stacks_and_copies_parameters_and_return_releases_them()
    {
        using F f = F.Protected(3);
        f.Guest.Write64(F.Gdt + F.Free, F.GateBits(F.Code0, 0x1_2345, 0xEC, 2));
        f.Write32(F.Stack3, 0xAAAA);
        f.Write32(F.Stack3 + 4, 0xBBBB);
        *f.Vcpu.Segment(Seg.Gs) = new Segment { Selector = F.Data0, Attributes = 0xC093 };
        f.Execute(CallTo(F.Free | 3, 0x9999_9999));
        Assert.Equal((0x1_2345UL, 0u, F.Code0, F.Data0), (f.B->Rip, f.B->Cpl, f.Vcpu.Segment(Seg.Cs)->Selector, f.Vcpu.Segment(Seg.Ss)->Selector));
        Assert.Equal(F.Stack0 - 24, f.B->Gpr[4]);
        Assert.Equal([F.Code + 7, F.Code3, 0xAAAA, 0xBBBB, F.Stack3, F.Data3], f.Stack(6, 4));
        f.Execute(0xCA, 0x08, 0x00);
        Assert.Equal((F.Code + 7, 3u, F.Stack3 + 8), (f.B->Rip, f.B->Cpl, f.B->Gpr[4]));
        Assert.True(f.Vcpu.Segment(Seg.Gs)->Unusable); // was of level 0
        Assert.False(f.Vcpu.Segment(Seg.Ds)->Unusable);
    }

    [Fact]
    public void Call_gate_faults_leave_the_caller_as_it_was()
    {
        using F f = F.Protected(3);
        f.Guest.Write64(F.Gdt + F.Free, F.GateBits(F.Code0, 0x1_2345, 0x8C));
        f.Faults(Vector.GeneralProtection, F.Free, CallTo(F.Free, 0));
        f.Guest.Write64(F.Gdt + F.Free, F.GateBits(F.Code0, 0x1_2345, 0x6C));
        f.Faults(Vector.SegmentNotPresent, F.Free, CallTo(F.Free, 0));
        f.Guest.Write64(F.Gdt + F.Free, F.GateBits(F.Code0, 0x1_2345, 0xEC));
        f.Write32(F.Tss + 8, F.Data3);
        f.Faults(Vector.InvalidTss, F.Data3 & 0xFC, CallTo(F.Free, 0));
        f.Faults(Vector.GeneralProtection, F.Code0, JumpTo(F.Free, 0));
    }

    [Fact]
    public void Long_mode_gate_takes_the_stack_of_the_task_and_a_null_selector()
    {
        using F f = F.Long(3);
        f.Guest.Write64(F.Gdt + F.Free, F.GateBits(F.Code0, 0x1234, 0xEC));
        f.Guest.Write64(F.Gdt + F.Free + 8, 0xFFFF_8000);
        f.B->Gpr[3] = 0x5000;
        f.Guest.Write64(0x5000, 0);
        f.Write32(0x5008, F.Free);
        f.Execute(0x48, 0xFF, 0x1B);
        Assert.Equal((0xFFFF_8000_0000_1234, 0u, (ushort)0), (f.B->Rip, f.B->Cpl, f.Vcpu.Segment(Seg.Ss)->Selector));
        Assert.Equal([F.Code + 3, F.Code3, F.Stack3, F.Data3], f.Stack(4));
        f.Execute(0x48, 0xCB);
        Assert.Equal((F.Code + 3, 3u, F.Stack3), (f.B->Rip, f.B->Cpl, f.B->Gpr[4]));
        f.Guest.Write64(F.Gdt + F.Free + 8, 0x1234_5678);
        f.Faults(Vector.GeneralProtection, 0, 0x48, 0xFF, 0x1B);
    }

    [Fact]
    public void Return_never_goes_inwards()
    {
        using F f = F.Protected(3);
        f.Write32(F.Stack3, 0);
        f.Write32(F.Stack3 + 4, F.Code0);
        f.Faults(Vector.GeneralProtection, F.Code0, 0xCB);
    }

    [Fact]
    public void Real_mode()
    {
        using F f = F.Protected();
        f.B->Cr0 = 0x10;
        for (int i = 0; i < 6; i++)
        {
            *f.Vcpu.Segment(i) = new Segment { Limit = 0xFFFF, Attributes = 0x93 };
        }
        (f.B->Rip, f.B->Gpr[4]) = (0x100, 0x7000);
        f.Execute(0x9A, 0x34, 0x12, 0x00, 0xF0);
        Assert.Equal((0xF0000UL, 0x1234UL, 0x6FFCUL), (f.Vcpu.Segment(Seg.Cs)->Base, f.B->Rip, f.B->Gpr[4]));
        f.Execute(0xCB);
        Assert.Equal((0UL, 0x105UL, 0x7000UL), (f.Vcpu.Segment(Seg.Cs)->Base, f.B->Rip, f.B->Gpr[4]));
        f.Faults(Vector.GeneralProtection, 0, 0x66, 0xEA, 0, 0, 1, 0, 0, 0);
    }

    [Fact]
    public void Syscall_and_sysret()
    {
        using F f = F.Long(3);
        f.Faults(Vector.InvalidOpcode, null, 0x0F, 0x05);
        f.B->Efer |= 1;
        f.B->Star = (0x10UL << 48) | (0x08UL << 32);
        (f.B->Lstar, f.B->SyscallMask) = (0xFFFF_8000_0000_1000, 0x200);
        f.Vcpu.Rflags = 0x0A47;
        f.Execute(0x0F, 0x05);
        Assert.Equal((0xFFFF_8000_0000_1000, F.Code + 2, 0x0A47UL, 0x0847UL), (f.B->Rip, f.B->Gpr[1], f.B->Gpr[11], f.Vcpu.Rflags));
        Assert.Equal((0u, (ushort)8, (ushort)16), (f.B->Cpl, f.Vcpu.Segment(Seg.Cs)->Selector, f.Vcpu.Segment(Seg.Ss)->Selector));
        f.B->Gpr[1] = 0x8000_0000_0000;
        f.Faults(Vector.GeneralProtection, 0, 0x48, 0x0F, 0x07);
        f.B->Gpr[1] = F.Code;
        f.Execute(0x48, 0x0F, 0x07);
        Assert.Equal((F.Code, 3u, (ushort)0x23, (ushort)0x1B, 0x0A47UL), (f.B->Rip, f.B->Cpl, f.Vcpu.Segment(Seg.Cs)->Selector, f.Vcpu.Segment(Seg.Ss)->Selector, f.Vcpu.Rflags));
        Assert.True(f.Vcpu.Code64);
        f.Faults(Vector.GeneralProtection, 0, 0x48, 0x0F, 0x07);
    }

    [Fact]
    public void Sysenter_and_sysexit()
    {
        using F f = F.Protected(3);
        f.Faults(Vector.GeneralProtection, 0, 0x0F, 0x34);
        (f.B->SysenterCs, f.B->SysenterEip, f.B->SysenterEsp) = (8, 0x1234, 0x5678);
        f.Vcpu.Rflags = 0x202;
        f.Execute(0x0F, 0x34);
        Assert.Equal((0x1234UL, 0x5678UL, 0u, 2UL), (f.B->Rip, f.B->Gpr[4], f.B->Cpl, f.Vcpu.Rflags));
        (f.B->Gpr[1], f.B->Gpr[2]) = (F.Stack3, F.Code);
        f.Execute(0x0F, 0x35);
        Assert.Equal((F.Code, F.Stack3, 3u, (ushort)0x1B, (ushort)0x23), (f.B->Rip, f.B->Gpr[4], f.B->Cpl, f.Vcpu.Segment(Seg.Cs)->Selector, f.Vcpu.Segment(Seg.Ss)->Selector));
    }
}
