using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm.Interrupts;

/// <summary>
/// What messages to the local APICs pass through. It can be closed for the moment in which a local APIC's registers are read, changed and written back, so that
/// no message that arrives in between is overwritten.
/// </summary>
internal sealed class MessageGate(KvmVirtualMachine machine, RouteTable routes)
{
    private const uint LevelTrigger = 1 << 15;
    private readonly Lock _gate = new();
    private int _sending;
    private volatile bool _closed;

    /// <summary>Delivers a message; waits while the gate is closed, which is not long. Any thread.</summary>
    public void Send(ulong address, uint data)
    {
        if ((data & LevelTrigger) != 0)
        {
            routes.Learn(address, data);
        }
        Interlocked.Increment(ref _sending);
        if (_closed)
        {
            Interlocked.Decrement(ref _sending);
            lock (_gate) // until it is open
            {
                machine.SignalMessage(address, data);
            }
            return;
        }
        machine.SignalMessage(address, data);
        Interlocked.Decrement(ref _sending);
    }

    /// <summary>Runs something while no message reaches a local APIC.</summary>
    public void WhileClosed(Action change)
    {
        lock (_gate)
        {
            _closed = true;
            Interlocked.MemoryBarrier();
            var spin = new SpinWait();
            while (Volatile.Read(ref _sending) != 0)
            {
                spin.SpinOnce();
            }
            try
            {
                change();
            }
            finally
            {
                _closed = false;
            }
        }
    }
}
