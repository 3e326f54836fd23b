using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>struct kvm_userspace_memory_region (api.rst, 4.35).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMemoryRegion
{
    /// <summary>Bits of <see cref="Flags"/>.</summary>
    public const uint LogDirtyPages = 1, ReadOnly = 2;

    public uint Slot, Flags;
    public ulong GuestAddress, Size, HostAddress;
}

/// <summary>struct kvm_dirty_log (api.rst, 4.8).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDirtyLog
{
    public uint Slot, Padding;
    public ulong* Bitmap;
}

/// <summary>struct kvm_clear_dirty_log (api.rst, 4.117).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmClearDirtyLog
{
    public uint Slot, Pages;
    public ulong FirstPage;
    public ulong* Bitmap;
}

/// <summary>struct kvm_dirty_gfn, an entry of a dirty ring (api.rst, 8.29).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmDirtyGfn
{
    /// <summary>Bits of <see cref="Flags"/>.</summary>
    public const uint Dirty = 1, Reset = 2;

    public uint Flags, Slot;
    public ulong Offset;
}

/// <summary>struct kvm_irqfd (api.rst, 4.75).</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal struct KvmIrqfd
{
    /// <summary>Bits of <see cref="Flags"/>.</summary>
    public const uint Deassign = 1, Resample = 2;

    [FieldOffset(0)] public uint EventDescriptor;
    [FieldOffset(4)] public uint Gsi;
    [FieldOffset(8)] public uint Flags;
    [FieldOffset(12)] public uint ResampleDescriptor;
}

/// <summary>struct kvm_ioeventfd (api.rst, 4.59).</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct KvmIoeventfd
{
    /// <summary>Bits of <see cref="Flags"/>.</summary>
    public const uint DataMatchFlag = 1, Port = 2, Deassign = 4;

    [FieldOffset(0)] public ulong DataMatch;
    [FieldOffset(8)] public ulong Address;
    [FieldOffset(16)] public uint Length;
    [FieldOffset(20)] public int EventDescriptor;
    [FieldOffset(24)] public uint Flags;
}

/// <summary>struct kvm_msi (api.rst, 4.70).</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal struct KvmMsi
{
    [FieldOffset(0)] public uint AddressLow;
    [FieldOffset(4)] public uint AddressHigh;
    [FieldOffset(8)] public uint Data;
    [FieldOffset(12)] public uint Flags;
}

/// <summary>struct kvm_irq_routing_entry for a message (api.rst, 4.52).</summary>
[StructLayout(LayoutKind.Explicit, Size = 48)]
internal struct KvmMessageRoute
{
    /// <summary>KVM_IRQ_ROUTING_MSI, the <see cref="Type"/> of every entry here.</summary>
    public const uint Msi = 2;

    [FieldOffset(0)] public uint Gsi;
    [FieldOffset(4)] public uint Type;
    [FieldOffset(8)] public uint Flags;
    [FieldOffset(16)] public uint AddressLow;
    [FieldOffset(20)] public uint AddressHigh;
    [FieldOffset(24)] public uint Data;
}

/// <summary>struct kvm_enable_cap (api.rst, 4.37).</summary>
[StructLayout(LayoutKind.Explicit, Size = 104)]
internal unsafe struct KvmEnableCap
{
    [FieldOffset(0)] public uint Capability;
    [FieldOffset(4)] public uint Flags;
    [FieldOffset(8)] public fixed ulong Arguments[4];
}

/// <summary>struct kvm_clock_data (api.rst, 4.29 and 4.30).</summary>
[StructLayout(LayoutKind.Explicit, Size = 48)]
internal struct KvmClockData
{
    /// <summary>Bits of <see cref="Flags"/>.</summary>
    public const uint TscStable = 2, Realtime = 4, HostTsc = 8;

    [FieldOffset(0)] public ulong Clock;
    [FieldOffset(8)] public uint Flags;
    [FieldOffset(16)] public ulong RealtimeNanoseconds;
    [FieldOffset(24)] public ulong HostTimestamp;
}

/// <summary>struct kvm_msr_filter_range (api.rst, 4.97).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmMsrFilterRange
{
    /// <summary>Bits of <see cref="Flags"/>: what the bitmap decides.</summary>
    public const uint Read = 1, Write = 2;

    public uint Flags, Count, First, Padding;

    /// <summary>A bit for each MSR: 1 allows the access, 0 denies it.</summary>
    public byte* Bitmap;
}

/// <summary>struct kvm_device_attr (api.rst, 4.80).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDeviceAttribute
{
    public uint Flags, Group;
    public ulong Attribute;
    public void* Value;
}
