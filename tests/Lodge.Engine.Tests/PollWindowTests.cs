using System.Diagnostics;
using Lodge.Engine.Time;
using Xunit;

namespace Lodge.Engine.Tests;

public class PollWindowTests
{
    private static readonly long s_day = Stopwatch.Frequency * 86_400;

    // Since the future: a wait that was short however busy the host is. Since yesterday: one that was long.
    private static long Short => Stopwatch.GetTimestamp() + s_day;

    private static long Long => Stopwatch.GetTimestamp() - s_day;

    [Fact]
    public void ItGrowsWithShortWaitsUpToItsMaximumAndEndsWithALongOne()
    {
        Assert.SkipWhen(Environment.ProcessorCount < 2, "on one processor nothing polls");
        var window = new PollWindow(100);
        List<int> seen = [];
        for (int i = 0; i < 6; i++)
        {
            window.Waited(Short);
            seen.Add(window.Microseconds);
        }
        Assert.Equal([10, 20, 40, 80, 100, 100], seen);
        window.Waited(Long);
        Assert.Equal(0, window.Microseconds);
    }

    [Fact]
    public void WhatIsThereIsSeenWithoutAWindow()
    {
        int flag = 1;
        Assert.True(new PollWindow(100).Poll(ref flag));
        flag = 0;
        Assert.False(new PollWindow(100).Poll(ref flag));
    }

    [Fact]
    public void WhatComesWhileItPollsIsSeen()
    {
        Assert.SkipWhen(Environment.ProcessorCount < 2, "on one processor nothing polls");
        var window = new PollWindow(int.MaxValue);
        for (int i = 0; i < 20; i++)
        {
            window.Waited(Short);   // to ten seconds
        }
        int flag = 0;
        var thread = new Thread(() => Volatile.Write(ref flag, 1));
        thread.Start();
        Assert.True(window.Poll(ref flag));
        thread.Join();
    }
}
