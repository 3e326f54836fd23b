using System.Text;
using Lodge.Engine.Time;
using Lodge.Machine;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>The text of a guest's serial port that goes on over several machines, with the machine's time of each line.</summary>
internal sealed class SerialText
{
    private static readonly bool s_shown = Environment.GetEnvironmentVariable("LODGE_SHOW_SERIAL") is not null;

    private readonly Lock _gate = new();
    private readonly StringBuilder _text = new();
    private readonly List<(string Text, TimeSpan MachineTime)> _lines = [];
    private int _lineStart;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>The time of the machine that runs.</summary>
    public MachineClock? Clock { get; set; }

    /// <summary>All that was printed.</summary>
    public string Text
    {
        get
        {
            lock (_gate)
            {
                return _text.ToString();
            }
        }
    }

    /// <summary>Whole lines, with the time when each ended.</summary>
    public IReadOnlyList<(string Text, TimeSpan MachineTime)> Lines
    {
        get
        {
            lock (_gate)
            {
                return [.. _lines];
            }
        }
    }

    /// <summary>What a machine's port is connected to.</summary>
    public ICharacterBackend NewPort() => new Port(this);

    /// <summary>Waits until something was printed. False when the machine ended without it, or after the time.</summary>
    public async Task<bool> WaitFor(string awaited, Task end, TimeSpan limit)
    {
        Task late = Task.Delay(limit);
        while (true)
        {
            Task changed;
            lock (_gate)
            {
                if (_text.ToString().Contains(awaited, StringComparison.Ordinal))
                {
                    return true;
                }
                changed = _changed.Task;
            }
            if (await Task.WhenAny(changed, end, late) != changed)
            {
                return Text.Contains(awaited, StringComparison.Ordinal);
            }
        }
    }

    private void Add(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            foreach (char c in Encoding.Latin1.GetString(data))
            {
                _text.Append(c);
                if (c == '\n')
                {
                    _lines.Add((_text.ToString(_lineStart, _text.Length - _lineStart).TrimEnd(), TimeSpan.FromTicks((Clock?.Now ?? 0) / 100)));
                    _lineStart = _text.Length;
                    if (s_shown)
                    {
                        Console.Error.WriteLine($"{_lines[^1].MachineTime.TotalSeconds:F2} {_lines[^1].Text}");
                    }
                }
            }
            _changed.TrySetResult();
            _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    private sealed class Port(SerialText text) : ICharacterBackend
    {
        public void Connect(ICharacterReceiver receiver)
        {
        }

        public int Write(ReadOnlySpan<byte> data)
        {
            text.Add(data);
            return data.Length;
        }

        public void InputReady()
        {
        }
    }
}
