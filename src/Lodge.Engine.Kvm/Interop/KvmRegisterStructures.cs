using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>struct kvm_regs (api.rst, 4.11).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmRegs
{
    public ulong Rax, Rbx, Rcx, Rdx, Rsi, Rdi, Rsp, Rbp, R8, R9, R10, R11, R12, R13, R14, R15, Rip, Rflags;
}

/// <summary>struct kvm_segment (api.rst, 4.13).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmSegment
{
    public ulong Base;
    public uint Limit;
    public ushort Selector;
    public byte Type, Present, Dpl, Db, S, L, G, Avl, Unusable, Padding;
}

/// <summary>struct kvm_dtable (api.rst, 4.13).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmDtable
{
    public ulong Base;
    public ushort Limit;
    public ushort Padding0, Padding1, Padding2;
}

/// <summary>struct kvm_sregs (api.rst, 4.13).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmSregs
{
    public KvmSegment Cs, Ds, Es, Fs, Gs, Ss, Tr, Ldt;
    public KvmDtable Gdt, Idt;
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8, Efer, ApicBase;

    /// <summary>At most one bit: the external interrupt that is acknowledged but not delivered.</summary>
    public fixed ulong InterruptBitmap[4];
}

/// <summary>struct kvm_sregs2 (api.rst, 4.132): without the interrupt bitmap, with the PDPTEs.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmSregs2
{
    /// <summary>KVM_SREGS2_FLAGS_PDPTRS_VALID.</summary>
    public const ulong PdptesValid = 1;

    public KvmSegment Cs, Ds, Es, Fs, Gs, Ss, Tr, Ldt;
    public KvmDtable Gdt, Idt;
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8, Efer, ApicBase;
    public ulong Flags;
    public fixed ulong Pdptes[4];
}

/// <summary>struct kvm_fpu (api.rst, 4.22).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmFpu
{
    public fixed byte Fpr[128];
    public ushort Fcw, Fsw;
    public byte Ftwx, Padding1;
    public ushort LastOpcode;
    public ulong LastIp, LastDp;
    public fixed byte Xmm[256];
    public uint Mxcsr, Padding2;
}

/// <summary>struct kvm_xcr (api.rst, 4.44).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmXcr
{
    public uint Register, Reserved;
    public ulong Value;
}

/// <summary>The 16 registers of <see cref="KvmXcrs"/>.</summary>
[InlineArray(16)]
internal struct KvmXcrArray
{
    public KvmXcr First;
}

/// <summary>struct kvm_xcrs (api.rst, 4.44).</summary>
[StructLayout(LayoutKind.Explicit, Size = 392)]
internal struct KvmXcrs
{
    [FieldOffset(0)] public uint Count;
    [FieldOffset(4)] public uint Flags;
    [FieldOffset(8)] public KvmXcrArray Registers;
}

/// <summary>struct kvm_debugregs (api.rst, 4.34).</summary>
[StructLayout(LayoutKind.Explicit, Size = 128)]
internal unsafe struct KvmDebugRegs
{
    [FieldOffset(0)] public fixed ulong Addresses[4];
    [FieldOffset(32)] public ulong Dr6;
    [FieldOffset(40)] public ulong Dr7;
    [FieldOffset(48)] public ulong Flags;
}

/// <summary>struct kvm_vcpu_events (api.rst, 4.31).</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct KvmVcpuEvents
{
    /// <summary>Bits of <see cref="Flags"/>: which members are valid.</summary>
    public const uint NmiPendingValid = 1, SipiVectorValid = 2, ShadowValid = 4, SmmValid = 8, PayloadValid = 16, TripleFaultValid = 32;

    /// <summary>Values of <see cref="InterruptShadow"/>.</summary>
    public const byte ShadowMovSs = 1, ShadowSti = 2;

    [FieldOffset(0)] public byte ExceptionInjected;
    [FieldOffset(1)] public byte ExceptionNumber;
    [FieldOffset(2)] public byte ExceptionHasErrorCode;
    [FieldOffset(3)] public byte ExceptionPending;
    [FieldOffset(4)] public uint ExceptionErrorCode;
    [FieldOffset(8)] public byte InterruptInjected;
    [FieldOffset(9)] public byte InterruptNumber;
    [FieldOffset(10)] public byte InterruptSoft;
    [FieldOffset(11)] public byte InterruptShadow;
    [FieldOffset(12)] public byte NmiInjected;
    [FieldOffset(13)] public byte NmiPending;
    [FieldOffset(14)] public byte NmiMasked;
    [FieldOffset(16)] public uint SipiVector;
    [FieldOffset(20)] public uint Flags;
    [FieldOffset(24)] public byte Smm;
    [FieldOffset(25)] public byte SmmPending;
    [FieldOffset(26)] public byte SmmInsideNmi;
    [FieldOffset(27)] public byte LatchedInit;
    [FieldOffset(28)] public byte TripleFaultPending;
    [FieldOffset(55)] public byte ExceptionHasPayload;
    [FieldOffset(56)] public ulong ExceptionPayload;
}

/// <summary>Values of struct kvm_mp_state (api.rst, 4.38).</summary>
internal enum KvmMpState : uint
{
    Runnable = 0, Uninitialized = 1, InitReceived = 2, Halted = 3, SipiReceived = 4,
}

/// <summary>struct kvm_msr_entry (api.rst, 4.18).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMsrEntry
{
    public uint Index, Reserved;
    public ulong Value;
}

/// <summary>struct kvm_cpuid_entry2 (api.rst, 4.20).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmCpuidEntry
{
    /// <summary>Bit of <see cref="Flags"/>: ECX is an index.</summary>
    public const uint SignificantIndex = 1;

    public uint Function, Index, Flags, Eax, Ebx, Ecx, Edx, Padding0, Padding1, Padding2;
}

/// <summary>struct kvm_translation (api.rst, 4.15).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmTranslation
{
    public ulong Linear, Physical;
    public byte Valid, Writable, UserMode, Padding0;
    public uint Padding1;
}

/// <summary>struct kvm_guest_debug (api.rst, 4.87).</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal unsafe struct KvmGuestDebug
{
    /// <summary>Bits of <see cref="Control"/>.</summary>
    public const uint Enable = 1, SingleStep = 2, UseSoftwareBreakpoints = 0x10000, UseHardwareBreakpoints = 0x20000, BlockInterrupts = 0x100000;

    [FieldOffset(0)] public uint Control;

    /// <summary>DR0 to DR7.</summary>
    [FieldOffset(8)] public fixed ulong DebugRegisters[8];
}
