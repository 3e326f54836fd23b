using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>An open /dev/kvm (api.rst, section 4, "system ioctl").</summary>
internal sealed unsafe class KvmSystem : IDisposable
{
    /// <summary>The device.</summary>
    public const string DevicePath = "/dev/kvm";

    private const int ApiVersion = 12;
    private int _fd;

    /// <summary>Opens the device and checks KVM's API version.</summary>
    /// <exception cref="KvmException">The device cannot be opened or is of another API version.</exception>
    public KvmSystem()
    {
        _fd = Libc.open(DevicePath, Libc.O_RDWR | Libc.O_CLOEXEC);
        if (_fd < 0)
        {
            throw new KvmException($"open {DevicePath}", Marshal.GetLastPInvokeError());
        }
        int version = Call(KvmIoctl.KVM_GET_API_VERSION, 0, nameof(KvmIoctl.KVM_GET_API_VERSION));
        if (version != ApiVersion)
        {
            Dispose();
            throw new KvmException($"{DevicePath} speaks API version {version}, not {ApiVersion}");
        }
        RunSize = (nuint)Call(KvmIoctl.KVM_GET_VCPU_MMAP_SIZE, 0, nameof(KvmIoctl.KVM_GET_VCPU_MMAP_SIZE));
    }

    /// <summary>Bytes of a processor's shared area: <see cref="KvmRun"/>, I/O data, rings.</summary>
    public nuint RunSize { get; }

    /// <summary>Value of a capability, 0 when it is missing (4.4).</summary>
    public int Check(KvmCapability capability) => Math.Max(0, Libc.ioctl(_fd, KvmIoctl.KVM_CHECK_EXTENSION, (nuint)(uint)capability));

    /// <summary>Creates a virtual machine (4.2).</summary>
    /// <exception cref="KvmException">The kernel refused.</exception>
    public KvmVirtualMachine CreateVirtualMachine()
    {
        int fd;
        do
        {
            fd = Libc.ioctl(_fd, KvmIoctl.KVM_CREATE_VM, (nuint)0);
        }
        while (fd < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR);
        return fd >= 0 ? new KvmVirtualMachine(this, fd) : throw new KvmException(nameof(KvmIoctl.KVM_CREATE_VM), Marshal.GetLastPInvokeError());
    }

    /// <summary>CPUID that the kernel can offer to guests (4.46).</summary>
    public KvmCpuidEntry[] GetSupportedCpuid() => GetCpuid(KvmIoctl.KVM_GET_SUPPORTED_CPUID, nameof(KvmIoctl.KVM_GET_SUPPORTED_CPUID));

    /// <summary>CPUID of Hyper-V's leaves that the kernel can offer (4.118); needs <see cref="KvmCapability.SystemHyperVCpuid"/>.</summary>
    public KvmCpuidEntry[] GetSupportedHyperVCpuid() => GetCpuid(KvmIoctl.KVM_GET_SUPPORTED_HV_CPUID, nameof(KvmIoctl.KVM_GET_SUPPORTED_HV_CPUID));

    /// <summary>MSRs that belong to a processor's saved state (4.3).</summary>
    public uint[] GetMsrIndexList() => GetIndexList(KvmIoctl.KVM_GET_MSR_INDEX_LIST, nameof(KvmIoctl.KVM_GET_MSR_INDEX_LIST));

    /// <summary>MSRs that tell features of the host (4.3); read them with <see cref="TryGetFeatureMsr"/>.</summary>
    public uint[] GetFeatureMsrIndexList() => GetIndexList(KvmIoctl.KVM_GET_MSR_FEATURE_INDEX_LIST, nameof(KvmIoctl.KVM_GET_MSR_FEATURE_INDEX_LIST));

    /// <summary>Reads a feature MSR (4.18 on the system). False when the kernel has none such.</summary>
    public bool TryGetFeatureMsr(uint index, out ulong value)
    {
        ulong* area = stackalloc ulong[3];
        area[0] = 1;
        area[1] = index;
        bool read = Libc.ioctl(_fd, KvmIoctl.KVM_GET_MSRS, area) == 1;
        value = read ? area[2] : 0;
        return read;
    }

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

    private KvmCpuidEntry[] GetCpuid(uint request, string name)
    {
        for (int capacity = 128; capacity <= 4096; capacity *= 2)
        {
            byte[] area = new byte[8 + (capacity * sizeof(KvmCpuidEntry))];
            fixed (byte* p = area)
            {
                *(int*)p = capacity;
                if (Libc.ioctl(_fd, request, p) == 0)
                {
                    return new ReadOnlySpan<KvmCpuidEntry>(p + 8, *(int*)p).ToArray();
                }
            }
            if (Marshal.GetLastPInvokeError() != Libc.E2BIG)
            {
                break;
            }
        }
        throw new KvmException(name, Marshal.GetLastPInvokeError());
    }

    private uint[] GetIndexList(uint request, string name)
    {
        uint[] area = new uint[1];
        for (int attempt = 0; attempt < 3; attempt++)
        {
            fixed (uint* p = area)
            {
                area[0] = (uint)(area.Length - 1);
                if (Libc.ioctl(_fd, request, p) == 0)
                {
                    return area.AsSpan(1, (int)area[0]).ToArray();
                }
            }
            if (Marshal.GetLastPInvokeError() != Libc.E2BIG)
            {
                break;
            }
            area = new uint[area[0] + 1];
        }
        throw new KvmException(name, Marshal.GetLastPInvokeError());
    }
}
