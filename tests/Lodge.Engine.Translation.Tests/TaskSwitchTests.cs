using Lodge.Engine.Translation.Processor;
using Xunit;
using F = Lodge.Engine.Translation.Tests.ProtectionFixture;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class TaskSwitchTests : IDisposable
{
    private const ulong Other = 0x3_8000;
    private static readonly byte[] s_jump = [0xEA, 0, 0, 0, 0, (byte)F.Free, 0], s_call = [0x9A, 0, 0, 0, 0, (byte)F.Free, 0];
    private readonly F _f = F.Protected();

    public TaskSwitchTests()
    {
        _f.Descriptor(F.Free, (uint)Other, 0x67, 0x89);
        for (uint i = 0; i < 8; i++)
        {
            _f.Write32(Other + 0x28 + (i * 4), 0x100 + i);
        }
        _f.Write32(Other + 0x20, 0x7777);
        _f.Write32(Other + 0x24, 0x0246);
        _f.Write32(Other + 0x38, 0x6000);
        ushort[] selectors = [F.Data3, F.Code0, F.Data0, F.Data0, 0, 0];
        for (int i = 0; i < 6; i++)
        {
            _f.Write32(Other + 0x48 + ((uint)i * 4), selectors[i]);
        }
        _f.B->Gpr[3] = 0xB0B;
        _f.Vcpu.Rflags = 0x203;
    }

    public void Dispose() => _f.Dispose();

    [Fact]
    public void Jump_saves_one_task_and_loads_the_other()
    {
        _f.Execute(s_jump);
        Assert.Equal((0x7777UL, 0x6000UL, 0x246UL, 0x103UL), (_f.B->Rip, _f.B->Gpr[4], _f.Vcpu.Rflags, _f.B->Gpr[3]));
        Assert.Equal((F.Code + 7, 0x203u, 0xB0Bu), (_f.Read32(F.Tss + 0x20), _f.Read32(F.Tss + 0x24), _f.Read32(F.Tss + 0x34)));
        Assert.Equal((F.Data0, F.Code0), ((ushort)_f.Read32(F.Tss + 0x50), (ushort)_f.Read32(F.Tss + 0x4C)));
        Assert.Equal((9u, 11u), (_f.DescriptorType(F.Task), _f.DescriptorType(F.Free)));
        Assert.Equal((F.Free, 8UL), (_f.B->Tr.Selector, _f.B->Cr0 & 8));
        _f.Faults(Vector.GeneralProtection, F.Free, s_jump); // busy
    }

    [Fact]
    public void Call_nests_and_iret_comes_back()
    {
        _f.Execute(s_call);
        Assert.Equal((11u, 11u), (_f.DescriptorType(F.Task), _f.DescriptorType(F.Free)));
        Assert.Equal((0x4246UL, F.Task), (_f.Vcpu.Rflags, (ushort)_f.Read32(Other)));
        _f.Execute(0xCF);
        Assert.Equal((F.Code + 7, 0x203UL, 0xB0BUL), (_f.B->Rip, _f.Vcpu.Rflags, _f.B->Gpr[3]));
        Assert.Equal((11u, 9u), (_f.DescriptorType(F.Task), _f.DescriptorType(F.Free)));
        Assert.Equal(0x0246u, _f.Read32(Other + 0x24)); // NT cleared in the image
    }

    [Fact]
    public void Task_gate_takes_an_exception_with_its_error_code()
    {
        _f.Gate(8, F.Free, 0, 0x85);
        Assert.True(_f.Vcpu.DeliverException(Vector.DoubleFault, 0x99, 0));
        Assert.Equal((0x7777UL, 0x5FFCUL, 0x99u), (_f.B->Rip, _f.B->Gpr[4], _f.Read32(0x5FFC)));
        Assert.Equal(F.Code, _f.Read32(F.Tss + 0x20));
    }

    [Fact]
    public void Faults_before_the_switch_belong_to_the_old_task()
    {
        _f.Descriptor(F.Free, (uint)Other, 0x66, 0x89);
        _f.Faults(Vector.InvalidTss, F.Free, s_jump);
        _f.Descriptor(F.Free, (uint)Other, 0x67, 0x09);
        _f.Faults(Vector.SegmentNotPresent, F.Free, s_jump);
        Assert.Equal(F.Task, _f.B->Tr.Selector);
    }

    [Fact]
    public void Faults_after_the_switch_belong_to_the_new_task()
    {
        _f.Write32(Other + 0x50, F.ReadOnly);
        var fault = Assert.Throws<GuestFault>(() => _f.Execute(s_jump));
        Assert.Equal((Vector.InvalidTss, (uint?)F.ReadOnly), (fault.Vector, fault.ErrorCode));
        Assert.Equal((0x7777UL, F.Free), (_f.B->Rip, _f.B->Tr.Selector));
    }

    [Fact]
    public void Trap_bit_raises_a_debug_exception_in_the_new_task()
    {
        _f.Write32(Other + 0x64, 1);
        _f.B->Dr7 = 0x455;
        var fault = Assert.Throws<GuestFault>(() => _f.Execute(s_jump));
        Assert.Equal((Vector.Debug, 0x8000UL, 0x7777UL, 0x400UL), (fault.Vector, fault.Address, _f.B->Rip, _f.B->Dr7));
    }

    [Fact]
    public void Sixteen_bit_task()
    {
        _f.Descriptor(F.Free, (uint)Other, 0x2B, 0x81);
        ushort[] fields = [0x1234, 0x0202, 1, 2, 3, 4, 0x6000, 6, 7, 8, F.Data3, F.Code0, F.Data0, F.Data0, 0];
        for (int i = 0; i < fields.Length; i++)
        {
            _f.Guest.Memory.TryWrite(Other + 0xE + ((uint)i * 2), fields[i]);
        }
        _f.Execute(s_jump);
        Assert.Equal((0x1234UL, 1UL, 0x6000UL, 8UL), (_f.B->Rip, _f.B->Gpr[0], _f.B->Gpr[4], _f.B->Gpr[7]));
        Assert.Equal((F.Data3, true), (_f.Vcpu.Segment(Seg.Es)->Selector, _f.Vcpu.Segment(Seg.Fs)->Unusable));
    }

    [Fact]
    public void Long_mode_has_no_task_switches()
    {
        using F f = F.Long();
        f.Vcpu.Rflags = 0x4002;
        f.Faults(Vector.GeneralProtection, 0, 0x48, 0xCF);
    }
}
