using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class StringsTests : IDisposable
{
    private const int Rax = 0, Rcx = 1, Rsi = 6, Rdi = 7;
    private const ulong Data = InterpretedGuest.Data;
    private readonly InterpretedGuest _guest = new();

    public void Dispose() => _guest.Dispose();

    private void Set(ulong count, ulong source, ulong destination)
    {
        _guest.Gpr(Rcx) = count;
        _guest.Gpr(Rsi) = source;
        _guest.Gpr(Rdi) = destination;
    }

    private void Expect(ulong count, ulong source, ulong destination) =>
        Assert.Equal((count, source, destination), (_guest.Gpr(Rcx), _guest.Gpr(Rsi), _guest.Gpr(Rdi)));

    private static byte[] Pattern(int length)
    {
        byte[] data = new byte[length];
        new Random(length).NextBytes(data);
        return data;
    }

    // The prefix of each width: REP MOVSB/W/D/Q.
    private static byte[] RepMove(int size) => size switch { 1 => [0xF3, 0xA4], 2 => [0x66, 0xF3, 0xA5], 4 => [0xF3, 0xA5], _ => [0xF3, 0x48, 0xA5] };

    [Theory]
    [InlineData(1, 0x123, 0x2456, 9001)]
    [InlineData(2, 0x1FF, 0x6000, 5000)]
    [InlineData(4, 0x1FFE, 0x8003, 3000)]
    [InlineData(8, 0x7, 0xA001, 2000)]
    [InlineData(8, 0, 4, 600)]    // overlapping: each element reads what the one before wrote
    [InlineData(4, 0, 1, 2000)]
    [InlineData(1, 0, 1, 9000)]
    [InlineData(2, 5, 2, 4000)]   // overlapping the harmless way
    public void Moves_are_those_of_the_elements_in_order(int size, int from, int to, int count)
    {
        foreach (bool backward in (bool[])[false, true])
        {
            byte[] model = Pattern(0x10000);
            _guest.Write(Data, model);
            int step = backward ? -size : size, source = backward ? from + ((count - 1) * size) : from, destination = backward ? to + ((count - 1) * size) : to;
            Set((ulong)count, Data + (ulong)source, Data + (ulong)destination);
            _guest.Vcpu.Rflags = backward ? 0x402UL : 2;
            _guest.Execute(RepMove(size));
            for (int i = 0; i < count; i++)
            {
                byte[] element = model.AsSpan(source + (i * step), size).ToArray();
                element.CopyTo(model, destination + (i * step));
            }
            Assert.Equal(model, _guest.Read(Data, model.Length));
            Expect(0, Data + (ulong)(source + (count * step)), Data + (ulong)(destination + (count * step)));
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_fault_leaves_the_registers_at_the_element(bool backward)
    {
        ulong start = Data + 0x2004;
        _guest.Unmap(backward ? Data + 0x1000 : Data + 0x3000);
        _guest.Vcpu.Rflags = backward ? 0x402UL : 2;
        Set(4096, Data + 0x8000, start);
        GuestFault fault = Assert.Throws<GuestFault>(() => _guest.Execute(0xF3, 0x48, 0xA5));
        ulong done = backward ? 1UL : (0x1000 - 4) / 8;
        ulong moved = backward ? 0 - (done * 8) : done * 8;
        Expect(4096 - done, Data + 0x8000 + moved, start + moved);
        Assert.Equal(Vector.PageFault, fault.Vector);
        Assert.Equal(2u, fault.ErrorCode & 3u);
        Assert.Equal(InterpretedGuest.Code, _guest.Vcpu.B->Rip);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void Stores_fill_across_pages_in_both_directions(int size)
    {
        byte[] code = RepMove(size);
        code[^1] += 6; // STOS
        _guest.Gpr(Rax) = 0x1122_3344_5566_7788;
        foreach (bool backward in (bool[])[false, true])
        {
            _guest.Write(Data, new byte[0x4000]);
            ulong start = backward ? Data + 0x3001 : Data + 0x0FF9;
            Set(1200, 77, start);
            _guest.Vcpu.Rflags = backward ? 0x402UL : 2;
            _guest.Execute(code);
            ulong end = backward ? start - (1200 * (ulong)size) : start + (1200 * (ulong)size);
            Expect(0, 77, end);
            ulong low = backward ? end + (ulong)size : start;
            byte[] filled = _guest.Read(low, 1200 * size), value = BitConverter.GetBytes(_guest.Gpr(Rax));
            for (int i = 0; i < filled.Length; i++)
            {
                Assert.Equal(value[i % size], filled[i]);
            }
            Assert.Equal(0, _guest.Read(low - 1, 1)[0]);
            Assert.Equal(0, _guest.Read(low + (1200 * (ulong)size), 1)[0]);
        }
    }

    [Fact]
    public void Scans_stop_where_the_condition_ends_with_the_flags_of_the_last_element()
    {
        _guest.Write(Data, new byte[0x3000]);
        _guest.Write(Data + 0x2345, 7);
        _guest.Gpr(Rax) = 7;
        Set(0x3000, 0, Data);
        _guest.Execute(0xF2, 0xAE);
        Expect(0x3000 - 0x2346, 0, Data + 0x2346);
        Assert.Equal(0x46UL, _guest.Vcpu.Rflags); // equal: ZF PF
        _guest.Gpr(Rax) = 0;
        Set(0x3000, 0, Data);
        _guest.Execute(0xF3, 0xAE);
        Expect(0x3000 - 0x2346, 0, Data + 0x2346);
        Assert.Equal(0x97UL, _guest.Vcpu.Rflags); // 0 - 7: SF AF PF CF
        _guest.Gpr(Rax) = 9;
        Set(0x3000, 0, Data);
        _guest.Execute(0xF2, 0xAE);
        Expect(0, 0, Data + 0x3000);
        Assert.Equal(0x06UL, _guest.Vcpu.Rflags); // 9 - 0: PF
        Set(0, 0, Data);
        _guest.Execute(0xF2, 0xAE);
        Assert.Equal(0x06UL, _guest.Vcpu.Rflags); // nothing done, nothing changed
    }

    [Theory]
    [InlineData(new byte[] { 0xF3, 0xA6 }, 1)]
    [InlineData(new byte[] { 0xF3, 0xA7 }, 4)]
    [InlineData(new byte[] { 0xF3, 0x48, 0xA7 }, 8)]
    public void Comparisons_find_the_first_difference(byte[] code, int size)
    {
        byte[] data = Pattern(0x2000);
        _guest.Write(Data, data);
        _guest.Write(Data + 0x4000, data);
        _guest.Write(Data + 0x4000 + 0x1238, (byte)(data[0x1238] ^ 1));
        Set((ulong)(0x2000 / size), Data, Data + 0x4000);
        _guest.Execute(code);
        ulong done = (ulong)((0x1238 / size) + 1) * (ulong)size;
        Expect((ulong)(0x2000 / size) - (done / (ulong)size), Data + done, Data + 0x4000 + done);
        Assert.False(_guest.Vcpu.Condition(Iced.Intel.ConditionCode.e));
        Set((ulong)(0x2000 / size), Data, Data);
        _guest.Execute(code);
        Expect(0, Data + 0x2000, Data + 0x2000);
        Assert.True(_guest.Vcpu.Condition(Iced.Intel.ConditionCode.e));
    }

    [Fact]
    public void A_comparison_faults_after_the_flags_of_the_elements_before()
    {
        _guest.Write(Data, new byte[0x2000]);
        _guest.Unmap(Data + 0x6000);
        Set(0x2000, Data, Data + 0x5800);
        Assert.Throws<GuestFault>(() => _guest.Execute(0xF3, 0xA6));
        Expect(0x1800, Data + 0x800, Data + 0x6000);
    }

    [Fact]
    public void Loads_leave_the_last_element()
    {
        _guest.Write(Data, BitConverter.GetBytes(0x8877_6655_4433_2211));
        _guest.Gpr(Rax) = ulong.MaxValue;
        Set(2, Data, 5);
        _guest.Execute(0xF3, 0xAC);
        Assert.Equal(0xFFFF_FFFF_FFFF_FF22, _guest.Gpr(Rax));
        Expect(0, Data + 2, 5);
        _guest.Gpr(Rsi) = Data;
        _guest.Execute(0xAD);
        Assert.Equal(0x4433_2211UL, _guest.Gpr(Rax));
    }

    [Fact]
    public void Addresses_of_32_bits_write_32_bit_registers()
    {
        _guest.Write(Data, 1, 2, 3, 4);
        Set(0xAAAA_AAAA_0000_0002, 0xBBBB_BBBB_0000_0000 + Data, 0xCCCC_CCCC_0000_0000 + Data + 0x100);
        _guest.Execute(0x67, 0xF3, 0xA4);
        Expect(0, Data + 2, Data + 0x102);
        Assert.Equal([1, 2, 0], _guest.Read(Data + 0x100, 3));
    }

    [Fact]
    public void Sixteen_bit_offsets_wrap_in_their_segment()
    {
        _guest.Real();
        _guest.Write(Data, Pattern(0x10000));
        byte[] expected = [.. _guest.Read(Data + 0xFFFC, 4), .. _guest.Read(Data, 4)];
        Set(8, 0x1234_FFFC, 0x4000);
        _guest.Execute(0xF3, 0xA4);
        Expect(0, 0x1234_0004, 0x4008);
        Assert.Equal(expected, _guest.Read(Data + 0x4000, 8));
        Set(4, 0xFFFB, 0x5000);
        GuestFault fault = Assert.Throws<GuestFault>(() => _guest.Execute(0xF3, 0xA5)); // the third word is at FFFF: beyond the limit
        Assert.Equal(Vector.GeneralProtection, fault.Vector);
        Expect(2, 0xFFFF, 0x5004);
    }

    [Fact]
    public void A_limit_stops_exactly_there()
    {
        _guest.Protected32();
        Segment* es = _guest.Vcpu.Segment(Seg.Es);
        es->Limit = (uint)Data + 9;
        _guest.Write(Data, new byte[32]);
        _guest.Gpr(Rax) = 0xFF;
        Set(32, 0, Data);
        GuestFault fault = Assert.Throws<GuestFault>(() => _guest.Execute(0xF3, 0xAA));
        Assert.Equal(Vector.GeneralProtection, fault.Vector);
        Expect(22, 0, Data + 10);
        Assert.Equal([0xFF, 0], _guest.Read(Data + 9, 2));
    }

    [Fact]
    public void A_request_to_leave_interrupts_between_elements()
    {
        Set(100_000, Data, Data + 0x10_0000);
        _guest.Vcpu.B->ExitRequest = 1;
        _guest.Execute(0xF3, 0xA4);
        Assert.Equal(InterpretedGuest.Code, _guest.Vcpu.B->Rip);
        Assert.InRange(_guest.Gpr(Rcx), 1UL, 99_999UL);
        Assert.Equal(100_000UL, _guest.Gpr(Rcx) + _guest.Gpr(Rsi) - Data);
        _guest.Vcpu.B->ExitRequest = 0;
        _guest.Execute(0xF3, 0xA4);
        Expect(0, Data + 100_000, Data + 0x10_0000 + 100_000);
        Assert.Equal(InterpretedGuest.Code + 2, _guest.Vcpu.B->Rip);
    }

    [Fact]
    public void A_single_step_does_one_element()
    {
        Set(3, Data, Data + 0x100);
        _guest.Vcpu.Rflags = 0x102;
        _guest.Execute(0xF3, 0xA4);
        Expect(2, Data + 1, Data + 0x101);
        Assert.Equal(InterpretedGuest.Code, _guest.Vcpu.B->Rip);
    }

    [Fact]
    public void Ports_are_not_read_when_the_store_would_fault()
    {
        _guest.Gpr(2) = 0x60;
        Set(8, 0, Data + 0xFFC);
        _guest.Unmap(Data + 0x1000);
        Assert.Throws<GuestFault>(() => _guest.Execute(0xF3, 0x6C));
        Expect(4, 0, Data + 0x1000);
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF], _guest.Read(Data + 0xFFC, 4));
        _guest.Write(Data, 1, 2, 3, 4, 5, 6, 7, 8);
        Set(2, Data, 0);
        _guest.Execute(0xF3, 0x6F);
        Assert.Equal([(0x60, 0x0403_0201UL), (0x60, 0x0807_0605UL)], _guest.Machine.Output);
        Expect(0, Data + 8, 0);
    }
}
