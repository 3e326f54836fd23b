using Lodge.Engine.Time;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation;

/// <summary>One instant on both clocks: the host's TSC and the machine's time in nanoseconds.</summary>
internal readonly record struct TimeReference(ulong HostTimestamp, long MachineTime);

// The relation of time stamp counters and machine time, one for all processors, so that their clocks agree to the tick.
internal sealed partial class TranslationPartition
{
    private static readonly Lazy<long> s_timestampFrequency = new(() => TimestampCounter.MeasureFrequency(HostInstructions.ReadTimestamp));
    private readonly Lock _timeGate = new();
    private TimeReference? _timeReference;
    private ulong? _powerOnTimestamp;
    private bool _clockRuns;

    /// <summary>Frequency of the guest's TSC, which is the host's, in Hz.</summary>
    internal long TimestampFrequency => s_timestampFrequency.Value;

    /// <summary>The instant from which paravirtual clocks count.</summary>
    internal TimeReference TimeReference
    {
        get
        {
            lock (_timeGate)
            {
                return _timeReference ??= ReadTime();
            }
        }
    }

    /// <summary>The host's TSC at which the guest's was zero: one value for all processors, so that their counters agree after every reset.</summary>
    internal ulong PowerOnTimestamp
    {
        get
        {
            lock (_timeGate)
            {
                _timeReference ??= ReadTime();
                _powerOnTimestamp ??= _timeReference.Value.HostTimestamp;
                return _powerOnTimestamp.Value;
            }
        }
    }

    /// <summary>The host's TSC now or, while the machine's clock stands, when it stopped: the same for all processors of a stopped machine.</summary>
    internal ulong MachineTimestamp()
    {
        TimeReference reference = TimeReference;
        return reference.HostTimestamp + (ulong)Ticks(Options.Clock.Now - reference.MachineTime);
    }

    private long Ticks(long nanoseconds) => TickScale.Truncated(nanoseconds, TimestampFrequency, 1_000_000_000);

    /// <summary>Wall time in nanoseconds since 1970 at which the machine's time was zero.</summary>
    internal long WallClockAtZero() => ((DateTime.UtcNow - DateTime.UnixEpoch).Ticks * 100) - Options.Clock.Now;

    /// <summary>
    /// The machine's clock has been started again, and no processor runs yet: time stamp counters go on from where they were when it stopped,
    /// and the guest's paravirtual clocks are rewritten.
    /// </summary>
    internal void ResynchronizeTime()
    {
        TimeReference old, now;
        lock (_timeGate)
        {
            now = ReadTime();
            old = _timeReference ?? now;
            _timeReference = now;
        }
        ulong stood = now.HostTimestamp - old.HostTimestamp - (ulong)Ticks(now.MachineTime - old.MachineTime);
        lock (_timeGate)
        {
            _powerOnTimestamp += stood;
        }
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.ShiftTimestamp(stood);
        }
    }

    /// <summary>The machine starts its clock before it lets its processors run, and stops it after they have stopped.</summary>
    private void ClockChanged()
    {
        bool runs = Options.Clock.Running, begins;
        lock (_timeGate)
        {
            begins = runs && !_clockRuns;
            if (!runs && _clockRuns)
            {
                _timeReference = ReadTime(); // counters go on from what the guest saw last, not from what was measured long ago
            }
            _clockRuns = runs;
        }
        if (begins)
        {
            ResynchronizeTime();
        }
    }

    private TimeReference ReadTime()
    {
        // Of several readings the least interrupted.
        TimeReference best = default;
        ulong width = ulong.MaxValue;
        for (int i = 0; i < 5; i++)
        {
            ulong before = HostInstructions.ReadTimestamp();
            long time = Options.Clock.Now;
            ulong after = HostInstructions.ReadTimestamp();
            if (after - before < width)
            {
                width = after - before;
                best = new TimeReference(before + (width / 2), time);
            }
        }
        return best;
    }
}
