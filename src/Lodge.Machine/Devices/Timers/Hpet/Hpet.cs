using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Interrupts;
using static Lodge.Machine.Devices.Timers.Hpet.HpetRegisters;

namespace Lodge.Machine.Devices.Timers.Hpet;

/// <summary>
/// The high-precision event timer: a 64-bit main counter at 100 MHz and three timers, one-shot or periodic, with level, edge and FSB
/// interrupts and legacy replacement.
/// <para>
/// The counter is machine time plus an offset. Periods that the host was too late for are merged into one interrupt, in phase; a period
/// shorter than <see cref="MinimumInterval"/> is served at that interval.
/// </para>
/// </summary>
public sealed class Hpet : IDevice, IIoHandler
{
    /// <summary>Shortest time in nanoseconds between two interrupts of periodic timers: bounds what a guest can make the host do.</summary>
    public const long MinimumInterval = 50_000;

    private const long LongAgo = long.MinValue / 2;
    private readonly Lock _gate = new();
    private readonly HpetConfiguration _wiring;
    private readonly MachineClock _clock;
    private readonly MachineTimer _timer;
    private readonly IInterruptLine?[] _driven = new IInterruptLine?[TimerCount]; // lines that a level-triggered timer holds high
    private HpetState _state = new();
    private bool _running;
    private long _armed = long.MaxValue;
    private long _lastPeriodic = LongAgo;

    /// <summary>Creates the device.</summary>
    /// <param name="configuration">Its wiring.</param>
    /// <param name="timers">Machine time.</param>
    /// <param name="name">Name of the device.</param>
    public Hpet(HpetConfiguration configuration, TimerService timers, string name = "hpet")
    {
        _wiring = configuration;
        _clock = timers.Clock;
        _timer = timers.Create(Expire);
        Name = name;
        Claims = [new RegionClaim(name, RegionSpace.Memory, MemoryMap.HpetBase, Length, this)];
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public IoResult Read(ulong offset, Span<byte> data)
    {
        if (!IsRegisterAccess(offset, data.Length))
        {
            return IoResult.Invalid;
        }
        ulong value;
        lock (_gate)
        {
            long now = Now();
            Update(now);
            value = ReadRegister(offset & ~7UL, now);
        }
        if (data.Length == 8)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(data, value);
        }
        else
        {
            BinaryPrimitives.WriteUInt32LittleEndian(data, (uint)((offset & 4) != 0 ? value >> 32 : value));
        }
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if (!IsRegisterAccess(offset, data.Length))
        {
            return IoResult.Invalid;
        }
        int shift = (offset & 4) != 0 ? 32 : 0;
        var store = data.Length == 8
            ? new Store(BinaryPrimitives.ReadUInt64LittleEndian(data), ulong.MaxValue)
            : new Store((ulong)BinaryPrimitives.ReadUInt32LittleEndian(data) << shift, (ulong)uint.MaxValue << shift);
        lock (_gate)
        {
            long now = Now();
            Update(now);
            WriteRegister(offset & ~7UL, store, now);
            Update(now);
        }
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            _running = true;
            Update(Now());
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_gate)
        {
            _running = false;
            _armed = long.MaxValue;
            _timer.Cancel();
        }
    }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_gate)
        {
            Replace(new HpetState());
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            long now = Now();
            for (int i = 0; i < TimerCount; i++)
            {
                if (_state.Timer[i] is { } timer && !IsHeard(timer) && timer.MatchTick <= now)
                {
                    Advance(timer, now);
                    Fire(i, timer, now);
                }
            }
            writer.Nested(1, _state);
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        if (!reader.Has(1))
        {
            throw new SavedStateException("saved state of an HPET is missing");
        }
        HpetState state = reader.Nested(1, new HpetState());
        lock (_gate)
        {
            for (int i = 0; i < TimerCount; i++)
            {
                HpetTimerState timer = state.Timer[i];
                if (!_wiring.Lines[i].ContainsKey(Route(timer)))
                {
                    timer.Configuration &= ~TimerRoute;
                }
            }
            Replace(state);
        }
    }

    /// <summary>Machine time in nanoseconds at which the host timer expires; <see cref="long.MaxValue"/> when it does not.</summary>
    internal long NextExpiry
    {
        get
        {
            lock (_gate)
            {
                return _armed;
            }
        }
    }

    /// <summary>What the host timer calls.</summary>
    internal void Expire()
    {
        lock (_gate)
        {
            _armed = long.MaxValue;
            if (_running)
            {
                Update(Now());
            }
        }
    }

    private static bool IsRegisterAccess(ulong offset, int length) => offset < Length && length is 4 or 8 && (offset & (ulong)(length - 1)) == 0;

    /// <summary>Ticks of the main counter's clock since machine time 0.</summary>
    private long Now() => Math.Max(0, _clock.Now) / Period;

    private ulong Counter(long now) => Counting ? unchecked(_state.Counter + (ulong)now) : _state.Counter;

    private bool Counting => (_state.Configuration & Enable) != 0;

    private bool Replacing => (_state.Configuration & (Enable | LegacyReplacement)) == (Enable | LegacyReplacement);

    private static bool IsHeard(HpetTimerState timer) => (timer.Configuration & TimerInterruptEnable) != 0;

    private static int Route(HpetTimerState timer) => (int)((timer.Configuration & TimerRoute) >> TimerRouteShift);

    private static ulong Mask(HpetTimerState timer) => (timer.Configuration & Timer32Bit) != 0 ? uint.MaxValue : ulong.MaxValue;

    private ulong ReadRegister(ulong register, long now)
    {
        switch (register)
        {
            case Capabilities:
                return CapabilitiesValue;
            case Configuration:
                return _state.Configuration;
            case InterruptStatus:
                return _state.InterruptStatus;
            case MainCounter:
                return Counter(now);
        }
        if (!TryDecodeTimer(register, out int index, out ulong within))
        {
            return 0; // reserved registers read as 0
        }
        HpetTimerState timer = _state.Timer[index];
        return within switch
        {
            TimerConfiguration => (timer.Configuration & ~TimerValueSet) | TimerPeriodicCapable | TimerSizeCapable | TimerFsbCapable
                | RouteCapability(index) << TimerRouteCapabilityShift,
            TimerComparator => timer.Comparator,
            TimerFsbRoute => timer.FsbRoute,
            _ => 0,
        };
    }

    private ulong RouteCapability(int index)
    {
        ulong capability = 0;
        foreach (int gsi in _wiring.Lines[index].Keys)
        {
            capability |= 1UL << gsi;
        }
        return capability;
    }

    private void WriteRegister(ulong register, Store store, long now)
    {
        switch (register)
        {
            case Configuration:
                WriteConfiguration(store.Into(_state.Configuration) & (Enable | LegacyReplacement), now);
                return;
            case InterruptStatus:
                _state.InterruptStatus &= ~store.Into(0); // write 1 to clear
                return;
            case MainCounter:
                ulong counter = store.Into(Counter(now));
                _state.Counter = Counting ? unchecked(counter - (ulong)now) : counter;
                Match(now);
                return;
        }
        if (!TryDecodeTimer(register, out int index, out ulong within))
        {
            return;
        }
        HpetTimerState timer = _state.Timer[index];
        switch (within)
        {
            case TimerConfiguration:
                WriteTimerConfiguration(index, store, now);
                break;
            case TimerComparator:
                WriteComparator(timer, store, now);
                break;
            case TimerFsbRoute:
                timer.FsbRoute = store.Into(timer.FsbRoute);
                break;
        }
    }

    private void WriteConfiguration(ulong value, long now)
    {
        ulong counter = Counter(now);
        bool toggled = ((value ^ _state.Configuration) & Enable) != 0;
        _state.Configuration = value;
        if (toggled)
        {
            _state.Counter = Counting ? unchecked(counter - (ulong)now) : counter;
            Match(now);
        }
    }

    private void WriteTimerConfiguration(int index, Store store, long now)
    {
        HpetTimerState timer = _state.Timer[index];
        ulong before = timer.Configuration;
        ulong value = store.Into(before) & TimerWritable;
        if (!_wiring.Lines[index].ContainsKey((int)((value & TimerRoute) >> TimerRouteShift)))
        {
            value = (value & ~TimerRoute) | (before & TimerRoute); // an unsupported value does not read back (2.3.8)
        }
        if ((value & TimerPeriodic) == 0)
        {
            value &= ~TimerValueSet;
        }
        if ((value & TimerLevel) == 0)
        {
            _state.InterruptStatus &= ~(1UL << index);
        }
        timer.Configuration = value;
        if (((value ^ before) & Timer32Bit) != 0)
        {
            timer.Comparator &= Mask(timer);
            timer.Period &= Mask(timer);
            Match(timer, now);
        }
    }

    private void WriteComparator(HpetTimerState timer, Store store, long now)
    {
        bool periodic = (timer.Configuration & TimerPeriodic) != 0;
        if (periodic)
        {
            timer.Period = store.Into(timer.Period) & Mask(timer);
        }
        // Without VAL_SET, the store to a periodic timer's comparator changes its period from the next match on (2.3.9.2.2).
        if (!periodic || (timer.Configuration & TimerValueSet) != 0)
        {
            timer.Comparator = store.Into(timer.Comparator) & Mask(timer);
            timer.Configuration &= ~TimerValueSet;
            Match(timer, now);
        }
    }

    private static bool TryDecodeTimer(ulong register, out int index, out ulong within)
    {
        ulong number = (register - FirstTimer) / TimerStride;
        index = register >= FirstTimer && number < TimerCount ? (int)number : -1;
        within = (register - FirstTimer) % TimerStride;
        return index >= 0;
    }

    private void Match(long now)
    {
        foreach (HpetTimerState timer in _state.Timer)
        {
            Match(timer, now);
        }
    }

    /// <summary>Finds when the comparator will match. The comparison is for equality: a value just passed matches after a full turn.</summary>
    private void Match(HpetTimerState timer, long now)
    {
        if (!Counting)
        {
            timer.MatchTick = HpetTimerState.Never;
            return;
        }
        ulong distance = unchecked(timer.Comparator - Counter(now)) & Mask(timer);
        timer.MatchTick = distance < (ulong)(HpetTimerState.Never - now) ? now + (long)distance : HpetTimerState.Never;
    }

    /// <summary>Fires what is due and brings lines, gates and the host timer up to date. Under the lock.</summary>
    private void Update(long now)
    {
        long next = long.MaxValue;
        for (int i = 0; i < TimerCount; i++)
        {
            HpetTimerState timer = _state.Timer[i];
            if (timer.MatchTick <= now)
            {
                Advance(timer, now);
                Fire(i, timer, now);
            }
            // One without an interrupt is seen only by those who read it, and is brought up to date then: Linux leaves such a timer running at 250 Hz.
            if (IsHeard(timer) && timer.MatchTick <= long.MaxValue / Period)
            {
                long deadline = timer.MatchTick * Period;
                next = Math.Min(next, (timer.Configuration & TimerPeriodic) != 0 ? Math.Max(deadline, _lastPeriodic + MinimumInterval) : deadline);
            }
        }
        DriveLevels();
        foreach (GatedInterruptLine line in _wiring.Replaced)
        {
            line.Cut(Replacing);
        }
        if (_running && next != _armed)
        {
            _armed = next;
            if (next == long.MaxValue)
            {
                _timer.Cancel();
            }
            else
            {
                _timer.Arm(next);
            }
        }
    }

    /// <summary>Moves a timer that matched on to its next match, over any that were missed.</summary>
    private static void Advance(HpetTimerState timer, long now)
    {
        bool wraps = (timer.Configuration & Timer32Bit) != 0;
        ulong step;
        if ((timer.Configuration & TimerPeriodic) == 0)
        {
            step = wraps ? 1UL << 32 : 0; // a 32-bit one-shot timer matches again at each turn
        }
        else
        {
            step = timer.Period;
        }
        if (step == 0)
        {
            timer.MatchTick = HpetTimerState.Never;
            return;
        }
        ulong steps = ((ulong)(now - timer.MatchTick) / step) + 1;
        ulong distance = unchecked(steps * step);
        timer.Comparator = unchecked(timer.Comparator + distance) & Mask(timer);
        ulong beyond = Math.BigMul(steps, step, out ulong match);
        match += (ulong)timer.MatchTick;
        bool wrapped = match < (ulong)timer.MatchTick;
        timer.MatchTick = beyond == 0 && !wrapped && match < HpetTimerState.Never ? (long)match : HpetTimerState.Never;
    }

    private void Fire(int index, HpetTimerState timer, long now)
    {
        if ((timer.Configuration & TimerPeriodic) != 0)
        {
            _lastPeriodic = now * Period;
        }
        bool message = (timer.Configuration & TimerFsbEnable) != 0;
        if ((timer.Configuration & TimerLevel) != 0 && !message)
        {
            _state.InterruptStatus |= 1UL << index; // even when no interrupt is enabled (2.3.8, Tn_INT_ENB_CNF)
            return;
        }
        if ((timer.Configuration & TimerInterruptEnable) == 0)
        {
            return;
        }
        if (message)
        {
            ulong address = timer.FsbRoute >> 32;
            if ((address & MessageAddressMask) == MessageAddress)
            {
                _wiring.Messages.SignalMessage(address, (uint)timer.FsbRoute);
            }
            return;
        }
        if (Line(index, timer) is { } line)
        {
            line.Set(true);
            line.Set(false);
        }
    }

    private IInterruptLine? Line(int index, HpetTimerState timer)
    {
        if (Replacing && index < 2)
        {
            return index == 0 ? _wiring.LegacyTimer : _wiring.LegacyClock;
        }
        return _wiring.Lines[index].GetValueOrDefault(Route(timer));
    }

    private void DriveLevels()
    {
        const ulong Needed = TimerLevel | TimerInterruptEnable;
        for (int i = 0; i < TimerCount; i++)
        {
            HpetTimerState timer = _state.Timer[i];
            bool asserted = Counting
                && (_state.InterruptStatus & (1UL << i)) != 0
                && (timer.Configuration & (Needed | TimerFsbEnable)) == Needed;
            IInterruptLine? line = asserted ? Line(i, timer) : null;
            if (line != _driven[i])
            {
                _driven[i]?.Set(false);
                line?.Set(true);
                _driven[i] = line;
            }
        }
    }

    /// <summary>Takes other registers (reset, restore); what they fire waits for Start, when machine time is right again.</summary>
    private void Replace(HpetState state)
    {
        _state = state;
        _lastPeriodic = LongAgo;
        DriveLevels();
        foreach (GatedInterruptLine line in _wiring.Replaced)
        {
            line.Cut(Replacing);
        }
    }

    /// <summary>A store to all or half of a 64-bit register.</summary>
    private readonly record struct Store(ulong Value, ulong Bytes)
    {
        public ulong Into(ulong register) => (register & ~Bytes) | Value;
    }
}
