using Lodge.Machine;
using Lodge.Machine.Devices.Virtio.FileSystem;
using Lodge.Machine.Virtio.Transport;
using Lodge.Storage.Shares;

namespace Lodge.Cli.Run;

/// <summary>The shared folders of a run: opened before the machine is made, closed when it has ended.</summary>
internal sealed class RunShares : IDisposable
{
    // PCI class code; drivers match on the device ID only.
    private const uint ClassMassStorage = 0x018000;

    /// <summary>What a guest needs at least for an inode that it knows, in bytes: more inodes than its memory holds are not kept for it.</summary>
    private const ulong GuestInode = 2048;

    private readonly List<FuseServer> _servers = [];

    private RunShares()
    {
    }

    /// <summary>Opens all folders.</summary>
    /// <param name="options">What was asked for.</param>
    /// <param name="memory">The machine's memory in bytes.</param>
    /// <exception cref="LodgeException">One cannot be shared.</exception>
    public static RunShares Open(IReadOnlyList<ShareOption> options, ulong memory)
    {
        RunShares shares = new();
        try
        {
            foreach (ShareOption option in options)
            {
                shares._servers.Add(new FuseServer(option.Host, new ShareOptions
                {
                    ReadOnly = option.ReadOnly,
                    Owner = option.Owner,
                    Cache = option.Cache,
                    MaximumNodes = (int)Math.Clamp(memory / GuestInode, 1 << 16, 1 << 24),
                    Among = options.Count,
                }));
            }
            return shares;
        }
        catch (ShareException e)
        {
            shares.Dispose();
            throw new LodgeException($"a folder cannot be shared: {e.Message}");
        }
    }

    /// <summary>Adds a device for each folder to a machine that is being made.</summary>
    public void AddDevices(Chipset chipset, int processors)
    {
        for (int i = 0; i < _servers.Count; i++)
        {
            string tag = ShareOption.Tag(i);
            VirtioFileSystem device = new(chipset.Memory, new VirtioFileSystemConfiguration(tag, _servers[i]) { Queues = processors });
            chipset.Pci.Add(new VirtioPciFunction(tag, device, ClassMassStorage));
        }
    }

    /// <summary>What the default system mounts: tag, place and <c>ro</c> or <c>rw</c>, colons between them, spaces between folders.</summary>
    public static string Mounts(IReadOnlyList<ShareOption> options) =>
        string.Join(' ', options.Select((option, index) => $"{ShareOption.Tag(index)}:{option.Guest}:{(option.ReadOnly ? "ro" : "rw")}"));

    /// <summary>
    /// Words of the kernel's command line by which systemd (254 and later) mounts the folders, also for those who log in. A system without them still boots.
    /// </summary>
    public static string KernelArguments(IReadOnlyList<ShareOption> options) =>
        string.Concat(options.Select((option, index) => $" systemd.mount-extra={ShareOption.Tag(index)}:{option.Guest}:virtiofs:nofail{(option.ReadOnly ? ",ro" : "")}"));

    /// <summary>Lines of a shell script that mount what is not mounted yet, and end it with status 125 when that fails.</summary>
    public static string Script(IReadOnlyList<ShareOption> options) =>
        string.Concat(options.Select((option, index) =>
            $"mountpoint -q '{option.Guest}' || {{ mkdir -p '{option.Guest}' && mount -t virtiofs -o {(option.ReadOnly ? "ro" : "rw")} {ShareOption.Tag(index)} '{option.Guest}'; }} || exit 125\n"));

    /// <summary>Closes the folders; after the machine has been disposed.</summary>
    public void Dispose()
    {
        foreach (FuseServer server in _servers)
        {
            server.Dispose();
        }
        _servers.Clear();
    }
}
