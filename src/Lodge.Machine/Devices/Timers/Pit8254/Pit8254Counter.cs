using static Lodge.Machine.Devices.Timers.Pit8254.Pit8254Registers;

namespace Lodge.Machine.Devices.Timers.Pit8254;

/// <summary>
/// One counter of the 8254. Nothing counts: everything is a function of the ticks since the counting element was loaded. Every member takes
/// the current tick, which never decreases. Not thread-safe: the device's lock covers it.
/// </summary>
internal sealed class Pit8254Counter
{
    /// <summary>No such tick.</summary>
    public const long Never = long.MaxValue;

    private readonly bool _gateAtReset;
    private Pit8254CounterState _state;

    public Pit8254Counter(bool gateAtReset)
    {
        _gateAtReset = gateAtReset;
        _state = new Pit8254CounterState { Gate = gateAtReset };
    }

    public Pit8254CounterState Save() => _state with { };

    public void Restore(Pit8254CounterState state) => _state = state with { };

    public void Reset(long now) => _state = new Pit8254CounterState { Gate = _gateAtReset, LastTick = now };

    /// <summary>Level of OUT.</summary>
    public bool Output(long now)
    {
        if (!_state.Loaded)
        {
            return _state.Mode != 0;
        }
        long elapsed = Elapsed(now);
        return _state.Mode switch
        {
            0 or 1 => elapsed >= _state.Count,
            2 => _state.Paused || elapsed % _state.Count != _state.Count - 1,
            3 => _state.Paused || elapsed % _state.Count < HighTicks(_state.Count),
            _ => elapsed != _state.Count,
        };
    }

    /// <summary>Brings the counter up to date.</summary>
    /// <returns>Whether OUT rose since the last call.</returns>
    public bool Advance(long now)
    {
        bool rose = false;
        if (_state.Pending != 0 && _state.Loaded && !_state.Paused && _state.Mode is 2 or 3 && _state.PendingTick <= now)
        {
            long at = _state.PendingTick;
            rose = RiseAfter(_state.LastTick) <= at;
            // In mode 3 the new count may begin with the low half: then it was loaded a high half of its own ago, as it were.
            bool lowHalf = _state.Mode == 3 && at > _state.LoadTick && (at - _state.LoadTick) % _state.Count != 0;
            Load(_state.Pending, lowHalf ? at - HighTicks(_state.Pending) : at);
            _state.LastTick = Math.Max(at, _state.LastTick);
        }
        rose |= RiseAfter(_state.LastTick) <= now;
        _state.LastTick = Math.Max(now, _state.LastTick);
        return rose;
    }

    /// <summary>The next tick at which <see cref="Advance"/> has something to do, or <see cref="Never"/>.</summary>
    public long NextEvent()
    {
        long next = RiseAfter(_state.LastTick);
        return _state.Pending != 0 && _state.Loaded && !_state.Paused && _state.Mode is 2 or 3 ? Math.Min(next, _state.PendingTick) : next;
    }

    /// <summary>Drives GATE.</summary>
    public void SetGate(bool level, long now)
    {
        if (_state.Gate == level)
        {
            return;
        }
        _state.Gate = level;
        bool trigger = _state.Mode is 1 or 5;
        if (!level)
        {
            if (_state.Loaded && !trigger)
            {
                _state.PausedElapsed = Elapsed(now);
                _state.Paused = true;
            }
        }
        else if (_state.Mode is 0 or 4)
        {
            if (_state.Paused)
            {
                _state.Paused = false;
                _state.LoadTick = now - _state.PausedElapsed;
            }
        }
        else if ((_state.Pending != 0 ? _state.Pending : _state.Count) is int count and not 0)
        {
            Load(count, now + 1);
        }
    }

    /// <summary>A control word other than a latch or read-back command.</summary>
    public void WriteControl(byte value, long now)
    {
        int mode = (value >> 1) & 7;
        _state = new Pit8254CounterState
        {
            Mode = (byte)(mode >= 6 ? mode - 4 : mode), // M2 is "don't care" in modes 2 and 3
            Access = (byte)((value >> 4) & 3),
            Bcd = (value & ControlBcd) != 0,
            Gate = _state.Gate,
            Idle = Value(now),
            LastTick = _state.LastTick,
        };
    }

    /// <summary>Counter latch command: ignored while a latched count was not read (data sheet, "Counter Latch Command").</summary>
    public void LatchCount(long now)
    {
        if (!_state.CountLatched)
        {
            _state.CountLatched = true;
            _state.LatchedCount = Value(now);
        }
    }

    /// <summary>Latches the status byte, unless one waits.</summary>
    public void LatchStatus(long now)
    {
        if (!_state.StatusLatched)
        {
            bool nullCount = _state.Pending != 0 || _state.Count == 0 || (_state.Loaded && !_state.Paused && now < _state.LoadTick);
            _state.StatusLatched = true;
            _state.LatchedStatus = (byte)((Output(now) ? StatusOutput : 0)
                | (nullCount ? StatusNullCount : 0)
                | (_state.Access << 4)
                | (_state.Mode << 1)
                | (_state.Bcd ? ControlBcd : 0));
        }
    }

    public byte Read(long now)
    {
        if (_state.StatusLatched)
        {
            _state.StatusLatched = false;
            return _state.LatchedStatus;
        }
        ushort value = _state.CountLatched ? _state.LatchedCount : Value(now);
        bool high = _state.Access == AccessHigh || (_state.Access == AccessLowHigh && _state.ReadHighNext);
        if (_state.Access == AccessLowHigh)
        {
            _state.ReadHighNext = !_state.ReadHighNext;
        }
        if (high || _state.Access == AccessLow)
        {
            _state.CountLatched = false;
        }
        return (byte)(high ? value >> 8 : value);
    }

    public void Write(byte value, long now)
    {
        switch (_state.Access)
        {
            case AccessLow:
                WriteCount(value, now);
                break;
            case AccessHigh:
                WriteCount((ushort)(value << 8), now);
                break;
            default:
                if (_state.WriteHighNext)
                {
                    _state.WriteHighNext = false;
                    WriteCount((ushort)((value << 8) | _state.WrittenLow), now);
                }
                else
                {
                    _state.WriteHighNext = true;
                    _state.WrittenLow = value;
                    if (_state.Mode == 0)
                    {
                        // "Writing the first byte disables counting. OUT is set low immediately" (data sheet, mode 0).
                        _state.Idle = Value(now);
                        _state.Loaded = false;
                        _state.Paused = false;
                    }
                }
                break;
        }
    }

    private void WriteCount(ushort value, long now)
    {
        int count = _state.Bcd ? FromBcd(value) : value;
        count = count != 0 ? count : Modulus;
        switch (_state.Mode)
        {
            case 1 or 5: // waits for the trigger
                _state.Pending = count;
                _state.PendingTick = now;
                break;
            case 2 or 3 when _state.Loaded: // waits for the end of the (half) cycle
                _state.Pending = count;
                _state.PendingTick = BoundaryAfter(now);
                break;
            default:
                Load(count, now + 1);
                break;
        }
    }

    private int Modulus => _state.Bcd ? 10_000 : 0x1_0000;

    private static long HighTicks(int count) => (count + 1) / 2;

    private long Elapsed(long now) => _state.Paused ? _state.PausedElapsed : Math.Max(0, now - _state.LoadTick);

    private void Load(int count, long tick)
    {
        _state.Count = count;
        _state.Pending = 0;
        _state.Loaded = true;
        _state.LoadTick = Math.Max(0, tick);
        _state.Paused = !_state.Gate && _state.Mode is not (1 or 5);
        _state.PausedElapsed = 0;
    }

    private ushort Value(long now)
    {
        if (!_state.Loaded)
        {
            return _state.Idle;
        }
        long elapsed = Elapsed(now);
        int count = _state.Count;
        long value;
        switch (_state.Mode)
        {
            case 2:
                value = count - (elapsed % count);
                break;
            case 3: // counts the even part down by two, once in each half
                long place = elapsed % count;
                value = (count & ~1) - (2 * (place < HighTicks(count) ? place : place - HighTicks(count)));
                break;
            default:
                value = (count - (elapsed % Modulus) + Modulus) % Modulus;
                break;
        }
        int rest = (int)(value % Modulus);
        return _state.Bcd ? ToBcd(rest) : (ushort)rest;
    }

    /// <summary>The first end of a cycle (mode 3: of a half cycle) after <paramref name="now"/>.</summary>
    private long BoundaryAfter(long now)
    {
        long elapsed = Elapsed(now);
        long place = elapsed % _state.Count;
        long toEnd = _state.Mode == 3 && place < HighTicks(_state.Count) ? HighTicks(_state.Count) - place : _state.Count - place;
        return Math.Max(now, _state.LoadTick) + toEnd;
    }

    private long RiseAfter(long tick)
    {
        if (!_state.Loaded || _state.Paused)
        {
            return Never;
        }
        long first = _state.LoadTick + _state.Count + (_state.Mode is 4 or 5 ? 1 : 0);
        if (tick < first)
        {
            return _state.Mode is 2 or 3 && _state.Count == 1 ? Never : first;
        }
        if (_state.Mode is not (2 or 3) || _state.Count == 1) // a count of 1 is illegal in modes 2 and 3: OUT stays
        {
            return Never;
        }
        return tick + _state.Count - ((tick - first) % _state.Count);
    }

    private static int FromBcd(ushort value) =>
        ((((((value >> 12) * 10) + ((value >> 8) & 15)) * 10) + ((value >> 4) & 15)) * 10 + (value & 15)) % 10_000;

    private static ushort ToBcd(int value) =>
        (ushort)((value / 1000 << 12) | (value / 100 % 10 << 8) | (value / 10 % 10 << 4) | (value % 10));
}
