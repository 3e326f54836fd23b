using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Management.Limits;
using Lodge.Network.Filters;
using Lodge.Network.User;

namespace Lodge.Cli.Run;

/// <summary>What a machine is made from, as options of a command line: <c>run</c>, <c>create</c> and <c>edit</c> take the same.</summary>
internal sealed class RunArguments
{
    private readonly Option<string?> _kernel = new("--kernel") { Description = "Kernel image: Linux bzImage, ELF with a PVH entry, or Multiboot", HelpName = "FILE" };
    private readonly Option<string?> _initrd = new("--initrd") { Description = "Initial RAM disk; for Multiboot: 'file arguments,file2 arguments'", HelpName = "FILE" };
    private readonly Option<string?> _append = new("--append") { Description = "Added to the kernel's command line", HelpName = "TEXT" };
    private readonly Option<ulong> _memory = Parsed("--memory", "Size of RAM [default: 512M]", "SIZE", RunOptions.ParseMemory);
    private readonly Option<int> _processors = Parsed("--cpus", "Number of CPUs [default: 1]", "N", RunOptions.ParseProcessors);
    private readonly Option<int> _maximumProcessors = Parsed("--max-cpus", "Most CPUs that 'lodge edit --cpus' can give the machine while it runs [default: --cpus]", "N", RunOptions.ParseProcessors);
    private readonly Option<CpuModelName> _cpu = Parsed("--cpu", $"CPU model: {string.Join(", ", CpuModel.Names)} [default: v3]", "MODEL", RunOptions.ParseCpu);
    private readonly Option<bool> _hyperv = new("--hyperv") { Description = "Hyper-V's enlightenments, for Windows guests (engine kvm)" };
    private readonly Option<bool> _nested = new("--nested") { Description = "VMX or SVM: the guest can run virtual machines itself (engine kvm)" };
    private readonly Option<bool> _pmu = new("--pmu") { Description = "Performance counters for the guest (engine kvm)" };
    private readonly Option<HugePages> _hugePages = Parsed(HostResources.HugePagesOption, "Back the memory by huge pages of this host: 2M or 1G of its pool, or transparent [2M]", "SIZE", HostResources.ParseHugePages);
    private readonly Option<bool> _mergeable = new("--mergeable") { Description = "Let this host's kernel merge pages of memory that have the same content in several machines (KSM)" };
    private readonly Option<bool> _memoryLock = new("--memory-lock") { Description = "Take all memory of the machine at once and keep it out of swap" };
    private readonly Option<IReadOnlyList<int>> _pin = Parsed("--pin", "Bind the machine's CPUs to these of this host, the first to the first and so on", "CPU[,CPU...]", HostResources.ParsePin);
    private readonly Option<int?> _cpuShares = Parsed<int?>("--cpu-shares", "Weight against others when this host's CPUs are short; others have 1024", "N", text => MachineLimits.ParseShares(text));
    private readonly Option<int?> _cpuQuota = Parsed<int?>("--cpu-quota", "Most CPU time: 150% of one CPU, or 1.5 CPUs", "PERCENT%", text => MachineLimits.ParseQuota(text));
    private readonly Option<IReadOnlyList<int>?> _cpuSet = Parsed<IReadOnlyList<int>?>("--cpu-set", "CPUs of this host that the machine's process may use", "CPU[-CPU][,...]", MachineLimits.ParseCpuSet);
    private readonly Option<long?> _memoryLimit = Parsed<long?>("--memory-limit", "Most memory of the machine's process: the guest's and its own", "SIZE", text => MachineLimits.ParseMemory(text));
    private readonly Option<int?> _ioWeight = Parsed<int?>("--io-weight", "Weight of disk requests against others; others have 100", "N", text => MachineLimits.ParseIoWeight(text));
    private readonly Option<int?> _pidsLimit = Parsed<int?>("--pids-limit", "Most threads of the machine's process", "N", text => MachineLimits.ParsePids(text));
    private readonly Option<bool> _noSandbox = new("--no-sandbox") { Description = "Do not confine the machine's process (see docs/limits-and-sandbox.md)" };
    private readonly Option<string> _engine = Parsed("--engine", "What executes the guest: kvm (the hardware), translate (in software), or auto: kvm where it can run a kernel, see 'lodge host' [default: auto]", "NAME", RunOptions.ParseEngine);
    private readonly Option<string> _name = Parsed("--name", "Name of the machine, and host name of the default system [default: lodge]", "NAME", RunOptions.ParseName);
    private readonly Option<IReadOnlyList<DiskOption>> _disk = new("--disk")
    {
        Description = "Add a disk; repeatable. Options: format=NAME, readonly, serial=TEXT, cache=writeback|none|writethrough|directsync|unsafe, bus=virtio|nvme|scsi, "
            + "discard=on|off, blocksize=512|4096, allow=FOLDER (for backing files), name=NAME, slot=N (PCI), "
            + "fault=KIND[@LBA[-LBA]][:TIME][:RATE] (read-error, write-error, flush-error, torn-write, delay), bps=N, iops=N, also with -rd, -wr, -max",
        HelpName = "PATH[,OPTION=VALUE...]",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
        CustomParser = result => GuardAll(result, DiskOption.Parse),
    };
    private readonly Option<IReadOnlyList<DiskOption>> _cdrom = new("--cdrom")
    {
        Description = "Add a CD-ROM drive with an ISO image; repeatable. Options as --disk's, as far as they make sense",
        HelpName = "PATH[,OPTION=VALUE...]",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
        CustomParser = result => GuardAll(result, DiskOption.ParseCdRom),
    };
    private readonly Option<IReadOnlyList<NetworkOption>> _net = new("--net")
    {
        Description = "Add a network card; repeatable. Without it the machine has one on a user network, if libslirp0 is installed. Kinds: user (NAT without root), none, the name of a network, "
            + "tap=NAME, bridge=NAME. Options: name=NAME, slot=N (PCI), mac=ADDRESS, model=virtio, mtu=N, queues=N, link=up|down, capture=FILE, allow=RULE, deny=RULE, spoof-check=on|off, "
            + "bytes-in=N, bytes-out=N, packets-in=N, packets-out=N, also with -max; for user: publish=PORTS, subnet=10.0.2.0/24, ipv6=on|off|fec0::/64, host-loopback=on|off, restrict=on|off; for tap: vlan=N, for tap and bridge: address=IP",
        HelpName = "KIND[,OPTION=VALUE...]",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
        CustomParser = result => GuardAll(result, NetworkOption.Parse),
    };
    private readonly Option<IReadOnlyList<IReadOnlyList<PortForward>>> _publish = new("--publish")
    {
        Description = "Lead ports of this host to the guest (user network); repeatable. Without ADDRESS only this host reaches them; HOSTPORT 0 is any free one, and told",
        HelpName = "[ADDRESS:]HOSTPORT[-END]:GUESTPORT[-END][/tcp|udp]",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
        CustomParser = result => GuardAll(result, PortForward.Parse),
    };
    private readonly Option<IReadOnlyList<FilterRule>> _allow = Rules("allow", "Let through only what such rules allow; repeatable");
    private readonly Option<IReadOnlyList<FilterRule>> _deny = Rules("deny", "Do not let this through; repeatable. Rules that deny come before those that allow");
    private readonly Option<string?> _capture = new("--capture") { Description = "Write what passes the network cards to this file, in pcapng when its name ends so, else in pcap", HelpName = "FILE" };
    private readonly Option<IReadOnlyList<ShareOption>> _share = new("--share")
    {
        Description = "Share a folder of this host with the guest, which finds it mounted at GUEST; repeatable. Options: owner=UID[:GID] (who in the guest stands for you), "
            + "cache=auto|none|always",
        HelpName = "HOST:GUEST[:ro][,OPTION=VALUE...]",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
        CustomParser = result => GuardAll(result, ShareOption.Parse),
    };
    private readonly Option<VsockOption?> _vsock = Parsed<VsockOption?>(
        "--vsock",
        "Sockets (AF_VSOCK) between guest and host: connect to PATH and send 'CONNECT PORT' to reach the guest; the guest reaches port N of CID 2 at PATH_N [default CID: 3]",
        "PATH[,cid=N]",
        VsockOption.Parse);
    private readonly Option<EndPoint?> _gdb = Parsed<EndPoint?>("--gdb", "Wait for gdb here before the first instruction, for example :1234 or ./gdb.socket", "[ADDRESS]:PORT|PATH", RunOptions.ParseGdb);
    private readonly Option<ushort?> _debugExit = new("--debug-exit")
    {
        Description = "A write to this I/O port ends the run with status (value << 1) | 1 [default port: 0xf4]",
        HelpName = "PORT",
        Arity = ArgumentArity.ZeroOrOne,
        CustomParser = result => result.Tokens.Count == 0
            ? RunOptions.DefaultDebugExitPort
            : Guard<ushort?>(result, t => RunOptions.ParsePort(t)),
    };
    private readonly Option<TimeSpan?> _timeout = Parsed<TimeSpan?>("--timeout", "End the run after this time, for example 30s or 5m", "TIME", t => RunOptions.ParseTimeout(t));
    private readonly Option<bool> _trace = new("--trace") { Description = "Tell at the end what the guest did: exits, interrupts, faults, translated blocks" };
    private readonly Option<bool> _verbose = new("--verbose") { Description = "Show the default system's boot messages" };
    private readonly Option<bool> _noTemplate = new("--no-template") { Description = "Boot, also where a machine that was booted before could be cloned (see 'lodge template'), and keep none" };

    private readonly Argument<string?> _image = new("IMAGE") { Description = "Stored image to run, for example debian or debian:trixie; none is the default system", Arity = ArgumentArity.ZeroOrOne };
    private readonly Option<bool> _keep = new("--keep") { Description = "Keep the machine's disk under its --name; the next run with it goes on where this ended" };

    private readonly Option<CloudInitOption?> _cloudInit = Parsed<CloudInitOption?>(
        "--cloud-init",
        "Give the guest a cloud-init seed with these files, or none; NAME is user-data, meta-data or network-config [default: on when the image has cloud-init]",
        "NAME=FILE[,NAME=FILE...]|on|off",
        CloudInitOption.Parse);

    /// <summary>Adds them to a verb.</summary>
    public void AddTo(Command command)
    {
        command.Add(_image);
        foreach (Option option in All)
        {
            command.Add(option);
        }
    }

    /// <summary>The options in the order of the help.</summary>
    public IReadOnlyList<Option> All => [_keep, _cloudInit, _kernel, _initrd, _append, _memory, _hugePages, _mergeable, _memoryLock, _processors, _maximumProcessors, _cpu, _hyperv, _nested, _pmu, _pin, _cpuShares, _cpuQuota, _cpuSet, _memoryLimit, _ioWeight, _pidsLimit, _noSandbox, _disk, _cdrom, _net, _publish, _allow, _deny, _capture, _share, _vsock, _engine, _name, _gdb, _debugExit, _timeout, _trace, _verbose, _noTemplate];

    /// <summary>What a command line without options asks for.</summary>
    /// <param name="image">The image, or null.</param>
    /// <param name="commandWords">What followed <c>--</c>, or null when there was no <c>--</c>.</param>
    /// <exception cref="LodgeException">There is no command behind <c>--</c>.</exception>
    public static RunOptions Plain(string? image, IReadOnlyList<string>? commandWords) => new() { Image = image, Command = Checked(commandWords, null, null) };

    /// <summary>What they ask for.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="commandWords">What followed <c>--</c>, or null when there was no <c>--</c>.</param>
    /// <exception cref="LodgeException">They contradict each other.</exception>
    public RunOptions Bind(ParseResult parsed, IReadOnlyList<string>? commandWords)
    {
        return new RunOptions
        {
            Image = Checked(parsed.GetValue(_image), parsed.GetValue(_kernel), parsed.GetValue(_initrd), parsed.GetValue(_keep), parsed.GetResult(_name) is not null),
            Keep = parsed.GetValue(_keep),
            Vsock = parsed.GetValue(_vsock),
            CloudInit = Checked(parsed.GetValue(_cloudInit), parsed.GetValue(_image), parsed.GetValue(_kernel)),
            MemoryGiven = parsed.GetResult(_memory) is not null,
            Kernel = parsed.GetValue(_kernel),
            Initrd = parsed.GetValue(_initrd),
            Append = parsed.GetValue(_append) ?? "",
            Memory = parsed.GetResult(_memory) is null ? RunOptions.DefaultMemory : parsed.GetValue(_memory),
            Backing = new MemoryBacking(
                parsed.GetResult(_hugePages) is null ? HugePages.None : parsed.GetValue(_hugePages), parsed.GetValue(_mergeable), parsed.GetValue(_memoryLock)),
            Pin = parsed.GetResult(_pin) is null ? [] : parsed.GetValue(_pin) ?? [],
            Limits = new MachineLimits
            {
                CpuShares = parsed.GetValue(_cpuShares),
                CpuQuota = parsed.GetValue(_cpuQuota),
                CpuSet = parsed.GetValue(_cpuSet),
                Memory = parsed.GetValue(_memoryLimit),
                IoWeight = parsed.GetValue(_ioWeight),
                Pids = parsed.GetValue(_pidsLimit),
            },
            Sandbox = !parsed.GetValue(_noSandbox),
            Processors = parsed.GetResult(_processors) is null ? 1 : parsed.GetValue(_processors),
            MaximumProcessors = CheckedMaximum(parsed.GetResult(_maximumProcessors) is null ? null : parsed.GetValue(_maximumProcessors), parsed.GetResult(_processors) is null ? 1 : parsed.GetValue(_processors)),
            Cpu = parsed.GetResult(_cpu) is null ? CpuModelName.V3 : parsed.GetValue(_cpu),
            Processor = ProcessorOptions.None with { HyperV = parsed.GetValue(_hyperv), Nested = parsed.GetValue(_nested), PerformanceMonitoring = parsed.GetValue(_pmu) },
            Engine = parsed.GetValue(_engine) ?? "auto",
            Name = parsed.GetValue(_name) ?? "lodge",
            Named = parsed.GetResult(_name) is not null,
            Disks = parsed.GetResult(_disk) is null && parsed.GetResult(_cdrom) is null ? [] : [.. parsed.GetValue(_disk) ?? [], .. parsed.GetValue(_cdrom) ?? []],
            Networks = parsed.GetResult(_net) is null ? null : CheckedNetworks(parsed.GetValue(_net) ?? []),
            Publish = parsed.GetResult(_publish) is null ? [] : [.. (parsed.GetValue(_publish) ?? []).SelectMany(p => p)],
            NetworkRules = parsed.GetResult(_deny) is null && parsed.GetResult(_allow) is null ? [] : [.. parsed.GetResult(_deny) is null ? [] : parsed.GetValue(_deny) ?? [], .. parsed.GetResult(_allow) is null ? [] : parsed.GetValue(_allow) ?? []],
            Capture = parsed.GetValue(_capture),
            Shares = parsed.GetResult(_share) is null ? [] : parsed.GetValue(_share) ?? [],
            Gdb = parsed.GetValue(_gdb),
            DebugExitPort = parsed.GetResult(_debugExit) is null ? null : parsed.GetValue(_debugExit),
            Timeout = parsed.GetValue(_timeout),
            Trace = parsed.GetValue(_trace),
            Verbose = parsed.GetValue(_verbose),
            Template = !parsed.GetValue(_noTemplate),
            Command = Checked(commandWords, parsed.GetValue(_kernel), parsed.GetValue(_initrd)),
        };
    }

    private static CloudInitOption? Checked(CloudInitOption? option, string? image, string? kernel) => option is { Off: false } && image is null && kernel is null
        ? throw new LodgeException("--cloud-init is for an IMAGE or a kernel of your own: the default system has no cloud-init", ExitStatus.Usage)
        : option;

    private static string? Checked(string? image, string? kernel, string? initrd, bool keep, bool named)
    {
        if (image?.StartsWith('-') == true)
        {
            throw new LodgeException($"option '{image}' is not known; see 'lodge run --help'", ExitStatus.Usage);
        }
        if (image is not null && (kernel ?? initrd) is { } other)
        {
            throw new LodgeException($"image '{image}' has a kernel of its own and cannot be given with '{other}'; leave one of them out", ExitStatus.Usage);
        }
        if (keep && (image is null || !named))
        {
            throw new LodgeException("--keep keeps the disk of an image's machine under its name; write for example: lodge run debian --name web --keep", ExitStatus.Usage);
        }
        return image;
    }

    private static int? CheckedMaximum(int? maximum, int processors) => maximum < processors
        ? throw new LodgeException($"--max-cpus {maximum} is less than the {processors} CPUs that the machine starts with", ExitStatus.Usage)
        : maximum;

    private static IReadOnlyList<NetworkOption> CheckedNetworks(IReadOnlyList<NetworkOption> networks) =>
        networks.Count > 1 && networks.Any(n => n.Kind == NetworkKind.None && !n.IsPlace)
            ? throw new LodgeException("--net none is no network; leave it or the others out", ExitStatus.Usage)
            : networks;

    private static IReadOnlyList<string> Checked(IReadOnlyList<string>? words, string? kernel, string? initrd)
    {
        if (words is null)
        {
            return [];
        }
        if (words.Count == 0 || words[0].Length == 0)
        {
            throw new LodgeException("no command follows '--'; write for example: lodge run -- uname -a", ExitStatus.Usage);
        }
        if ((kernel is null ? initrd : kernel) is { } image)
        {
            string option = kernel is null ? "--initrd" : "--kernel";
            throw new LodgeException($"'-- {words[0]}' runs in the default system and cannot be given with {option} '{image}'; leave one of them out", ExitStatus.Usage);
        }
        return words;
    }

    private static Option<T> Parsed<T>(string name, string description, string helpName, Func<string, T> parse) => new(name)
    {
        Description = description,
        HelpName = helpName,
        Arity = ArgumentArity.ExactlyOne,
        CustomParser = result => Guard(result, parse),
    };

    private static Option<IReadOnlyList<FilterRule>> Rules(string action, string description) => new($"--{action}")
    {
        Description = description + ". A rule: [in|out] [any|tcp|udp|icmp|icmpv6] [REMOTE] [PORTS], for example 'tcp 192.0.2.0/24 80,443'",
        HelpName = "RULE",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
        CustomParser = result => GuardAll(result, text => NetworkOption.RuleOf(action, text)),
    };

    private static T? Guard<T>(ArgumentResult result, Func<string, T> parse)
    {
        try
        {
            return parse(result.Tokens[0].Value);
        }
        catch (FormatException e)
        {
            result.AddError(e.Message);
            return default;
        }
    }

    private static IReadOnlyList<T> GuardAll<T>(ArgumentResult result, Func<string, T> parse)
    {
        try
        {
            return [.. result.Tokens.Select(token => parse(token.Value))];
        }
        catch (FormatException e)
        {
            result.AddError(e.Message);
            return [];
        }
    }
}
