using Lodge.Engine.Time;
using Lodge.Machine.Devices.Power.AcpiPowerManagement;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class AcpiPowerManagementTests : IDisposable
{
    private const int Status = 0x600, Enable = 0x602, Control = 0x604, Timer = 0x608, GpeStatus = 0x620, GpeEnable = 0x622, Smi = 0xB2;
    private readonly MachineClock _clock = new();
    private readonly TimerService _timers;
    private readonly FakeLine _sci = new();
    private readonly FakeControl _control = new();
    private readonly AcpiPowerManagement _device;

    public AcpiPowerManagementTests()
    {
        _timers = new TimerService(_clock);
        _device = new AcpiPowerManagement(_sci, _control, _timers);
    }

    public void Dispose() => _timers.Dispose();

    [Fact]
    public void The_command_port_switches_acpi_mode()
    {
        Assert.Equal(0u, _device.In(Control, 2));
        _device.Out(Smi, 0xA1);
        Assert.Equal(1u, _device.In(Control, 2));
        _device.Out(Control, 0, 2);
        Assert.Equal(1u, _device.In(Control, 2));
        _device.Out(Smi, 0xA0);
        Assert.Equal(0u, _device.In(Control, 2));
    }

    [Fact]
    public void The_power_button_interrupts_until_its_status_is_cleared()
    {
        Assert.False(_device.PressPowerButton());
        _device.Out(Smi, 0xA1);
        _device.Out(Status, 0xFFFF, 2);
        _device.Out(Enable, 0x0120, 2);
        Assert.False(_sci.Level);
        Assert.True(_device.PressPowerButton());
        Assert.True(_sci.Level);
        Assert.Equal(0x0100u, _device.In(Status, 2));
        _device.Out(Status + 1, 0x01);
        Assert.False(_sci.Level);
        Assert.Equal(0u, _device.In(Status, 2));
    }

    [Fact]
    public void An_enabled_clock_alarm_interrupts()
    {
        _device.Out(Smi, 0xA1);
        _device.Out(Enable, 0x0400, 2); // Linux reads it back and complains if it does not stick
        Assert.Equal(0x0400u, _device.In(Enable, 2));
        _device.SignalAlarm();
        Assert.True(_sci.Level);
        _device.Out(Status, 0x0400, 2);
        Assert.False(_sci.Level);
    }

    [Fact]
    public void Only_soft_off_with_sleep_enable_turns_off()
    {
        _device.Out(Control, 5 << 10, 2);
        _device.Out(Control, (3 << 10) | (1 << 13), 2);
        Assert.Equal(0, _control.PowerOffs);
        _device.Out(Control, (5 << 10) | (1 << 13), 2);
        Assert.Equal(1, _control.PowerOffs);
        Assert.Equal(5u << 10, _device.In(Control, 2));
    }

    [Fact]
    public void The_timer_counts_machine_time()
    {
        Assert.Equal(0u, _device.In(Timer, 4));
        _clock.Set(1_000_000_000);
        Assert.Equal(3_579_545u, _device.In(Timer, 4));
        _clock.Set(1_200_000_000_000);
        Assert.Equal(3_579_545UL * 1200 & 0xFFFF_FFFF, _device.In(Timer, 4));
        Assert.Equal(1u, _device.In(Status, 2) & 1);
    }

    [Fact]
    public void General_purpose_events_interrupt_when_enabled()
    {
        _device.Out(Smi, 0xA1);
        _device.RaiseEvent(9);
        Assert.False(_sci.Level);
        _device.Out(GpeEnable + 1, 0x02);
        Assert.True(_sci.Level);
        _device.Out(GpeStatus + 1, 0x02);
        Assert.False(_sci.Level);
    }

    [Fact]
    public void The_reset_register_resets_on_the_rising_bit()
    {
        RegionClaim[] port = [_device.ResetControlPort];
        port.Out(0xCF9, 0x02);
        Assert.Equal(0, _control.Resets);
        port.Out(0xCF9, 0x06);
        Assert.Equal(1, _control.Resets);
        Assert.Equal(0x02u, port.In(0xCF9));
    }

    [Fact]
    public void State_survives_saving()
    {
        _device.Out(Smi, 0xA1);
        _device.Out(Enable, 0x0100, 2);
        _device.PressPowerButton();
        var sci = new FakeLine();
        var other = new AcpiPowerManagement(sci, _control, _timers);
        other.Restore(_device.Saved());
        Assert.True(sci.Level);
        Assert.Equal(_device.Saved(), other.Saved());
        other.Reset();
        Assert.False(sci.Level);
        Assert.Equal(0u, other.In(Enable, 2));
    }
}
