using System.Numerics;

namespace Lodge.Engine.Translation.Interrupts;

// Acceptance, priority, dispatch and end of interrupts (11.8).
internal sealed partial class LocalApic
{
    private const int NoStartUp = -1;
    private readonly uint[] _irr = new uint[8], _isr = new uint[8], _tmr = new uint[8];
    private int _nmiPending, _initPending, _startUpVector = NoStartUp, _externalMessage;

    /// <summary>Processor priority (11.8.3.1). Exact on the vCPU's thread, a good guess for arbitration elsewhere.</summary>
    internal uint ProcessorPriority
    {
        get
        {
            uint service = (uint)Math.Max(0, Highest(_isr));
            return (_taskPriority & 0xF0) >= (service & 0xF0) ? _taskPriority : service & 0xF0;
        }
    }

    private static int Highest(uint[] bits)
    {
        for (int i = 7; i >= 0; i--)
        {
            uint word = Volatile.Read(ref bits[i]);
            if (word != 0)
            {
                return (i * 32) + BitOperations.Log2(word);
            }
        }
        return -1;
    }

    /// <summary>Whether this APIC takes a fixed or lowest priority message at all.</summary>
    internal bool AcceptsFixed => Enabled && SoftwareEnabled;

    /// <summary>Whether a destination (not the broadcast one) names this APIC.</summary>
    internal bool Matches(uint destination, bool logical)
    {
        if (!logical)
        {
            return destination == ApicId;
        }
        if (X2Apic)
        {
            uint id = X2LogicalId;
            return destination >> 16 == id >> 16 && (destination & id & 0xFFFF) != 0;
        }
        uint own = _logicalDestination >> 24;
        if (destination > 0xFF)
        {
            return false;
        }
        return _destinationFormat >> 28 == 0xF
            ? (own & destination) != 0
            : own >> 4 == destination >> 4 && (own & destination & 15) != 0;
    }

    // 11.12.10.2.
    private uint X2LogicalId => ((ApicId >> 4) << 16) | (1u << (int)(ApicId & 15));

    /// <summary>A message arrives. Any thread.</summary>
    internal void Deliver(in InterruptMessage message)
    {
        if (!Enabled)
        {
            return;
        }
        switch (message.Mode)
        {
            case DeliveryMode.Fixed or DeliveryMode.LowestPriority:
                Accept(message.Vector, message.Level);
                break;
            case DeliveryMode.Nmi:
                SignalNmi();
                break;
            case DeliveryMode.Init:
                Interlocked.Exchange(ref _startUpVector, NoStartUp);
                Interlocked.Exchange(ref _initPending, 1);
                _vcpu.NotifyInterrupt();
                break;
            case DeliveryMode.StartUp:
                Interlocked.Exchange(ref _startUpVector, message.Vector);
                _vcpu.NotifyInterrupt();
                break;
            case DeliveryMode.External:
                Interlocked.Exchange(ref _externalMessage, 1);
                _vcpu.NotifyInterrupt();
                break;
        }
    }

    private void Accept(byte vector, bool level)
    {
        if (!AcceptsFixed)
        {
            return;
        }
        if (vector < 16)
        {
            ReportError(ApicErrors.ReceiveIllegalVector);
            return;
        }
        uint bit = 1u << (vector & 31);
        if (level)
        {
            Interlocked.Or(ref _tmr[vector >> 5], bit);
        }
        else
        {
            Interlocked.And(ref _tmr[vector >> 5], ~bit);
        }
        Interlocked.Or(ref _irr[vector >> 5], bit);
        _vcpu.NotifyInterrupt();
    }

    private void SignalNmi()
    {
        Interlocked.Exchange(ref _nmiPending, 1);
        _vcpu.NotifyInterrupt();
    }

    /// <summary>The 8259's output, wired to LINT0, became asserted. Any thread.</summary>
    internal void RaiseLint0()
    {
        uint entry = Volatile.Read(ref _lvt[Lvt.Lint0]);
        if (!Enabled)
        {
            // 11.4.3: the pins are INTR and NMI then.
            _vcpu.NotifyInterrupt();
        }
        else if ((entry & Lvt.Masked) == 0)
        {
            RaiseLocal(entry);
        }
    }

    /// <summary>LINT1 was asserted. Any thread.</summary>
    internal void RaiseLint1()
    {
        uint entry = Volatile.Read(ref _lvt[Lvt.Lint1]);
        if (!Enabled)
        {
            SignalNmi();
        }
        else if ((entry & Lvt.Masked) == 0)
        {
            RaiseLocal(entry);
        }
    }

    private void RaiseLocal(uint entry)
    {
        switch ((DeliveryMode)((entry & Lvt.DeliveryMode) >> 8))
        {
            case DeliveryMode.Fixed:
                // Edge-like whatever the trigger bit says: the 8259 holds its request until it is acknowledged, which a fixed vector does not do.
                Accept((byte)entry, level: false);
                break;
            case DeliveryMode.Nmi:
                SignalNmi();
                break;
            case DeliveryMode.External:
                _vcpu.NotifyInterrupt();
                break;
        }
    }

    // An 8259 request that this processor must acknowledge: by message, or by the level of LINT0 in ExtINT mode.
    private bool ExternalRequested => Volatile.Read(ref _externalMessage) != 0
        || (_partition.ExternalInterruptAsserted && (!Enabled || (_lvt[Lvt.Lint0] & (Lvt.Masked | Lvt.DeliveryMode)) == (uint)DeliveryMode.External << 8));

    /// <summary>Takes a pending INIT and puts the APIC in the state that it leaves (11.4.7.1). vCPU thread, like all Take members.</summary>
    internal bool TryTakeInit()
    {
        if (Volatile.Read(ref _initPending) == 0 || Interlocked.Exchange(ref _initPending, 0) == 0)
        {
            return false;
        }
        _paravirtualEoi = 0;
        _paravirtualEoiPending = false;
        ResetRegisters();
        return true;
    }

    /// <summary>Takes a pending start-up message; the caller drops it unless the processor waits for one.</summary>
    internal bool TryTakeSipi(out byte vector)
    {
        int pending = Volatile.Read(ref _startUpVector) == NoStartUp ? NoStartUp : Interlocked.Exchange(ref _startUpVector, NoStartUp);
        vector = (byte)pending;
        return pending != NoStartUp;
    }

    /// <summary>Takes a pending NMI.</summary>
    internal bool TryTakeNmi() => Volatile.Read(ref _nmiPending) != 0 && Interlocked.Exchange(ref _nmiPending, 0) != 0;

    /// <summary>Whether an NMI waits (for NMIs to be unblocked).</summary>
    internal bool HasNmi => Volatile.Read(ref _nmiPending) != 0;

    /// <summary>Whether an interrupt can be taken once IF allows: an 8259 request, or a vector above the processor priority. vCPU thread.</summary>
    internal bool HasInterrupt() => ExternalRequested || Deliverable() >= 0;

    private int Deliverable()
    {
        int vector = AcceptsFixed ? Highest(_irr) : -1;
        if (vector < 0)
        {
            return -1;
        }
        CompleteParavirtualEoi();
        return (vector & 0xF0) > (ProcessorPriority & 0xF0) ? vector : -1;
    }

    /// <summary>Takes the interrupt of the highest priority: acknowledges the 8259, or moves a vector from IRR to ISR.</summary>
    internal bool TryTakeInterrupt(out byte vector)
    {
        if (ExternalRequested && _partition.ExternalInterrupts is { } controller)
        {
            Interlocked.Exchange(ref _externalMessage, 0);
            vector = controller.Acknowledge();
            return true;
        }
        int highest = Deliverable();
        vector = (byte)highest;
        if (highest < 0)
        {
            return false;
        }
        uint bit = 1u << (vector & 31);
        Interlocked.And(ref _irr[vector >> 5], ~bit);
        _isr[vector >> 5] |= bit;
        OfferParavirtualEoi(vector);
        return true;
    }

    private void EndOfInterrupt()
    {
        CompleteParavirtualEoi();
        FinishHighest();
    }

    private void FinishHighest()
    {
        int vector = Highest(_isr);
        if (vector < 0)
        {
            return;
        }
        uint bit = 1u << (vector & 31);
        _isr[vector >> 5] &= ~bit;
        if ((Volatile.Read(ref _tmr[vector >> 5]) & bit) != 0)
        {
            _partition.EndOfInterruptListener?.EndOfInterrupt((byte)vector);
        }
        Reconsider();
    }

    // Something that held interrupts back changed.
    private void Reconsider()
    {
        if (HasInterrupt())
        {
            _vcpu.NotifyInterrupt();
        }
    }
}
