using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

// Register sets. Each pair reads and writes one structure; KvmException names the call that the kernel refused.
internal sealed unsafe partial class KvmProcessorHandle
{
    private const uint TscControlGroup = 0, TscOffsetAttribute = 0;

    /// <summary>General registers (4.11 and 4.12).</summary>
    public KvmRegs Registers
    {
        get => Get<KvmRegs>(KvmIoctl.KVM_GET_REGS, nameof(KvmIoctl.KVM_GET_REGS));
        set => Call(KvmIoctl.KVM_SET_REGS, &value, nameof(KvmIoctl.KVM_SET_REGS));
    }

    /// <summary>Segments, control registers, EFER, APIC base and the acknowledged interrupt (4.13 and 4.14).</summary>
    public KvmSregs SpecialRegisters
    {
        get => Get<KvmSregs>(KvmIoctl.KVM_GET_SREGS, nameof(KvmIoctl.KVM_GET_SREGS));
        set => Call(KvmIoctl.KVM_SET_SREGS, &value, nameof(KvmIoctl.KVM_SET_SREGS));
    }

    /// <summary>The same with PDPTEs and without the interrupt (4.132 and 4.133); needs <see cref="KvmCapability.Sregs2"/>.</summary>
    public KvmSregs2 SpecialRegisters2
    {
        get => Get<KvmSregs2>(KvmIoctl.KVM_GET_SREGS2, nameof(KvmIoctl.KVM_GET_SREGS2));
        set => Call(KvmIoctl.KVM_SET_SREGS2, &value, nameof(KvmIoctl.KVM_SET_SREGS2));
    }

    /// <summary>x87 and SSE registers (4.22 and 4.23).</summary>
    public KvmFpu FloatingPoint
    {
        get => Get<KvmFpu>(KvmIoctl.KVM_GET_FPU, nameof(KvmIoctl.KVM_GET_FPU));
        set => Call(KvmIoctl.KVM_SET_FPU, &value, nameof(KvmIoctl.KVM_SET_FPU));
    }

    /// <summary>Extended control registers (4.44 and 4.45).</summary>
    public KvmXcrs ExtendedControl
    {
        get => Get<KvmXcrs>(KvmIoctl.KVM_GET_XCRS, nameof(KvmIoctl.KVM_GET_XCRS));
        set => Call(KvmIoctl.KVM_SET_XCRS, &value, nameof(KvmIoctl.KVM_SET_XCRS));
    }

    /// <summary>DR0-DR3, DR6, DR7 (4.34 and 4.35).</summary>
    public KvmDebugRegs DebugRegisters
    {
        get => Get<KvmDebugRegs>(KvmIoctl.KVM_GET_DEBUGREGS, nameof(KvmIoctl.KVM_GET_DEBUGREGS));
        set => Call(KvmIoctl.KVM_SET_DEBUGREGS, &value, nameof(KvmIoctl.KVM_SET_DEBUGREGS));
    }

    /// <summary>Exceptions, interrupts and NMIs that are under way, interrupt shadow (4.31 and 4.32).</summary>
    public KvmVcpuEvents Events
    {
        get => Get<KvmVcpuEvents>(KvmIoctl.KVM_GET_VCPU_EVENTS, nameof(KvmIoctl.KVM_GET_VCPU_EVENTS));
        set => Call(KvmIoctl.KVM_SET_VCPU_EVENTS, &value, nameof(KvmIoctl.KVM_SET_VCPU_EVENTS));
    }

    /// <summary>Activity (4.38 and 4.39). Reading it makes the kernel act on pending INIT and SIPI first.</summary>
    public KvmMpState MpState
    {
        get => (KvmMpState)Get<uint>(KvmIoctl.KVM_GET_MP_STATE, nameof(KvmIoctl.KVM_GET_MP_STATE));
        set => Call(KvmIoctl.KVM_SET_MP_STATE, &value, nameof(KvmIoctl.KVM_SET_MP_STATE));
    }

    /// <summary>TSC frequency in kHz (4.55 and 4.56); 0 when unknown.</summary>
    public uint TscKhz => (uint)Math.Max(0, Libc.ioctl(_fd, KvmIoctl.KVM_GET_TSC_KHZ, (nuint)0));

    /// <summary>Sets the TSC's frequency (4.55); needs <see cref="KvmCapability.TscControl"/>. False when refused.</summary>
    public bool TrySetTscKhz(uint kilohertz) => Libc.ioctl(_fd, KvmIoctl.KVM_SET_TSC_KHZ, (nuint)kilohertz) == 0;

    /// <summary>Guest's TSC less the host's, scaled (Documentation/virt/kvm/devices/vcpu.rst, 4.1). False when this kernel has no such attribute.</summary>
    public bool TryGetTscOffset(out ulong offset)
    {
        ulong value = 0;
        KvmDeviceAttribute attribute = new() { Group = TscControlGroup, Attribute = TscOffsetAttribute, Value = &value };
        bool read = Libc.ioctl(_fd, KvmIoctl.KVM_HAS_DEVICE_ATTR, &attribute) == 0 && Libc.ioctl(_fd, KvmIoctl.KVM_GET_DEVICE_ATTR, &attribute) == 0;
        offset = value;
        return read;
    }

    /// <summary>Sets what <see cref="TryGetTscOffset"/> reads.</summary>
    public bool TrySetTscOffset(ulong offset)
    {
        KvmDeviceAttribute attribute = new() { Group = TscControlGroup, Attribute = TscOffsetAttribute, Value = &offset };
        return Libc.ioctl(_fd, KvmIoctl.KVM_SET_DEVICE_ATTR, &attribute) == 0;
    }

    /// <summary>Reads the local APIC's 1024 bytes of registers (4.57).</summary>
    public void GetLocalApic(Span<byte> registers)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(registers.Length, 1024);
        fixed (byte* p = registers)
        {
            Call(KvmIoctl.KVM_GET_LAPIC, p, nameof(KvmIoctl.KVM_GET_LAPIC));
        }
    }

    /// <summary>Writes the local APIC's registers (4.58); the timer starts from its current count.</summary>
    public void SetLocalApic(ReadOnlySpan<byte> registers)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(registers.Length, 1024);
        fixed (byte* p = registers)
        {
            Call(KvmIoctl.KVM_SET_LAPIC, p, nameof(KvmIoctl.KVM_SET_LAPIC));
        }
    }

    /// <summary>Reads extended state in the standard XSAVE format (4.42, or 4.134 when longer than 4096 bytes, as <see cref="KvmCapability.Xsave2"/> says).</summary>
    public void GetXsave(Span<byte> area)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(area.Length, 4096);
        fixed (byte* p = area)
        {
            bool large = area.Length > 4096;
            Call(large ? KvmIoctl.KVM_GET_XSAVE2 : KvmIoctl.KVM_GET_XSAVE, p, large ? nameof(KvmIoctl.KVM_GET_XSAVE2) : nameof(KvmIoctl.KVM_GET_XSAVE));
        }
    }

    /// <summary>Writes extended state in the standard XSAVE format (4.43): as many bytes as <see cref="GetXsave"/> reads.</summary>
    public void SetXsave(ReadOnlySpan<byte> area)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(area.Length, 4096);
        fixed (byte* p = area)
        {
            Call(KvmIoctl.KVM_SET_XSAVE, p, nameof(KvmIoctl.KVM_SET_XSAVE));
        }
    }

    /// <summary>Reads MSRs in order (4.18). Returns how many were read: the one after these is unknown to the kernel.</summary>
    public int GetMsrs(Span<KvmMsrEntry> entries) => TransferMsrs(KvmIoctl.KVM_GET_MSRS, nameof(KvmIoctl.KVM_GET_MSRS), entries);

    /// <summary>Writes MSRs in order (4.19). Returns how many were written: the one after these was refused.</summary>
    public int SetMsrs(Span<KvmMsrEntry> entries) => TransferMsrs(KvmIoctl.KVM_SET_MSRS, nameof(KvmIoctl.KVM_SET_MSRS), entries);

    /// <summary>Reads one MSR. False when the kernel has none such.</summary>
    public bool TryGetMsr(uint index, out ulong value)
    {
        Span<KvmMsrEntry> entry = [new KvmMsrEntry { Index = index }];
        bool read = GetMsrs(entry) == 1;
        value = entry[0].Value;
        return read;
    }

    /// <summary>Writes one MSR. False when refused.</summary>
    public bool TrySetMsr(uint index, ulong value)
    {
        Span<KvmMsrEntry> entry = [new KvmMsrEntry { Index = index, Value = value }];
        return SetMsrs(entry) == 1;
    }

    /// <summary>Sets what CPUID returns (4.20).</summary>
    public void SetCpuid(ReadOnlySpan<KvmCpuidEntry> entries)
    {
        byte[] area = new byte[8 + (entries.Length * sizeof(KvmCpuidEntry))];
        fixed (byte* p = area)
        {
            *(int*)p = entries.Length;
            entries.CopyTo(new Span<KvmCpuidEntry>(p + 8, entries.Length));
            Call(KvmIoctl.KVM_SET_CPUID2, p, nameof(KvmIoctl.KVM_SET_CPUID2));
        }
    }

    /// <summary>CPUID of Hyper-V's leaves that the kernel can offer to this processor (4.118).</summary>
    public KvmCpuidEntry[] GetSupportedHyperVCpuid()
    {
        const int Capacity = 64;
        byte[] area = new byte[8 + (Capacity * sizeof(KvmCpuidEntry))];
        fixed (byte* p = area)
        {
            *(int*)p = Capacity;
            Call(KvmIoctl.KVM_GET_SUPPORTED_HV_CPUID, p, nameof(KvmIoctl.KVM_GET_SUPPORTED_HV_CPUID));
            return new ReadOnlySpan<KvmCpuidEntry>(p + 8, *(int*)p).ToArray();
        }
    }

    /// <summary>Enables a capability of the processor (4.37). False when refused.</summary>
    public bool TryEnable(KvmCapability capability, ulong argument0 = 0)
    {
        KvmEnableCap cap = default;
        cap.Capability = (uint)capability;
        cap.Arguments[0] = argument0;
        return Libc.ioctl(_fd, KvmIoctl.KVM_ENABLE_CAP, &cap) >= 0;
    }

    /// <summary>Reads nested state (4.114) as the kernel lays it out; needs <see cref="KvmCapability.NestedState"/>, whose value is the greatest size.</summary>
    public byte[] GetNestedState(int capacity)
    {
        byte[] area = new byte[Math.Max(capacity, 128)];
        fixed (byte* p = area)
        {
            *(uint*)(p + 4) = (uint)area.Length;
            Call(KvmIoctl.KVM_GET_NESTED_STATE, p, nameof(KvmIoctl.KVM_GET_NESTED_STATE));
            return area.AsSpan(0, (int)*(uint*)(p + 4)).ToArray();
        }
    }

    /// <summary>Writes nested state (4.115) that <see cref="GetNestedState"/> read.</summary>
    public void SetNestedState(ReadOnlySpan<byte> state)
    {
        fixed (byte* p = state)
        {
            if (state.Length < 128 || *(uint*)(p + 4) > state.Length)
            {
                throw new KvmException("nested state is truncated");
            }
            Call(KvmIoctl.KVM_SET_NESTED_STATE, p, nameof(KvmIoctl.KVM_SET_NESTED_STATE));
        }
    }

    private T Get<T>(uint request, string name)
        where T : unmanaged
    {
        T value;
        Call(request, &value, name);
        return value;
    }

    private int TransferMsrs(uint request, string name, Span<KvmMsrEntry> entries)
    {
        byte[] area = new byte[8 + (entries.Length * sizeof(KvmMsrEntry))];
        fixed (byte* p = area)
        {
            *(int*)p = entries.Length;
            Span<KvmMsrEntry> inside = new(p + 8, entries.Length);
            entries.CopyTo(inside);
            int done = Call(request, p, name);
            inside.CopyTo(entries);
            return done;
        }
    }
}
