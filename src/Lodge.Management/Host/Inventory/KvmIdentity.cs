using System.Text;

namespace Lodge.Management.Host.Inventory;

/// <summary>What decides how this host's KVM behaves: a verdict on it holds as long as this text is the same.</summary>
public static class KvmIdentity
{
    /// <summary>Kernel, processor with microcode, KVM's modules with their parameters, and the version of Lodge.</summary>
    public static string Read(HostTree tree, string version)
    {
        StringBuilder text = new();
        text.Append($"{version}\n{tree.Text("proc/version")}\n");
        CpuInventory cpu = CpuInventory.Read(tree);
        text.Append($"{cpu.Vendor}|{cpu.Model}|{cpu.Family}|{cpu.ModelNumber}|{cpu.Stepping}|{cpu.Microcode}\n{string.Join(' ', cpu.Features)}\n");
        foreach (string module in tree.Names("sys/module").Where(name => name == "kvm" || name.StartsWith("kvm_", StringComparison.Ordinal)))
        {
            text.Append($"{module}|{tree.Text($"sys/module/{module}/version")}|{tree.Text($"sys/module/{module}/srcversion")}\n");
            if (module == "kvm")
            {
                continue; // its parameters are how much it does for speed
            }
            foreach (string parameter in tree.Names($"sys/module/{module}/parameters"))
            {
                text.Append($"{parameter}={tree.Text($"sys/module/{module}/parameters/{parameter}")}\n");
            }
        }
        return text.ToString();
    }
}
