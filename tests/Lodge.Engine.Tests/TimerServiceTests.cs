using Lodge.Engine.Time;
using Xunit;

namespace Lodge.Engine.Tests;

public sealed class TimerServiceTests
{
    [Fact]
    public void Re_arming_and_cancelling_distant_timers_leaves_nothing_behind()
    {
        var clock = new MachineClock();
        using var service = new TimerService(clock);
        MachineTimer first = service.Create(() => { });
        MachineTimer second = service.Create(() => { });
        first.Arm(1_000);
        for (int i = 0; i < 1000; i++)
        {
            second.Arm(long.MaxValue - i);
        }
        Assert.Equal(2, service.ArmedTimers);
        Assert.Equal(long.MaxValue - 999, second.Deadline);
        second.Cancel();
        second.Cancel();
        Assert.Equal(1, service.ArmedTimers);
        first.Cancel();
        Assert.Equal(0, service.ArmedTimers);
    }

    [Fact]
    public void Timers_expire_in_order_and_can_be_re_armed_from_their_callback()
    {
        var clock = new MachineClock();
        using var service = new TimerService(clock);
        var expired = new List<int>();
        using var done = new ManualResetEventSlim();
        MachineTimer? again = null;
        int times = 0;
        again = service.Create(() =>
        {
            expired.Add(1);
            if (++times < 3)
            {
                again!.Arm(clock.Now);
            }
            else
            {
                done.Set();
            }
        });
        MachineTimer early = service.Create(() => expired.Add(0));
        again.Arm(2_000_000);
        early.Arm(1_000_000);
        clock.Start();
        service.ClockChanged();
        Assert.True(done.Wait(10_000));
        Assert.Equal([0, 1, 1, 1], expired);
    }

    [Fact]
    public void When_the_clock_has_stopped_no_callback_is_under_way()
    {
        var clock = new MachineClock();
        using var service = new TimerService(clock);
        using var begun = new ManualResetEventSlim();
        bool ended = false;
        MachineTimer timer = service.Create(() =>
        {
            begun.Set();
            Thread.Sleep(50);
            Volatile.Write(ref ended, true);
        });
        for (int i = 0; i < 5; i++)
        {
            clock.Start();
            begun.Reset();
            Volatile.Write(ref ended, false);
            timer.Arm(clock.Now);
            begun.Wait();
            clock.Stop();
            Assert.True(Volatile.Read(ref ended));
        }
    }
}
