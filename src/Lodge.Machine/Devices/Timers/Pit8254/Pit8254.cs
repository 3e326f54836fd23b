using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Buses;
using static Lodge.Machine.Devices.Timers.Pit8254.Pit8254Registers;

namespace Lodge.Machine.Devices.Timers.Pit8254;

/// <summary>
/// The 8254 timer at ports 40h-43h and the NMI status and control port 61h, through which its counter 2 is gated and read. Counter 0 drives
/// IRQ 0; counter 1 requested refresh cycles once.
/// <para>
/// Interrupts that the host was too late for are merged into one, in phase with the programmed period; a period shorter than
/// <see cref="MinimumInterval"/> is served at that interval.
/// </para>
/// </summary>
public sealed class Pit8254 : IDevice
{
    /// <summary>Shortest time in nanoseconds between two timer interrupts: bounds what a guest can make the host do.</summary>
    public const long MinimumInterval = 100_000;

    private const long LongAgo = long.MinValue / 2;
    private readonly Lock _gate = new();
    private readonly Pit8254Counter[] _counters = [new(gateAtReset: true), new(gateAtReset: true), new(gateAtReset: false)];
    private readonly IInterruptLine _irq0;
    private readonly MachineClock _clock;
    private readonly MachineTimer _timer;
    private byte _statusPort;
    private bool _level;          // of IRQ 0
    private bool _running;
    private long _armed = long.MaxValue;
    private long _lastInterrupt = LongAgo;

    /// <summary>Creates the timer.</summary>
    /// <param name="irq0">Output of counter 0.</param>
    /// <param name="timers">Machine time.</param>
    /// <param name="name">Name of the device.</param>
    public Pit8254(IInterruptLine irq0, TimerService timers, string name = "pit")
    {
        _irq0 = irq0;
        _clock = timers.Clock;
        _timer = timers.Create(Expire);
        Name = name;
        Claims =
        [
            new RegionClaim(name, RegionSpace.Port, Port, 4, new ByteWideRegion(new CounterPorts(this))),
            new RegionClaim($"{name}-status", RegionSpace.Port, StatusPort, 1, new ByteWideRegion(new ControlPort(this))),
        ];
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

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
            long now = Now();
            foreach (Pit8254Counter counter in _counters)
            {
                counter.Reset(now);
            }
            _statusPort = 0;
            _lastInterrupt = LongAgo;
            _level = false;
            _irq0.Set(false);
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new Pit8254State { Counter = Array.ConvertAll(_counters, counter => counter.Save()), StatusPort = _statusPort });
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        if (!reader.Has(1))
        {
            throw new SavedStateException("saved state of an 8254 is missing");
        }
        Pit8254State state = reader.Nested(1, new Pit8254State());
        lock (_gate)
        {
            for (int i = 0; i < _counters.Length; i++)
            {
                _counters[i].Restore(state.Counter[i]);
            }
            _statusPort = state.StatusPort;
            _lastInterrupt = LongAgo;
            // The level as of the last edge reported; later ones follow in Start, when machine time is right again.
            _level = _counters[0].Output(state.Counter[0].LastTick);
            _irq0.Set(_level);
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

    /// <summary>Ticks of the input clock since machine time 0.</summary>
    private long Now() => TickScale.Truncated(Math.Max(0, _clock.Now), Frequency, 1_000_000_000);

    private static long Nanoseconds(long tick) => (long)Math.Min(TickScale.Ceiling((ulong)tick, 1_000_000_000, Frequency), long.MaxValue);

    /// <summary>Brings IRQ 0 and the host timer up to date. Under the lock.</summary>
    private void Update(long now)
    {
        if (_counters[0].Advance(now))
        {
            if (_level)
            {
                _irq0.Set(false);
            }
            _irq0.Set(true);
            _level = true;
            _lastInterrupt = Nanoseconds(now);
        }
        bool output = _counters[0].Output(now);
        if (output != _level)
        {
            _irq0.Set(output);
            _level = output;
        }
        if (!_running)
        {
            return;
        }
        long next = _counters[0].NextEvent();
        long deadline = next == Pit8254Counter.Never ? long.MaxValue : Math.Max(Nanoseconds(next), _lastInterrupt + MinimumInterval);
        if (deadline != _armed)
        {
            _armed = deadline;
            if (deadline == long.MaxValue)
            {
                _timer.Cancel();
            }
            else
            {
                _timer.Arm(deadline);
            }
        }
    }

    /// <summary>Brings one counter up to date before it is accessed. Under the lock.</summary>
    private Pit8254Counter Advance(int index, out long now)
    {
        now = Now();
        if (index == 0)
        {
            Update(now);
        }
        else
        {
            _counters[index].Advance(now);
        }
        return _counters[index];
    }

    private void WriteControlWord(byte value)
    {
        int select = value >> 6;
        if (select == SelectReadBack)
        {
            for (int i = 0; i < _counters.Length; i++)
            {
                if ((value & (2 << i)) == 0)
                {
                    continue;
                }
                Pit8254Counter counter = Advance(i, out long now);
                if ((value & ReadBackNotCount) == 0)
                {
                    counter.LatchCount(now);
                }
                if ((value & ReadBackNotStatus) == 0)
                {
                    counter.LatchStatus(now);
                }
            }
            return;
        }
        Pit8254Counter selected = Advance(select, out long time);
        if (((value >> 4) & 3) == AccessLatch)
        {
            selected.LatchCount(time);
        }
        else
        {
            selected.WriteControl(value, time);
            if (select == 0)
            {
                Update(time);
            }
        }
    }

    private sealed class CounterPorts(Pit8254 pit) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (pit._gate)
            {
                return offset >= ControlWord ? (byte)0xFF : pit.Advance((int)offset, out long now).Read(now);
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (pit._gate)
            {
                if (offset >= ControlWord)
                {
                    pit.WriteControlWord(value);
                    return;
                }
                pit.Advance((int)offset, out long now).Write(value, now);
                if (offset == 0)
                {
                    pit.Update(now);
                }
            }
        }
    }

    private sealed class ControlPort(Pit8254 pit) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (pit._gate)
            {
                bool output = pit.Advance(2, out long now).Output(now);
                bool refresh = (pit._clock.Now / RefreshPeriod & 1) != 0;
                return (byte)(pit._statusPort | (refresh ? RefreshToggle : 0) | (output ? Timer2Output : 0));
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (pit._gate)
            {
                pit._statusPort = (byte)(value & StatusPortWritable);
                pit.Advance(2, out long now).SetGate((value & Timer2Gate) != 0, now);
            }
        }
    }
}
