using Lodge.Engine.Time;
using Lodge.Machine.Devices.Misc.DebugConsole;
using Lodge.Machine.Devices.Misc.DebugExit;
using Lodge.Machine.Devices.Misc.Pvpanic;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>pvpanic, debug exit and debug console.</summary>
public class GuestSignalTests
{
    private readonly FakeControl _control = new();

    [Fact]
    public void Pvpanic_tells_its_events_apart()
    {
        var device = new Pvpanic(_control);
        Assert.Equal(7u, device.In(0x505));
        device.Out(0x505, 2);
        device.Out(0x505, 1);
        device.Out(0x505, 8); // unknown
        Assert.Equal([true, false], _control.Panics);
        device.Out(0x505, 4);
        Assert.Equal(1, _control.PowerOffs);
        device.Restore(device.Saved());
    }

    [Theory]
    [InlineData(0UL, 1, 1)]
    [InlineData(0x10UL, 4, 0x21)]
    [InlineData(0x1234UL, 2, 0x2469)]
    public void Debug_exit_gives_an_odd_status(ulong value, int width, int code)
    {
        var device = new DebugExit(new DebugExitConfiguration(0x501), _control);
        device.Out(0x501, value, width);
        Assert.Equal([code], _control.Exits);
        Assert.Equal(0u, device.In(0x501, 4));
        device.Restore(device.Saved());
    }

    [Fact]
    public void Debug_console_prints()
    {
        var backend = new FakeBackend();
        using var timers = new TimerService(new MachineClock());
        var device = new DebugConsole(new DebugConsoleConfiguration(), backend, timers);
        Assert.Equal(0xE9u, device.In(0xE9));
        foreach (char c in "hi\n")
        {
            device.Out(0xE9, c);
        }
        Assert.Equal("hi\n", backend.Text);
        backend.Accepts = 0;
        device.Out(0xE9, 'x');
        device.Stop();
        var other = new FakeBackend();
        var restored = new DebugConsole(new DebugConsoleConfiguration(0x402), other, timers);
        restored.Restore(device.Saved());
        restored.Start();
        Assert.Equal("x", other.Text);
    }
}
