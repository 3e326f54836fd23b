using System.Text;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Image.Store;
using Lodge.Cli.Templates;
using Lodge.Machine.Boot;
using Lodge.Management.CloudInit;
using Lodge.Management.Host;
using Lodge.Management.Images;
using Lodge.Management.Templates;

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

    /// <summary>Whether a machine of an image can be a template: it must wait for what it is to run.</summary>
    public static bool CanWait(RunOptions options, StoredImage image) => image.KernelPath is not null && (image.Manifest.HasCommandService || IsSeeded(options, image));

    /// <summary>Whether it gets a seed for cloud-init.</summary>
    public static bool IsSeeded(RunOptions options, StoredImage image) => options.CloudInit is { } asked ? !asked.Off : image.Manifest.HasCloudInit;

    /// <summary>All of an image that a machine's memory and disk depend on, one line each.</summary>
    public static IReadOnlyList<string> Describe(RunOptions options, StoredImage image)
    {
        bool seeded = IsSeeded(options, image);
        CloudInitSeed? seed = seeded ? CloudInitOption.Seed(null, options.Name, installService: !image.Manifest.HasCommandService, []) : null;
        return
        [
            $"system {image.Name} of {image.Manifest.Created:O} {image.Manifest.Sha256}",
            $"disk {TemplateKey.OfFile(image.DiskPath)}",
            $"kernel {TemplateKey.OfFile(image.KernelPath!)}",
            $"initrd {(image.InitrdPath is { } initrd && !image.Manifest.BootsWithoutInitrd ? TemplateKey.OfFile(initrd) : "none")}",
            $"bus {Bus(image)}",
            $"command line {CommandLine(options, image)}",
            .. seed is null ? [] : (ReadOnlySpan<string>)[$"seed {Convert.ToHexString(seed.MetaData)} {Convert.ToHexString(seed.UserData)} {Convert.ToHexString(seed.VendorData)}"],
        ];
    }

    /// <summary>Makes the plan.</summary>
    public static RunPlan Create(RunOptions options, TemplateUse use, StoredImage image, CommandMode mode, bool interactive, string mark, string terminal, IReadOnlyList<byte[]> command)
    {
        ImageManifest manifest = image.Manifest;
        if (image.KernelPath is not { } kernel)
        {
            throw new LodgeException($"image {image.Name} has no kernel that Lodge can start; build or pull it again");
        }
        bool seeded = IsSeeded(options, image);
        // Without a seed the image is as its maker left it: then only its guest agent can run a command.
        bool service = manifest.HasCommandService || seeded;
        bool agent = mode != CommandMode.Shell && !service;
        DiskBus bus = Bus(image);
        string commandLine = CommandLine(options, image);
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
            Command = agent || (mode == CommandMode.Shell && use == TemplateUse.None && !options.CommandPort) ? null : Text,
            GuestWaits = use != TemplateUse.None,
        };

        byte[] Text()
        {
            (int, int)? size = use == TemplateUse.Clone && interactive ? Terminal.Size() : null;
            // A kept machine's agent gives it other host keys, and goes on with that at the next start if it is interrupted.
            byte[] first = use == TemplateUse.Clone
                ? CloneText.Compose(options.Name, options.MachineId ?? Guid.NewGuid(), DateTimeOffset.UtcNow, HostRandom.Bytes(CloneProgram.SeedLength), kept: options.Folder is not null)
                : [];
            return mode == CommandMode.Shell
                ? [.. first, .. CloneText.Login(anew: use == TemplateUse.Clone && interactive, size)]
                : [.. first, .. Encoding.ASCII.GetBytes(CloneText.Size(size)), .. CommandImage.Text(mode, mark, terminal, command, options.Keep, RunShares.Script(options.Shares))];
        }
    }

    /// <summary>A kernel with NVMe and the file system built in starts sooner without an initial RAM disk; others find virtio drivers in theirs.</summary>
    private static DiskBus Bus(StoredImage image) => image.Manifest.BootsWithoutInitrd ? DiskBus.Nvme : DiskBus.Virtio;

    private static string CommandLine(RunOptions options, StoredImage image)
    {
        string device = Bus(image) == DiskBus.Nvme ? "/dev/nvme0n1" : "/dev/vda";
        string root = image.Manifest.Root.Replace("{disk}", device, StringComparison.Ordinal);
        string commandLine = $"root={root} {image.Manifest.CommandLine} console=ttyS0 panic=-1 systemd.hostname={options.Name}";
        // A clone's disk has the ID of the machine that it is a clone of; services that derive more from it (a DHCP client's) must never see that.
        commandLine += options.MachineId is { } id ? $" systemd.machine_id={id:n}" : "";
        commandLine += options.Verbose ? "" : " quiet systemd.show_status=no";
        commandLine += IsSeeded(options, image) ? $" {CloudInitSeed.KernelArgument}" : "";
        commandLine += RunShares.KernelArguments(options.Shares);
        if (IsSeeded(options, image) && options.CardAddresses.Count == 0)
        {
            // Without a network card it would wait two minutes for an address.
            commandLine += " systemd.mask=systemd-networkd-wait-online.service";
        }
        return commandLine;
    }
}
