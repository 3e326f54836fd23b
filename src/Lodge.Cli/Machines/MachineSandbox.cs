using System.Globalization;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Engines;
using Lodge.Cli.Run;
using Lodge.Management.Host;
using Lodge.Management.Images;
using Lodge.Management.Machines;
using Lodge.Management.Sandbox;
using Lodge.Storage.Disks;
using Lodge.Storage.Images;

namespace Lodge.Cli.Machines;

/// <summary>
/// What the process of a machine may reach, made from its definition by the command that starts it: with what the process is born, and what it gives up by itself (<see cref="MachineSeal"/>) when all is open
/// and before its guest runs.
/// </summary>
/// <param name="Confinement">What it is born with; null: nothing.</param>
/// <param name="Arguments">What it is told of it.</param>
internal sealed record MachineSandbox(Confinement? Confinement, IReadOnlyList<string> Arguments)
{
    /// <summary>Nothing is confined.</summary>
    public static MachineSandbox None { get; } = new(null, []);

    /// <summary>Plans it, and makes what the process cannot make: the default system, the verdict on KVM.</summary>
    /// <exception cref="LodgeException">Something is missing.</exception>
    /// <exception cref="Management.ManagementException">The same.</exception>
    public static MachineSandbox Plan(MachineFolder folder, MachineDefinition definition, RunOptions options)
    {
        if (!options.Sandbox)
        {
            return None;
        }
        EngineChoice.Prepare(options.Engine);
        bool root = Environment.IsPrivilegedProcess;
        bool userNetwork = options.Networks is null || options.Networks.Any(card => card.Kind == NetworkKind.User);
        string[] addresses = [.. options.Disks.Select(disk => disk.Path).Where(DiskAddresses.IsAddress)];
        MachineSeal seal = new()
        {
            User = root && options.Shares.Count == 0 && MachineUser.IsPossible ? UserOf(folder, definition) : null,
            Internet = userNetwork || addresses.Any(address => !address.Contains("+unix:", StringComparison.Ordinal)),
            UnixSockets = options.Vsock is not null || addresses.Length != 0,
            Shares = options.Shares.Count != 0,
        };
        if (root && seal.User is not null)
        {
            RequireReadable(AppContext.BaseDirectory);
        }
        Confinement confinement = new()
        {
            Grants = [.. Confinement.OfSystem(), .. OfMachine(folder, definition, options)],
            Tcp = seal.Internet,
            OwnNetwork = root && !seal.Internet && !seal.UnixSockets,
        };
        return new MachineSandbox(confinement, seal.Arguments);
    }

    private static IEnumerable<FileGrant> OfMachine(MachineFolder folder, MachineDefinition definition, RunOptions options)
    {
        const FileAccesses readWrite = FileAccesses.Read | FileAccesses.Write;
        string At(string path) => Path.GetFullPath(path, definition.Directory);
        List<FileGrant> all =
        [
            new(folder.Path, FileAccesses.Read),
            new(folder.Work, readWrite | FileAccesses.Change),
            new(folder.Disk, readWrite),
            new(folder.RunLock, readWrite),
            new("/dev/kvm", readWrite | FileAccesses.DeviceControl),
            new("/dev/userfaultfd", readWrite | FileAccesses.DeviceControl),
        ];
        all.Add(new(HostFolders.Cache, FileAccesses.Read));
        if (options.Image is { } name)
        {
            all.Add(new(ImagePlan.Find(name).Folder, FileAccesses.Read));
            if (Environment.GetEnvironmentVariable("HOME") is { Length: > 0 } home && Path.Combine(home, ".ssh") is var keys && Directory.Exists(keys))
            {
                all.Add(new(keys, FileAccesses.List));
                all.AddRange(Directory.EnumerateFiles(keys, "*.pub").Select(file => new FileGrant(file, FileAccesses.Read)));
            }
        }
        else if (options.Kernel is null)
        {
            SystemCache.ForUser().Get(DebianSystem.Make);
        }
        all.AddRange(new[] { options.Kernel, options.CloudInit?.UserData, options.CloudInit?.MetaData, options.CloudInit?.NetworkConfig }.OfType<string>().Select(file => new FileGrant(At(file), FileAccesses.Read)));
        // A Multiboot kernel has several, with arguments: 'file arguments,file arguments'.
        all.AddRange((options.Initrd is { } initrd ? new[] { initrd }.Concat(initrd.Split(',').Select(one => one.Split(' ')[0])) : []).Where(file => file.Length != 0).Select(file => new FileGrant(At(file), FileAccesses.Read)));
        foreach (DiskOption disk in options.Disks.Where(disk => !disk.IsPlace))
        {
            all.AddRange(OfDisk(disk, At));
        }
        all.AddRange(options.Shares.Select(share => new FileGrant(At(share.Host), share.ReadOnly ? FileAccesses.Read : readWrite | FileAccesses.Change | FileAccesses.MakeSpecial)));
        if (options.Vsock is { } vsock && Path.GetDirectoryName(At(vsock.Path)) is { } sockets)
        {
            all.Add(new(sockets, FileAccesses.MakeSocket));
        }
        foreach (string capture in (options.Networks ?? []).Select(card => card.Capture).Append(options.Capture).OfType<string>().Select(At))
        {
            using (File.Open(capture, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite))
            {
                // It shall be there: only then can it be granted.
            }
            all.Add(new(capture, readWrite));
        }
        return all;
    }

    /// <summary>A disk, its parts and its backing images.</summary>
    private static IEnumerable<FileGrant> OfDisk(DiskOption disk, Func<string, string> at)
    {
        if (DiskAddresses.IsAddress(disk.Path))
        {
            // Certificates, keys: paths among the address' parameters.
            int query = disk.Path.IndexOf('?', StringComparison.Ordinal);
            return query < 0 ? [] : disk.Path[(query + 1)..].Split('&').Select(one => Uri.UnescapeDataString(one[(one.IndexOf('=', StringComparison.Ordinal) + 1)..])).Where(Path.IsPathRooted).Select(path => new FileGrant(path, FileAccesses.Read));
        }
        string path = at(disk.Path);
        FileAccesses own = disk.ReadOnly ? FileAccesses.Read : FileAccesses.Read | FileAccesses.Write;
        if (disk.Format == "raw")
        {
            return [new(path, own | FileAccesses.DeviceControl)];
        }
        try
        {
            ImageOpenOptions policy = new() { Format = disk.Format, AllowedFolders = disk.AllowedFolders, ForceShare = true };
            IReadOnlyList<ChainLink> chain = ImageChain.ListAsync(path, policy, parents: true).AsTask().GetAwaiter().GetResult();
            return chain.SelectMany((link, index) => WithParts(link.Path).Select(file => new FileGrant(file, index == 0 ? own : FileAccesses.Read)));
        }
        catch (DiskException e)
        {
            throw new LodgeException($"a disk cannot be opened: {e.Message}");
        }

        // Formats that keep the disk in several files name them after the first: disk.vmdk, disk-s001.vmdk, disk-flat.vmdk.
        static IEnumerable<string> WithParts(string path) => path.EndsWith(".vmdk", StringComparison.OrdinalIgnoreCase)
            ? Directory.EnumerateFiles(Path.GetDirectoryName(path)!, Path.GetFileNameWithoutExtension(path) + "*.vmdk").Append(path)
            : [path];
    }

    /// <summary>The machine's own user: that which its files have already, or a new one.</summary>
    private static uint UserOf(MachineFolder folder, MachineDefinition definition)
    {
        HashSet<uint> taken = [];
        foreach (string other in Directory.EnumerateDirectories(Path.GetDirectoryName(folder.Path)!))
        {
            if (HostOwner.Of(Path.Combine(other, "work")) is { } user && MachineUser.IsOne(user))
            {
                if (other == folder.Path)
                {
                    return user;
                }
                taken.Add(user);
            }
        }
        return MachineUser.Choose(definition.Id, taken);
    }

    /// <summary>The machine's own user loads parts of Lodge as they are needed.</summary>
    private static void RequireReadable(string folder)
    {
        if (!File.Exists(Path.Combine(folder, "lodge.dll")))
        {
            return; // one file, which is loaded
        }
        for (string? one = folder.TrimEnd('/'); !string.IsNullOrEmpty(one); one = Path.GetDirectoryName(one))
        {
            if ((File.GetUnixFileMode(one) & UnixFileMode.OtherExecute) == 0)
            {
                throw new LodgeException(string.Create(CultureInfo.InvariantCulture, $"the machine's own user cannot read Lodge in '{one}': install it elsewhere, or allow it (chmod o+x '{one}'), or start the machine with --no-sandbox"));
            }
        }
    }
}
