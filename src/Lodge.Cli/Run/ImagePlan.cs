using System.Text;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Image.Store;
using Lodge.Cli.Templates;
using Lodge.Machine.Boot;
using Lodge.Management.CloudInit;
using Lodge.Management.Host;
using Lodge.Management.Images;

namespace Lodge.Cli.Run;

/// <summary>Plans the run of a stored image, which is made first when it is one that Lodge builds.</summary>
internal static class ImagePlan
{
    /// <summary>Memory of a machine with a whole distribution, in bytes, when none is asked for.</summary>
    public const ulong DefaultMemory = 1UL << 30;

    /// <summary>The image of a name; <c>debian</c> and <c>debian:SUITE</c> are built when they are not there.</summary>
    /// <exception cref="LodgeException">There is none.</exception>
    public static StoredImage Find(string text)
    {
        if (!ImageName.IsName(text))
        {
            throw new LodgeException($"'{text}' is not an image's name; for a disk file write --disk {text}, for a command in the guest: lodge run -- {text}", ExitStatus.Usage);
        }
        ImageName name = ImageName.Parse(text);
        if (ImageStore.ForUser().Find(name) is { } image)
        {
            return image;
        }
        return name.Name == "debian"
            ? BuildCommand.Build(name, new DebianBuildOptions(name.Tag, null, DebianBuilder.DefaultSize, [], CloudInit: false))
            : throw new LodgeException($"there is no image {name}; see 'lodge image list' and 'lodge image pull'; a command for the guest follows '--', as in: lodge run -- {text}");
    }

    /// <summary>Makes the plan.</summary>
    public static RunPlan Create(RunOptions options, RunTemplate? template, StoredImage image, CommandMode mode, bool interactive, string mark, string terminal, IReadOnlyList<byte[]> command)
    {
        ImageManifest manifest = image.Manifest;
        if (image.KernelPath is not { } kernel)
        {
            throw new LodgeException($"image {image.Name} has no kernel that Lodge can start; build or pull it again");
        }
        bool seeded = options.CloudInit is { } asked ? !asked.Off : manifest.HasCloudInit;
        // Without a seed the image is as its maker left it: then only its guest agent can run a command.
        bool service = manifest.HasCommandService || seeded;
        bool agent = mode != CommandMode.Shell && !service;
        // A kernel with NVMe and the file system built in starts sooner without an initial RAM disk; others find virtio drivers in theirs.
        DiskBus bus = manifest.BootsWithoutInitrd ? DiskBus.Nvme : DiskBus.Virtio;
        string device = bus == DiskBus.Nvme ? "/dev/nvme0n1" : "/dev/vda";
        string root = manifest.Root.Replace("{disk}", device, StringComparison.Ordinal);
        string commandLine = $"root={root} {manifest.CommandLine} console=ttyS0 panic=-1 systemd.hostname={options.Name}";
        // A clone's disk has the ID of the machine that it is a clone of; services that derive more from it (a DHCP client's) must never see that.
        commandLine += options.MachineId is { } id ? $" systemd.machine_id={id:n}" : "";
        commandLine += options.Verbose ? "" : " quiet systemd.show_status=no";
        commandLine += seeded ? $" {CloudInitSeed.KernelArgument}" : "";
        commandLine += RunShares.KernelArguments(options.Shares);
        if (seeded && options.CardAddresses.Count == 0)
        {
            // Without a network card it would wait two minutes for an address.
            commandLine += " systemd.mask=systemd-networkd-wait-online.service";
        }
        return new RunPlan(
            BootSource.FromFile(kernel),
            !manifest.BootsWithoutInitrd && image.InitrdPath is { } path ? [new BootModule(BootSource.FromFile(path), "initrd")] : [],
            options.Append.Length == 0 ? commandLine : $"{commandLine} {options.Append}",
            agent ? CommandMode.Pipe : mode,
            interactive && !agent,
            Encoding.ASCII.GetBytes(mark))
        {
            SystemDisk = new SystemDisk(image, bus, options.Folder ?? (options.Keep ? Path.Combine(HostFolders.Data, "machines", options.Name) : null)),
            Seed = seeded ? new SeedDisk(CloudInitOption.Seed(options.CloudInit, options.Name, installService: !manifest.HasCommandService, options.CardAddresses), bus, options.WorkFolder) : null,
            AgentCommand = agent ? options.Command.Count != 0 ? options.Command : ["sh"] : null,
            Command = agent || mode == CommandMode.Shell ? null : () => CommandImage.Text(mode, mark, terminal, command, options.Keep, RunShares.Script(options.Shares)),
        };
    }
}
