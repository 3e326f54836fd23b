using System.Globalization;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>The guest's clocks when its machine stands still, and when it goes on in another process.</summary>
[Collection("guests")]
public sealed class GuestClockTests
{
    // Seconds: the clock that CLOCK_MONOTONIC is, and the one of the kernel's log.
    private const string Clocks = "cut -d ' ' -f 1 /proc/uptime; echo mark >/dev/kmsg; dmesg | tail -n 1 | tr -d '[]' | awk '{ print $1 }'";

    private static double[] Read(SerialGuest guest) => [.. guest.Run(Clocks).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(s => double.Parse(s, CultureInfo.InvariantCulture))];

    [Fact]
    public void They_stand_while_the_machine_does()
    {
        using SerialGuest guest = new();
        double[] before = Read(guest);
        double machine = guest.Machine.Clock.Now;
        guest.Machine.Pause();
        Thread.Sleep(3000);
        guest.Machine.Resume();
        double[] after = Read(guest);
        double limit = ((guest.Machine.Clock.Now - machine) / 1e9) + 0.1;
        for (int i = 0; i < before.Length; i++)
        {
            Assert.InRange(after[i] - before[i], 0, limit);
        }
    }

    [Fact]
    public void They_go_on_from_where_they_were_in_a_restored_machine()
    {
        byte[] state, memory = new byte[256 << 20];
        double[] before;
        double machine;
        using (SerialGuest guest = new())
        {
            before = Read(guest);
            machine = guest.Machine.Clock.Now;
            guest.Machine.Pause();
            state = guest.Machine.SaveState();
            Assert.True(guest.Machine.Memory.TryRead(0, memory));
        }
        using SerialGuest restored = new(start: false);
        Assert.True(restored.Machine.Memory.TryWrite(0, memory));
        restored.Machine.RestoreState(state);
        restored.Machine.Start();
        double[] after = Read(restored);
        double limit = ((restored.Machine.Clock.Now - machine) / 1e9) + 0.1;
        for (int i = 0; i < before.Length; i++)
        {
            Assert.InRange(after[i] - before[i], 0, limit);
        }
    }
}
