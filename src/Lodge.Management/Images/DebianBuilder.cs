using System.Formats.Tar;
using System.Text;
using Lodge.Management.Host;

namespace Lodge.Management.Images;

/// <summary>What a built image has.</summary>
/// <param name="Suite">Debian suite by codename or class, for example <c>bookworm</c>.</param>
/// <param name="Mirror">Address of the package mirror, or null for what mmdebstrap takes from the host.</param>
/// <param name="Size">Size of the disk in bytes.</param>
/// <param name="Packages">Packages besides the usual ones.</param>
/// <param name="CloudInit">Whether cloud-init is in it.</param>
public sealed record DebianBuildOptions(string Suite, string? Mirror, long Size, IReadOnlyList<string> Packages, bool CloudInit);

/// <summary>
/// Makes a Debian disk from packages: mmdebstrap resolves and unpacks them, mke2fs writes the file system, both without root where the host allows user
/// namespaces. The disk has a GUID partition table with one ext4 partition, which its kernel finds by the partition's GUID; kernel and initial RAM disk are kept beside it.
/// </summary>
public sealed class DebianBuilder(Action<string> step)
{
    /// <summary>The suite of <c>debian</c> without a tag.</summary>
    public const string DefaultSuite = "trixie";

    /// <summary>Size of the disk when none is given, in bytes; the file is sparse.</summary>
    public const long DefaultSize = 8L << 30;

    private static readonly string[] Packages =
    [
        "systemd", "systemd-sysv", "libpam-systemd", "dbus", "udev", "kmod", "login", "passwd", "linux-image-cloud-amd64", "qemu-guest-agent",
        "iproute2", "iputils-ping", "netbase", "ca-certificates", "procps", "e2fsprogs", "less", "nano", "sudo",
    ];

    /// <summary>Builds into <paramref name="folder"/>: <c>disk.raw</c>, <c>vmlinuz</c>, <c>initrd.img</c>.</summary>
    /// <exception cref="ManagementException">A program is missing or fails; the message names the package or the program's own words.</exception>
    public ImageManifest Build(ImageName name, DebianBuildOptions options, string folder)
    {
        HostProgram.Require("mmdebstrap", "mmdebstrap");
        HostProgram.Require("mke2fs", "e2fsprogs");
        bool root = Environment.IsPrivilegedProcess;
        if (!root)
        {
            RequireUserNamespaces();
        }

        string work = Path.Combine(folder, "work");
        Directory.CreateDirectory(work);
        string overlay = Path.Combine(work, "overlay.tar");
        WriteOverlay(overlay, options.CloudInit);
        string tree = Path.Combine(work, "root.tar");
        step($"Installing the packages of Debian {options.Suite}");
        Install(options, overlay, tree, work, root);
        step("Writing the disk");
        string disk = Path.Combine(folder, "disk.raw");
        GuidPartition partition = WriteDisk(tree, disk, options.Size, work, root);
        (string release, bool builtIn) = TakeKernel(work, folder);
        Directory.Delete(work, recursive: true);
        return new ImageManifest
        {
            Name = name.Name,
            Tag = name.Tag,
            Description = $"Debian {options.Suite}, Linux {release}",
            Source = $"built from packages ({options.Suite})",
            Created = DateTimeOffset.UtcNow,
            Disk = "disk.raw",
            Format = "raw",
            VirtualSize = options.Size,
            Kernel = "vmlinuz",
            Initrd = "initrd.img",
            Root = $"PARTUUID={partition.Id}",
            CommandLine = "rw rootfstype=ext4",
            BootsWithoutInitrd = builtIn,
            HasCommandService = true,
            HasCloudInit = options.CloudInit,
        };
    }

    private static void RequireUserNamespaces()
    {
        HostProgram.Require("unshare", "util-linux");
        HostProgram.Require("newuidmap", "uidmap");
        (int status, string error) = HostProgram.Run("unshare", ["--map-root-user", "--map-auto", "--", "true"]);
        if (status != 0)
        {
            throw new ManagementException(
                $"this host does not let user '{Environment.UserName}' make a Debian image: {error}; it needs user namespaces (sysctl kernel.unprivileged_userns_clone=1) and a range in /etc/subuid and /etc/subgid, or run as root");
        }
    }

    private static void Install(DebianBuildOptions options, string overlay, string tree, string work, bool root)
    {
        List<string> packages = [.. Packages, .. options.Packages];
        // bookworm split these off systemd; older suites have them inside.
        packages.AddRange(options.Suite is "bullseye" or "oldoldstable" ? [] : ["systemd-resolved", "systemd-timesyncd"]);
        if (options.CloudInit)
        {
            packages.AddRange(["cloud-init", "openssh-client"]); // it makes SSH host keys whether or not there is a server
        }
        List<string> arguments =
        [
            root ? "--mode=root" : "--mode=unshare",
            "--format=tar",
            "--skip=output/dev",
            "--variant=minbase",
            "--architectures=amd64",
            "--include=" + string.Join(',', packages),
            "--dpkgopt=force-unsafe-io",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            $"--customize-hook=tar-in {Quote(overlay)} /",
            "--customize-hook=chroot \"$1\" systemctl enable --quiet lodge-command.service systemd-networkd.service systemd-resolved.service",
            "--customize-hook=chroot \"$1\" passwd --quiet --delete root",
            "--customize-hook=: >\"$1/etc/machine-id\"; rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\"; echo debian >\"$1/etc/hostname\"",
            "--customize-hook=ln -s ../run/systemd/resolve/stub-resolv.conf \"$1/etc/resolv.conf\"",
            $"--customize-hook=copy-out /boot {Quote(work)}",
            options.Suite,
            tree,
        ];
        if (options.Mirror is { } mirror)
        {
            arguments.Add(mirror);
        }
        string program = "mmdebstrap";
        if (root)
        {
            // Its /proc, /sys and /dev are mounted where nobody else sees them: when it is killed they go with it, and a removal of its folder never reaches them.
            HostProgram.Require("unshare", "util-linux");
            arguments.InsertRange(0, ["--mount", "--propagation", "private", "--", program]);
            program = "unshare";
        }
        (int status, string error) = HostProgram.Run(program, arguments, errorLine: line => line.StartsWith("E:", StringComparison.Ordinal));
        if (status != 0)
        {
            throw new ManagementException($"Debian '{options.Suite}' cannot be installed: {error}");
        }
    }

    private static GuidPartition WriteDisk(string tree, string disk, long size, string work, bool root)
    {
        GuidPartition partition;
        using (FileStream file = new(disk, FileMode.CreateNew))
        {
            file.SetLength(size);
            partition = GuidPartitionTable.WriteSingle(file, GuidPartitionTable.LinuxRootX64, "root");
        }
        string unpacked = Path.Combine(work, "tree");
        // One shell inside the namespace, so that the tree's owners mean the same to tar, to mke2fs and to the removal.
        // The archive has no /dev at all, on which an initial RAM disk mounts its own.
        const string Script = "mkdir \"$2\" && tar --extract --numeric-owner --xattrs --xattrs-include='*' --file \"$1\" --directory \"$2\" && rm \"$1\" && mkdir -p -m 755 \"$2/dev\" && "
            + "mke2fs -q -F -t ext4 -L root -E offset=$5,lazy_itable_init=1,lazy_journal_init=1 -d \"$2\" \"$3\" \"$4\"; status=$?; rm -rf \"$2\"; exit $status";
        string[] command = ["sh", "-c", Script, "sh", tree, unpacked, disk, $"{partition.Length >> 10}k", $"{partition.Offset}"];
        if (!root)
        {
            command = ["unshare", "--map-root-user", "--map-auto", "--", .. command];
        }
        (int status, string error) = HostProgram.Run(command[0], command[1..]);
        if (status != 0)
        {
            throw new ManagementException($"the disk cannot be written: {error}");
        }
        return partition;
    }

    /// <summary>Keeps the newest kernel, its initial RAM disk, and whether it reaches its root file system on NVMe alone.</summary>
    private static (string Release, bool BuiltIn) TakeKernel(string work, string folder)
    {
        string boot = Path.Combine(work, "boot");
        string kernel = Directory.EnumerateFiles(boot, "vmlinuz-*").Max(KernelRelease.Order)
            ?? throw new ManagementException("the packages brought no kernel (boot/vmlinuz-*)");
        string release = Path.GetFileName(kernel)["vmlinuz-".Length..];
        File.Move(kernel, Path.Combine(folder, "vmlinuz"));
        File.Move(Path.Combine(boot, "initrd.img-" + release), Path.Combine(folder, "initrd.img"));
        string[] configuration = File.ReadAllLines(Path.Combine(boot, "config-" + release));
        return (release, configuration.Contains("CONFIG_BLK_DEV_NVME=y") && configuration.Contains("CONFIG_EXT4_FS=y"));
    }

    /// <summary>The files that Lodge adds, as a tar archive.</summary>
    private static void WriteOverlay(string path, bool cloudInit)
    {
        using TarWriter tar = new(File.Create(path), TarEntryFormat.Pax, leaveOpen: false);
        foreach (GuestFile file in (IEnumerable<GuestFile>)[.. GuestFiles.Command, .. GuestFiles.Login, .. GuestFiles.Network])
        {
            Add(tar, file.Path, Text(file.Contents), file.Executable);
        }
        Add(tar, "etc/fstab", Text("LABEL=root / ext4 defaults,x-systemd.growfs 0 1\n"), false);
        Add(tar, "etc/issue", Text("Debian GNU/Linux \\n \\l (log in as root; there is no password)\n\n"), false);
        if (cloudInit)
        {
            // No other locale is generated; an RSA key takes long to find and few need it.
            Add(tar, "etc/cloud/cloud.cfg.d/90_lodge.cfg", Text("locale: C.UTF-8\nssh_genkeytypes: [ed25519, ecdsa]\n"), false);
        }
        Add(tar, "etc/modules-load.d/lodge.conf", Text("virtio_console\nvirtio_rng\nvirtio_balloon\n"), false);
    }

    private static void Add(TarWriter tar, string name, Stream contents, bool executable)
    {
        using (contents)
        {
            tar.WriteEntry(new PaxTarEntry(TarEntryType.RegularFile, "./" + name)
            {
                DataStream = contents,
                Mode = (UnixFileMode)Convert.ToInt32(executable ? "755" : "644", 8),
            });
        }
    }

    private static MemoryStream Text(string text) => new(Encoding.UTF8.GetBytes(text));

    private static string Quote(string path) => "'" + path.Replace("'", "'\\''", StringComparison.Ordinal) + "'";
}
