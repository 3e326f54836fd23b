using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm;

// While the machine's clock stands, so do the guest's: time stamp counters, kvmclock and the timers of the local APICs. KVM knows nothing of that: the counters
// go on with the host's. So they are noted when the clock stops and set again, all by one host instant, when it goes on.
internal sealed partial class KvmPartition
{
    private const uint TimestampCounter = 0x10;
    private readonly Lock _timeGate = new();
    private bool _timeHeld;
    private ulong? _heldClock;

    private void BeginTime()
    {
        Options.Clock.Changed += ClockChanged;
        if (!Options.Clock.Running)
        {
            HoldTime();
            _heldClock = null; // kvmclock counts the machine's time from the start, as the software engine's does, or it would be ahead after a restore there
            Reset(); // counters at zero
        }
    }

    private void EndTime() => Options.Clock.Changed -= ClockChanged;

    /// <summary>The processor got a new state; while time stands its counters stand at those of the state.</summary>
    internal void HoldTimeOf(KvmProcessor processor, ProcessorState state)
    {
        lock (_timeGate)
        {
            if (_timeHeld)
            {
                processor.HoldTime(state);
            }
        }
    }

    private void ClockChanged()
    {
        lock (_timeGate)
        {
            if (Options.Clock.Running != _timeHeld)
            {
                _heldClock = _timeHeld ? null : _heldClock; // the clock was set
            }
            else if (_timeHeld)
            {
                ReleaseTime();
            }
            else
            {
                HoldTime();
            }
        }
    }

    private void HoldTime()
    {
        if (Array.Exists(_processors, static processor => processor.Running))
        {
            return; // nobody stops the clock under a running processor
        }
        _heldClock = _machine.GetClock().Clock;
        ulong? host = HostTimestamp();
        Messages.WhileClosed(() =>
        {
            foreach (KvmProcessor processor in _processors)
            {
                processor.HoldTime(host);
            }
        });
        _timeHeld = true;
    }

    private void ReleaseTime()
    {
        _timeHeld = false;
        ulong? host = HostTimestamp();
        // After a restore kvmclock counts the machine's time, as that of the software engine does.
        _machine.SetClock(_heldClock ?? (ulong)Math.Max(0, Options.Clock.Now));
        Messages.WhileClosed(() =>
        {
            foreach (KvmProcessor processor in _processors)
            {
                processor.ReleaseTime(host);
            }
        });
    }

    /// <summary>The host's TSC now, scaled to the guest's frequency: one instant for all processors. Null when the kernel tells no offsets.</summary>
    private ulong? HostTimestamp() =>
        _processors[0].Handle.TryGetTscOffset(out ulong offset) && _processors[0].Handle.TryGetMsr(TimestampCounter, out ulong now) ? now - offset : null;
}
