namespace Lodge.Cli.DefaultSystem;

/// <summary>Builds the initramfs of the default system: busybox with links for its applets, kernel modules and the script that runs the command.</summary>
internal static class SystemImage
{
    /// <summary>Modules that are loaded at start when the kernel has them as modules; others that they need come along.</summary>
    public static IReadOnlyList<string> WantedModules { get; } = ["virtio_pci", "virtio_console", "virtio_rng", "virtio_balloon", "pvpanic_mmio"];

    /// <summary>Modules that are loaded only when a machine has such a disk (see <see cref="Run.DiskNeeds"/>).</summary>
    public static IReadOnlyList<string> DiskModules { get; } = ["virtio_blk", "nvme", "virtio_scsi", "sd_mod", "sr_mod", "isofs"];

    /// <summary>Modules that are loaded only when a machine has a network card.</summary>
    public static IReadOnlyList<string> NetworkModules { get; } = [Run.NetworkNeeds.Module];

    /// <summary>Modules that are loaded only when a machine has a shared folder.</summary>
    public static IReadOnlyList<string> ShareModules { get; } = ["virtiofs"];

    /// <summary>Modules that are loaded only when a machine has a socket device.</summary>
    public static IReadOnlyList<string> SocketModules { get; } = ["vmw_vsock_virtio_transport"];

    /// <summary>All modules of the system besides those that they need.</summary>
    public static IEnumerable<string> AllModules => [.. WantedModules, .. DiskModules, .. NetworkModules, .. ShareModules, .. SocketModules];

    /// <summary>The script that sets the system up and runs the command.</summary>
    public static byte[] Script() => Resource("main.sh");

    /// <summary>What the DHCP client calls.</summary>
    public static byte[] DhcpScript() => Resource("dhcp.sh");

    private static byte[] Resource(string name)
    {
        using Stream stream = typeof(SystemImage).Assembly.GetManifestResourceStream(name)!;
        using MemoryStream contents = new();
        stream.CopyTo(contents);
        return contents.ToArray();
    }

    /// <summary>Writes the archive.</summary>
    /// <param name="output">Receives it.</param>
    /// <param name="release">Kernel release, the name of its module directory.</param>
    /// <param name="busybox">A static busybox.</param>
    /// <param name="applets">Paths of its applets (<c>busybox --list-full</c>), without leading slash.</param>
    /// <param name="modules">Modules in an order in which each comes after what it needs.</param>
    public static void Write(Stream output, string release, byte[] busybox, IEnumerable<string> applets, IReadOnlyList<KernelModule> modules)
    {
        CpioWriter cpio = new(output);
        string moduleDirectory = $"lib/modules/{release}";
        foreach (string directory in (ReadOnlySpan<string>)
            [
                "bin", "dev", "etc", "lib", "lib/modules", moduleDirectory, "lodge", "lodge/dev", "lodge/dev/pts", "lodge/dev/shm", "mnt", "proc",
                "run", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "var",
            ])
        {
            cpio.Directory(directory);
        }
        cpio.Directory("root", 0x1C0); // 0700
        cpio.CharacterDevice("dev/console", 5, 1, 0x180); // 0600
        cpio.CharacterDevice("dev/null", 1, 3, 0x1B6); // 0666
        cpio.Link("lodge/dev/fd", "/proc/self/fd");
        cpio.Link("lodge/dev/stdin", "/proc/self/fd/0");
        cpio.Link("lodge/dev/stdout", "/proc/self/fd/1");
        cpio.Link("lodge/dev/stderr", "/proc/self/fd/2");
        cpio.Link("init", "/bin/busybox");
        cpio.File("lodge/main", Script(), executable: true);
        cpio.File("lodge/dhcp", DhcpScript(), executable: true);
        cpio.File("lodge/clone", CloneProgram.File(), executable: true);
        cpio.File("bin/busybox", busybox, executable: true);
        foreach (string applet in applets)
        {
            if (applet is not ("bin/busybox" or "linuxrc") && IsPlain(applet))
            {
                cpio.Link(applet, "/bin/busybox");
            }
        }
        cpio.File("etc/inittab", Text("::respawn:/lodge/main\n::ctrlaltdel:/sbin/reboot\n"));
        cpio.File("etc/fstab", Text("""
            devtmpfs /dev devtmpfs defaults 0 0
            proc /proc proc defaults 0 0
            sysfs /sys sysfs defaults 0 0
            tmpfs /tmp tmpfs mode=1777 0 0
            tmpfs /run tmpfs mode=755 0 0

            """));
        cpio.File("etc/passwd", Text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"));
        cpio.File("etc/group", Text("root:x:0:\nnogroup:x:65534:\n"));
        cpio.File("etc/profile", Text("export PS1='\\u@\\h:\\w\\$ '\n"));
        foreach (KernelModule module in modules)
        {
            cpio.File($"{moduleDirectory}/{module.Name}.ko", module.Contents);
        }
        cpio.File($"{moduleDirectory}/modules.dep", Text(string.Concat(modules.Select(m =>
            $"{m.Name}.ko:{string.Concat(Needs(m, modules).Select(d => $" {d}.ko"))}\n"))));
        cpio.File("lodge/modules", Text(string.Join(' ', WantedModules.Where(w => modules.Any(m => m.Name == w))) + "\n"));
        cpio.Finish();
    }

    /// <summary>All that a module needs, what is needed last coming first, as depmod writes it.</summary>
    private static IEnumerable<string> Needs(KernelModule module, IReadOnlyList<KernelModule> all)
    {
        Dictionary<string, KernelModule> byName = all.ToDictionary(m => m.Name);
        return KernelModule.Order(byName, module.Dependencies).Reverse().Select(m => m.Name);
    }

    private static bool IsPlain(string path) =>
        path.Length is > 0 and < 64 && path[0] != '/' && !path.Contains("..", StringComparison.Ordinal) && path.All(c => c is > ' ' and < '\x7f');

    private static byte[] Text(string text) => System.Text.Encoding.UTF8.GetBytes(text);
}
