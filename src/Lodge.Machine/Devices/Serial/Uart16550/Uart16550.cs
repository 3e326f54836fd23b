using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Serial.Uart16550;

/// <summary>
/// A serial port: National Semiconductor PC16550D. The line has no speed: a byte that is sent is gone at once, so the transmitter is empty
/// unless the backend falls behind. The interrupt output does not depend on MCR.OUT2, since no other card shares it here and small kernels leave
/// it clear.
/// </summary>
/// <remarks>The backend is called with no lock held. The interrupt line is set under the port's lock.</remarks>
public sealed class Uart16550 : IDevice, IByteWideDevice, ICharacterReceiver
{
    internal const int FifoSize = 16;
    internal const ushort ResetDivisor = 12; // 9600 baud, what firmware leaves

    private const int ClockFrequency = 1_843_200; // Hz, the PC's UART crystal
    private const long MaximumTimeout = 20_000_000; // ns; a hostile divisor must not delay input for seconds
    private const ModemStatus ConnectedLines = ModemStatus.ClearToSend | ModemStatus.DataSetReady | ModemStatus.CarrierDetect;

    private readonly Lock _gate = new();
    private readonly ICharacterBackend _backend;
    private readonly IInterruptLine _line;
    private readonly TimerService _timers;
    private readonly MachineTimer _timeout;
    private readonly CharacterOutput _output;
    private readonly Queue<byte> _received = new(FifoSize);
    private readonly Queue<byte> _transmitting = new(FifoSize);

    private InterruptEnable _interruptEnable;
    private FifoControl _fifoControl;
    private LineControl _lineControl;
    private ModemControl _modemControl;
    private LineStatus _errors;
    private ModemStatus _modemLines = ConnectedLines; // what the far end drives
    private ModemStatus _modemDeltas;
    private byte _scratch;
    private ushort _divisor = ResetDivisor;
    private bool _transmitterInterrupt;
    private bool _timeoutInterrupt;
    private bool _inputRefused;

    /// <summary>Creates a port connected to a backend.</summary>
    public Uart16550(Uart16550Configuration configuration, ICharacterBackend backend, IInterruptLine line, TimerService timers)
    {
        Name = configuration.Name;
        _backend = backend;
        _line = line;
        _timers = timers;
        _timeout = timers.Create(TimedOut);
        _output = new CharacterOutput(backend, timers, OutputDrained);
        Claims = [new RegionClaim(Name, RegionSpace.Port, configuration.Port, Uart16550Register.Count, new ByteWideRegion(this))];
        backend.Connect(this);
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    private bool FifosEnabled => (_fifoControl & FifoControl.Enable) != 0;

    private bool Loop => (_modemControl & ModemControl.Loop) != 0;

    private bool DivisorAccess => (_lineControl & LineControl.DivisorLatchAccess) != 0;

    private int ReceiveCapacity => FifosEnabled ? FifoSize : 1;

    private int TriggerLevel => !FifosEnabled ? 1 : ((byte)_fifoControl >> 6) switch { 0 => 1, 1 => 4, 2 => 8, _ => 14 };

    /// <inheritdoc/>
    public byte ReadByte(ulong offset)
    {
        bool inputReady = false;
        byte value;
        lock (_gate)
        {
            switch ((int)offset)
            {
                case Uart16550Register.ReceiverBufferTransmitterHolding when DivisorAccess:
                    return (byte)_divisor;
                case Uart16550Register.ReceiverBufferTransmitterHolding:
                    if (!_received.TryDequeue(out value))
                    {
                        return 0;
                    }
                    _timeoutInterrupt = false;
                    ArmTimeout();
                    inputReady = _inputRefused && _received.Count == 0;
                    _inputRefused &= !inputReady;
                    UpdateInterrupt();
                    break;
                case Uart16550Register.InterruptEnable:
                    return DivisorAccess ? (byte)(_divisor >> 8) : (byte)_interruptEnable;
                case Uart16550Register.InterruptIdentFifoControl:
                    value = Identify();
                    if (value == InterruptIdent.TransmitterHoldingEmpty)
                    {
                        _transmitterInterrupt = false;
                        UpdateInterrupt();
                    }
                    return (byte)(value | (FifosEnabled ? InterruptIdent.FifosEnabled : 0));
                case Uart16550Register.LineControl:
                    return (byte)_lineControl;
                case Uart16550Register.ModemControl:
                    return (byte)_modemControl;
                case Uart16550Register.LineStatus:
                    value = (byte)Status();
                    _errors = 0;
                    UpdateInterrupt();
                    return value;
                case Uart16550Register.ModemStatus:
                    value = (byte)(Lines() | _modemDeltas);
                    _modemDeltas = 0;
                    UpdateInterrupt();
                    return value;
                case Uart16550Register.Scratch:
                    return _scratch;
                default:
                    return 0xFF;
            }
        }
        if (inputReady)
        {
            _backend.InputReady();
        }
        return value;
    }

    /// <inheritdoc/>
    public void WriteByte(ulong offset, byte value)
    {
        bool flush = false;
        bool inputReady = false;
        lock (_gate)
        {
            switch ((int)offset)
            {
                case Uart16550Register.ReceiverBufferTransmitterHolding when DivisorAccess:
                    _divisor = (ushort)((_divisor & 0xFF00) | value);
                    break;
                case Uart16550Register.ReceiverBufferTransmitterHolding:
                    flush = Transmit(value);
                    break;
                case Uart16550Register.InterruptEnable when DivisorAccess:
                    _divisor = (ushort)((_divisor & 0x00FF) | (value << 8));
                    break;
                case Uart16550Register.InterruptEnable:
                    var enable = (InterruptEnable)value & InterruptEnable.Implemented;
                    if ((enable & ~_interruptEnable & InterruptEnable.TransmitterHoldingEmpty) != 0 && _transmitting.Count == 0)
                    {
                        _transmitterInterrupt = true;
                    }
                    _interruptEnable = enable;
                    break;
                case Uart16550Register.InterruptIdentFifoControl:
                    inputReady = ControlFifos((FifoControl)value);
                    break;
                case Uart16550Register.LineControl:
                    _lineControl = (LineControl)value;
                    break;
                case Uart16550Register.ModemControl:
                    ModemStatus before = Lines();
                    _modemControl = (ModemControl)value & ModemControl.Implemented;
                    NoteLineChange(before);
                    inputReady = !Loop && _inputRefused && _received.Count < ReceiveCapacity;
                    _inputRefused &= !inputReady;
                    break;
                case Uart16550Register.Scratch:
                    _scratch = value;
                    break;
                default:
                    return; // LSR and MSR are read-only outside of the factory's tests
            }
            UpdateInterrupt();
        }
        if (flush)
        {
            _output.Flush();
        }
        if (inputReady)
        {
            _backend.InputReady();
        }
    }

    /// <inheritdoc/>
    public int Receive(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            int count = Loop ? 0 : Math.Min(data.Length, ReceiveCapacity - _received.Count);
            for (int i = 0; i < count; i++)
            {
                _received.Enqueue(data[i]);
            }
            _inputRefused |= count < data.Length;
            if (count > 0)
            {
                ArmTimeout();
                UpdateInterrupt();
            }
            return count;
        }
    }

    /// <inheritdoc/>
    public void OutputReady() => _output.Ready();

    /// <inheritdoc/>
    public void Resize(int columns, int rows)
    {
        // A serial line cannot carry the size of a terminal.
    }

    /// <inheritdoc/>
    public void SetConnected(bool connected)
    {
        lock (_gate)
        {
            ModemStatus before = Lines();
            _modemLines = connected ? ConnectedLines : ConnectedLines & ~ModemStatus.CarrierDetect;
            NoteLineChange(before);
            UpdateInterrupt();
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            ArmTimeout();
            UpdateInterrupt();
        }
        _output.Flush();
    }

    /// <inheritdoc/>
    public void Stop()
    {
        _timeout.Cancel();
        _output.Drain();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        Apply(new Uart16550State { ModemStatus = (byte)_modemLines });
        bool inputReady;
        lock (_gate)
        {
            inputReady = _inputRefused;
            _inputRefused = false;
        }
        if (inputReady)
        {
            _backend.InputReady();
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new Uart16550State
            {
                InterruptEnable = (byte)_interruptEnable,
                FifoControl = (byte)_fifoControl,
                LineControl = (byte)_lineControl,
                ModemControl = (byte)_modemControl,
                LineErrors = (byte)_errors,
                ModemStatus = (byte)(_modemLines | _modemDeltas),
                Scratch = _scratch,
                Divisor = _divisor,
                TransmitterInterrupt = _transmitterInterrupt,
                TimeoutInterrupt = _timeoutInterrupt,
                Received = _received.ToArray(),
                Transmitting = _transmitting.ToArray(),
                Output = _output.Pending,
            });
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader) => Apply(reader.Nested(1, new Uart16550State()));

    private void Apply(Uart16550State state)
    {
        lock (_gate)
        {
            _interruptEnable = (InterruptEnable)state.InterruptEnable & InterruptEnable.Implemented;
            _fifoControl = (FifoControl)state.FifoControl & FifoControl.Kept;
            _lineControl = (LineControl)state.LineControl;
            _modemControl = (ModemControl)state.ModemControl & ModemControl.Implemented;
            _errors = (LineStatus)state.LineErrors & LineStatus.Errors;
            _modemLines = (ModemStatus)state.ModemStatus & ModemStatus.Lines;
            _modemDeltas = (ModemStatus)state.ModemStatus & ModemStatus.Deltas;
            _scratch = state.Scratch;
            _divisor = state.Divisor;
            _transmitterInterrupt = state.TransmitterInterrupt;
            _timeoutInterrupt = state.TimeoutInterrupt;
            Refill(_received, state.Received);
            Refill(_transmitting, state.Transmitting);
            _output.Pending = state.Output;
            UpdateInterrupt();
        }
    }

    private static void Refill(Queue<byte> queue, byte[] bytes)
    {
        queue.Clear();
        foreach (byte value in bytes)
        {
            queue.Enqueue(value);
        }
    }

    private bool Transmit(byte value)
    {
        _transmitterInterrupt = false;
        if (Loop)
        {
            if (_received.Count < ReceiveCapacity)
            {
                _received.Enqueue(value);
                ArmTimeout();
            }
            else
            {
                _errors |= LineStatus.OverrunError;
            }
            _transmitterInterrupt = true;
            return false;
        }
        if (_transmitting.Count == 0 && _output.TryAdd(value, out bool flush))
        {
            _transmitterInterrupt = true;
            return flush;
        }
        if (_transmitting.Count < (FifosEnabled ? FifoSize : 1))
        {
            _transmitting.Enqueue(value); // beyond that the byte is lost, as on the chip
        }
        return false;
    }

    /// <summary>The backend took something while the transmitter's FIFO was waiting.</summary>
    private void OutputDrained()
    {
        bool flush = false;
        lock (_gate)
        {
            while (_transmitting.TryPeek(out byte value) && _output.TryAdd(value, out bool now))
            {
                flush |= now;
                _transmitting.Dequeue();
                _transmitterInterrupt = _transmitting.Count == 0;
            }
            UpdateInterrupt();
        }
        if (flush)
        {
            _output.Flush();
        }
    }

    private bool ControlFifos(FifoControl value)
    {
        bool toggled = ((value ^ _fifoControl) & FifoControl.Enable) != 0;
        bool cleared = false;
        if (toggled || (value & (FifoControl.Enable | FifoControl.ResetReceiver)) == (FifoControl.Enable | FifoControl.ResetReceiver))
        {
            _received.Clear();
            _timeoutInterrupt = false;
            _timeout.Cancel();
            cleared = _inputRefused;
            _inputRefused = false;
        }
        if (toggled || (value & (FifoControl.Enable | FifoControl.ResetTransmitter)) == (FifoControl.Enable | FifoControl.ResetTransmitter))
        {
            _transmitterInterrupt |= _transmitting.Count != 0;
            _transmitting.Clear();
        }
        // Without the enable bit the others are not programmed (8.4).
        _fifoControl = (value & FifoControl.Enable) != 0 ? value & FifoControl.Kept : 0;
        return cleared;
    }

    private LineStatus Status()
    {
        LineStatus status = _errors;
        if (_received.Count != 0)
        {
            status |= LineStatus.DataReady;
        }
        if (_transmitting.Count == 0)
        {
            status |= LineStatus.TransmitterEmpty | LineStatus.TransmitterHoldingEmpty;
        }
        return status;
    }

    /// <summary>The four line bits of MSR: the far end's, or in loopback mode our own outputs (8.7).</summary>
    private ModemStatus Lines()
    {
        if (!Loop)
        {
            return _modemLines;
        }
        ModemStatus lines = 0;
        lines |= (_modemControl & ModemControl.RequestToSend) != 0 ? ModemStatus.ClearToSend : 0;
        lines |= (_modemControl & ModemControl.DataTerminalReady) != 0 ? ModemStatus.DataSetReady : 0;
        lines |= (_modemControl & ModemControl.Out1) != 0 ? ModemStatus.RingIndicator : 0;
        lines |= (_modemControl & ModemControl.Out2) != 0 ? ModemStatus.CarrierDetect : 0;
        return lines;
    }

    private void NoteLineChange(ModemStatus before)
    {
        ModemStatus now = Lines();
        ModemStatus changed = now ^ before;
        _modemDeltas |= (ModemStatus)((byte)(changed & (ModemStatus.ClearToSend | ModemStatus.DataSetReady | ModemStatus.CarrierDetect)) >> 4);
        if ((before & ~now & ModemStatus.RingIndicator) != 0)
        {
            _modemDeltas |= ModemStatus.TrailingEdgeRing;
        }
    }

    /// <summary>Four character times after the last byte came or was read, what waits below the trigger level is told of (8.4).</summary>
    private void ArmTimeout()
    {
        if (!FifosEnabled || _received.Count == 0)
        {
            _timeout.Cancel();
            return;
        }
        int bits = 1 + 5 + (int)(_lineControl & LineControl.WordLengthMask) + ((_lineControl & LineControl.ParityEnable) != 0 ? 1 : 0)
            + ((_lineControl & LineControl.StopBits) != 0 ? 2 : 1);
        long divisor = _divisor == 0 ? 0x10000 : _divisor;
        long time = 4L * bits * 16 * divisor * 1_000_000_000 / ClockFrequency;
        _timeout.Arm(_timers.Clock.Now + Math.Min(time, MaximumTimeout));
    }

    private void TimedOut()
    {
        lock (_gate)
        {
            if (FifosEnabled && _received.Count != 0)
            {
                _timeoutInterrupt = true;
                UpdateInterrupt();
            }
        }
    }

    private byte Identify()
    {
        if ((_interruptEnable & InterruptEnable.ReceiverLineStatus) != 0 && _errors != 0)
        {
            return InterruptIdent.ReceiverLineStatus;
        }
        if ((_interruptEnable & InterruptEnable.ReceivedDataAvailable) != 0)
        {
            if (_received.Count >= TriggerLevel)
            {
                return InterruptIdent.ReceivedDataAvailable;
            }
            if (_timeoutInterrupt)
            {
                return InterruptIdent.CharacterTimeout;
            }
        }
        if ((_interruptEnable & InterruptEnable.TransmitterHoldingEmpty) != 0 && _transmitterInterrupt)
        {
            return InterruptIdent.TransmitterHoldingEmpty;
        }
        return (_interruptEnable & InterruptEnable.ModemStatus) != 0 && _modemDeltas != 0 ? InterruptIdent.ModemStatus : InterruptIdent.NonePending;
    }

    private void UpdateInterrupt() => _line.Set(Identify() != InterruptIdent.NonePending);
}
