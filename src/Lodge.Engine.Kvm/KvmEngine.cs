using Lodge.Engine.Kvm.Cpuid;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm;

/// <summary>The hardware engine: Linux KVM.</summary>
public sealed class KvmEngine : IEngine
{
    // What the engine cannot do without, and since which Linux it is there.
    private static readonly (KvmCapability Capability, string Name, string Since)[] s_required =
    [
        (KvmCapability.UserMemory, "KVM_CAP_USER_MEMORY", "2.6.25"),
        (KvmCapability.SyncMmu, "KVM_CAP_SYNC_MMU", "2.6.27"),
        (KvmCapability.MpState, "KVM_CAP_MP_STATE", "2.6.26"),
        (KvmCapability.VcpuEvents, "KVM_CAP_VCPU_EVENTS", "2.6.33"),
        (KvmCapability.DebugRegisters, "KVM_CAP_DEBUGREGS", "2.6.35"),
        (KvmCapability.Xsave, "KVM_CAP_XSAVE", "2.6.36"),
        (KvmCapability.AdjustClock, "KVM_CAP_ADJUST_CLOCK", "2.6.33"),
        (KvmCapability.GetTscKhz, "KVM_CAP_GET_TSC_KHZ", "2.6.39"),
        (KvmCapability.IrqRouting, "KVM_CAP_IRQ_ROUTING", "2.6.30"),
        (KvmCapability.SignalMsi, "KVM_CAP_SIGNAL_MSI", "3.5"),
        (KvmCapability.SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP", "4.4"),
        (KvmCapability.X2ApicApi, "KVM_CAP_X2APIC_API", "4.9"),
        (KvmCapability.ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "4.13"),
    ];

    /// <inheritdoc/>
    public string Name => "kvm";

    /// <inheritdoc/>
    public CpuOffer CpuOffer
    {
        get
        {
            if (Unusable() is { } reason)
            {
                throw new NotSupportedException(reason);
            }
            using var system = new KvmSystem();
            return KvmOffer.Read(system);
        }
    }

    /// <summary>Whether dirty pages are collected from rings, where the kernel has them, in place of bitmaps: cheaper when much of a large RAM stays clean.</summary>
    public bool DirtyRings { get; init; }

    /// <summary>Why this host's KVM cannot be used, and what to do, in one line; null when it can.</summary>
    public static string? Unusable()
    {
        try
        {
            using var system = new KvmSystem();
            return Missing(system);
        }
        catch (KvmException e)
        {
            return e.Error switch
            {
                Libc.ENOENT => $"there is no {KvmSystem.DevicePath}: load the module kvm_intel or kvm_amd, and enable virtualization in the firmware (or nested virtualization on the outer host)",
                Libc.ENXIO or Libc.ENODEV => $"{KvmSystem.DevicePath} exists but no driver serves it: load the module kvm_intel or kvm_amd",
                Libc.EACCES or Libc.EPERM => $"no permission to open {KvmSystem.DevicePath}: add the user to the group kvm (usermod -aG kvm USER) and log in again",
                _ => e.Message,
            };
        }
        catch (DllNotFoundException e)
        {
            return e.Message;
        }
    }

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">KVM cannot be used on this host; the message is that of <see cref="Unusable"/>.</exception>
    public Partition CreatePartition(PartitionOptions options)
    {
        if (Unusable() is { } reason)
        {
            throw new NotSupportedException(reason);
        }
        return new KvmPartition(options, DirtyRings);
    }

    private static string? Missing(KvmSystem system)
    {
        foreach ((KvmCapability capability, string name, string since) in s_required)
        {
            if (system.Check(capability) == 0)
            {
                return $"this host's KVM lacks {name}, which Linux has since {since}: a newer kernel is needed";
            }
        }
        return null;
    }
}
