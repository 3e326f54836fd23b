namespace Lodge.Management.Host.Inventory;

/// <summary>Hardware virtualization as the kernel shows it; whether an engine can use it is the engine's to say.</summary>
public sealed record VirtualizationInventory
{
    /// <summary><c>VT-x</c>, <c>AMD-V</c>, or null when the processor shows neither.</summary>
    public string? Extension { get; init; }

    /// <summary>Whether it has nested paging (EPT, NPT).</summary>
    public bool NestedPaging { get; init; }

    /// <summary>Whether this host is itself a virtual machine.</summary>
    public bool Virtual { get; init; }

    /// <summary>Whether <c>/dev/kvm</c> is there.</summary>
    public bool Device { get; init; }

    /// <summary>Kernel modules of KVM that are loaded, for example <c>kvm</c> and <c>kvm_amd</c>.</summary>
    public IReadOnlyList<string> Modules { get; init; } = [];

    /// <summary>Whether guests can have virtualization of their own; null: the module does not tell.</summary>
    public bool? Nested { get; init; }

    /// <summary>IOMMUs, for example <c>dmar0</c>; none: no device can be passed through.</summary>
    public IReadOnlyList<string> Iommus { get; init; } = [];

    /// <summary>Groups of devices that the IOMMU keeps apart.</summary>
    public int IommuGroups { get; init; }

    /// <summary>Whether <c>/dev/vfio/vfio</c> is there.</summary>
    public bool Vfio { get; init; }

    /// <summary>PCI devices that are bound to vfio-pci, by address.</summary>
    public IReadOnlyList<string> VfioDevices { get; init; } = [];

    /// <summary>Looks.</summary>
    public static VirtualizationInventory Read(HostTree tree, CpuInventory cpu)
    {
        string[] modules = [.. tree.Names("sys/module").Where(name => name == "kvm" || name.StartsWith("kvm_", StringComparison.Ordinal))];
        return new VirtualizationInventory
        {
            Extension = cpu.Features.Contains("vmx") ? "VT-x" : cpu.Features.Contains("svm") ? "AMD-V" : null,
            NestedPaging = cpu.Features.Contains("ept") || cpu.Features.Contains("npt"),
            Virtual = cpu.Features.Contains("hypervisor"),
            Device = tree.Exists("dev/kvm"),
            Modules = modules,
            Nested = modules.Select(module => tree.Switch($"sys/module/{module}/parameters/nested")).FirstOrDefault(nested => nested is not null),
            Iommus = tree.Names("sys/class/iommu"),
            IommuGroups = tree.Names("sys/kernel/iommu_groups").Count,
            Vfio = tree.Exists("dev/vfio/vfio"),
            VfioDevices = [.. tree.Names("sys/bus/pci/drivers/vfio-pci").Where(name => name.Contains(':', StringComparison.Ordinal) && tree.Exists($"sys/bus/pci/devices/{name}"))],
        };
    }
}
