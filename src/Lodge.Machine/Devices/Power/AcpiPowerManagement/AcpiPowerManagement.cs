using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Power.AcpiPowerManagement;

/// <summary>
/// ACPI fixed hardware (ACPI 6.5, chapter 4): PM1a event and control blocks with the power button and soft off, the power management timer,
/// general-purpose event block 0, the command port that switches ACPI mode, and the reset control register.
/// </summary>
/// <remarks>Lock order: this device's lock, then the timer service's and the interrupt controllers'. <see cref="IMachineControl"/> may be called with it held.</remarks>
public sealed class AcpiPowerManagement : IDevice
{
    /// <summary>Frequency of the power management timer in Hz (4.8.3.3).</summary>
    public const int TimerFrequency = 3_579_545;

    /// <summary>Sleep type that means soft off, as the DSDT's <c>_S5_</c> says.</summary>
    public const int SoftOffSleepType = 5;

    /// <summary>Number of general-purpose events.</summary>
    public const int GeneralPurposeEvents = 16;

    private readonly Lock _gate = new();
    private readonly IInterruptLine _sci;
    private readonly IMachineControl _machine;
    private readonly TimerService _timers;
    private readonly MachineTimer _toggleTimer;

    private Pm1Event _status;
    private Pm1Event _enable;
    private ushort _control;
    private ushort _gpeStatus;
    private ushort _gpeEnable;
    private readonly Func<bool>?[] _untold = new Func<bool>?[GeneralPurposeEvents];
    private byte _resetControl;
    private ushort _smiPorts;
    private ulong _toggles;
    private bool _running;

    /// <summary>Creates the device.</summary>
    /// <param name="sci">System control interrupt, level-triggered.</param>
    /// <param name="machine">Told of soft off and reset.</param>
    /// <param name="timers">Machine time.</param>
    public AcpiPowerManagement(IInterruptLine sci, IMachineControl machine, TimerService timers)
    {
        _sci = sci;
        _machine = machine;
        _timers = timers;
        _toggleTimer = timers.Create(TimerToggled);
        Claims =
        [
            new RegionClaim("acpi-pm", RegionSpace.Port, PortMap.PowerManagement, PowerManagementRegister.Length, new FixedBlock(this)),
            new RegionClaim("acpi-gpe0", RegionSpace.Port, PortMap.GeneralPurposeEvents, PowerManagementRegister.Gpe0Length, new ByteWideRegion(new EventBlock(this))),
            new RegionClaim("acpi-smi", RegionSpace.Port, PortMap.SmiCommand, 2, new ByteWideRegion(new CommandPorts(this))),
        ];
        ResetControlPort = new RegionClaim("reset-control", RegionSpace.Port, PortMap.ResetControl, 1, new ByteWideRegion(new ResetPort(this)));
    }

    /// <inheritdoc/>
    public string Name => "acpi-pm";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <summary>
    /// The reset control register. It is not among <see cref="Claims"/> because its port lies within PCI's configuration address register: the
    /// chipset gives byte accesses there to this register and the others to PCI.
    /// </summary>
    public RegionClaim ResetControlPort { get; }

    /// <summary>Current count of the power management timer (32 bits).</summary>
    public uint TimerValue => (uint)Ticks(_timers.Clock.Now);

    /// <summary>Presses the power button. Any thread. False when the guest has not enabled it, so that nothing will come of it.</summary>
    public bool PressPowerButton()
    {
        lock (_gate)
        {
            _status |= Pm1Event.PowerButton;
            UpdateInterrupt();
            return (_control & Pm1Control.SciEnable) != 0 && (_enable & Pm1Event.PowerButton) != 0;
        }
    }

    /// <summary>The real-time clock's alarm went off (RTC_STS). Any thread.</summary>
    public void SignalAlarm()
    {
        lock (_gate)
        {
            _status |= Pm1Event.RealTimeClock;
            UpdateInterrupt();
        }
    }

    /// <summary>
    /// Raises a general-purpose event again whenever the guest enables it and there is something that it has not looked at: a guest that boots clears what was raised before it listened. Before the first start.
    /// </summary>
    /// <param name="number">The event.</param>
    /// <param name="untold">Whether there is. On processors' threads, under the device's lock.</param>
    public void RaiseUntold(int number, Func<bool> untold) => _untold[number] = untold;

    /// <summary>Raises general-purpose event <paramref name="number"/> (0 to 15). Any thread.</summary>
    public void RaiseEvent(int number)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)number, (uint)GeneralPurposeEvents, nameof(number));
        lock (_gate)
        {
            _gpeStatus |= (ushort)(1 << number);
            UpdateInterrupt();
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            _running = true;
            ArmTimer();
            UpdateInterrupt();
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_gate)
        {
            _running = false;
            _toggleTimer.Cancel();
        }
    }

    /// <inheritdoc/>
    public void Reset() => Apply(new AcpiPowerManagementState { TimerToggles = Toggles() });

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new AcpiPowerManagementState
            {
                Status = (ushort)_status,
                Enable = (ushort)_enable,
                Control = _control,
                GpeStatus = _gpeStatus,
                GpeEnable = _gpeEnable,
                ResetControl = _resetControl,
                SmiPorts = _smiPorts,
                TimerToggles = _toggles,
            });
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader) => Apply(reader.Nested(1, new AcpiPowerManagementState()));

    private static ulong Ticks(long nanoseconds) => TickScale.Truncated((ulong)nanoseconds, TimerFrequency, 1_000_000_000);

    private ulong Toggles() => Ticks(_timers.Clock.Now) >> 31;

    private void Apply(AcpiPowerManagementState state)
    {
        lock (_gate)
        {
            _status = (Pm1Event)state.Status & Pm1Event.Statuses;
            _enable = (Pm1Event)state.Enable & Pm1Event.Enables;
            _control = (ushort)(state.Control & (Pm1Control.SciEnable | Pm1Control.BusMasterReload | Pm1Control.SleepTypeMask));
            _gpeStatus = state.GpeStatus;
            _gpeEnable = state.GpeEnable;
            _resetControl = state.ResetControl;
            _smiPorts = state.SmiPorts;
            _toggles = state.TimerToggles;
            UpdateInterrupt();
        }
    }

    /// <summary>TMR_STS is set whenever the timer's top bit changes (4.8.3.3).</summary>
    private void FindTimerStatus()
    {
        ulong toggles = Toggles();
        if (toggles != _toggles)
        {
            _toggles = toggles;
            _status |= Pm1Event.Timer;
        }
    }

    private void TimerToggled()
    {
        lock (_gate)
        {
            FindTimerStatus();
            ArmTimer();
            UpdateInterrupt();
        }
    }

    private void ArmTimer()
    {
        if (!_running || (_enable & Pm1Event.Timer) == 0)
        {
            _toggleTimer.Cancel();
            return;
        }
        _toggleTimer.Arm((long)Math.Min(TickScale.Ceiling((Toggles() + 1) << 31, 1_000_000_000, TimerFrequency), long.MaxValue));
    }

    private void UpdateInterrupt() =>
        _sci.Set((_control & Pm1Control.SciEnable) != 0 && ((_status & _enable) != 0 || (_gpeStatus & _gpeEnable) != 0));

    private byte ReadFixed(int offset)
    {
        switch (offset & ~1)
        {
            case PowerManagementRegister.Pm1Status:
                FindTimerStatus();
                return Byte((ushort)_status, offset);
            case PowerManagementRegister.Pm1Enable:
                return Byte((ushort)_enable, offset);
            case PowerManagementRegister.Pm1Control:
                return Byte(_control, offset);
            default:
                return 0;
        }
    }

    private void WriteFixed(int offset, byte value)
    {
        int shift = (offset & 1) * 8;
        ushort mask = (ushort)(0xFF << shift);
        ushort placed = (ushort)(value << shift);
        switch (offset & ~1)
        {
            case PowerManagementRegister.Pm1Status:
                FindTimerStatus();
                _status &= ~(Pm1Event)placed; // written ones clear
                break;
            case PowerManagementRegister.Pm1Enable:
                _enable = (Pm1Event)(((ushort)_enable & ~mask) | placed) & Pm1Event.Enables;
                FindTimerStatus();
                ArmTimer();
                break;
            case PowerManagementRegister.Pm1Control:
                WriteControl((ushort)((_control & ~mask) | placed));
                break;
            default:
                return;
        }
        UpdateInterrupt();
    }

    private void WriteControl(ushort value)
    {
        // SCI_EN belongs to the command port, GBL_RLS has nobody to call and reads as zero (table 4.13).
        _control = (ushort)((_control & Pm1Control.SciEnable) | (value & (Pm1Control.BusMasterReload | Pm1Control.SleepTypeMask)));
        if ((value & Pm1Control.SleepEnable) != 0 && (value & Pm1Control.SleepTypeMask) >> Pm1Control.SleepTypeShift == SoftOffSleepType)
        {
            _machine.RequestPowerOff();
        }
    }

    private static byte Byte(ushort word, int offset) => (byte)(word >> ((offset & 1) * 8));

    /// <summary>PM1 blocks and timer. A read of the timer is one access, so that its bytes belong together.</summary>
    private sealed class FixedBlock(AcpiPowerManagement device) : IIoHandler
    {
        public IoResult Read(ulong offset, Span<byte> data)
        {
            Span<byte> timer = stackalloc byte[8];
            BinaryPrimitives.WriteUInt64LittleEndian(timer, device.TimerValue);
            lock (device._gate)
            {
                for (int i = 0; i < data.Length; i++)
                {
                    int at = (int)offset + i;
                    data[i] = at >= PowerManagementRegister.PmTimer ? timer[(at - PowerManagementRegister.PmTimer) & 7] : device.ReadFixed(at);
                }
            }
            return IoResult.Done;
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
        {
            lock (device._gate)
            {
                for (int i = 0; i < data.Length; i++)
                {
                    device.WriteFixed((int)offset + i, data[i]);
                }
            }
            return IoResult.Done;
        }
    }

    private sealed class EventBlock(AcpiPowerManagement device) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (device._gate)
            {
                return Byte(offset < PowerManagementRegister.Gpe0Enable ? device._gpeStatus : device._gpeEnable, (int)offset);
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            int shift = ((int)offset & 1) * 8;
            lock (device._gate)
            {
                if (offset < PowerManagementRegister.Gpe0Enable)
                {
                    device._gpeStatus &= (ushort)~(value << shift);
                }
                else
                {
                    int enabled = value << shift & ~device._gpeEnable;
                    device._gpeEnable = (ushort)((device._gpeEnable & ~(0xFF << shift)) | (value << shift));
                    for (; enabled != 0; enabled &= enabled - 1)
                    {
                        int number = System.Numerics.BitOperations.TrailingZeroCount(enabled);
                        device._gpeStatus |= (ushort)(device._untold[number]?.Invoke() == true ? 1 << number : 0);
                    }
                }
                device.UpdateInterrupt();
            }
        }
    }

    /// <summary>0xB2 command and 0xB3 data: no firmware runs in system management mode here, the device itself carries the command out.</summary>
    private sealed class CommandPorts(AcpiPowerManagement device) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (device._gate)
            {
                return Byte(device._smiPorts, (int)offset);
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            int shift = ((int)offset & 1) * 8;
            lock (device._gate)
            {
                device._smiPorts = (ushort)((device._smiPorts & ~(0xFF << shift)) | (value << shift));
                if (offset != 0)
                {
                    return;
                }
                if (value == SmiCommand.AcpiEnable)
                {
                    device._control |= Pm1Control.SciEnable;
                }
                else if (value == SmiCommand.AcpiDisable)
                {
                    device._control &= unchecked((ushort)~Pm1Control.SciEnable);
                }
                device.UpdateInterrupt();
            }
        }
    }

    private sealed class ResetPort(AcpiPowerManagement device) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (device._gate)
            {
                return device._resetControl;
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (device._gate)
            {
                bool reset = (value & ~device._resetControl & ResetControl.ResetProcessor) != 0;
                device._resetControl = (byte)(value & (ResetControl.SystemReset | ResetControl.FullReset)); // the trigger bit clears itself
                if (reset)
                {
                    device._machine.RequestReset();
                }
            }
        }
    }
}
