using System.Numerics;
using System.Runtime.CompilerServices;
using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm;

// Entering the guest, its exits, and how other threads make it leave.
//
// Kicks: who wants something sets its flag, then ImmediateExit, then signals the thread. The loop clears ImmediateExit only before it looks at the flags, so a
// flag is either seen or has set ImmediateExit again, with which KVM_RUN returns at once. KVM_RUN with ImmediateExit first completes the access that it last
// exited for, so a stopped processor is always between two instructions.
internal sealed unsafe partial class KvmProcessor
{
    private readonly Lock _kickGate = new();
    private int _stop, _attention, _lint1;
    private int _thread;          // guarded by _kickGate
    private int _managedThread;

    /// <inheritdoc/>
    public override void Stop()
    {
        Interlocked.Exchange(ref _stop, 1);
        Kick();
    }

    /// <summary>Has the processor look at what is pending outside of its local APIC. Any thread.</summary>
    internal void Attend()
    {
        Interlocked.Exchange(ref _attention, 1);
        Kick();
    }

    /// <summary>LINT1 was asserted. Any thread; the processor's own acts on it.</summary>
    internal void RaiseLint1()
    {
        Interlocked.Exchange(ref _lint1, 1);
        Attend();
    }

    private void Kick()
    {
        lock (_kickGate)
        {
            if (_handle.Run == null)
            {
                return;
            }
            Volatile.Write(ref _handle.Run->ImmediateExit, 1);
            if (_thread != 0 && _managedThread != Environment.CurrentManagedThreadId)
            {
                KickSignal.Send(_thread);
            }
        }
    }

    /// <inheritdoc/>
    public override ProcessorExit Run()
    {
        lock (_kickGate)
        {
            _thread = Libc.gettid();
            _managedThread = Environment.CurrentManagedThreadId;
        }
        try
        {
            return Loop();
        }
        catch (Exception failure) when (failure is not OutOfMemoryException)
        {
            FailureReason = failure is KvmException ? failure.Message : failure.ToString();
            return ProcessorExit.Failed;
        }
        finally
        {
            lock (_kickGate)
            {
                _thread = 0;
            }
        }
    }

    /// <summary>Whether a thread is in <see cref="Run"/>.</summary>
    internal bool Running
    {
        get
        {
            lock (_kickGate)
            {
                return _thread != 0;
            }
        }
    }

    private ProcessorExit Loop()
    {
        KvmRun* run = _handle.Run;
        IMachineBus bus = _partition.Options.Bus;
        delegate* unmanaged<int, nuint, nuint, int> ioctl = Libc.Ioctl;
        int descriptor = _handle.Descriptor;
        if (_partition.ExternalAsserted)
        {
            // A halted processor never comes out to say that it is ready: ask without entering the guest.
            run->ImmediateExit = 1;
            _handle.Enter();
        }
        if (TakeStop(run))
        {
            return ProcessorExit.Stopped;
        }
        if (StopsBeforeFirst())
        {
            return ProcessorExit.Debug;
        }
        ServeEvents(run);
        while (true)
        {
            if (ioctl(descriptor, KvmIoctl.KVM_RUN, 0) < 0)
            {
                int error = System.Runtime.InteropServices.Marshal.GetLastSystemError();
                if (error is not (Libc.EINTR or Libc.EAGAIN))
                {
                    FailureReason = new KvmException(nameof(KvmIoctl.KVM_RUN), error).Message;
                    return ProcessorExit.Failed;
                }
                _kicks++;
                if (TakeStop(run))
                {
                    return ProcessorExit.Stopped;
                }
                ServeEvents(run);
                continue;
            }
            switch (run->ExitReason)
            {
                case KvmExit.Io:
                    _portExits++;
                    PortAccess(run, bus);
                    break;
                case KvmExit.Mmio:
                    _memoryExits++;
                    MemoryAccess(run, bus);
                    break;
                default:
                    if (OtherExit(run) is { } exit)
                    {
                        return exit;
                    }
                    break;
            }
        }
    }

    private bool TakeStop(KvmRun* run)
    {
        Volatile.Write(ref run->ImmediateExit, 0);
        return Interlocked.Exchange(ref _stop, 0) != 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void PortAccess(KvmRun* run, IMachineBus bus)
    {
        byte* data = (byte*)run + run->IoDataOffset;
        int size = run->IoSize;
        ushort port = run->IoPort;
        if (run->IoDirection != 0)
        {
            for (uint count = run->IoCount; count != 0; count--, data += size)
            {
                bus.WritePort(port, new ReadOnlySpan<byte>(data, size));
            }
        }
        else
        {
            for (uint count = run->IoCount; count != 0; count--, data += size)
            {
                bus.ReadPort(port, new Span<byte>(data, size));
            }
        }
    }

    private static void MemoryAccess(KvmRun* run, IMachineBus bus)
    {
        ulong address = run->MmioAddress;
        int length = (int)Math.Min(run->MmioLength, 8);
        bool write = run->MmioIsWrite != 0;
        var data = new Span<byte>(run->MmioData, length);
        if (!BitOperations.IsPow2(length))
        {
            MemoryPieces(bus, address, data, write);
        }
        else if (write)
        {
            bus.WriteMemory(address, data);
        }
        else
        {
            bus.ReadMemory(address, data);
        }
    }

    // What crosses a page comes in two parts, which may have 3, 5, 6 or 7 bytes: the bus takes powers of two.
    private static void MemoryPieces(IMachineBus bus, ulong address, Span<byte> data, bool write)
    {
        while (!data.IsEmpty)
        {
            int piece = 1 << BitOperations.Log2((uint)data.Length);
            if (write)
            {
                bus.WriteMemory(address, data[..piece]);
            }
            else
            {
                bus.ReadMemory(address, data[..piece]);
            }
            data = data[piece..];
            address += (ulong)piece;
        }
    }

    // What is pending for this processor outside of its local APIC.
    private void ServeEvents(KvmRun* run)
    {
        Interlocked.Exchange(ref _attention, 0);
        ServeNmi();
        if (_partition.ExternalAsserted && run->ReadyForInterruptInjection != 0)
        {
            run->ReadyForInterruptInjection = 0; // until the kernel says so again
            if (_partition.ExternalInterrupts is { } source)
            {
                _externalInterrupts++;
                _handle.TryInterrupt(source.Acknowledge());
            }
        }
        run->RequestInterruptWindow = _partition.ExternalAsserted ? (byte)1 : (byte)0;
    }

    private void ServeNmi()
    {
        if (Volatile.Read(ref _lint1) == 0 || Interlocked.Exchange(ref _lint1, 0) == 0)
        {
            return;
        }
        const int Lint1 = 0x360;
        const ulong ApicEnable = 1 << 11;
        const uint Masked = 1 << 16, Mode = 0x700, ModeNmi = 0x400, ModeFixed = 0;
        Span<byte> apic = stackalloc byte[1024];
        _handle.GetLocalApic(apic);
        uint entry = BitConverter.ToUInt32(apic[Lint1..]);
        if ((_handle.SpecialRegisters.ApicBase & ApicEnable) == 0 || (entry & (Masked | Mode)) == ModeNmi)
        {
            _handle.QueueNmi(); // Intel SDM vol. 3, 11.4.3: with the APIC off the pin is NMI
        }
        else if ((entry & (Masked | Mode)) == ModeFixed)
        {
            _partition.SignalMessage(0xFEE0_0000 | ((ulong)Index << 12), entry & 0xFF);
        }
    }
}
