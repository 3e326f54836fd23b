using Iced.Intel;
using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class BranchesTests : IDisposable
{
    private const ulong Code = InterpretedGuest.Code, Top = InterpretedGuest.Stack;
    private readonly InterpretedGuest _guest = new();

    public void Dispose() => _guest.Dispose();

    private ulong Rip => _guest.Vcpu.B->Rip;

    [Fact]
    public void Every_condition_is_the_hosts()
    {
        for (int flags = 0; flags < 32; flags++)
        {
            bool c = (flags & 1) != 0, p = (flags & 2) != 0, z = (flags & 4) != 0, s = (flags & 8) != 0, o = (flags & 16) != 0;
            _guest.Vcpu.Rflags = 2 | (c ? 1UL : 0) | (p ? 4UL : 0) | (z ? 0x40UL : 0) | (s ? 0x80UL : 0) | (o ? 0x800UL : 0);
            bool[] even = [o, c, z, c || z, s, p, s != o, z || s != o];
            for (int condition = 0; condition < 16; condition++)
            {
                _guest.Execute((byte)(0x70 + condition), 0x10);
                bool expected = even[condition / 2] ^ (condition % 2 == 1);
                Assert.Equal(Code + (expected ? 0x12UL : 2), Rip);
            }
        }
    }

    [Fact]
    public void Calls_and_returns_use_the_stack()
    {
        _guest.Execute(0xE8, 0x10, 0, 0, 0);
        Assert.Equal(Code + 0x15, Rip);
        Assert.Equal(Code + 5, _guest.Read64(Top - 8));
        _guest.Execute(0xC2, 0x20, 0);
        Assert.Equal(Code + 5, Rip);
        Assert.Equal(Top + 0x20, _guest.Gpr(4));
        _guest.Gpr(4) = Top;
        _guest.Write(Top + 8, BitConverter.GetBytes(Code + 0x123));
        _guest.Execute(0xFF, 0x54, 0x24, 0x08); // call [rsp+8]: the operand is read before the push
        Assert.Equal(Code + 0x123, Rip);
    }

    [Fact]
    public void Targets_are_checked_before_anything_happens()
    {
        _guest.Gpr(0) = 0x8000_0000_0000;
        _guest.Faults(Vector.GeneralProtection, 0xFF, 0xE0);
        _guest.Faults(Vector.GeneralProtection, 0xFF, 0xD0);
        _guest.Write(Top, BitConverter.GetBytes(0x8000_0000_0000UL));
        _guest.Faults(Vector.GeneralProtection, 0xC3);
        _guest.Protected32();
        _guest.Vcpu.Segment(Seg.Cs)->Limit = (uint)Code + 0xFF;
        _guest.Faults(Vector.GeneralProtection, 0xE9, 0x00, 0x01, 0, 0);
        _guest.Faults(Vector.GeneralProtection, 0xE8, 0x00, 0x01, 0, 0);
        _guest.Gpr(1) = 2;
        _guest.Vcpu.Segment(Seg.Cs)->Limit = (uint)Code + 0x10;
        _guest.Faults(Vector.GeneralProtection, 0xE2, 0x40);
    }

    [Fact]
    public void Sixteen_bit_targets_are_truncated()
    {
        _guest.Real();
        _guest.Execute(0xEB, 0xF0);
        Assert.Equal(0xFFF2UL, Rip);
        _guest.Gpr(4) = 0x100;
        _guest.Execute(0xE8, 0x00, 0x10);
        Assert.Equal(0x1003UL, Rip);
        Assert.Equal(0xFEUL, _guest.Gpr(4));
        _guest.Execute(0x66, 0xE8, 0x00, 0x10, 0, 0);
        Assert.Equal(0xFAUL, _guest.Gpr(4));
        _guest.Execute(0x66, 0xC3);
        Assert.Equal(6UL, Rip);
    }

    [Theory]
    [InlineData(new byte[] { 0xE2, 0x10 }, 0x1_0000_0001UL, 0x1_0000_0000UL, true)]
    [InlineData(new byte[] { 0x67, 0xE2, 0x10 }, 0x1_0000_0001UL, 0UL, false)]
    [InlineData(new byte[] { 0x67, 0xE2, 0x10 }, 0x1_0000_0000UL, 0xFFFF_FFFFUL, true)]
    [InlineData(new byte[] { 0xE1, 0x10 }, 5UL, 4UL, false)]
    [InlineData(new byte[] { 0xE0, 0x10 }, 5UL, 4UL, true)]
    [InlineData(new byte[] { 0xE3, 0x10 }, 0x1_0000_0000UL, 0x1_0000_0000UL, false)]
    [InlineData(new byte[] { 0x67, 0xE3, 0x10 }, 0x1_0000_0000UL, 0x1_0000_0000UL, true)]
    public void Loops_count_in_the_address_width(byte[] code, ulong before, ulong after, bool taken)
    {
        _guest.Gpr(1) = before;
        _guest.Vcpu.Rflags = 2;
        _guest.Execute(code);
        Assert.Equal(after, _guest.Gpr(1));
        Assert.Equal(Code + (ulong)code.Length + (taken ? 0x10UL : 0), Rip);
    }

    [Fact]
    public void Interrupt_flag_has_a_shadow_and_a_privilege()
    {
        _guest.Execute(0xFB);
        Assert.Equal(1u, _guest.Vcpu.B->InterruptShadow);
        _guest.Vcpu.B->InterruptShadow = 0;
        _guest.Execute(0xFB);
        Assert.Equal(0u, _guest.Vcpu.B->InterruptShadow);
        _guest.Execute(0xFA);
        Assert.Equal(2UL, _guest.Vcpu.Rflags);
        _guest.Protected32(cpl: 3);
        _guest.Faults(Vector.GeneralProtection, 0xFA);
        _guest.Faults(Vector.GeneralProtection, 0xFB);
        _guest.Vcpu.B->Cr4 = 2; // protected-mode virtual interrupts
        _guest.Execute(0xFB);
        Assert.Equal(0x8_0002UL, _guest.Vcpu.Rflags);
        _guest.Execute(0xFA);
        Assert.Equal(2UL, _guest.Vcpu.Rflags);
    }

    // AL, AF, CF before; AL, AF, CF after (Intel SDM vol. 2, examples of DAA and DAS and the edges of their algorithms).
    [Theory]
    [InlineData(0x27, 0xAE, false, false, 0x14, true, true)]
    [InlineData(0x27, 0x79, false, false, 0x79, false, false)]
    [InlineData(0x27, 0x9A, false, false, 0x00, true, true)]
    [InlineData(0x27, 0x00, true, false, 0x06, true, false)]
    [InlineData(0x27, 0x00, false, true, 0x60, false, true)]
    [InlineData(0x2F, 0xEE, true, false, 0x88, true, true)]
    [InlineData(0x2F, 0x02, true, false, 0xFC, true, true)]
    [InlineData(0x2F, 0x45, false, false, 0x45, false, false)]
    public void Decimal_adjustment(byte opcode, byte al, bool af, bool cf, byte expected, bool afAfter, bool cfAfter)
    {
        _guest.Protected32();
        _guest.Gpr(0) = 0x5500UL | al;
        _guest.Vcpu.Rflags = 2 | (af ? 16UL : 0) | (cf ? 1UL : 0);
        _guest.Execute(opcode);
        Assert.Equal(0x5500UL | expected, _guest.Gpr(0));
        Assert.Equal((afAfter, cfAfter), ((_guest.Vcpu.Rflags & 16) != 0, (_guest.Vcpu.Rflags & 1) != 0));
        Assert.Equal(expected == 0, _guest.Vcpu.Condition(ConditionCode.e));
    }

    [Fact]
    public void Other_instructions_of_the_8086()
    {
        _guest.Protected32();
        _guest.Gpr(0) = 0x010F;
        _guest.Execute(0x37); // aaa
        Assert.Equal(0x0205UL, _guest.Gpr(0));
        _guest.Gpr(0) = 0x0205;
        _guest.Vcpu.Rflags = 0x12;
        _guest.Execute(0x3F); // aas with AF
        Assert.Equal(0x000FUL, _guest.Gpr(0)); // 0205 - 6, and AH - 1
        _guest.Gpr(0) = 0x63;
        _guest.Execute(0xD4, 10);
        Assert.Equal(0x0909UL, _guest.Gpr(0));
        _guest.Execute(0xD5, 10);
        Assert.Equal(0x63UL, _guest.Gpr(0));
        _guest.Faults(Vector.DivideError, 0xD4, 0);
        _guest.Vcpu.Rflags = 3;
        _guest.Execute(0xD6); // salc
        Assert.Equal(0xFFUL, _guest.Gpr(0));
        _guest.Gpr(3) = InterpretedGuest.Data;
        _guest.Write(InterpretedGuest.Data + 0xFF, 0x42);
        _guest.Execute(0xD7); // xlat
        Assert.Equal(0x42UL, _guest.Gpr(0));
        _guest.Write(InterpretedGuest.Data, 0xFE, 0xFF, 0xFF, 0xFF, 5, 0, 0, 0);
        _guest.Gpr(0) = 0xFFFF_FFFE;
        _guest.Execute(0x62, 0x03); // bound eax, [ebx]
        _guest.Gpr(0) = 6;
        _guest.Faults(Vector.BoundRange, 0x62, 0x03);
        _guest.Gpr(0) = 0;
        _guest.Vcpu.Rflags = 0x8D7;
        _guest.Execute(0x9F); // lahf
        Assert.Equal(0xD700UL, _guest.Gpr(0));
        _guest.Gpr(0) = 0;
        _guest.Execute(0x9E); // sahf keeps OF
        Assert.Equal(0x802UL, _guest.Vcpu.Rflags);
    }
}
