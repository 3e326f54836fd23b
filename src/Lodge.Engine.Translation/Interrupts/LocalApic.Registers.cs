namespace Lodge.Engine.Translation.Interrupts;

// Register access by memory (xAPIC) and by MSR (x2APIC).
internal sealed partial class LocalApic
{
    // Integrated APIC, six entries in the local vector table, no suppression of EOI broadcasts.
    private const uint VersionValue = 0x14 | ((Lvt.Count - 1) << 16);
    private const uint SpuriousWritable = 0x3FF, DivideWritable = 0xB;
    private const uint CommandWritable = 0xFF | (7 << 8) | (1 << 11) | (1 << 14) | (1 << 15) | (3 << 18);

    /// <summary>CR8: bits 7-4 of the task priority register.</summary>
    internal byte TaskPriority
    {
        get => (byte)(_taskPriority >> 4);
        set => WriteTaskPriority((uint)(value & 15) << 4);
    }

    /// <summary>Reads 32 bits at an offset (0-0xFFF) in the xAPIC page. Registers are at multiples of 16; between them reads zero.</summary>
    internal uint ReadMemory(uint offset)
    {
        if ((offset & 0xF) >= 4)
        {
            return 0;
        }
        uint register = offset & 0xFF0, value = 0;
        switch (register)
        {
            case ApicRegister.Id:
                value = ApicId << 24;
                break;
            case ApicRegister.LogicalDestination:
                value = _logicalDestination;
                break;
            case ApicRegister.DestinationFormat:
                value = _destinationFormat;
                break;
            case ApicRegister.InterruptCommandHigh:
                value = _interruptCommandHigh;
                break;
            case ApicRegister.ArbitrationPriority or ApicRegister.RemoteRead or ApicRegister.EndOfInterrupt:
                break;
            default:
                if (!TryReadRegister(register, out value))
                {
                    ReportError(ApicErrors.IllegalRegister);
                }
                break;
        }
        return value >> (int)((offset & 3) * 8);
    }

    /// <summary>Writes 32 bits at an offset (a multiple of 16) in the xAPIC page; read-only registers ignore it.</summary>
    internal void WriteMemory(uint offset, uint value)
    {
        switch (offset)
        {
            case ApicRegister.Id or ApicRegister.Version or ApicRegister.ArbitrationPriority or ApicRegister.ProcessorPriority or ApicRegister.RemoteRead or ApicRegister.CurrentCount
                or (>= ApicRegister.InService and < ApicRegister.ErrorStatus):
                break;
            case ApicRegister.LogicalDestination:
                _logicalDestination = value & 0xFF00_0000;
                break;
            case ApicRegister.DestinationFormat:
                _destinationFormat = value | 0x0FFF_FFFF;
                break;
            case ApicRegister.EndOfInterrupt:
                EndOfInterrupt();
                break;
            case ApicRegister.InterruptCommandHigh:
                _interruptCommandHigh = value & 0xFF00_0000;
                break;
            case ApicRegister.InterruptCommandLow:
                _interruptCommandLow = value & CommandWritable;
                SendCommand(_interruptCommandHigh >> 24, broadcast: 0xFF);
                break;
            default:
                if (!TryWriteRegister(offset, value) && (offset & 0xF) == 0)
                {
                    ReportError(ApicErrors.IllegalRegister);
                }
                break;
        }
    }

    private bool TryReadX2(uint index, out ulong value)
    {
        uint register = (index - ApicMsr.X2ApicFirst) << 4;
        switch (register)
        {
            case ApicRegister.Id:
                value = ApicId;
                return true;
            case ApicRegister.LogicalDestination:
                value = X2LogicalId;
                return true;
            case ApicRegister.InterruptCommandLow:
                value = ((ulong)_interruptCommandHigh << 32) | _interruptCommandLow;
                return true;
            default:
                bool known = TryReadRegister(register, out uint low);
                value = low;
                return known;
        }
    }

    private bool TryWriteX2(uint index, ulong value)
    {
        uint register = (index - ApicMsr.X2ApicFirst) << 4;
        if (register == ApicRegister.InterruptCommandLow)
        {
            // Bit 12, delivery status, is read-only and always idle.
            if (((uint)value & ~(CommandWritable | (1u << 12))) != 0)
            {
                return false;
            }
            _interruptCommandLow = (uint)value & CommandWritable;
            _interruptCommandHigh = (uint)(value >> 32);
            SendCommand(_interruptCommandHigh, broadcast: uint.MaxValue);
            return true;
        }
        uint low = (uint)value;
        if (low != value || (low & X2Reserved(register)) != 0)
        {
            return false;
        }
        switch (register)
        {
            case ApicRegister.EndOfInterrupt:
                EndOfInterrupt();
                return true;
            case ApicRegister.SelfIpi:
                Accept((byte)low, level: false);
                return true;
            case ApicRegister.ErrorStatus:
                return low == 0 && TryWriteRegister(register, low);
            default:
                return TryWriteRegister(register, low);
        }
    }

    // Bits whose setting by WRMSR is #GP; delivery status and remote IRR of the vector table are read-only, not reserved.
    private static uint X2Reserved(uint register) => register switch
    {
        ApicRegister.TaskPriority or ApicRegister.SelfIpi => ~0xFFu,
        ApicRegister.EndOfInterrupt or ApicRegister.ErrorStatus => uint.MaxValue,
        ApicRegister.SpuriousInterrupt => ~SpuriousWritable,
        ApicRegister.DivideConfiguration => ~DivideWritable,
        >= ApicRegister.LocalVectorTable and < ApicRegister.InitialCount => ~(Lvt.Writable(LvtIndex(register)) | (1u << 12) | (1u << 14)),
        _ => 0,
    };

    private static int LvtIndex(uint register) => (int)(register - ApicRegister.LocalVectorTable) >> 4;

    // Registers that are the same in both modes.
    private bool TryReadRegister(uint register, out uint value)
    {
        switch (register)
        {
            case ApicRegister.Version:
                value = VersionValue;
                return true;
            case ApicRegister.TaskPriority:
                value = _taskPriority;
                return true;
            case ApicRegister.ProcessorPriority:
                CompleteParavirtualEoi();
                value = ProcessorPriority;
                return true;
            case ApicRegister.SpuriousInterrupt:
                value = _spurious;
                return true;
            case >= ApicRegister.InService and < ApicRegister.TriggerMode:
                CompleteParavirtualEoi();
                value = _isr[(register - ApicRegister.InService) >> 4];
                return true;
            case >= ApicRegister.TriggerMode and < ApicRegister.InterruptRequest:
                value = _tmr[(register - ApicRegister.TriggerMode) >> 4];
                return true;
            case >= ApicRegister.InterruptRequest and < ApicRegister.ErrorStatus:
                value = Volatile.Read(ref _irr[(register - ApicRegister.InterruptRequest) >> 4]);
                return true;
            case ApicRegister.ErrorStatus:
                value = _errorStatus;
                return true;
            case ApicRegister.InterruptCommandLow:
                value = _interruptCommandLow;
                return true;
            case >= ApicRegister.LocalVectorTable and < ApicRegister.InitialCount:
                value = _lvt[LvtIndex(register)];
                return true;
            case ApicRegister.InitialCount:
                value = _initialCount;
                return true;
            case ApicRegister.CurrentCount:
                value = CurrentCount;
                return true;
            case ApicRegister.DivideConfiguration:
                value = _divideConfiguration;
                return true;
            default:
                value = 0;
                return false;
        }
    }

    private bool TryWriteRegister(uint register, uint value)
    {
        switch (register)
        {
            case ApicRegister.TaskPriority:
                WriteTaskPriority(value & 0xFF);
                return true;
            case ApicRegister.SpuriousInterrupt:
                WriteSpurious(value & SpuriousWritable);
                return true;
            case ApicRegister.ErrorStatus:
                _errorStatus = Interlocked.Exchange(ref _errors, 0);
                return true;
            case 0x320 or 0x330 or 0x340 or 0x350 or 0x360 or 0x370:
                WriteLvt(LvtIndex(register), value);
                return true;
            case ApicRegister.InitialCount:
                WriteInitialCount(value);
                return true;
            case ApicRegister.DivideConfiguration:
                WriteDivideConfiguration(value & DivideWritable);
                return true;
            default:
                return false;
        }
    }

    private void WriteTaskPriority(uint value)
    {
        bool lowered = value < _taskPriority;
        _taskPriority = value;
        if (lowered)
        {
            Reconsider();
        }
    }

    private void WriteSpurious(uint value)
    {
        bool disabled = SoftwareEnabled && (value & SpuriousEnable) == 0;
        Volatile.Write(ref _spurious, value);
        if (disabled)
        {
            // 11.4.7.2: all entries of the vector table become masked and stay so.
            for (int i = 0; i < Lvt.Count; i++)
            {
                _lvt[i] |= Lvt.Masked;
            }
        }
        Reconsider();
    }

    private void WriteLvt(int entry, uint value)
    {
        value &= Lvt.Writable(entry);
        if (!SoftwareEnabled)
        {
            value |= Lvt.Masked;
        }
        uint old = _lvt[entry];
        Volatile.Write(ref _lvt[entry], value);
        if (entry == Lvt.Timer && ((old ^ value) & Lvt.TimerMode) != 0)
        {
            TimerModeChanged(old);
        }
        if (entry == Lvt.Lint0)
        {
            Reconsider();
        }
    }

    private void ReportError(ApicErrors error)
    {
        Interlocked.Or(ref _errors, (uint)error);
        uint entry = Volatile.Read(ref _lvt[Lvt.Error]);

        // An error vector that is itself illegal is recorded, not delivered, or it would report itself for ever.
        if ((entry & Lvt.Masked) == 0 && (entry & Lvt.Vector) >= 16)
        {
            Accept((byte)entry, level: false);
        }
    }
}
