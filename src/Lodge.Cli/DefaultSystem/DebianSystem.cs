namespace Lodge.Cli.DefaultSystem;

/// <summary>Makes the default system from the distribution's packages: its cloud kernel and static busybox.</summary>
internal static class DebianSystem
{
    // Debian's name, then Ubuntu's.
    private static readonly string[] KernelPackages = ["linux-image-cloud-amd64", "linux-image-virtual"];

    /// <summary>Makes it in <paramref name="directory"/> (vmlinuz and initramfs.cpio).</summary>
    /// <returns>Its name: kernel release and package versions.</returns>
    public static string Make(string directory)
    {
        HostFileNotice();
        FetchProgress progress = new();
        string work = Path.Combine(directory, "packages");
        Directory.CreateDirectory(work);
        DebianPackages packages = new(work, progress);
        List<DebianPackage> kernels = KernelParts(packages);
        DebianPackage busyboxPackage = packages.Find("busybox-static");
        List<string> debs = kernels.ConvertAll(packages.Download);
        string busyboxDeb = packages.Download(busyboxPackage);

        byte[]? busybox = null;
        DebianPackages.ReadFiles(busyboxDeb, (name, contents) =>
        {
            if (name is "bin/busybox" or "usr/bin/busybox")
            {
                busybox = contents();
            }
        });
        if (busybox is null)
        {
            throw new LodgeException($"package 'busybox-static' {busyboxPackage.Version} has no bin/busybox");
        }
        string busyboxPath = Path.Combine(work, "busybox");
        File.WriteAllBytes(busyboxPath, busybox);
        File.SetUnixFileMode(busyboxPath, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        string applets = HostProgram.Text(busyboxPath, "--list-full") ?? throw new LodgeException($"busybox from package 'busybox-static' {busyboxPackage.Version} does not run on this host");

        using IDisposable step = progress.Begin("Making the default system");
        (string release, byte[] kernel, IReadOnlyList<KernelModule> modules) = ReadKernel(debs, busyboxPath, progress);
        File.WriteAllBytes(Path.Combine(directory, "vmlinuz"), kernel);
        using (FileStream output = File.Create(Path.Combine(directory, "initramfs.cpio")))
        {
            SystemImage.Write(output, release, busybox, applets.Split('\n', StringSplitOptions.RemoveEmptyEntries), modules);
        }
        Directory.Delete(work, recursive: true);
        return $"{release}_{kernels[0].Version}_busybox-{busyboxPackage.Version}";
    }

    private static void HostFileNotice()
    {
        if (!Lodge.Cli.Console.Terminal.IsTerminal(Lodge.Cli.Console.HostFile.StandardError))
        {
            Lodge.Cli.Console.HostFile.Error("lodge: making the default system (once)");
        }
    }

    /// <summary>The packages that hold the kernel and its modules: what the meta package depends on.</summary>
    private static List<DebianPackage> KernelParts(DebianPackages packages)
    {
        DebianPackage meta = packages.Find(KernelPackages);
        List<DebianPackage> parts = [];
        foreach (string name in meta.Depends.Where(IsKernelPart))
        {
            DebianPackage image = packages.Find(name);
            parts.Add(image);
            foreach (string more in image.Depends.Where(IsKernelPart))
            {
                parts.Add(packages.Find(more));
            }
        }
        return parts.Count == 0 ? throw new LodgeException($"package '{meta.Name}' {meta.Version} depends on no kernel image") : parts;
    }

    private static bool IsKernelPart(string name) =>
        name.StartsWith("linux-image-", StringComparison.Ordinal) || name.StartsWith("linux-modules-", StringComparison.Ordinal);

    private static (string Release, byte[] Kernel, IReadOnlyList<KernelModule> Modules) ReadKernel(List<string> debs, string busybox, FetchProgress progress)
    {
        byte[]? kernel = null;
        string release = "";
        Dictionary<string, KernelModule> modules = [];
        // Seldom more than one round: only when a module needs one that is not in the first list.
        HashSet<string> wanted = [
            .. SystemImage.WantedModules, "virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "pvpanic",
            .. SystemImage.DiskModules, "scsi_common", "scsi_mod", "cdrom",
            .. SystemImage.NetworkModules, "net_failover", "failover",
            .. SystemImage.ShareModules, "fuse",
            .. SystemImage.SocketModules, "vmw_vsock_virtio_transport_common", "vsock"];
        for (int round = 0; round < 4 && wanted.Count != 0; round++)
        {
            foreach (string deb in debs)
            {
                DebianPackages.ReadFiles(deb, (path, contents) =>
                {
                    if (kernel is null && path.StartsWith("boot/vmlinuz-", StringComparison.Ordinal))
                    {
                        kernel = contents();
                        release = path["boot/vmlinuz-".Length..];
                        progress.Report(50);
                    }
                    else if (ModuleName(path) is { } name && wanted.Contains(name) && !modules.ContainsKey(name))
                    {
                        modules[name] = KernelModule.Parse(name, Decompress(path, contents(), busybox));
                    }
                });
            }
            wanted = [.. modules.Values.SelectMany(m => m.Dependencies).Where(d => !modules.ContainsKey(d))];
        }
        if (kernel is null)
        {
            throw new LodgeException($"package file '{Path.GetFileName(debs[0])}' holds no kernel (boot/vmlinuz-*)");
        }
        return (release, kernel, KernelModule.Order(modules, SystemImage.AllModules));
    }

    /// <summary>The module's name when a path is a module's, compressed or not.</summary>
    private static string? ModuleName(string path)
    {
        if (!path.StartsWith("lib/modules/", StringComparison.Ordinal) && !path.StartsWith("usr/lib/modules/", StringComparison.Ordinal))
        {
            return null;
        }
        string file = Path.GetFileName(path);
        int at = file.IndexOf(".ko", StringComparison.Ordinal);
        return at > 0 && file[at..] is ".ko" or ".ko.xz" or ".ko.gz" or ".ko.zst" ? KernelModule.Normalize(file[..at]) : null;
    }

    private static byte[] Decompress(string path, byte[] contents, string busybox)
    {
        (string program, string[] arguments)? way = Path.GetExtension(path) switch
        {
            ".xz" => (busybox, ["unxz", "-c"]),
            ".gz" => (busybox, ["gunzip", "-c"]),
            ".zst" => ("zstd", ["-dc"]),
            _ => null,
        };
        if (way is not { } w)
        {
            return contents;
        }
        if (w.program == "zstd" && !HostProgram.Exists("zstd"))
        {
            throw new LodgeException($"kernel module '{Path.GetFileName(path)}' is compressed with zstd; install the package zstd");
        }
        using MemoryStream result = new();
        (int status, string error) = HostProgram.Run(w.program, w.arguments, null, s => s.CopyTo(result), contents);
        return status == 0 ? result.ToArray() : throw new LodgeException($"kernel module '{Path.GetFileName(path)}' cannot be decompressed: {error}");
    }
}
