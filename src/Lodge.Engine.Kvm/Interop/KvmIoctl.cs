namespace Lodge.Engine.Kvm.Interop;

/// <summary>Request numbers of KVM's ioctls on x86-64 (Linux Documentation/virt/kvm/api.rst, section 4, under the same names; numbers of linux/kvm.h).</summary>
internal static class KvmIoctl
{
    // On /dev/kvm.
    public const uint KVM_GET_API_VERSION = 0xAE00;
    public const uint KVM_CREATE_VM = 0xAE01;
    public const uint KVM_GET_MSR_INDEX_LIST = 0xC004_AE02;
    public const uint KVM_CHECK_EXTENSION = 0xAE03;
    public const uint KVM_GET_VCPU_MMAP_SIZE = 0xAE04;
    public const uint KVM_GET_SUPPORTED_CPUID = 0xC008_AE05;
    public const uint KVM_GET_EMULATED_CPUID = 0xC008_AE09;
    public const uint KVM_GET_MSR_FEATURE_INDEX_LIST = 0xC004_AE0A;
    public const uint KVM_GET_SUPPORTED_HV_CPUID = 0xC008_AEC1;

    // On a virtual machine.
    public const uint KVM_CREATE_VCPU = 0xAE41;
    public const uint KVM_GET_DIRTY_LOG = 0x4010_AE42;
    public const uint KVM_SET_USER_MEMORY_REGION = 0x4020_AE46;
    public const uint KVM_SET_TSS_ADDR = 0xAE47;
    public const uint KVM_SET_IDENTITY_MAP_ADDR = 0x4008_AE48;
    public const uint KVM_SET_GSI_ROUTING = 0x4008_AE6A;
    public const uint KVM_IRQFD = 0x4020_AE76;
    public const uint KVM_SET_BOOT_CPU_ID = 0xAE78;
    public const uint KVM_IOEVENTFD = 0x4040_AE79;
    public const uint KVM_SET_CLOCK = 0x4030_AE7B;
    public const uint KVM_GET_CLOCK = 0x8030_AE7C;
    public const uint KVM_ENABLE_CAP = 0x4068_AEA3;
    public const uint KVM_SIGNAL_MSI = 0x4020_AEA5;
    public const uint KVM_CLEAR_DIRTY_LOG = 0xC018_AEC0;
    public const uint KVM_X86_SET_MSR_FILTER = 0x4188_AEC6;
    public const uint KVM_RESET_DIRTY_RINGS = 0xAEC7;

    // On a virtual processor (TSC_KHZ: on a virtual machine, too).
    public const uint KVM_RUN = 0xAE80;
    public const uint KVM_GET_REGS = 0x8090_AE81;
    public const uint KVM_SET_REGS = 0x4090_AE82;
    public const uint KVM_GET_SREGS = 0x8138_AE83;
    public const uint KVM_SET_SREGS = 0x4138_AE84;
    public const uint KVM_TRANSLATE = 0xC018_AE85;
    public const uint KVM_INTERRUPT = 0x4004_AE86;
    public const uint KVM_GET_MSRS = 0xC008_AE88;
    public const uint KVM_SET_MSRS = 0x4008_AE89;
    public const uint KVM_SET_SIGNAL_MASK = 0x4004_AE8B;
    public const uint KVM_GET_FPU = 0x81A0_AE8C;
    public const uint KVM_SET_FPU = 0x41A0_AE8D;
    public const uint KVM_GET_LAPIC = 0x8400_AE8E;
    public const uint KVM_SET_LAPIC = 0x4400_AE8F;
    public const uint KVM_SET_CPUID2 = 0x4008_AE90;
    public const uint KVM_GET_CPUID2 = 0xC008_AE91;
    public const uint KVM_GET_MP_STATE = 0x8004_AE98;
    public const uint KVM_SET_MP_STATE = 0x4004_AE99;
    public const uint KVM_NMI = 0xAE9A;
    public const uint KVM_SET_GUEST_DEBUG = 0x4048_AE9B;
    public const uint KVM_GET_VCPU_EVENTS = 0x8040_AE9F;
    public const uint KVM_SET_VCPU_EVENTS = 0x4040_AEA0;
    public const uint KVM_GET_DEBUGREGS = 0x8080_AEA1;
    public const uint KVM_SET_DEBUGREGS = 0x4080_AEA2;
    public const uint KVM_SET_TSC_KHZ = 0xAEA2;
    public const uint KVM_GET_TSC_KHZ = 0xAEA3;
    public const uint KVM_GET_XSAVE = 0x9000_AEA4;
    public const uint KVM_SET_XSAVE = 0x5000_AEA5;
    public const uint KVM_GET_XCRS = 0x8188_AEA6;
    public const uint KVM_SET_XCRS = 0x4188_AEA7;
    public const uint KVM_KVMCLOCK_CTRL = 0xAEAD;
    public const uint KVM_GET_NESTED_STATE = 0xC080_AEBE;
    public const uint KVM_SET_NESTED_STATE = 0x4080_AEBF;
    public const uint KVM_GET_SREGS2 = 0x8140_AECC;
    public const uint KVM_SET_SREGS2 = 0x4140_AECD;
    public const uint KVM_GET_XSAVE2 = 0x9000_AECF;

    // Device attributes: on a virtual processor the TSC offset (Documentation/virt/kvm/devices/vcpu.rst, 4).
    public const uint KVM_SET_DEVICE_ATTR = 0x4018_AEE1;
    public const uint KVM_GET_DEVICE_ATTR = 0x4018_AEE2;
    public const uint KVM_HAS_DEVICE_ATTR = 0x4018_AEE3;
}

/// <summary>Capabilities that KVM_CHECK_EXTENSION tells of (api.rst, sections 6 to 8; the value is the kernel's number).</summary>
internal enum KvmCapability
{
    Irqchip = 0, UserMemory = 3, SetTssAddress = 4, RecommendedProcessors = 9, MemorySlots = 10, MpState = 14, SyncMmu = 16, UserNmi = 22, SetGuestDebug = 23,
    IrqRouting = 25, Irqfd = 32, SetBootCpuId = 34, Ioeventfd = 36, SetIdentityMapAddress = 37, AdjustClock = 39, VcpuEvents = 41, HyperV = 44, HyperVVapic = 45,
    InterruptShadow = 49, DebugRegisters = 50, Xsave = 55, Xcrs = 56, AsyncPageFault = 59, TscControl = 60, GetTscKhz = 61, MaximumProcessors = 66,
    TscDeadlineTimer = 72, SyncRegisters = 74, KvmClockControl = 76, SignalMsi = 77, ReadOnlyMemory = 81, IrqfdResample = 82, EnableCapVm = 98,
    IoeventfdNoLength = 100, CheckExtensionVm = 105, DisableQuirks = 116, Smm = 117, SplitIrqchip = 121, IoeventfdAnyLength = 122, HyperVSynic = 123,
    MaximumProcessorId = 128, X2ApicApi = 129, ImmediateExit = 136, DisableExits = 143, HyperVSynic2 = 148, HyperVVpIndex = 149, GetMsrFeatures = 153,
    HyperVTlbFlush = 155, NestedState = 157, HyperVSendIpi = 161, HyperVEnlightenedVmcs = 163, ExceptionPayload = 164, HyperVCpuid = 167,
    ManualDirtyLogProtect2 = 168, PmuEventFilter = 173, HaltPoll = 182, StealTime = 187, UserSpaceMsr = 188, MsrFilter = 189, EnforcePvFeatureCpuid = 190,
    SystemHyperVCpuid = 191, DirtyLogRing = 192, BusLockExit = 193, SetGuestDebug2 = 195, HyperVEnforceCpuid = 199, Sregs2 = 200, ExitHypercall = 201,
    BinaryStatistics = 203, ExitOnEmulationFailure = 204, VmGpaBits = 207, Xsave2 = 208, SystemAttributes = 209, PmuCapability = 212, DisableQuirks2 = 213,
    VmTscControl = 214, TripleFaultEvent = 218, NotifyVmExit = 219, DirtyLogRingAcquireRelease = 223,
}

/// <summary>Why KVM_RUN returned (api.rst, section 5; the value is the kernel's number).</summary>
internal enum KvmExit : uint
{
    Unknown = 0, Exception = 1, Io = 2, Hypercall = 3, Debug = 4, Halt = 5, Mmio = 6, InterruptWindowOpen = 7, Shutdown = 8, FailEntry = 9, Interrupted = 10,
    SetTpr = 11, TprAccess = 12, Nmi = 16, InternalError = 17, SystemEvent = 24, IoApicEoi = 26, HyperV = 27, ReadMsr = 29, WriteMsr = 30, DirtyRingFull = 31,
    ApResetHold = 32, BusLock = 33, Xen = 34, Notify = 37, MemoryFault = 39,
}
