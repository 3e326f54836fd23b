using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Devices.Clock.Rtc;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class RtcTests : IDisposable
{
    private sealed class HostTime : TimeProvider
    {
        public DateTimeOffset Now { get; set; } = new(2026, 11, 21, 23, 59, 58, 500, TimeSpan.Zero);

        public override DateTimeOffset GetUtcNow() => Now;
    }

    private readonly MachineClock _clock = new();
    private readonly TimerService _timers;
    private readonly FakeLine _line = new();
    private readonly HostTime _host = new();
    private readonly string _path = Path.Combine(Path.GetTempPath(), $"lodge-cmos-{Guid.NewGuid():N}");
    private readonly Rtc _rtc;

    public RtcTests()
    {
        _timers = new TimerService(_clock);
        _rtc = Create(null);
    }

    public void Dispose()
    {
        _timers.Dispose();
        File.Delete(_path);
    }

    private Rtc Create(string? path) => new(new RtcConfiguration(6UL << 30, 3UL << 30, 4, path), _line, _timers, _host);

    private static int Get(Rtc rtc, int register)
    {
        rtc.Out(0x70, (ulong)register);
        return (int)rtc.In(0x71);
    }

    private static void Put(Rtc rtc, int register, int value)
    {
        rtc.Out(0x70, (ulong)register);
        rtc.Out(0x71, (ulong)value);
    }

    private static int[] Time(Rtc rtc) => [.. new[] { 0x32, 9, 8, 7, 4, 2, 0 }.Select(register => Get(rtc, register))];

    [Fact]
    public void Time_is_told_in_bcd_and_24_hours()
    {
        Assert.Equal([0x20, 0x26, 0x11, 0x21, 0x23, 0x59, 0x58], Time(_rtc));
        Assert.Equal(7, Get(_rtc, 6)); // a Saturday
        Assert.Equal(0x80, Get(_rtc, 0x0D));
        Assert.Equal(0x26, Get(_rtc, 0x0A));
        Assert.Equal(0x02, Get(_rtc, 0x0B));
        Put(_rtc, 0x0B, 0x04);
        Assert.Equal([20, 26, 11, 21, 11 | 0x80, 59, 58], Time(_rtc));
    }

    [Fact]
    public void Setting_the_clock_as_Linux_does_moves_it_against_the_host()
    {
        Put(_rtc, 0x0B, 0x82);
        Put(_rtc, 0x0A, 0x76);
        int[] values = [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59];
        int[] registers = [0x32, 9, 8, 7, 4, 2, 0];
        for (int i = 0; i < values.Length; i++)
        {
            Put(_rtc, registers[i], values[i]);
        }
        _host.Now += TimeSpan.FromSeconds(10);
        Assert.Equal(values, Time(_rtc)); // held
        Put(_rtc, 0x0B, 0x02);
        Put(_rtc, 0x0A, 0x26);
        Assert.Equal(values, Time(_rtc));
        _host.Now += TimeSpan.FromSeconds(1.5);
        Assert.Equal([0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00], Time(_rtc));
    }

    [Fact]
    public void Update_in_progress_is_shown_just_before_the_second()
    {
        Assert.Equal(0, Get(_rtc, 0x0A) & 0x80);
        _host.Now = new DateTimeOffset(2026, 1, 1, 0, 0, 0, 999, TimeSpan.Zero) + TimeSpan.FromMicroseconds(900);
        Assert.Equal(0x80, Get(_rtc, 0x0A) & 0x80);
        Put(_rtc, 0x0B, 0x82);
        Assert.Equal(0, Get(_rtc, 0x0A) & 0x80);
    }

    [Fact]
    public void Flags_tell_of_updates_and_alarms_and_clear_on_reading()
    {
        Get(_rtc, 0x0C);
        Put(_rtc, 1, 0x00);
        Put(_rtc, 3, 0x00);
        Put(_rtc, 5, 0xC0); // any hour
        _host.Now += TimeSpan.FromSeconds(1);
        Assert.Equal(0x10, Get(_rtc, 0x0C));
        Assert.Equal(0, Get(_rtc, 0x0C));
        _host.Now += TimeSpan.FromSeconds(1);
        Assert.Equal(0x30, Get(_rtc, 0x0C));
        _clock.Set(1_000_000_000);
        Assert.Equal(0x40, Get(_rtc, 0x0C));
    }

    [Fact]
    public void An_alarm_is_told_to_acpi_once()
    {
        int alarms = 0;
        _rtc.AlarmRaised = () => alarms++;
        Put(_rtc, 1, 0xFF);
        Put(_rtc, 3, 0xFF);
        Put(_rtc, 5, 0xFF);
        Put(_rtc, 0x0B, 0x22);
        Get(_rtc, 0x0C);
        _host.Now += TimeSpan.FromSeconds(1);
        Put(_rtc, 0x0B, 0x22);
        Put(_rtc, 0x0B, 0x22);
        Assert.Equal(1, alarms);
        Assert.True(_line.Level);
        Assert.Equal(0xB0, Get(_rtc, 0x0C));
        Assert.False(_line.Level);
    }

    [Fact]
    public void Periodic_interrupts_come_while_enabled()
    {
        _clock.Start();
        _rtc.Start();
        Put(_rtc, 0x0B, 0x42);
        Assert.True(SpinWait.SpinUntil(() => _line.Level, TimeSpan.FromSeconds(20)));
        Assert.Equal(0xC0, Get(_rtc, 0x0C) & 0xC0);
        Assert.True(SpinWait.SpinUntil(() => _line.Edges >= 3 || Get(_rtc, 0x0C) == 0xFF, TimeSpan.FromSeconds(20)));
        Put(_rtc, 0x0B, 0x02);
        Get(_rtc, 0x0C);
        Assert.False(_line.Level);
    }

    [Fact]
    public void Cmos_and_offset_outlive_the_machine()
    {
        Rtc first = Create(_path);
        Put(first, 0x40, 0x5A);
        Put(first, 9, 0x30);
        first.Start();
        first.Stop();
        Assert.Null(first.StoreFailure);
        Assert.False(File.Exists(_path + ".new"));

        Rtc second = Create(_path);
        Assert.Equal(0x5A, Get(second, 0x40));
        Assert.Equal([0x20, 0x30, 0x11, 0x21, 0x23, 0x59, 0x58], Time(second));
        second.Reset();
        Assert.Equal(0x5A, Get(second, 0x40));
    }

    [Fact]
    public void A_file_of_another_size_is_no_cmos()
    {
        File.WriteAllBytes(_path, new byte[100]);
        Assert.Throws<IOException>(() => Create(_path));
    }

    [Fact]
    public void Memory_size_is_told_where_firmware_tells_it()
    {
        Assert.Equal(640, Get(_rtc, 0x15) | (Get(_rtc, 0x16) << 8));
        Assert.Equal(((3 << 14) - 256), Get(_rtc, 0x34) | (Get(_rtc, 0x35) << 8));
        Assert.Equal(3 << 14, Get(_rtc, 0x5B) | (Get(_rtc, 0x5C) << 8) | (Get(_rtc, 0x5D) << 16));
        Assert.Equal(3, Get(_rtc, 0x5F));
    }

    [Fact]
    public void Bit_7_of_the_index_masks_nmis()
    {
        Put(_rtc, 0x80 | 0x40, 1);
        Assert.True(_rtc.NmiMasked);
        Assert.Equal(1, Get(_rtc, 0x40));
        Assert.False(_rtc.NmiMasked);
    }

    [Fact]
    public void State_survives_saving_and_bad_states_are_refused()
    {
        Put(_rtc, 0x0B, 0x22);
        Put(_rtc, 0x41, 0x77);
        Put(_rtc, 9, 0x31);
        byte[] state = _rtc.Saved();
        Rtc other = Create(null);
        other.Restore(state);
        Assert.Equal(0x77, Get(other, 0x41));
        Assert.Equal(Time(_rtc), Time(other));
        other.Restore(state);
        Assert.Equal(state, other.Saved());

        var writer = new StateWriter();
        writer.Nested(1, new RtcState { Cmos = new byte[3] });
        Assert.Throws<SavedStateException>(() => other.Restore(writer.ToArray()));
        writer = new StateWriter();
        writer.Nested(1, new RtcState { OffsetTicks = long.MinValue });
        other.Restore(writer.ToArray()); // out of the calendar: held at its edge
        Assert.Equal(8, Time(other).Length + 1);
    }
}
