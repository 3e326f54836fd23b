using Lodge.Engine.Time;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Interrupts;

/// <summary>
/// Local APIC, xAPIC and x2APIC with TSC deadline (Intel SDM vol. 3, chapter 11). Registers are accessed on the vCPU's thread; messages are
/// accepted on any thread. This file: modes and IA32_APIC_BASE.
/// </summary>
internal sealed partial class LocalApic
{
    private readonly Vcpu _vcpu;
    private readonly TranslationPartition _partition;
    private readonly uint[] _lvt = new uint[Lvt.Count];
    private ulong _base;
    private uint _taskPriority, _logicalDestination, _destinationFormat, _spurious, _interruptCommandLow, _interruptCommandHigh, _errorStatus;
    private uint _errors; // collected since the last write to ESR; any thread

    /// <summary>Creates the APIC of a processor, which must already have its place in the partition, in the reset state.</summary>
    internal LocalApic(Vcpu vcpu, TranslationPartition partition, TimerService timers)
    {
        _vcpu = vcpu;
        _partition = partition;
        ApicId = (uint)Math.Max(0, Array.IndexOf(partition.Vcpus, vcpu));
        _timers = timers;
        _timer = timers.Create(TimerExpired);
        Reset();
    }

    /// <summary>Guest physical address of the register page while enabled in xAPIC mode, else <see cref="ulong.MaxValue"/>. Read on every device access.</summary>
    internal ulong MemoryBase;

    /// <summary>APIC ID: the processor's index. It cannot be changed by the guest.</summary>
    internal uint ApicId { get; }

    /// <summary>IA32_APIC_BASE.EN.</summary>
    internal bool Enabled => (_base & ApicMsr.GlobalEnable) != 0;

    private bool X2Apic => (_base & ApicMsr.X2Apic) != 0;

    private bool SoftwareEnabled => (Volatile.Read(ref _spurious) & SpuriousEnable) != 0;

    private const uint SpuriousEnable = 1 << 8;

    /// <summary>Puts the APIC in its power-on state.</summary>
    internal void Reset()
    {
        _base = ApicMsr.DefaultAddress | ApicMsr.GlobalEnable | (ApicId == 0 ? ApicMsr.Bootstrap : 0);
        ResetRegisters();
        _nmiPending = 0;
        _initPending = 0;
        _startUpVector = NoStartUp;
        _externalMessage = 0;
        _paravirtualEoi = 0;
        _paravirtualEoiPending = false;
        UpdateMemoryBase();
    }

    // What power-on, INIT and disabling have in common (11.4.7). The bootstrap processor starts in virtual wire mode, as firmware would leave it: LINT0
    // passes the 8259's requests, LINT1 is NMI.
    private void ResetRegisters()
    {
        StopTimer();
        for (int i = 0; i < 8; i++)
        {
            Volatile.Write(ref _irr[i], 0);
            Volatile.Write(ref _tmr[i], 0);
            Volatile.Write(ref _isr[i], 0);
        }
        _taskPriority = 0;
        _logicalDestination = 0;
        _destinationFormat = uint.MaxValue;
        _spurious = 0xFF;
        _interruptCommandLow = _interruptCommandHigh = 0;
        _errorStatus = _errors = 0;
        Array.Fill(_lvt, Lvt.Masked);
        if (ApicId == 0)
        {
            _lvt[Lvt.Lint0] = (uint)DeliveryMode.External << 8;
            _lvt[Lvt.Lint1] = (uint)DeliveryMode.Nmi << 8;
        }
        _initialCount = 0;
        _divideConfiguration = 0;
    }

    private void UpdateMemoryBase() =>
        MemoryBase = Enabled && !X2Apic ? _base & ~0xFFFUL : ulong.MaxValue;

    // Transitions of figure 11-27: disabled <-> xAPIC -> x2APIC -> disabled.
    private bool TryWriteBase(ulong value)
    {
        ulong physicalMask = (1UL << _vcpu.Model.PhysicalBits) - 1;
        const ulong Modes = ApicMsr.GlobalEnable | ApicMsr.X2Apic;
        if ((value & ~(ApicMsr.Bootstrap | Modes | (physicalMask & ~0xFFFUL))) != 0)
        {
            return false;
        }
        ulong from = _base & Modes, to = value & Modes;
        bool legal = from == to || (from, to) is (0, ApicMsr.GlobalEnable) or (ApicMsr.GlobalEnable, 0) or (ApicMsr.GlobalEnable, Modes) or (Modes, 0);
        if (!legal)
        {
            return false;
        }
        _base = value;
        if (from != to)
        {
            if (to == 0)
            {
                ResetRegisters();
            }
            else if (to == Modes)
            {
                _interruptCommandHigh = 0;
            }
        }
        UpdateMemoryBase();
        return true;
    }

    /// <summary>Reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register (0x800-0x8FF). False: #GP.</summary>
    internal bool TryReadMsr(uint index, out ulong value)
    {
        value = 0;
        switch (index)
        {
            case ApicMsr.Base:
                value = _base;
                return true;
            case ApicMsr.TscDeadline:
                value = TscDeadline;
                return true;
            case >= ApicMsr.X2ApicFirst and <= ApicMsr.X2ApicLast when X2Apic:
                return TryReadX2(index, out value);
            default:
                return false;
        }
    }

    /// <summary>Writes one of the registers of <see cref="TryReadMsr"/>. False: #GP.</summary>
    internal bool TryWriteMsr(uint index, ulong value)
    {
        switch (index)
        {
            case ApicMsr.Base:
                return TryWriteBase(value);
            case ApicMsr.TscDeadline:
                TscDeadline = value;
                return true;
            case >= ApicMsr.X2ApicFirst and <= ApicMsr.X2ApicLast when X2Apic:
                return TryWriteX2(index, value);
            default:
                return false;
        }
    }
}
