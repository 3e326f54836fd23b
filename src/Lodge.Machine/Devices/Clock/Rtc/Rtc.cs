using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Clock.Rtc;

/// <summary>
/// The real-time clock and CMOS memory: Motorola MC146818 as wired in a PC (ports 0x70 and 0x71, 128 bytes, century at 0x32). Time is the
/// host's plus an offset that the guest sets by setting the clock. The flags of register C are found when somebody looks; timers run only for
/// interrupts that are enabled.
/// </summary>
/// <remarks>Lock order: the clock's lock, then the ACPI registers', the timer service's and the interrupt controllers'.</remarks>
public sealed class Rtc : IDevice, IByteWideDevice
{
    private const int IndexPort = 0;
    private const int DataPort = 1;
    private const int BaseFrequency = 32768; // Hz
    private const int MaximumCatchUp = 86_400; // s; the alarm repeats daily
    private static readonly long s_updateTicks = TimeSpan.FromMicroseconds(244).Ticks; // UIP comes this long before the update

    private readonly Lock _gate = new();
    private readonly IInterruptLine _line;
    private readonly TimerService _timers;
    private readonly TimeProvider _host;
    private readonly RtcConfiguration _configuration;
    private readonly MachineTimer _periodicTimer;
    private readonly MachineTimer _updateTimer;
    private readonly byte[] _cmos = new byte[RtcRegister.Size];

    private long _offset;     // guest less host, ticks of 100 ns
    private long _halted;     // guest time while SET or the divider's reset hold the clock, else 0
    private long _seenSecond; // guest seconds up to which flags are found
    private long _seenPeriod; // periods of machine time up to which flags are found
    private byte _index;
    private byte _flags;
    private byte[]? _stored;
    private long _storedOffset;
    private bool _running;
    private bool _alarmed;

    /// <summary>Creates the clock and loads the CMOS file if one is configured and exists.</summary>
    /// <exception cref="IOException">The CMOS file is unreadable.</exception>
    public Rtc(RtcConfiguration configuration, IInterruptLine line, TimerService timers, TimeProvider? host = null)
    {
        _configuration = configuration;
        _line = line;
        _timers = timers;
        _host = host ?? TimeProvider.System;
        _periodicTimer = timers.Create(PeriodElapsed);
        _updateTimer = timers.Create(SecondElapsed);
        Claims = [new RegionClaim(Name, RegionSpace.Port, PortMap.RtcIndex, 2, new ByteWideRegion(this))];
        _cmos[RtcRegister.A] = RegisterA.Default;
        _cmos[RtcRegister.B] = RegisterB.Hours24;
        if (configuration.CmosPath is { } path && CmosFile.Load(path) is var (cmos, offset))
        {
            cmos.CopyTo(_cmos, 0);
            _offset = offset;
            _stored = cmos;
            _storedOffset = offset;
            _cmos[RtcRegister.A] = RegisterA.Default; // a power-off while the clock was being set leaves it running, as firmware does
            _cmos[RtcRegister.B] &= unchecked((byte)~RegisterB.Set);
        }
        Reset();
    }

    /// <inheritdoc/>
    public string Name => "rtc";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <summary>Called, with the clock's lock held, when an alarm interrupt begins: ACPI's RTC_STS.</summary>
    public Action? AlarmRaised { get; set; }

    /// <summary>Whether the guest masks NMIs (bit 7 of port 0x70).</summary>
    public bool NmiMasked { get { lock (_gate) { return (_index & 0x80) != 0; } } }

    private bool Halts => (_cmos[RtcRegister.B] & RegisterB.Set) != 0 || (_cmos[RtcRegister.A] & RegisterA.DividerReset) == RegisterA.DividerReset;

    private long GuestTicks => _halted != 0 ? _halted : Bounded(_host.GetUtcNow().Ticks, _offset);

    private DateTime GuestTime => new(GuestTicks, DateTimeKind.Utc);

    /// <inheritdoc/>
    public byte ReadByte(ulong offset)
    {
        lock (_gate)
        {
            return offset == DataPort ? ReadRegister(_index & 0x7F) : (byte)0xFF; // the index port cannot be read
        }
    }

    /// <inheritdoc/>
    public void WriteByte(ulong offset, byte value)
    {
        lock (_gate)
        {
            if (offset == IndexPort)
            {
                _index = value;
            }
            else if (offset == DataPort)
            {
                WriteRegister(_index & 0x7F, value);
            }
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            _running = true;
            ArmPeriodic();
            ArmUpdate();
            UpdateInterrupt();
        }
    }

    /// <summary>Stops the timers and writes the CMOS file if its contents changed. A file that cannot be written is reported by <see cref="StoreFailure"/>.</summary>
    public void Stop()
    {
        lock (_gate)
        {
            _running = false;
            _periodicTimer.Cancel();
            _updateTimer.Cancel();
            FindFlags();
            UpdateInterrupt(); // what is saved has a flag with its interrupt, and with the alarm that others are told of
            Store();
        }
    }

    /// <summary>Why the CMOS file could not be written, or null.</summary>
    public string? StoreFailure { get; private set; }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_gate)
        {
            // RESET clears the interrupt enables, the flags and the square wave; time and RAM stay (data sheet, RESET pin).
            _cmos[RtcRegister.B] &= unchecked((byte)~(RegisterB.Interrupts | RegisterB.SquareWave));
            _flags = 0;
            _index = 0;
            HaltOrRun();
            DescribeMachine();
            MarkSeen();
            UpdateInterrupt();
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new RtcState { Cmos = [.. _cmos], OffsetTicks = _offset, HaltedTicks = _halted, Index = _index, Flags = _flags });
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        RtcState state = reader.Nested(1, new RtcState());
        lock (_gate)
        {
            state.Cmos.CopyTo(_cmos, 0);
            _offset = state.OffsetTicks;
            _halted = state.HaltedTicks;
            HaltOrRun();
            _index = state.Index;
            _flags = (byte)(state.Flags & (RegisterC.Periodic | RegisterC.Alarm | RegisterC.UpdateEnded));
            MarkSeen();
            _alarmed = (_flags & _cmos[RtcRegister.B] & RegisterB.AlarmInterrupt) != 0; // told of before it was saved
            UpdateInterrupt();
        }
    }

    private byte ReadRegister(int register)
    {
        switch (register)
        {
            case RtcRegister.A:
                return (byte)(_cmos[RtcRegister.A] | (UpdateInProgress() ? RegisterA.UpdateInProgress : 0));
            case RtcRegister.C:
                FindFlags();
                byte flags = (byte)(_flags | (InterruptRequested ? RegisterC.InterruptRequest : 0));
                _flags = 0;
                UpdateInterrupt();
                return flags;
            case RtcRegister.D:
                return RegisterD.ValidRamAndTime;
            default:
                if (IsTime(register))
                {
                    RefreshTime();
                }
                return _cmos[register];
        }
    }

    private void WriteRegister(int register, byte value)
    {
        switch (register)
        {
            case RtcRegister.A:
                FindFlags();
                RefreshTime();
                _cmos[RtcRegister.A] = (byte)(value & ~RegisterA.UpdateInProgress);
                _seenPeriod = CurrentPeriod();
                break;
            case RtcRegister.B:
                FindFlags();
                RefreshTime();
                _cmos[RtcRegister.B] = (value & RegisterB.Set) != 0 ? (byte)(value & ~RegisterB.UpdateEndedInterrupt) : value; // SET clears UIE
                break;
            case RtcRegister.C or RtcRegister.D:
                return;
            default:
                if (!IsTime(register))
                {
                    if (register is RtcRegister.SecondsAlarm or RtcRegister.MinutesAlarm or RtcRegister.HoursAlarm)
                    {
                        FindFlags(); // up to now the old alarm counts
                    }
                    _cmos[register] = value;
                    return;
                }
                FindFlags();
                RefreshTime();
                _cmos[register] = value;
                if (_halted == 0)
                {
                    long fraction = GuestTicks % TimeSpan.TicksPerSecond;
                    SetGuestTicks(RtcCalendar.Decode(_cmos, _cmos[RtcRegister.B]).Ticks + fraction);
                }
                return;
        }
        HaltOrRun();
        ArmPeriodic();
        ArmUpdate();
        UpdateInterrupt();
    }

    private static bool IsTime(int register) => register is RtcRegister.Seconds or RtcRegister.Minutes or RtcRegister.Hours
        or RtcRegister.DayOfWeek or RtcRegister.DayOfMonth or RtcRegister.Month or RtcRegister.Year or RtcRegister.Century;

    private static long Bounded(long ticks, long offset)
    {
        long sum = unchecked(ticks + offset);
        bool overflows = ((ticks ^ sum) & (offset ^ sum)) < 0;
        return Math.Clamp(!overflows ? sum : offset < 0 ? long.MinValue : long.MaxValue, TimeSpan.TicksPerDay, DateTime.MaxValue.Ticks - TimeSpan.TicksPerDay);
    }

    private void RefreshTime()
    {
        if (_halted == 0)
        {
            RtcCalendar.Encode(GuestTime, _cmos[RtcRegister.B], _cmos);
        }
    }

    private void SetGuestTicks(long ticks)
    {
        _offset = ticks - _host.GetUtcNow().Ticks;
        _seenSecond = ticks / TimeSpan.TicksPerSecond;
    }

    /// <summary>Follows SET and the divider: on halt the bytes keep still and can be written, on release time goes on from them.</summary>
    private void HaltOrRun()
    {
        if (Halts && _halted == 0)
        {
            RefreshTime();
            _halted = GuestTicks;
        }
        else if (!Halts && _halted != 0)
        {
            _halted = 0;
            SetGuestTicks(RtcCalendar.Decode(_cmos, _cmos[RtcRegister.B]).Ticks);
        }
    }

    private bool UpdateInProgress() => _halted == 0 && GuestTicks % TimeSpan.TicksPerSecond >= TimeSpan.TicksPerSecond - s_updateTicks;

    private void MarkSeen()
    {
        _seenSecond = GuestTicks / TimeSpan.TicksPerSecond;
        _seenPeriod = CurrentPeriod();
    }

    /// <summary>Length of the periodic interrupt's period in 1/32768 s (data sheet, table 3), 0 for none.</summary>
    private long Period()
    {
        int rate = _cmos[RtcRegister.A] & RegisterA.RateMask;
        return rate switch { 0 => 0, 1 => 1L << 7, 2 => 1L << 8, _ => 1L << (rate - 1) };
    }

    private long CurrentPeriod()
    {
        long period = Period();
        return period == 0 ? 0 : TickScale.Truncated(_timers.Clock.Now, BaseFrequency, 1_000_000_000) / period;
    }

    /// <summary>Sets the flags of all that happened since the last look.</summary>
    private void FindFlags()
    {
        long period = CurrentPeriod();
        if (period != _seenPeriod)
        {
            _seenPeriod = period;
            _flags |= RegisterC.Periodic;
        }
        if (_halted != 0)
        {
            return;
        }
        long second = GuestTicks / TimeSpan.TicksPerSecond;
        if (second == _seenSecond)
        {
            return;
        }
        if (second > _seenSecond)
        {
            _flags |= RegisterC.UpdateEnded;
            for (long s = Math.Max(_seenSecond + 1, second - MaximumCatchUp); s <= second && (_flags & RegisterC.Alarm) == 0; s++)
            {
                if (RtcCalendar.AlarmMatches(new DateTime(s * TimeSpan.TicksPerSecond, DateTimeKind.Utc), _cmos, _cmos[RtcRegister.B]))
                {
                    _flags |= RegisterC.Alarm;
                }
            }
        }
        _seenSecond = second;
    }

    private bool InterruptRequested => (_flags & _cmos[RtcRegister.B] & RegisterB.Interrupts) != 0;

    private void UpdateInterrupt()
    {
        bool alarm = (_flags & _cmos[RtcRegister.B] & RegisterB.AlarmInterrupt) != 0;
        if (alarm && !_alarmed)
        {
            AlarmRaised?.Invoke();
        }
        _alarmed = alarm;
        _line.Set(InterruptRequested);
    }

    private void ArmPeriodic()
    {
        long period = Period();
        if (!_running || period == 0 || (_cmos[RtcRegister.B] & RegisterB.PeriodicInterrupt) == 0)
        {
            _periodicTimer.Cancel();
            return;
        }
        ulong next = (ulong)((CurrentPeriod() + 1) * period);
        _periodicTimer.Arm((long)Math.Min(TickScale.Ceiling(next, 1_000_000_000, BaseFrequency), long.MaxValue));
    }

    private void ArmUpdate()
    {
        if (!_running || _halted != 0 || (_cmos[RtcRegister.B] & (RegisterB.UpdateEndedInterrupt | RegisterB.AlarmInterrupt)) == 0)
        {
            _updateTimer.Cancel();
            return;
        }
        long left = TimeSpan.TicksPerSecond - (GuestTicks % TimeSpan.TicksPerSecond);
        _updateTimer.Arm(_timers.Clock.Now + (left * 100));
    }

    private void PeriodElapsed()
    {
        lock (_gate)
        {
            FindFlags();
            ArmPeriodic();
            UpdateInterrupt();
        }
    }

    private void SecondElapsed()
    {
        lock (_gate)
        {
            FindFlags();
            ArmUpdate();
            UpdateInterrupt();
        }
    }

    /// <summary>Tells the machine's size in the CMOS bytes where PC firmware tells it.</summary>
    private void DescribeMachine()
    {
        const ulong KiB = 1024, MiB = 1 << 20;
        ulong low = _configuration.LowMemorySize;
        SetWord(RtcRegister.BaseMemoryLow, 640);
        SetWord(RtcRegister.ExtendedMemoryLow, (low - MiB) / KiB);
        SetWord(RtcRegister.ExtendedMemoryCopyLow, (low - MiB) / KiB);
        SetWord(RtcRegister.MemoryAbove16MiBLow, low > 16 * MiB ? (low - (16 * MiB)) / (64 * KiB) : 0);
        ulong high = Math.Min((_configuration.MemorySize - low) / (64 * KiB), 0xFF_FFFF);
        _cmos[RtcRegister.MemoryAbove4GiBLow] = (byte)high;
        _cmos[RtcRegister.MemoryAbove4GiBLow + 1] = (byte)(high >> 8);
        _cmos[RtcRegister.MemoryAbove4GiBLow + 2] = (byte)(high >> 16);
        _cmos[RtcRegister.ProcessorsLessOne] = (byte)(_configuration.ProcessorCount - 1);
        _cmos[RtcRegister.Equipment] = 0x06; // FPU and PS/2 mouse, no diskette

        void SetWord(int register, ulong value)
        {
            ushort word = (ushort)Math.Min(value, 0xFFFF);
            _cmos[register] = (byte)word;
            _cmos[register + 1] = (byte)(word >> 8);
        }
    }

    private void Store()
    {
        // The time bytes of a running clock change all the time and say nothing that the offset does not: they are written as a constant.
        if (_configuration.CmosPath is not { } path)
        {
            return;
        }
        byte[] contents = [.. _cmos];
        if (_halted == 0)
        {
            RtcCalendar.Encode(DateTime.UnixEpoch, contents[RtcRegister.B], contents);
        }
        if (_stored is not null && _storedOffset == _offset && contents.AsSpan().SequenceEqual(_stored))
        {
            return;
        }
        try
        {
            CmosFile.Store(path, contents, _offset);
            _stored = contents;
            _storedOffset = _offset;
            StoreFailure = null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            StoreFailure = e.Message;
        }
    }
}
