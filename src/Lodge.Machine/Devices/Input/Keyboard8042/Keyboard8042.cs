using Lodge.Engine.State;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Input.Keyboard8042;

/// <summary>
/// The PS/2 keyboard and mouse controller (8042 at ports 0x60 and 0x64), a keyboard, a wheel mouse, and system control port A (0x92). Address
/// line 20 is never gated. Commands take effect at once, so the input buffer is never full.
/// </summary>
/// <remarks>Lock order: this device's lock, then the interrupt controllers'. <see cref="IMachineControl"/> may be called with it held.</remarks>
public sealed class Keyboard8042 : IDevice
{
    internal const int RamSize = 32;

    private const ControllerStatus ResetStatus = ControllerStatus.KeyLockOpen;
    private const CommandByte ResetCommandByte = CommandByte.KeyboardInterrupt | CommandByte.SystemFlag | CommandByte.DisableAuxiliary | CommandByte.Translate;

    private readonly Lock _gate = new();
    private readonly IInterruptLine _keyboardLine;
    private readonly IInterruptLine _mouseLine;
    private readonly IMachineControl _machine;
    private readonly Ps2Keyboard _keyboard = new();
    private readonly Ps2Mouse _mouse = new();
    private readonly Queue<(byte Value, bool Auxiliary)> _answers = new(Ps2Device.QueueSize);
    private readonly byte[] _ram = new byte[RamSize];
    private ControllerStatus _status;
    private byte _output;
    private byte _awaitedFor;
    private bool _breaking;
    private bool _fastReset;

    /// <summary>Creates the controller with its two devices.</summary>
    public Keyboard8042(IInterruptLine keyboardLine, IInterruptLine mouseLine, IMachineControl machine)
    {
        _keyboardLine = keyboardLine;
        _mouseLine = mouseLine;
        _machine = machine;
        Claims =
        [
            new RegionClaim("i8042-data", RegionSpace.Port, PortMap.KeyboardData, 1, new ByteWideRegion(new DataPort(this))),
            new RegionClaim("i8042-command", RegionSpace.Port, PortMap.KeyboardCommand, 1, new ByteWideRegion(new CommandPort(this))),
            new RegionClaim("system-control-a", RegionSpace.Port, PortMap.SystemControlA, 1, new ByteWideRegion(new ControlPortA(this))),
        ];
        Reset();
    }

    /// <inheritdoc/>
    public string Name => "i8042";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    private CommandByte Command
    {
        get => (CommandByte)_ram[0];
        set => _ram[0] = (byte)(value & ~CommandByte.Reserved);
    }

    /// <summary>Sends scan codes (set 2) of one key event. False when the keyboard cannot take them now.</summary>
    public bool SendKey(ReadOnlySpan<byte> codes)
    {
        lock (_gate)
        {
            bool sent = _keyboard.TrySend(codes);
            FillOutput();
            return sent;
        }
    }

    /// <summary>Moves the mouse by counts (right and up positive), turns its wheel, and sets its buttons (left, right, middle from bit 0).</summary>
    public bool MoveMouse(int x, int y, int wheel, byte buttons)
    {
        lock (_gate)
        {
            bool sent = _mouse.TryMove(x, y, wheel, buttons);
            FillOutput();
            return sent;
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            UpdateInterrupts();
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_gate)
        {
            Array.Clear(_ram);
            Command = ResetCommandByte;
            _status = ResetStatus | ControllerStatus.SystemFlag;
            _output = 0;
            _awaitedFor = 0;
            _breaking = false;
            _fastReset = false;
            _answers.Clear();
            _keyboard.PowerOn();
            _mouse.PowerOn();
            UpdateInterrupts();
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            var answers = _answers.ToArray();
            writer.Nested(1, new Keyboard8042State
            {
                Ram = [.. _ram],
                Status = (byte)_status,
                Output = _output,
                Answers = Array.ConvertAll(answers, static a => a.Value),
                AnswerSources = Array.ConvertAll(answers, static a => a.Auxiliary ? (byte)1 : (byte)0),
                AwaitedFor = _awaitedFor,
                Breaking = _breaking,
                FastReset = _fastReset,
                KeyboardQueue = _keyboard.Queued,
                Keyboard = [_keyboard.AwaitedFor, _keyboard.Enabled ? (byte)1 : (byte)0, _keyboard.ScanCodeSet, _keyboard.Leds],
                MouseQueue = _mouse.Queued,
                Mouse = [_mouse.AwaitedFor, _mouse.Enabled ? (byte)1 : (byte)0, _mouse.Rate, _mouse.Resolution, _mouse.Identity, (byte)_mouse.Modes],
            });
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        Keyboard8042State state = reader.Nested(1, new Keyboard8042State());
        lock (_gate)
        {
            state.Ram.CopyTo(_ram, 0);
            _status = (ControllerStatus)state.Status & ~ControllerStatus.InputBufferFull;
            _output = state.Output;
            _awaitedFor = state.AwaitedFor;
            _breaking = state.Breaking;
            _fastReset = state.FastReset;
            _answers.Clear();
            for (int i = 0; i < state.Answers.Length; i++)
            {
                _answers.Enqueue((state.Answers[i], state.AnswerSources[i] != 0));
            }
            byte[] k = state.Keyboard;
            _keyboard.Restore(state.KeyboardQueue, k[0], k[1] != 0, k[2], (byte)(k[3] & 7));
            byte[] m = state.Mouse;
            _mouse.Restore(state.MouseQueue, m[0], m[1] != 0, m[2], (byte)(m[3] & 3), m[4], (MouseModes)(m[5] & 7));
            UpdateInterrupts();
        }
    }

    private byte ReadData()
    {
        byte value = _output;
        if ((_status & ControllerStatus.OutputBufferFull) != 0)
        {
            _status &= ~(ControllerStatus.OutputBufferFull | ControllerStatus.AuxiliaryData);
            UpdateInterrupts(); // low between two bytes, so that the next one is an edge
            FillOutput();
        }
        return value;
    }

    private void WriteData(byte value)
    {
        _status &= ~ControllerStatus.CommandLast;
        byte awaited = _awaitedFor;
        _awaitedFor = 0;
        switch (awaited)
        {
            case 0:
                Command &= ~CommandByte.DisableKeyboard; // a byte for the keyboard enables its port
                _keyboard.Command(value);
                break;
            case >= ControllerCommand.WriteRam and < ControllerCommand.WriteRam + RamSize:
                if (awaited == ControllerCommand.WriteRam)
                {
                    SetCommandByte((CommandByte)value);
                }
                else
                {
                    _ram[awaited - ControllerCommand.WriteRam] = value;
                }
                break;
            case ControllerCommand.WriteOutputPort:
                if ((value & OutputPort.NotReset) == 0)
                {
                    _machine.RequestReset();
                }
                break;
            case ControllerCommand.WriteKeyboardOutput:
                Answer(value, auxiliary: false);
                break;
            case ControllerCommand.WriteAuxiliaryOutput:
                Answer(value, auxiliary: true);
                break;
            case ControllerCommand.WriteAuxiliary:
                Command &= ~CommandByte.DisableAuxiliary;
                _mouse.Command(value);
                break;
            default:
                break;
        }
        FillOutput();
    }

    private void WriteCommand(byte command)
    {
        _status |= ControllerStatus.CommandLast;
        _awaitedFor = 0;
        switch (command)
        {
            case >= ControllerCommand.ReadRam and < ControllerCommand.ReadRam + RamSize:
                Answer(_ram[command - ControllerCommand.ReadRam]);
                break;
            case (>= ControllerCommand.WriteRam and < ControllerCommand.WriteRam + RamSize) or ControllerCommand.WriteOutputPort
                or ControllerCommand.WriteKeyboardOutput or ControllerCommand.WriteAuxiliaryOutput or ControllerCommand.WriteAuxiliary:
                _awaitedFor = command;
                break;
            case ControllerCommand.DisableAuxiliary:
                Command |= CommandByte.DisableAuxiliary;
                break;
            case ControllerCommand.EnableAuxiliary:
                Command &= ~CommandByte.DisableAuxiliary;
                break;
            case ControllerCommand.TestAuxiliary or ControllerCommand.TestKeyboard:
                Answer(ControllerCommand.PortTestPassed);
                break;
            case ControllerCommand.SelfTest:
                _status |= ControllerStatus.SystemFlag;
                Answer(ControllerCommand.SelfTestPassed);
                break;
            case ControllerCommand.DisableKeyboard:
                Command |= CommandByte.DisableKeyboard;
                break;
            case ControllerCommand.EnableKeyboard:
                Command &= ~CommandByte.DisableKeyboard;
                break;
            case ControllerCommand.ReadInputPort:
                Answer(ControllerCommand.InputPortValue);
                break;
            case ControllerCommand.ReadOutputPort:
                bool full = (_status & ControllerStatus.OutputBufferFull) != 0;
                bool auxiliary = (_status & ControllerStatus.AuxiliaryData) != 0;
                Answer((byte)(OutputPort.Idle | (full && !auxiliary ? OutputPort.KeyboardFull : 0) | (full && auxiliary ? OutputPort.AuxiliaryFull : 0)));
                break;
            case >= ControllerCommand.PulseFirst:
                if ((command & ControllerCommand.PulseReset) == 0)
                {
                    _machine.RequestReset();
                }
                break;
            default:
                break; // unknown commands have no effect on the chip either
        }
        FillOutput();
        UpdateInterrupts();
    }

    private void SetCommandByte(CommandByte value)
    {
        Command = value;
        _status = (value & CommandByte.SystemFlag) != 0 ? _status | ControllerStatus.SystemFlag : _status & ~ControllerStatus.SystemFlag;
        UpdateInterrupts();
    }

    private void Answer(byte value, bool auxiliary = false)
    {
        if (_answers.Count < Ps2Device.QueueSize)
        {
            _answers.Enqueue((value, auxiliary));
        }
    }

    /// <summary>Moves the next byte into a free output buffer: the controller's own first, then the keyboard's, then the mouse's.</summary>
    private void FillOutput()
    {
        while ((_status & ControllerStatus.OutputBufferFull) == 0)
        {
            if (_answers.TryDequeue(out (byte Value, bool Auxiliary) answer))
            {
                Present(answer.Value, answer.Auxiliary);
            }
            else if (_keyboard.HasData && (Command & CommandByte.DisableKeyboard) == 0)
            {
                byte code = _keyboard.Take();
                if ((Command & CommandByte.Translate) == 0)
                {
                    Present(code, auxiliary: false);
                }
                else if (ScanCodeTranslation.TryTranslate(code, ref _breaking, out byte translated))
                {
                    Present(translated, auxiliary: false);
                }
            }
            else if (_mouse.HasData && (Command & CommandByte.DisableAuxiliary) == 0)
            {
                Present(_mouse.Take(), auxiliary: true);
            }
            else
            {
                return;
            }
        }
    }

    private void Present(byte value, bool auxiliary)
    {
        _output = value;
        _status |= ControllerStatus.OutputBufferFull | (auxiliary ? ControllerStatus.AuxiliaryData : 0);
        UpdateInterrupts();
    }

    private void UpdateInterrupts()
    {
        bool full = (_status & ControllerStatus.OutputBufferFull) != 0;
        bool auxiliary = (_status & ControllerStatus.AuxiliaryData) != 0;
        _keyboardLine.Set(full && !auxiliary && (Command & CommandByte.KeyboardInterrupt) != 0);
        _mouseLine.Set(full && auxiliary && (Command & CommandByte.AuxiliaryInterrupt) != 0);
    }

    private sealed class DataPort(Keyboard8042 device) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (device._gate)
            {
                return device.ReadData();
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (device._gate)
            {
                device.WriteData(value);
            }
        }
    }

    private sealed class CommandPort(Keyboard8042 device) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (device._gate)
            {
                return (byte)device._status;
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (device._gate)
            {
                device.WriteCommand(value);
            }
        }
    }

    private sealed class ControlPortA(Keyboard8042 device) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (device._gate)
            {
                return (byte)(SystemControlA.A20 | (device._fastReset ? SystemControlA.FastReset : 0));
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (device._gate)
            {
                bool reset = (value & SystemControlA.FastReset) != 0;
                if (reset && !device._fastReset)
                {
                    device._machine.RequestReset();
                }
                device._fastReset = reset;
            }
        }
    }
}
