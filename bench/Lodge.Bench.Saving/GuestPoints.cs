using Lodge.Machine;

namespace Lodge.Bench.Saving;

/// <summary>What the guest prints.</summary>
internal sealed class GuestPoints : ICharacterBackend
{
    private readonly object _gate = new();
    private bool _filled;
    private long _points;

    /// <inheritdoc/>
    public void Connect(ICharacterReceiver receiver)
    {
    }

    /// <inheritdoc/>
    public int Write(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            foreach (byte value in data)
            {
                _filled |= value == (byte)'F';
                _points += value == (byte)'.' ? 1 : 0;
                if (value == (byte)'X')
                {
                    Console.Error.WriteLine("the guest's memory is wrong");
                    Environment.Exit(1);
                }
            }
            Monitor.PulseAll(_gate);
        }
        return data.Length;
    }

    /// <inheritdoc/>
    public void InputReady()
    {
    }

    /// <summary>Waits until memory is filled.</summary>
    public void WaitFilled()
    {
        lock (_gate)
        {
            while (!_filled)
            {
                Monitor.Wait(_gate);
            }
        }
    }

    /// <summary>Waits for as many points from now on.</summary>
    public void Wait(int count)
    {
        lock (_gate)
        {
            for (long awaited = _points + count; _points < awaited;)
            {
                Monitor.Wait(_gate);
            }
        }
    }
}
