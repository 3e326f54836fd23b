using System.Diagnostics;

namespace Lodge.Engine.Time;

/// <summary>
/// How long a thread with nothing to do looks for work before it sleeps. Waking a sleeping thread on an idle host processor may take longer than a
/// request of a disk or a network in the host's memory; one that still looks answers at once. The window adapts as KVM's does for a halted processor
/// (Linux Documentation/virt/kvm/halt-polling.rst): it grows while waits turn out to be just longer than it, and is given up when they are long, so that an
/// idle machine does not poll at all. One thread at a time.
/// </summary>
/// <param name="maximum">The longest window in microseconds.</param>
public sealed class PollWindow(int maximum)
{
    private const int First = 10;           // microseconds
    private const int SpinsPerLook = 20;
    private const int LooksPerYield = 16;

    // On one processor whoever polls keeps away the one that it waits for.
    private static readonly bool s_alone = Environment.ProcessorCount < 2;

    private int _window;    // microseconds; 0: no polling

    /// <summary>The present window in microseconds.</summary>
    public int Microseconds => _window;

    /// <summary>Looks whether <paramref name="flag"/> is not 0 any more, until the window is over.</summary>
    /// <returns>Whether it is.</returns>
    public bool Poll(ref int flag)
    {
        if (Volatile.Read(ref flag) != 0)
        {
            return true;
        }
        if (_window == 0)
        {
            return false;
        }
        long end = Stopwatch.GetTimestamp() + Ticks(_window);
        for (int i = 1; ; i++)
        {
            Thread.SpinWait(SpinsPerLook);
            if (Volatile.Read(ref flag) != 0)
            {
                return true;
            }
            if (Stopwatch.GetTimestamp() >= end)
            {
                return false;
            }
            if (i % LooksPerYield == 0)
            {
                Thread.Yield();     // a thread that has work comes first
            }
        }
    }

    /// <summary>Tells how long the wait was in all, after <see cref="Poll"/> had found nothing.</summary>
    /// <param name="since"><see cref="Stopwatch.GetTimestamp"/> at its beginning.</param>
    public void Waited(long since)
    {
        if (s_alone || Stopwatch.GetTimestamp() - since > Ticks(maximum))
        {
            _window = 0;
        }
        else if (_window < maximum)
        {
            _window = Math.Min(maximum, Math.Max(First, _window * 2));
        }
    }

    private static long Ticks(int microseconds) => microseconds * (Stopwatch.Frequency / 1_000_000);
}
