using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>A virtual machine's file descriptor (api.rst, section 4, "vm ioctl"). Thread-safe as the kernel is.</summary>
internal sealed unsafe class KvmVirtualMachine : IDisposable
{
    private readonly KvmSystem _system;
    private int _fd;

    internal KvmVirtualMachine(KvmSystem system, int fd)
    {
        _system = system;
        _fd = fd;
    }

    /// <summary>Value of a capability on this virtual machine, 0 when it is missing (4.4).</summary>
    public int Check(KvmCapability capability) => Math.Max(0, Libc.ioctl(_fd, KvmIoctl.KVM_CHECK_EXTENSION, (nuint)(uint)capability));

    /// <summary>Enables a capability (4.37).</summary>
    /// <exception cref="KvmException">The kernel refused.</exception>
    public void Enable(KvmCapability capability, ulong argument0 = 0, ulong argument1 = 0)
    {
        if (!TryEnable(capability, argument0, argument1))
        {
            throw new KvmException($"{nameof(KvmIoctl.KVM_ENABLE_CAP)} {capability}", Marshal.GetLastPInvokeError());
        }
    }

    /// <summary>Enables a capability (4.37). False when the kernel refused.</summary>
    public bool TryEnable(KvmCapability capability, ulong argument0 = 0, ulong argument1 = 0)
    {
        KvmEnableCap cap = default;
        cap.Capability = (uint)capability;
        cap.Arguments[0] = argument0;
        cap.Arguments[1] = argument1;
        return Libc.ioctl(_fd, KvmIoctl.KVM_ENABLE_CAP, &cap) >= 0;
    }

    /// <summary>Creates a processor (4.7), whose number is also its APIC ID.</summary>
    /// <exception cref="KvmException">The kernel refused.</exception>
    public KvmProcessorHandle CreateProcessor(int number)
    {
        int fd = Call(KvmIoctl.KVM_CREATE_VCPU, (nuint)number, nameof(KvmIoctl.KVM_CREATE_VCPU));
        return new KvmProcessorHandle(fd, _system.RunSize);
    }

    /// <summary>Where the kernel may put its three-page task state segment (4.25), which some Intel processors need for real mode.</summary>
    public void SetTssAddress(ulong address) => Call(KvmIoctl.KVM_SET_TSS_ADDR, (nuint)address, nameof(KvmIoctl.KVM_SET_TSS_ADDR));

    /// <summary>Where the kernel may put its one-page identity map (4.27). Before the first processor.</summary>
    public void SetIdentityMapAddress(ulong address) => Call(KvmIoctl.KVM_SET_IDENTITY_MAP_ADDR, &address, nameof(KvmIoctl.KVM_SET_IDENTITY_MAP_ADDR));

    /// <summary>Creates, changes or (size 0) deletes a memory slot (4.35).</summary>
    public void SetMemoryRegion(in KvmMemoryRegion region)
    {
        fixed (KvmMemoryRegion* p = &region)
        {
            Call(KvmIoctl.KVM_SET_USER_MEMORY_REGION, p, nameof(KvmIoctl.KVM_SET_USER_MEMORY_REGION));
        }
    }

    /// <summary>Fetches a slot's dirty bitmap, a bit for each page, 64-bit granular (4.8).</summary>
    public void GetDirtyLog(uint slot, Span<ulong> bitmap)
    {
        fixed (ulong* p = bitmap)
        {
            KvmDirtyLog log = new() { Slot = slot, Bitmap = p };
            Call(KvmIoctl.KVM_GET_DIRTY_LOG, &log, nameof(KvmIoctl.KVM_GET_DIRTY_LOG));
        }
    }

    /// <summary>Write-protects the pages whose bits are set, so that writes to them are logged again (4.117); needs <see cref="KvmCapability.ManualDirtyLogProtect2"/>.</summary>
    public void ClearDirtyLog(uint slot, ulong firstPage, uint pages, ReadOnlySpan<ulong> bitmap)
    {
        fixed (ulong* p = bitmap)
        {
            KvmClearDirtyLog log = new() { Slot = slot, FirstPage = firstPage, Pages = pages, Bitmap = p };
            Call(KvmIoctl.KVM_CLEAR_DIRTY_LOG, &log, nameof(KvmIoctl.KVM_CLEAR_DIRTY_LOG));
        }
    }

    /// <summary>Takes back the entries of all dirty rings that were marked as collected (8.29). Returns their number.</summary>
    public int ResetDirtyRings() => Call(KvmIoctl.KVM_RESET_DIRTY_RINGS, (nuint)0, nameof(KvmIoctl.KVM_RESET_DIRTY_RINGS));

    /// <summary>Replaces the interrupt routing table (4.52).</summary>
    public void SetRoutes(ReadOnlySpan<KvmMessageRoute> routes)
    {
        byte[] area = new byte[8 + (routes.Length * sizeof(KvmMessageRoute))];
        fixed (byte* p = area)
        {
            *(int*)p = routes.Length;
            routes.CopyTo(new Span<KvmMessageRoute>(p + 8, routes.Length));
            Call(KvmIoctl.KVM_SET_GSI_ROUTING, p, nameof(KvmIoctl.KVM_SET_GSI_ROUTING));
        }
    }

    /// <summary>Delivers a message (4.70). True when a processor took it.</summary>
    public bool SignalMessage(ulong address, uint data)
    {
        KvmMsi msi = new() { AddressLow = (uint)address, AddressHigh = (uint)(address >> 32), Data = data };
        return Libc.ioctl(_fd, KvmIoctl.KVM_SIGNAL_MSI, &msi) > 0;
    }

    /// <summary>Binds an eventfd to an interrupt route or unbinds it (4.75).</summary>
    public void SetIrqfd(int eventDescriptor, uint gsi, bool assign)
    {
        KvmIrqfd irqfd = new() { EventDescriptor = (uint)eventDescriptor, Gsi = gsi, Flags = assign ? 0 : KvmIrqfd.Deassign };
        Call(KvmIoctl.KVM_IRQFD, &irqfd, nameof(KvmIoctl.KVM_IRQFD));
    }

    /// <summary>Binds an eventfd to guest writes or unbinds it (4.59).</summary>
    public void SetIoeventfd(in KvmIoeventfd binding)
    {
        fixed (KvmIoeventfd* p = &binding)
        {
            Call(KvmIoctl.KVM_IOEVENTFD, p, nameof(KvmIoctl.KVM_IOEVENTFD));
        }
    }

    /// <summary>kvmclock's time in nanoseconds, with the time base where the kernel knows it (4.29).</summary>
    public KvmClockData GetClock()
    {
        KvmClockData data;
        Call(KvmIoctl.KVM_GET_CLOCK, &data, nameof(KvmIoctl.KVM_GET_CLOCK));
        return data;
    }

    /// <summary>Sets kvmclock's time in nanoseconds (4.30).</summary>
    public void SetClock(ulong nanoseconds)
    {
        KvmClockData data = new() { Clock = nanoseconds };
        Call(KvmIoctl.KVM_SET_CLOCK, &data, nameof(KvmIoctl.KVM_SET_CLOCK));
    }

    /// <summary>Sets which MSR accesses go to the kernel: ranges, at most 16, and the default for all others (4.97).</summary>
    /// <param name="allowByDefault">Whether the kernel handles accesses outside of the ranges.</param>
    /// <param name="ranges">The ranges; their bitmaps must be pinned.</param>
    public void SetMsrFilter(bool allowByDefault, ReadOnlySpan<KvmMsrFilterRange> ranges)
    {
        const int Places = 16, DefaultDeny = 1;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(ranges.Length, Places);
        byte* area = stackalloc byte[8 + (Places * sizeof(KvmMsrFilterRange))];
        new Span<byte>(area, 8 + (Places * sizeof(KvmMsrFilterRange))).Clear();
        *(int*)area = allowByDefault ? 0 : DefaultDeny;
        ranges.CopyTo(new Span<KvmMsrFilterRange>(area + 8, Places));
        Call(KvmIoctl.KVM_X86_SET_MSR_FILTER, area, nameof(KvmIoctl.KVM_X86_SET_MSR_FILTER));
    }

    /// <summary>TSC frequency in kHz that new processors get (4.55 on a virtual machine); needs <see cref="KvmCapability.VmTscControl"/>. False when refused.</summary>
    public bool TrySetTscKhz(uint kilohertz) => Libc.ioctl(_fd, KvmIoctl.KVM_SET_TSC_KHZ, (nuint)kilohertz) == 0;

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Libc.close(_fd);
            _fd = -1;
        }
    }

    private int Call(uint request, nuint argument, string name) =>
        Libc.ioctl(_fd, request, argument) is var result and >= 0 ? result : throw new KvmException(name, Marshal.GetLastPInvokeError());

    private int Call(uint request, void* argument, string name) => Call(request, (nuint)argument, name);
}
