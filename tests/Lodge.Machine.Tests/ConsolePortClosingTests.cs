using Lodge.Machine.Devices.Virtio.Console;
using Xunit;

namespace Lodge.Machine.Tests;

public class ConsolePortClosingTests
{
    private static ConsolePort Port() => new(1, new ConsolePortConfiguration("input", false, null), 80, 25, () => { }, _ => { }) { Ready = true };

    [Fact]
    public void A_port_stays_open_for_the_guest_until_it_has_all_input()
    {
        ConsolePort port = Port();
        Assert.Equal(3, port.Receive([1, 2, 3]));
        port.SetConnected(false);
        Assert.True(port.Connected);
        Assert.Equal(PendingMessages.None, port.Pending);
        Assert.False(port.TakeClosing());
    }

    [Fact]
    public void A_port_without_input_closes_at_once()
    {
        ConsolePort port = Port();
        port.SetConnected(false);
        Assert.False(port.Connected);
        Assert.Equal(PendingMessages.Open, port.Pending);
    }

    [Fact]
    public void The_guest_is_told_that_a_port_is_open_before_its_name() => Assert.True(PendingMessages.Open < PendingMessages.Name);
}
