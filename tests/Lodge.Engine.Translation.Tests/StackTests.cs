using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class StackTests : IDisposable
{
    private const ulong Top = InterpretedGuest.Stack;
    private readonly InterpretedGuest _guest = new();

    public void Dispose() => _guest.Dispose();

    [Fact]
    public void Push_stores_the_old_stack_pointer_and_pop_the_new_value()
    {
        _guest.Execute(0x54); // push rsp
        Assert.Equal(Top, _guest.Read64(Top - 8));
        Assert.Equal(Top - 8, _guest.Gpr(4));
        _guest.Write(Top - 8, BitConverter.GetBytes(0x1234UL));
        _guest.Execute(0x5C); // pop rsp
        Assert.Equal(0x1234UL, _guest.Gpr(4));
    }

    [Fact]
    public void Immediates_are_extended_to_the_operand_size()
    {
        _guest.Execute(0x6A, 0x80);
        Assert.Equal(0xFFFF_FFFF_FFFF_FF80, _guest.Read64(Top - 8));
        _guest.Execute(0x68, 0, 0, 0, 0x80);
        Assert.Equal(0xFFFF_FFFF_8000_0000, _guest.Read64(Top - 16));
        _guest.Execute(0x66, 0x6A, 0xFE);
        Assert.Equal(Top - 18, _guest.Gpr(4));
        Assert.Equal([0xFE, 0xFF], _guest.Read(Top - 18, 2));
    }

    [Fact]
    public void Pop_to_memory_addresses_with_the_incremented_pointer()
    {
        _guest.Write(Top, BitConverter.GetBytes(0x77UL));
        _guest.Execute(0x8F, 0x44, 0x24, 0x10); // pop qword [rsp+16]
        Assert.Equal(0x77UL, _guest.Read64(Top + 8 + 16));
        Assert.Equal(Top + 8, _guest.Gpr(4));
        _guest.Unmap(InterpretedGuest.Data);
        _guest.Gpr(3) = InterpretedGuest.Data;
        _guest.Faults(Vector.PageFault, 0x8F, 0x03);
    }

    [Fact]
    public void A_push_that_faults_changes_nothing()
    {
        _guest.Unmap(Top - 0x1000);
        _guest.Faults(Vector.PageFault, 0x50);
        _guest.Gpr(4) = 0x8000_0000_0000;
        _guest.Faults(Vector.StackFault, 0x58); // not canonical
    }

    [Fact]
    public void A_stack_of_16_bits_wraps_and_keeps_the_upper_half()
    {
        _guest.Real();
        _guest.Gpr(0) = 0xBEEF;
        _guest.Gpr(4) = 0x5555_0000;
        _guest.Execute(0x50);
        Assert.Equal(0x5555_FFFEUL, _guest.Gpr(4));
        Assert.Equal([0xEF, 0xBE], _guest.Read(Top + 0xFFFE, 2));
        _guest.Gpr(4) = 1;
        _guest.Faults(Vector.StackFault, 0x50);
    }

    [Fact]
    public void All_registers_go_and_come_back_but_the_stack_pointer()
    {
        _guest.Protected32();
        for (int i = 0; i < 8; i++)
        {
            _guest.Gpr(i) = i == 4 ? Top : (ulong)(0x1010_1010 + i);
        }
        _guest.Execute(0x60);
        Assert.Equal(Top - 32, _guest.Gpr(4));
        Assert.Equal((uint)Top, BitConverter.ToUInt32(_guest.Read(Top - 20, 4)));
        Assert.Equal(0x1010_1010u, BitConverter.ToUInt32(_guest.Read(Top - 4, 4)));
        Assert.Equal(0x1010_1017u, BitConverter.ToUInt32(_guest.Read(Top - 32, 4)));
        _guest.Write(Top - 20, 1, 2, 3, 4);
        for (int i = 0; i < 8; i++)
        {
            _guest.Gpr(i) = i == 4 ? Top - 32 : 0;
        }
        _guest.Execute(0x61);
        for (int i = 0; i < 8; i++)
        {
            Assert.Equal(i == 4 ? Top : (ulong)(0x1010_1010 + i), _guest.Gpr(i));
        }
        _guest.Vcpu.Segment(Seg.Ss)->Limit = (uint)Top - 5; // the first push would fault
        _guest.Faults(Vector.StackFault, 0x60);
    }

    [Fact]
    public void Enter_builds_nested_frames_and_leave_removes_them()
    {
        _guest.Gpr(5) = Top + 0x100;
        _guest.Write(Top + 0x100 - 8, BitConverter.GetBytes(0xAAUL));
        _guest.Write(Top + 0x100 - 16, BitConverter.GetBytes(0xBBUL));
        _guest.Execute(0xC8, 0x20, 0, 3);
        ulong frame = Top - 8;
        Assert.Equal(frame, _guest.Gpr(5));
        Assert.Equal(Top - (4 * 8) - 0x20, _guest.Gpr(4));
        Assert.Equal(Top + 0x100, _guest.Read64(Top - 8));
        Assert.Equal(0xAAUL, _guest.Read64(Top - 16));
        Assert.Equal(0xBBUL, _guest.Read64(Top - 24));
        Assert.Equal(frame, _guest.Read64(Top - 32));
        _guest.Execute(0xC9);
        Assert.Equal((Top, Top + 0x100), (_guest.Gpr(4), _guest.Gpr(5)));
        _guest.Unmap(Top - 0x2000);
        _guest.Faults(Vector.PageFault, 0xC8, 0, 0x18, 0); // the end of the frame is not there
        Assert.Equal(Top + 0x100, _guest.Read64(Top - 8));
    }

    [Fact]
    public void Flags_change_as_far_as_the_privilege_goes()
    {
        void Pop(ulong image)
        {
            _guest.Write(Top - 8, BitConverter.GetBytes(image));
            _guest.Gpr(4) = Top - 8;
            _guest.Execute(0x9D);
        }
        Pop(0xFFFF_FFFF_FFFF_FFFF & ~0x100UL);
        Assert.Equal(0x24_7ED7UL, _guest.Vcpu.Rflags); // all but reserved, RF, VM, VIF, VIP
        _guest.Execute(0x9C);
        Assert.Equal(0x24_7ED7UL, _guest.Read64(Top - 8));
        _guest.Protected32(cpl: 3);
        _guest.Vcpu.Rflags = 0x1202; // IOPL 1
        _guest.Write(Top - 4, 0x02, 0, 0, 0);
        _guest.Gpr(4) = Top - 4;
        _guest.Execute(0x9D);
        Assert.Equal(0x1202UL, _guest.Vcpu.Rflags);
        _guest.Vcpu.Rflags = 0x3202;
        _guest.Gpr(4) = Top - 4;
        _guest.Execute(0x9D);
        Assert.Equal(0x3002UL, _guest.Vcpu.Rflags);
    }

    [Fact]
    public void Virtual_8086_mode_needs_io_privilege_or_the_mode_extensions()
    {
        _guest.Virtual8086(0);
        _guest.Faults(Vector.GeneralProtection, 0x9C);
        _guest.Faults(Vector.GeneralProtection, 0x9D);
        _guest.Faults(Vector.GeneralProtection, 0xFA);
        _guest.Virtual8086(0x3000);
        _guest.Gpr(4) = 0x100;
        _guest.Execute(0xFB);
        Assert.Equal(0x2_3202UL, _guest.Vcpu.Rflags);
        _guest.Execute(0x9C);
        Assert.Equal([0x02, 0x32], _guest.Read(0x30000 + 0xFE, 2));
        _guest.Virtual8086(0, cr4: 1);
        _guest.Gpr(4) = 0x100;
        _guest.Execute(0xFB);
        Assert.Equal(0xA_0002UL, _guest.Vcpu.Rflags); // VIF
        _guest.Execute(0x9C);
        Assert.Equal([0x02, 0x32], _guest.Read(0x30000 + 0xFE, 2)); // as IF, and IOPL 3
        _guest.Write(0x30000 + 0xFE, 0x03, 0);
        _guest.Execute(0x9D);
        Assert.Equal(0x2_0003UL, _guest.Vcpu.Rflags);
        _guest.Vcpu.Rflags |= 1 << 20; // VIP
        _guest.Faults(Vector.GeneralProtection, 0xFB);
        _guest.Faults(Vector.GeneralProtection, 0x66, 0x9C);
    }
}
