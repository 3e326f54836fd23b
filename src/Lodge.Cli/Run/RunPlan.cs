using System.Text;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Templates;
using Lodge.Machine.Boot;
using Lodge.Storage.Disks;

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

    /// <summary>What the guest is told on its command port, at the moment at which it is told; null where it has none.</summary>
    public Func<byte[]>? Command { get; init; }

    /// <summary>Whether the guest says when it waits for <see cref="Command"/>, and gets it and the input then.</summary>
    public bool GuestWaits { get; init; }

    /// <summary>Makes the plan, fetching the default system when it is needed and not there.</summary>
    /// <exception cref="LodgeException">Something is missing or unusable.</exception>
    /// <param name="options">The options.</param>
    /// <param name="use">What the machine has to do with a template.</param>
    /// <param name="templateDisk">The disk of a machine in the foreground that is a clone or may become a template, of a stored image.</param>
    public static RunPlan Create(RunOptions options, TemplateUse use = TemplateUse.None, Func<IDisk>? templateDisk = null)
    {
        options.CloudInit?.RequireFiles();
        bool interactive = options.Folder is null && !options.OnlyTemplate && Terminal.IsTerminal(HostFile.StandardInput) && Terminal.IsTerminal(HostFile.StandardOutput);
        try
        {
            return options.Kernel is null && options.Initrd is null ? OfSystem(options, use, templateDisk, interactive) : OfUser(options, interactive);
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
            Seed = options.CloudInit is { Off: false } seed ? new SeedDisk(CloudInitOption.Seed(seed, options.Name, installService: false, options.CardAddresses), DiskBus.Virtio, options.WorkFolder) : null,
        };
    }

    /// <summary>A stored image or the default system.</summary>
    private static RunPlan OfSystem(RunOptions options, TemplateUse use, Func<IDisk>? templateDisk, bool interactive)
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
        string mark = "\x1e" + Convert.ToHexString(HostRandom.Bytes(16));
        string terminal = Environment.GetEnvironmentVariable("TERM") is { Length: > 0 } type && interactive ? type : mode == CommandMode.Shell ? "vt100" : "dumb";
        if (options.Image is { } image)
        {
            RunPlan ofImage = ImagePlan.Create(options, use, ImagePlan.Find(image), mode, interactive, mark, terminal, command);
            return ofImage with { SystemDisk = ofImage.SystemDisk! with { OpenTemplate = templateDisk } };
        }
        byte[] Text() => CommandImage.RunText(mode, options.Name, terminal, use == TemplateUse.None ? null : Terminal.Size(), mark, command);
        if (use != TemplateUse.None)
        {
            RunPlan plan = use == TemplateUse.Clone
                ? new RunPlan(BootSource.FromBytes("template", Array.Empty<byte>()), [], "", mode, interactive, Encoding.ASCII.GetBytes(mark))
                : Boot(CommandImage.Build(null, null, NetworkNeeds.Of(options.Networks ?? [])));
            return plan with { GuestWaits = true, Command = () => CloneProgram.Input(DateTimeOffset.UtcNow, HostRandom.Bytes(CloneProgram.SeedLength), Text()) };
        }
        return Boot(CommandImage.Build(Text(), Needs(options), NetworkNeeds.Of(options.Networks ?? []), RunShares.Mounts(options.Shares)));

        RunPlan Boot(byte[] second)
        {
            SystemFiles files = SystemCache.ForUser().Get(DebianSystem.Make);
            string commandLine = DefaultCommandLine(options.Verbose);
            return new RunPlan(
                BootSource.FromFile(files.Kernel),
                [new BootModule(BootSource.FromFile(files.Initramfs), "initramfs"), new BootModule(BootSource.FromBytes("command", second), "command")],
                options.Append.Length == 0 ? commandLine : $"{commandLine} {options.Append}",
                mode,
                interactive,
                Encoding.ASCII.GetBytes(mark));
        }
    }

    /// <summary>The kernel command line of the default system.</summary>
    internal static string DefaultCommandLine(bool verbose) => verbose ? "console=ttyS0 panic=-1" : "console=ttyS0 quiet panic=-1";

    private static DiskNeeds Needs(RunOptions options)
    {
        DiskNeeds needs = DiskNeeds.Of(options.Disks);
        return options.Vsock is null ? needs : needs with { Modules = [.. needs.Modules, .. SystemImage.SocketModules] };
    }
}
