using Lodge.Engine.State;
using Lodge.Machine.Devices.Timers.Pit8254;
using Lodge.Machine.Tests.Harness;
using Xunit;

namespace Lodge.Machine.Tests.Devices.Timers;

public sealed class Pit8254Tests : IDisposable
{
    private readonly DeviceFixture _fixture = new();
    private readonly RecordingLine _irq0 = new();
    private readonly Pit8254 _pit;
    private long _tick;

    public Pit8254Tests()
    {
        _pit = _fixture.Attach(new Pit8254(_irq0, _fixture.Timers));
        _pit.Start();
        At(1000);
    }

    public void Dispose() => _fixture.Dispose();

    /// <summary>Sets machine time to the start of a tick of the input clock.</summary>
    private void At(long tick)
    {
        _tick = tick;
        _fixture.Clock.Set((long)(((UInt128)(ulong)tick * 1_000_000_000 + 1_193_181) / 1_193_182));
    }

    private void Ticks(long count) => At(_tick + count);

    private void Program(int counter, int mode, int count, bool bcd = false)
    {
        _fixture.Out(0x43, (counter << 6) | 0x30 | (mode << 1) | (bcd ? 1 : 0));
        Count(counter, count);
    }

    private void Count(int counter, int count)
    {
        _fixture.Out((ushort)(0x40 + counter), count);
        _fixture.Out((ushort)(0x40 + counter), count >> 8);
    }

    private int Value(int counter)
    {
        _fixture.Out(0x43, counter << 6);
        int low = _fixture.In((ushort)(0x40 + counter));
        return low | (_fixture.In((ushort)(0x40 + counter)) << 8);
    }

    private byte Status(int counter)
    {
        _fixture.Out(0x43, 0xE0 | (2 << counter));
        return _fixture.In((ushort)(0x40 + counter));
    }

    private bool Output(int counter) => (Status(counter) & 0x80) != 0;

    /// <summary>OUT at each of the next ticks.</summary>
    private string Wave(int counter, int ticks)
    {
        var wave = new System.Text.StringBuilder();
        for (int i = 0; i < ticks; i++)
        {
            wave.Append(Output(counter) ? '-' : '_');
            Ticks(1);
        }
        return wave.ToString();
    }

    [Fact]
    public void Mode_0_rises_one_clock_after_the_count() // data sheet, figure 15: CW=10 LSB=4
    {
        Program(2, 0, 4);
        Assert.Equal("_____", Wave(2, 5)); // the gate is low: it is loaded but does not count
        _fixture.Out(0x61, 1);
        Program(2, 0, 4);
        Assert.Equal("_____---", Wave(2, 8));
        Assert.Equal(0x10000 - 3, Value(2)); // goes on counting
        Program(2, 0, 4);
        Ticks(3);
        _fixture.Out(0x61, 0); // held with 2 left
        Ticks(100);
        Assert.Equal(2, Value(2));
        _fixture.Out(0x61, 1);
        Assert.Equal("__---", Wave(2, 5));
        Program(2, 0, 4);
        Ticks(3);
        _fixture.Out(0x42, 3); // the first byte stops it
        Ticks(100);
        Assert.False(Output(2));
        _fixture.Out(0x42, 0);
        Assert.Equal("____-", Wave(2, 5));
    }

    [Fact]
    public void Mode_1_is_triggered_by_the_gate_again_and_again()
    {
        _fixture.Out(0x61, 0);
        Program(2, 1, 3);
        Assert.Equal("----", Wave(2, 4));
        _fixture.Out(0x61, 1);
        Ticks(1);
        Assert.Equal("___--", Wave(2, 5));
        _fixture.Out(0x61, 0);
        _fixture.Out(0x61, 1);
        Ticks(3);
        _fixture.Out(0x61, 0);
        _fixture.Out(0x61, 1); // before it ended
        Ticks(1);
        Assert.Equal("___--", Wave(2, 5));
    }

    [Fact]
    public void Mode_2_divides_and_takes_a_new_count_at_the_end_of_the_period()
    {
        Program(0, 2, 3);
        Ticks(1);
        Assert.Equal("--_--_--_", Wave(0, 9));
        Assert.Equal(3, Value(0));
        Ticks(1);
        Assert.Equal(2, Value(0));
        Count(0, 5);
        Assert.Equal(0x40, Status(0) & 0x40); // null count
        Assert.Equal("-_----_----_", Wave(0, 12));
        Assert.Equal(0, Status(0) & 0x40);
        _fixture.Out(0x61, 1);
        Program(2, 2, 4);
        Ticks(3);
        _fixture.Out(0x61, 0);
        Assert.Equal("------", Wave(2, 6)); // the gate forces OUT high
        _fixture.Out(0x61, 1);
        Ticks(1);
        Assert.Equal("---_---_", Wave(2, 8));
    }

    [Fact]
    public void Mode_3_is_a_square_wave()
    {
        Program(0, 3, 4);
        Ticks(1);
        Assert.Equal("--__--__", Wave(0, 8));
        Program(0, 3, 5);
        Ticks(1);
        Assert.Equal("---__---__", Wave(0, 10));
        int[] values = [4, 2, 0, 4, 2, 4];
        foreach (int value in values)
        {
            Assert.Equal(value, Value(0));
            Ticks(1);
        }
        Program(0, 3, 4);
        Ticks(2); // second tick of the high half
        Count(0, 6);
        Assert.Equal("-___---___", Wave(0, 10)); // new count from the low half on
    }

    [Fact]
    public void Modes_4_and_5_strobe_once()
    {
        Program(0, 4, 3);
        Assert.Equal("----_----", Wave(0, 9));
        _fixture.Out(0x61, 0);
        Program(2, 5, 3);
        Assert.Equal("-----", Wave(2, 5));
        _fixture.Out(0x61, 1);
        Assert.Equal("----_----", Wave(2, 9));
    }

    [Fact]
    public void Modes_6_and_7_are_2_and_3()
    {
        Program(0, 6, 100);
        Assert.Equal(0x34, Status(0) & 0x3F);
        Program(0, 7, 100);
        Assert.Equal(0x36, Status(0) & 0x3F);
    }

    [Fact]
    public void Bcd_counts_in_decimal()
    {
        _fixture.Out(0x61, 1);
        Program(2, 0, 0x1000, bcd: true);
        Ticks(2);
        Assert.Equal(0x0999, Value(2));
        Program(2, 2, 0, bcd: true); // 10000
        Ticks(1);
        Assert.Equal(0, Value(2));
        Ticks(1);
        Assert.Equal(0x9999, Value(2));
        Program(2, 2, 0xFFFF, bcd: true); // no digits: some count, no harm
        Ticks(100_000);
        Value(2);
    }

    [Fact]
    public void Latched_counts_stand_until_read_and_status_comes_first()
    {
        Program(0, 2, 0x1234);
        Ticks(5);
        _fixture.Out(0x43, 0x00);
        Ticks(5);
        _fixture.Out(0x43, 0x00); // ignored: the first is not read
        _fixture.Out(0x43, 0xC2); // read-back of both: adds the status
        Ticks(5);
        Assert.Equal(0xB4, _fixture.In(0x40));
        Assert.Equal(0x30, _fixture.In(0x40));
        Assert.Equal(0x12, _fixture.In(0x40));
        Assert.Equal(0x26, _fixture.In(0x40)); // live again
        Assert.Equal(0xFF, _fixture.In(0x43));
    }

    [Fact]
    public void Single_byte_access_modes()
    {
        _fixture.Out(0x43, 0x14); // LSB only
        _fixture.Out(0x40, 0x20);
        Ticks(1);
        Assert.Equal(0x20, _fixture.In(0x40));
        Ticks(0x20);
        Assert.Equal(0x20, _fixture.In(0x40));
        _fixture.Out(0x43, 0x24); // MSB only
        _fixture.Out(0x40, 0x20);
        Ticks(1);
        Assert.Equal(0x20, _fixture.In(0x40));
        Ticks(1);
        Assert.Equal(0x1F, _fixture.In(0x40));
    }

    [Fact]
    public void Counter_0_interrupts_once_a_period_and_missed_periods_are_merged()
    {
        Program(0, 2, 11932);
        int before = _irq0.Rises;
        Ticks(11931);
        _pit.Expire();
        Assert.Equal(before, _irq0.Rises);
        for (int i = 0; i < 10; i++)
        {
            Ticks(11932);
            _pit.Expire();
        }
        Assert.Equal(before + 10, _irq0.Rises);
        Ticks((1000 * 11932) + 5);
        _pit.Expire();
        _pit.Expire();
        Assert.Equal(before + 11, _irq0.Rises);
        Ticks(11932);
        _pit.Expire();
        Assert.Equal(before + 12, _irq0.Rises);
    }

    [Fact]
    public void One_shot_of_counter_0_interrupts_once()
    {
        Program(0, 0, 1000);
        Assert.False(_irq0.Level);
        int before = _irq0.Rises;
        Ticks(1001);
        _pit.Expire();
        Assert.True(_irq0.Level);
        Ticks(1_000_000);
        _pit.Expire();
        Assert.Equal(before + 1, _irq0.Rises);
        Program(0, 0, 1000); // as Linux's clockevent: the next one
        Assert.False(_irq0.Level);
        Ticks(1001);
        _pit.Expire();
        Assert.Equal(before + 2, _irq0.Rises);
    }

    [Fact]
    public void Linux_quick_pit_calibration()
    {
        _fixture.Out(0x61, (_fixture.In(0x61) & ~2) | 1);
        _fixture.Out(0x43, 0xB0);
        _fixture.Out(0x42, 0xFF);
        _fixture.Out(0x42, 0xFF);
        _fixture.In(0x42); // pit_verify_msb(0)
        Ticks(1);
        _fixture.In(0x42);
        for (int msb = 0xFF; msb > 0xF0; msb--)
        {
            int seen = 0;
            for (int i = 0; i < 256; i++)
            {
                _fixture.In(0x42);
                seen += _fixture.In(0x42) == msb ? 1 : 0;
                Ticks(1);
            }
            Assert.True(seen > 250, $"msb {msb:x} seen {seen} times");
        }
    }

    [Fact]
    public void Linux_pit_calibrate_tsc_waits_for_timer_2_in_port_61()
    {
        _fixture.Out(0x61, (_fixture.In(0x61) & ~2) | 1);
        _fixture.Out(0x43, 0xB0);
        const int Latch = 11931; // 10 ms
        _fixture.Out(0x42, Latch & 0xFF);
        _fixture.Out(0x42, Latch >> 8);
        long start = _fixture.Clock.Now;
        int loops = 0;
        while ((_fixture.In(0x61) & 0x20) == 0)
        {
            _fixture.Advance(1000);
            Assert.True(++loops < 20_000);
        }
        Assert.InRange(_fixture.Clock.Now - start, 9_990_000, 10_010_000);
    }

    [Fact]
    public void Port_61_toggles_refresh_and_keeps_its_low_bits()
    {
        _fixture.Out(0x61, 0xFF);
        Assert.Equal(0x0F, _fixture.In(0x61) & 0xCF);
        byte first = _fixture.In(0x61);
        _fixture.Advance(15_085);
        Assert.Equal(0x10, (first ^ _fixture.In(0x61)) & 0x10);
    }

    [Fact]
    public void The_host_timer_raises_interrupts()
    {
        Program(0, 2, 1193); // 1 ms
        _fixture.Clock.Start();
        _fixture.Timers.ClockChanged();
        int before = _irq0.Rises;
        Assert.True(SpinWait.SpinUntil(() => _irq0.Rises >= before + 3, 10_000));
        _pit.Stop();
        _fixture.Clock.Stop();
    }

    [Fact]
    public void State_survives_and_the_period_goes_on_in_phase()
    {
        Program(0, 2, 11932);
        Ticks(5000);
        Program(1, 3, 18, bcd: true);
        _fixture.Out(0x43, 0x00);
        _fixture.In(0x40); // half of a latched count read
        _fixture.Out(0x42, 0x55);
        _pit.Stop();
        using var other = new DeviceFixture();
        var line = new RecordingLine();
        Pit8254 copy = other.Attach(new Pit8254(line, other.Timers));
        DeviceFixture.Copy(_pit, copy);
        other.Clock.Set(_fixture.Clock.Now);
        copy.Start();
        Assert.Equal((11932 - 4999) >> 8, other.In(0x40));
        int before = line.Rises;
        other.Advance(5_800_000);
        copy.Expire();
        Assert.Equal(before, line.Rises);
        other.Advance(20_000);
        copy.Expire();
        Assert.Equal(before + 1, line.Rises);
        copy.Stop();
        copy.Reset();
        Assert.False(line.Level);
    }

    [Fact]
    public void A_malformed_state_is_refused()
    {
        foreach (Pit8254CounterState bad in new[]
        {
            new Pit8254CounterState { Mode = 6 },
            new Pit8254CounterState { Access = 0 },
            new Pit8254CounterState { Loaded = true },
            new Pit8254CounterState { Count = 0x10001 },
            new Pit8254CounterState { LoadTick = long.MaxValue },
            new Pit8254CounterState { PausedElapsed = -1 },
        })
        {
            var writer = new StateWriter();
            writer.Nested(1, new Pit8254State { Counter = [bad, new(), new()] });
            Assert.Throws<SavedStateException>(() => _pit.Restore(new StateReader(writer.ToArray())));
        }
        Assert.Throws<SavedStateException>(() => _pit.Restore(new StateReader(Array.Empty<byte>())));
    }

    [Fact]
    public void Random_accesses()
    {
        DeviceFuzz.Run(_fixture, 8254, [_pit]);
    }
}
