using Lodge.Engine.Time;

namespace Lodge.Engine.Translation.Interrupts;

// The timer (11.5.4): 1 GHz, one tick is a nanosecond of machine time at divide 1. Nothing counts; what a counter would hold is computed when asked.
internal sealed partial class LocalApic
{
    private enum TimerModes : uint
    {
        OneShot = 0,
        Periodic = 1,
        TscDeadline = 2,
    }

    // A guest cannot make the timer thread busier than this.
    private const long MinimumPeriod = 20_000;

    private readonly TimerService _timers;
    private readonly MachineTimer _timer;
    private readonly Lock _timerGate = new(); // the fields below; held by the vCPU's thread and the timer thread
    private uint _initialCount, _divideConfiguration;
    private long _countStart;      // machine time at which the initial count was (as if) loaded
    private long? _expiry;         // machine time of the next expiration
    private ulong _tscDeadline;    // 0: not armed

    private TimerModes TimerMode => (TimerModes)((Volatile.Read(ref _lvt[Lvt.Timer]) >> 17) & 3);

    // Bits 0, 1 and 3 count the power of two from 2 on; all ones divides by 1.
    private int DivideShift => (int)(((((_divideConfiguration >> 1) & 4) | (_divideConfiguration & 3)) + 1) & 7);

    private long Now => _timers.Clock.Now;

    private uint CurrentCount
    {
        get
        {
            lock (_timerGate)
            {
                return TimerMode is TimerModes.OneShot or TimerModes.Periodic ? CountAt(Now) : 0;
            }
        }
    }

    private uint CountAt(long now)
    {
        if (_initialCount == 0)
        {
            return 0;
        }
        long elapsed = Math.Max(0, now - _countStart) >> DivideShift;
        if (TimerMode == TimerModes.Periodic)
        {
            return (uint)(_initialCount - (elapsed % _initialCount));
        }
        return (uint)Math.Max(0, _initialCount - elapsed);
    }

    private void WriteInitialCount(uint value)
    {
        lock (_timerGate)
        {
            if (TimerMode is not (TimerModes.OneShot or TimerModes.Periodic))
            {
                return;
            }
            _initialCount = value;
            _countStart = Now;
            ArmCount();
        }
    }

    private void WriteDivideConfiguration(uint value)
    {
        lock (_timerGate)
        {
            long now = Now;
            long done = _initialCount - (long)CountAt(now);
            _divideConfiguration = value;
            _countStart = now - (done << DivideShift);
            if (_expiry is not null && TimerMode != TimerModes.TscDeadline)
            {
                ArmCount();
            }
        }
    }

    // The end of the count that began at _countStart.
    private void ArmCount()
    {
        if (_initialCount == 0)
        {
            Disarm();
            return;
        }
        Arm(_countStart + ((long)_initialCount << DivideShift));
    }

    private void Arm(long expiry)
    {
        _expiry = expiry;
        _timer.Arm(expiry);
    }

    private void Disarm()
    {
        _expiry = null;
        _timer.Cancel();
    }

    private void StopTimer()
    {
        lock (_timerGate)
        {
            _tscDeadline = 0;
            Disarm();
        }
    }

    // Between TSC deadline and the counting modes the timer is disarmed; between one-shot and periodic it goes on.
    private void TimerModeChanged(uint old)
    {
        lock (_timerGate)
        {
            bool wasDeadline = ((old >> 17) & 3) == (uint)TimerModes.TscDeadline;
            if (wasDeadline || TimerMode is not (TimerModes.OneShot or TimerModes.Periodic))
            {
                _tscDeadline = 0;
                _initialCount = 0;
                Disarm();
            }
        }
    }

    // IA32_TSC_DEADLINE (11.5.4.1): zero, and writes ignored, in other modes.
    private ulong TscDeadline
    {
        get
        {
            lock (_timerGate)
            {
                return _tscDeadline;
            }
        }

        set
        {
            lock (_timerGate)
            {
                if (TimerMode != TimerModes.TscDeadline)
                {
                    return;
                }
                _tscDeadline = value;
                if (value == 0)
                {
                    Disarm();
                    return;
                }
                long wait = TimeUntil(value);
                if (wait > 0)
                {
                    Arm(Saturate(Now, wait));
                    return;
                }
                _tscDeadline = 0;
                Disarm();
            }
            DeliverTimer();
        }
    }

    /// <summary>The guest's TSC was set: a pending deadline comes sooner or later. vCPU thread.</summary>
    internal void TimestampChanged()
    {
        lock (_timerGate)
        {
            if (_tscDeadline != 0)
            {
                Arm(Saturate(Now, Math.Max(0, TimeUntil(_tscDeadline))));
            }
        }
    }

    // Nanoseconds, rounded up so that the timer never fires before the guest's own clock says so.
    private long TimeUntil(ulong deadline)
    {
        // While the machine stands its TSC stands too, though the host's goes on.
        ulong tsc = _timers.Clock.Running ? _vcpu.ReadTsc() : _vcpu.TimestampWhileStopped();
        if (deadline <= tsc)
        {
            return 0;
        }
        return (long)Math.Min(TickScale.Ceiling(deadline - tsc, 1_000_000_000, (ulong)Math.Max(1, _partition.TimestampFrequency)), long.MaxValue);
    }

    private static long Saturate(long now, long wait) => wait > long.MaxValue - now ? long.MaxValue : now + wait;

    // Timer thread.
    private void TimerExpired()
    {
        lock (_timerGate)
        {
            long now = Now;
            if (_expiry is not { } expiry || now < expiry)
            {
                return; // re-armed or disarmed meanwhile
            }
            if (TimerMode == TimerModes.TscDeadline)
            {
                long wait = TimeUntil(_tscDeadline);
                if (wait > 0)
                {
                    Arm(Saturate(now, wait));
                    return;
                }
                _tscDeadline = 0;
            }
            _expiry = null;
            if (TimerMode == TimerModes.Periodic && _initialCount != 0)
            {
                long period = (long)_initialCount << DivideShift;
                long next = expiry + period;

                // Ticks that were missed are lost, as IRR holds one.
                if (next <= now)
                {
                    next = now + period - ((now - expiry) % period);
                }
                Arm(Math.Max(next, now + MinimumPeriod));
            }
        }
        DeliverTimer();
    }

    private void DeliverTimer()
    {
        uint entry = Volatile.Read(ref _lvt[Lvt.Timer]);
        if ((entry & Lvt.Masked) == 0)
        {
            Accept((byte)entry, level: false);
        }
    }
}
