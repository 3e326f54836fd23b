using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>struct kvm_run, the page shared with the kernel (api.rst, section 5). The members past offset 32 are a union by <see cref="ExitReason"/>.</summary>
[StructLayout(LayoutKind.Explicit, Size = 2352)]
internal unsafe struct KvmRun
{
    /// <summary>In: exit as soon as an external interrupt can be injected.</summary>
    [FieldOffset(0)] public byte RequestInterruptWindow;

    /// <summary>In: KVM_RUN completes what is pending and returns EINTR without entering the guest.</summary>
    [FieldOffset(1)] public byte ImmediateExit;

    [FieldOffset(8)] public KvmExit ExitReason;
    [FieldOffset(12)] public byte ReadyForInterruptInjection;
    [FieldOffset(13)] public byte InterruptFlag;

    /// <summary>KVM_RUN_X86_SMM = 1, KVM_RUN_X86_BUS_LOCK = 2.</summary>
    [FieldOffset(14)] public ushort Flags;

    [FieldOffset(16)] public ulong Cr8;
    [FieldOffset(24)] public ulong ApicBase;

    // KVM_EXIT_IO: data at DataOffset from the start of this structure, Count times Size bytes.
    [FieldOffset(32)] public byte IoDirection;
    [FieldOffset(33)] public byte IoSize;
    [FieldOffset(34)] public ushort IoPort;
    [FieldOffset(36)] public uint IoCount;
    [FieldOffset(40)] public ulong IoDataOffset;

    // KVM_EXIT_MMIO.
    [FieldOffset(32)] public ulong MmioAddress;
    [FieldOffset(40)] public fixed byte MmioData[8];
    [FieldOffset(48)] public uint MmioLength;
    [FieldOffset(52)] public byte MmioIsWrite;

    // KVM_EXIT_UNKNOWN and KVM_EXIT_FAIL_ENTRY.
    [FieldOffset(32)] public ulong HardwareReason;
    [FieldOffset(40)] public uint HardwareProcessor;

    // KVM_EXIT_INTERNAL_ERROR; the first data is flags for suberror 1 (emulation), which say whether the instruction's bytes follow.
    [FieldOffset(32)] public uint InternalSuberror;
    [FieldOffset(36)] public uint InternalDataCount;
    [FieldOffset(40)] public fixed ulong InternalData[16];
    [FieldOffset(48)] public byte InstructionLength;
    [FieldOffset(49)] public fixed byte InstructionBytes[15];

    // KVM_EXIT_DEBUG.
    [FieldOffset(32)] public KvmDebugExit Debug;

    // KVM_EXIT_SYSTEM_EVENT.
    [FieldOffset(32)] public uint SystemEventType;
    [FieldOffset(36)] public uint SystemEventDataCount;
    [FieldOffset(40)] public fixed ulong SystemEventData[16];

    // KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR.
    [FieldOffset(32)] public byte MsrError;
    [FieldOffset(40)] public uint MsrReason;
    [FieldOffset(44)] public uint MsrIndex;
    [FieldOffset(48)] public ulong MsrData;

    // KVM_EXIT_IOAPIC_EOI.
    [FieldOffset(32)] public byte EoiVector;

    // KVM_EXIT_HYPERCALL.
    [FieldOffset(32)] public ulong HypercallNumber;
    [FieldOffset(40)] public fixed ulong HypercallArguments[6];
    [FieldOffset(88)] public ulong HypercallResult;

    // KVM_EXIT_HYPERV: 1 SynIC, 2 hypercall, 3 debugger.
    [FieldOffset(32)] public uint HyperVType;
    [FieldOffset(48)] public ulong HyperVHypercallResult;

    // KVM_EXIT_MEMORY_FAULT.
    [FieldOffset(32)] public ulong MemoryFaultFlags;
    [FieldOffset(40)] public ulong MemoryFaultAddress;
    [FieldOffset(48)] public ulong MemoryFaultSize;

    /// <summary>Register sets to store at <see cref="SyncRegisters"/> on every exit: 1 regs, 2 sregs, 4 events (KVM_CAP_SYNC_REGS).</summary>
    [FieldOffset(288)] public ulong ValidRegisters;

    /// <summary>Register sets to load from <see cref="SyncRegisters"/> on entry.</summary>
    [FieldOffset(296)] public ulong DirtyRegisters;

    [FieldOffset(304)] public KvmRegs SyncRegisters;
    [FieldOffset(448)] public KvmSregs SyncSpecialRegisters;
    [FieldOffset(760)] public KvmVcpuEvents SyncEvents;
}

/// <summary>struct kvm_debug_exit_arch (api.rst, 5, KVM_EXIT_DEBUG).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmDebugExit
{
    /// <summary>1 for #DB, 3 for #BP.</summary>
    public uint Exception;
    public uint Padding;
    public ulong ProgramCounter;
    public ulong Dr6;
    public ulong Dr7;
}
