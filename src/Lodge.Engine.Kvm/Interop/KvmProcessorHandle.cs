using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>
/// A virtual processor's file descriptor and its mapped <see cref="KvmRun"/>. Calls other than <see cref="Enter"/> wait in the kernel while the processor runs.
/// </summary>
internal sealed unsafe partial class KvmProcessorHandle : IDisposable
{
    private readonly nuint _size;
    private int _fd;

    internal KvmProcessorHandle(int fd, nuint size)
    {
        _fd = fd;
        _size = size;
        void* area = Libc.mmap(null, size, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, fd, 0);
        if (area == Libc.MAP_FAILED)
        {
            int error = Marshal.GetLastPInvokeError();
            _ = Libc.close(fd);
            throw new KvmException("mmap of kvm_run", error);
        }
        Run = (KvmRun*)area;
    }

    /// <summary>The page shared with the kernel.</summary>
    public KvmRun* Run { get; private set; }

    /// <summary>The descriptor, for <see cref="Libc.Ioctl"/>.</summary>
    public int Descriptor => _fd;

    /// <summary>KVM_RUN (4.10). Returns 0, or the error number: EINTR after a signal or <see cref="KvmRun.ImmediateExit"/>.</summary>
    public int Enter() => Libc.Ioctl(_fd, KvmIoctl.KVM_RUN, 0) >= 0 ? 0 : Marshal.GetLastSystemError();

    /// <summary>
    /// Goes to the guest's door and back: KVM_RUN with a signal waiting, which the kernel sees before the first instruction and after what it does for a processor on its way in. An access that it last exited
    /// for is completed.
    /// </summary>
    public void EnterAndLeave()
    {
        // struct kvm_signal_mask (4.8): length, set; blocked during KVM_RUN is all but the one.
        byte* mask = stackalloc byte[12];
        *(uint*)mask = 8;
        *(ulong*)(mask + 4) = ~KickSignal.Bit;
        Call(KvmIoctl.KVM_SET_SIGNAL_MASK, mask, nameof(KvmIoctl.KVM_SET_SIGNAL_MASK));
        try
        {
            KickSignal.WhilePending(() => Enter());
        }
        finally
        {
            Call(KvmIoctl.KVM_SET_SIGNAL_MASK, null, nameof(KvmIoctl.KVM_SET_SIGNAL_MASK));
        }
    }

    /// <summary>The processor's dirty ring (8.29), <paramref name="bytes"/> long, 64 pages into the descriptor.</summary>
    public KvmDirtyGfn* MapDirtyRing(nuint bytes)
    {
        const long Offset = 64 * 4096; // KVM_DIRTY_LOG_PAGE_OFFSET
        void* ring = Libc.mmap(null, bytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, _fd, Offset);
        return ring != Libc.MAP_FAILED ? (KvmDirtyGfn*)ring : throw new KvmException("mmap of the dirty ring", Marshal.GetLastPInvokeError());
    }

    /// <summary>Undoes <see cref="MapDirtyRing"/>.</summary>
    public static void UnmapDirtyRing(KvmDirtyGfn* ring, nuint bytes) => _ = Libc.munmap(ring, bytes);

    /// <summary>Queues an external interrupt (4.16). False when one is queued already.</summary>
    public bool TryInterrupt(byte vector)
    {
        uint number = vector;
        return Libc.ioctl(_fd, KvmIoctl.KVM_INTERRUPT, &number) == 0;
    }

    /// <summary>Queues an NMI (4.64).</summary>
    public void QueueNmi() => Call(KvmIoctl.KVM_NMI, null, nameof(KvmIoctl.KVM_NMI));

    /// <summary>Sets the debugger's breakpoints and single step (4.87).</summary>
    public void SetGuestDebug(in KvmGuestDebug debug)
    {
        fixed (KvmGuestDebug* p = &debug)
        {
            Call(KvmIoctl.KVM_SET_GUEST_DEBUG, p, nameof(KvmIoctl.KVM_SET_GUEST_DEBUG));
        }
    }

    /// <summary>Translates a linear address with the processor's page tables (4.15).</summary>
    public KvmTranslation Translate(ulong linear)
    {
        KvmTranslation translation = new() { Linear = linear };
        Call(KvmIoctl.KVM_TRANSLATE, &translation, nameof(KvmIoctl.KVM_TRANSLATE));
        return translation;
    }

    /// <summary>Tells the guest's kvmclock that the machine was paused (4.72). False when the guest uses none.</summary>
    public bool TryNotePause() => Libc.ioctl(_fd, KvmIoctl.KVM_KVMCLOCK_CTRL, (nuint)0) == 0;

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Libc.munmap(Run, _size);
            _ = Libc.close(_fd);
            Run = null;
            _fd = -1;
        }
    }

    private int Call(uint request, void* argument, string name) =>
        Libc.ioctl(_fd, request, argument) is var result and >= 0 ? result : throw new KvmException(name, Marshal.GetLastPInvokeError());
}
