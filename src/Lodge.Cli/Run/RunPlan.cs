using System.Security.Cryptography;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Machine.Boot;

namespace Lodge.Cli.Run;

/// <summary>What a run boots, and what its console is connected to.</summary>
/// <param name="Kernel">Kernel image.</param>
/// <param name="Modules">Initrd pieces or Multiboot modules.</param>
/// <param name="CommandLine">Kernel command line.</param>
/// <param name="Mode">What the default system does; null for a kernel or initrd of the user.</param>
/// <param name="Interactive">Standard input and output are a terminal, which the guest's console gets in raw mode.</param>
/// <param name="EndMark">Ends the streams of a command in pipe mode.</param>
internal sealed record RunPlan(
    BootSource Kernel,
    IReadOnlyList<BootModule> Modules,
    string CommandLine,
    CommandMode? Mode,
    bool Interactive,
    byte[] EndMark)
{
    /// <summary>The disk of a stored image, or null.</summary>
    public SystemDisk? SystemDisk { get; init; }

    /// <summary>The disk with the cloud-init seed, or null.</summary>
    public SeedDisk? Seed { get; init; }

    /// <summary>What the guest agent is to run, for a stored image without the command service; null for none.</summary>
    public IReadOnlyList<string>? AgentCommand { get; init; }

    /// <summary>What the command service of a stored image is told; null for the default system and for a login.</summary>
    public byte[]? Command { get; init; }

    /// <summary>Makes the plan, fetching the default system when it is needed and not there.</summary>
    /// <exception cref="LodgeException">Something is missing or unusable.</exception>
    public static RunPlan Create(RunOptions options)
    {
        options.CloudInit?.RequireFiles();
        bool interactive = options.Folder is null && Terminal.IsTerminal(HostFile.StandardInput) && Terminal.IsTerminal(HostFile.StandardOutput);
        try
        {
            return options.Kernel is null && options.Initrd is null ? OfSystem(options, interactive) : OfUser(options, interactive);
        }
        catch (BootException e)
        {
            throw new LodgeException(e.Message);
        }
    }

    private static RunPlan OfUser(RunOptions options, bool interactive)
    {
        BootSource kernel = BootSource.FromFile(options.Kernel ?? SystemCache.ForUser().Get(DebianSystem.Make).Kernel);
        IReadOnlyList<BootModule> modules = options.Initrd is null
            ? []
            : KernelLoader.Detect(kernel) == KernelKind.Multiboot
                ? BootModule.ParseMultiboot(options.Initrd)
                : [new BootModule(BootSource.FromFile(options.Initrd), options.Initrd)];
        return new RunPlan(kernel, modules, options.Append, null, interactive, [])
        {
            Seed = options.CloudInit is { Off: false } seed ? new SeedDisk(CloudInitOption.Seed(seed, options.Name, installService: false, options.CardAddresses), DiskBus.Virtio) : null,
        };
    }

    /// <summary>A stored image or the default system.</summary>
    private static RunPlan OfSystem(RunOptions options, bool interactive)
    {
        IReadOnlyList<byte[]> command = CommandImage.LastWords(options.Command);
        CommandMode mode = (interactive, command.Count) switch
        {
            (false, 0) when options.Folder is not null => CommandMode.Shell, // people come and go on its console
            (true, 0) => CommandMode.Shell,
            (true, _) => CommandMode.Terminal,
            _ => CommandMode.Pipe,
        };
        if (mode == CommandMode.Pipe && command.Count == 0)
        {
            command = ["sh"u8.ToArray()]; // a shell that reads its commands from standard input
        }
        // The first character does not occur again, see OutputPort.
        string mark = "\x1e" + Convert.ToHexString(RandomNumberGenerator.GetBytes(16));
        string terminal = Environment.GetEnvironmentVariable("TERM") is { Length: > 0 } type && interactive ? type : mode == CommandMode.Shell ? "vt100" : "dumb";
        if (options.Image is { } image)
        {
            return ImagePlan.Create(options, ImagePlan.Find(image), mode, interactive, mark, terminal, command);
        }
        SystemFiles files = SystemCache.ForUser().Get(DebianSystem.Make);
        byte[] second = CommandImage.Build(mode, options.Name, terminal, mark, command, Needs(options), NetworkNeeds.Of(options.Networks ?? []), RunShares.Mounts(options.Shares));
        string commandLine = options.Verbose ? "console=ttyS0 panic=-1" : "console=ttyS0 quiet panic=-1";
        return new RunPlan(
            BootSource.FromFile(files.Kernel),
            [new BootModule(BootSource.FromFile(files.Initramfs), "initramfs"), new BootModule(BootSource.FromBytes("command", second), "command")],
            options.Append.Length == 0 ? commandLine : $"{commandLine} {options.Append}",
            mode,
            interactive,
            Encoding.ASCII.GetBytes(mark));
    }

    private static DiskNeeds Needs(RunOptions options)
    {
        DiskNeeds needs = DiskNeeds.Of(options.Disks);
        return options.Vsock is null ? needs : needs with { Modules = [.. needs.Modules, .. SystemImage.SocketModules] };
    }
}
