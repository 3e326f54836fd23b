using Lodge.Engine.Time;

namespace Lodge.Machine.Devices;

/// <summary>
/// The way of single characters from a device to its backend: gathered into a bounded buffer and handed over at a line's end, when many have
/// come together, or a millisecond after the first. The backend is called with no lock held, by one thread at a time.
/// </summary>
internal sealed class CharacterOutput
{
    /// <summary>Bytes that can wait for the backend.</summary>
    public const int Capacity = 4096;

    private const int FlushThreshold = 1024;
    private const long FlushDelay = 1_000_000; // ns

    private readonly Lock _gate = new();
    private readonly byte[] _buffer = new byte[Capacity];
    private readonly byte[] _outgoing = new byte[Capacity];
    private readonly ICharacterBackend _backend;
    private readonly TimerService _timers;
    private readonly MachineTimer _timer;
    private readonly Action _drained;
    private int _count;
    private bool _armed;
    private bool _handing;
    private bool _blocked;  // the backend took less than offered: wait for OutputReady
    private bool _refused;  // the device was refused: tell it when there is room

    /// <summary>Creates the buffer. <paramref name="drained"/> is called, without lock, when there is room again after <see cref="TryAdd"/> refused.</summary>
    public CharacterOutput(ICharacterBackend backend, TimerService timers, Action drained)
    {
        _backend = backend;
        _timers = timers;
        _drained = drained;
        _timer = timers.Create(Flush);
    }

    /// <summary>Whether the next byte would be refused.</summary>
    public bool Full { get { lock (_gate) { return _count == Capacity; } } }

    /// <summary>Takes one byte; false when the buffer is full. Hand over with <see cref="Flush"/>, outside of the device's lock, when asked to.</summary>
    public bool TryAdd(byte value, out bool flush)
    {
        lock (_gate)
        {
            if (_count == Capacity)
            {
                _refused = true;
                flush = false;
                return false;
            }
            _buffer[_count++] = value;
            flush = !_blocked && !_handing && (value == (byte)'\n' || _count >= FlushThreshold);
            if (!flush && !_armed && !_blocked)
            {
                _armed = true;
                _timer.Arm(_timers.Clock.Now + FlushDelay);
            }
            return true;
        }
    }

    /// <summary>Hands what is buffered to the backend, as far as it accepts.</summary>
    public void Flush()
    {
        lock (_gate)
        {
            _armed = false;
            if (_handing || _blocked)
            {
                return;
            }
            _handing = true;
        }
        bool tell = false;
        while (true)
        {
            int offered;
            lock (_gate)
            {
                offered = _count;
                if (offered == 0 || _blocked)
                {
                    _handing = false;
                    break;
                }
                _buffer.AsSpan(0, offered).CopyTo(_outgoing);
                _blocked = true; // until the backend has answered; OutputReady may come before Write returns
            }
            int taken = Math.Clamp(_backend.Write(_outgoing.AsSpan(0, offered)), 0, offered);
            lock (_gate)
            {
                _buffer.AsSpan(taken, _count - taken).CopyTo(_buffer);
                _count -= taken;
                if (taken == offered)
                {
                    _blocked = false;
                }
                if (taken > 0 && _refused)
                {
                    _refused = false;
                    tell = true;
                }
            }
        }
        if (tell)
        {
            _drained();
        }
    }

    /// <summary>The backend accepts again.</summary>
    public void Ready()
    {
        lock (_gate)
        {
            _blocked = false;
        }
        Flush();
    }

    /// <summary>Hands over what is left and waits until nothing is under way.</summary>
    public void Drain()
    {
        _timer.Cancel();
        Flush();
        var spin = default(SpinWait);
        while (true)
        {
            lock (_gate)
            {
                if (!_handing)
                {
                    return;
                }
            }
            spin.SpinOnce();
        }
    }

    /// <summary>What the backend has not taken yet, for the saved state.</summary>
    public byte[] Pending
    {
        get
        {
            lock (_gate)
            {
                return _buffer[.._count];
            }
        }
        set
        {
            lock (_gate)
            {
                _count = Math.Min(value.Length, Capacity);
                value.AsSpan(0, _count).CopyTo(_buffer);
            }
        }
    }
}
