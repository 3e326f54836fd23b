using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.CommandLine.Parsing;
using System.Net;
using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Network.Filters;
using Lodge.Network.User;

namespace Lodge.Cli.Run;

/// <summary>The verb <c>run</c>: its options, and how they become <see cref="RunOptions"/>.</summary>
internal static class RunCommand
{
    private const string About = "Run a virtual machine in the foreground";

    private const string Manual = """
        With IMAGE it is a machine with that system (see 'lodge image list'; debian is built on first use). Without IMAGE and --kernel it is a small default system (Debian's cloud kernel and busybox), fetched once through apt and kept in ~/.cache/lodge: a
        shell on the terminal, or CMD, whose input, output and exit status become this command's. Ctrl-] leaves the machine.

        Examples:
          lodge run                                   a shell in a fresh machine
          lodge run -- uname -a                       run one command
          lodge run debian                            a whole Debian with systemd; its disk is thrown away at the end
          lodge run debian -- systemctl is-system-running --wait
          lodge run ubuntu -- cat /etc/os-release     a pulled cloud image (lodge image pull ubuntu)
          lodge run debian:bookworm --name web --keep   the same with a disk that is kept
          echo hi | lodge run --cpus 4 -- sh -c 'cat; nproc'
          lodge run --memory 2G --kernel vmlinuz --initrd initrd.img --append console=ttyS0
          lodge run --kernel vmlinux --append console=ttyS0 --gdb :1234
          lodge run --disk data.qcow2 --disk scratch.img,serial=S1 -- sh -c 'mount /dev/vda /mnt && ls /mnt'
          lodge run debian --publish 8080:80 -- sh -c 'apt-get update && apt-get install -y nginx && sleep infinity'
          lodge run --net user,mac=52:54:00:12:34:56,bytes-in=10M --capture traffic.pcapng -- wget -O - http://example.org/
          lodge run debian --deny 10.0.0.0/8 --deny 192.168.0.0/16 --allow 'tcp any 80,443' -- apt-get update
          lodge run --net none -- ip address
          lodge run --share .:/work -- sh -c 'cd /work && ls'
          lodge run debian --engine kvm --cpus 2 --pin 2,3 --memory 4G --hugepages --memory-lock
          lodge run --kernel test.elf --debug-exit --timeout 30

        Exit status: the command's own; without one 0 after power-off, 200 reset, 201 triple fault, 202 kernel panic, 203 engine failure,
        204 left with Ctrl-], 205 power-off before the command ended, 124 timeout, 1 cannot start, 2 wrong usage;
        with --debug-exit (value << 1) | 1.

        """;

    /// <summary>Builds the verb.</summary>
    /// <param name="commandWords">What followed <c>--</c>, or null when there was no <c>--</c>.</param>
    /// <param name="run">Runs the machine; returns the exit status.</param>
    public static Command Create(IReadOnlyList<string>? commandWords, Func<RunOptions, int> run)
    {
        Option<string?> kernel = new("--kernel") { Description = "Kernel image: Linux bzImage, ELF with a PVH entry, or Multiboot", HelpName = "FILE" };
        Option<string?> initrd = new("--initrd") { Description = "Initial RAM disk; for Multiboot: 'file arguments,file2 arguments'", HelpName = "FILE" };
        Option<string?> append = new("--append") { Description = "Added to the kernel's command line", HelpName = "TEXT" };
        Option<ulong> memory = Parsed("--memory", "Size of RAM [default: 512M]", "SIZE", RunOptions.ParseMemory);
        Option<int> processors = Parsed("--cpus", "Number of CPUs [default: 1]", "N", RunOptions.ParseProcessors);
        Option<CpuModelName> cpu = Parsed("--cpu", $"CPU model: {string.Join(", ", CpuModel.Names)} [default: v3]", "MODEL", RunOptions.ParseCpu);
        Option<bool> hyperv = new("--hyperv") { Description = "Hyper-V's enlightenments, for Windows guests (engine kvm)" };
        Option<bool> nested = new("--nested") { Description = "VMX or SVM: the guest can run virtual machines itself (engine kvm)" };
        Option<bool> pmu = new("--pmu") { Description = "Performance counters for the guest (engine kvm)" };
        Option<HugePages> hugePages = Parsed(HostResources.HugePagesOption, "Back the memory by huge pages of this host: 2M or 1G of its pool, or transparent [2M]", "SIZE", HostResources.ParseHugePages);
        Option<bool> mergeable = new("--mergeable") { Description = "Let this host's kernel merge pages of memory that have the same content in several machines (KSM)" };
        Option<bool> memoryLock = new("--memory-lock") { Description = "Take all memory of the machine at once and keep it out of swap" };
        Option<IReadOnlyList<int>> pin = Parsed("--pin", "Bind the machine's CPUs to these of this host, the first to the first and so on", "CPU[,CPU...]", HostResources.ParsePin);
        Option<string> engine = Parsed("--engine", "What executes the guest: kvm (the hardware), translate (in software), or auto: kvm where it can run a kernel, see 'lodge host' [default: auto]", "NAME", RunOptions.ParseEngine);
        Option<string> name = Parsed("--name", "Name of the machine, and host name of the default system [default: lodge]", "NAME", RunOptions.ParseName);
        Option<IReadOnlyList<DiskOption>> disk = new("--disk")
        {
            Description = "Add a disk; repeatable. Options: format=NAME, readonly, serial=TEXT, cache=writeback|none|writethrough|directsync|unsafe, bus=virtio|nvme|scsi, "
                + "discard=on|off, blocksize=512|4096, allow=FOLDER (for backing files), "
                + "fault=KIND[@LBA[-LBA]][:TIME][:RATE] (read-error, write-error, flush-error, torn-write, delay), bps=N, iops=N, also with -rd, -wr, -max",
            HelpName = "PATH[,OPTION=VALUE...]",
            Arity = ArgumentArity.OneOrMore,
            AllowMultipleArgumentsPerToken = false,
            CustomParser = result => GuardAll(result, DiskOption.Parse),
        };
        Option<IReadOnlyList<DiskOption>> cdrom = new("--cdrom")
        {
            Description = "Add a CD-ROM drive with an ISO image; repeatable. Options as --disk's, as far as they make sense",
            HelpName = "PATH[,OPTION=VALUE...]",
            Arity = ArgumentArity.OneOrMore,
            AllowMultipleArgumentsPerToken = false,
            CustomParser = result => GuardAll(result, DiskOption.ParseCdRom),
        };
        Option<IReadOnlyList<NetworkOption>> net = new("--net")
        {
            Description = "Add a network card; repeatable. Without it the machine has one on a user network, if libslirp0 is installed. Kinds: user (NAT without root), none, the name of a network, "
                + "tap=NAME, bridge=NAME. Options: mac=ADDRESS, model=virtio, mtu=N, queues=N, link=up|down, capture=FILE, allow=RULE, deny=RULE, spoof-check=on|off, "
                + "bytes-in=N, bytes-out=N, packets-in=N, packets-out=N, also with -max; for user: publish=PORTS, subnet=10.0.2.0/24, ipv6=on|off|fec0::/64, host-loopback=on|off, restrict=on|off; for tap: vlan=N, for tap and bridge: address=IP",
            HelpName = "KIND[,OPTION=VALUE...]",
            Arity = ArgumentArity.OneOrMore,
            AllowMultipleArgumentsPerToken = false,
            CustomParser = result => GuardAll(result, NetworkOption.Parse),
        };
        Option<IReadOnlyList<IReadOnlyList<PortForward>>> publish = new("--publish")
        {
            Description = "Lead ports of this host to the guest (user network); repeatable. Without ADDRESS only this host reaches them; HOSTPORT 0 is any free one, and told",
            HelpName = "[ADDRESS:]HOSTPORT[-END]:GUESTPORT[-END][/tcp|udp]",
            Arity = ArgumentArity.OneOrMore,
            AllowMultipleArgumentsPerToken = false,
            CustomParser = result => GuardAll(result, PortForward.Parse),
        };
        Option<IReadOnlyList<FilterRule>> allow = Rules("allow", "Let through only what such rules allow; repeatable");
        Option<IReadOnlyList<FilterRule>> deny = Rules("deny", "Do not let this through; repeatable. Rules that deny come before those that allow");
        Option<string?> capture = new("--capture") { Description = "Write what passes the network cards to this file, in pcapng when its name ends so, else in pcap", HelpName = "FILE" };
        Option<IReadOnlyList<ShareOption>> share = new("--share")
        {
            Description = "Share a folder of this host with the guest, which finds it mounted at GUEST; repeatable. Options: owner=UID[:GID] (who in the guest stands for you), "
                + "cache=auto|none|always",
            HelpName = "HOST:GUEST[:ro][,OPTION=VALUE...]",
            Arity = ArgumentArity.OneOrMore,
            AllowMultipleArgumentsPerToken = false,
            CustomParser = result => GuardAll(result, ShareOption.Parse),
        };
        Option<VsockOption?> vsock = Parsed<VsockOption?>(
            "--vsock",
            "Sockets (AF_VSOCK) between guest and host: connect to PATH and send 'CONNECT PORT' to reach the guest; the guest reaches port N of CID 2 at PATH_N [default CID: 3]",
            "PATH[,cid=N]",
            VsockOption.Parse);
        Option<EndPoint?> gdb = Parsed<EndPoint?>("--gdb", "Wait for gdb here before the first instruction, for example :1234 or ./gdb.socket", "[ADDRESS]:PORT|PATH", RunOptions.ParseGdb);
        Option<ushort?> debugExit = new("--debug-exit")
        {
            Description = "A write to this I/O port ends the run with status (value << 1) | 1 [default port: 0xf4]",
            HelpName = "PORT",
            Arity = ArgumentArity.ZeroOrOne,
            CustomParser = result => result.Tokens.Count == 0
                ? RunOptions.DefaultDebugExitPort
                : Guard<ushort?>(result, t => RunOptions.ParsePort(t)),
        };
        Option<TimeSpan?> timeout = Parsed<TimeSpan?>("--timeout", "End the run after this time, for example 30s or 5m", "TIME", t => RunOptions.ParseTimeout(t));
        Option<bool> trace = new("--trace") { Description = "Tell at the end what the guest did: exits, interrupts, faults, translated blocks" };
        Option<bool> verbose = new("--verbose") { Description = "Show the default system's boot messages" };

        Argument<string?> image = new("IMAGE") { Description = "Stored image to run, for example debian or debian:trixie; none is the default system", Arity = ArgumentArity.ZeroOrOne };
        Option<bool> keep = new("--keep") { Description = "Keep the machine's disk under its --name; the next run with it goes on where this ended" };

        Option<CloudInitOption?> cloudInit = Parsed<CloudInitOption?>(
            "--cloud-init",
            "Give the guest a cloud-init seed with these files, or none; NAME is user-data, meta-data or network-config [default: on when the image has cloud-init]",
            "NAME=FILE[,NAME=FILE...]|on|off",
            CloudInitOption.Parse);

        Command command = new("run", About) { image, keep, cloudInit, kernel, initrd, append, memory, hugePages, mergeable, memoryLock, processors, cpu, hyperv, nested, pmu, pin, disk, cdrom, net, publish, allow, deny, capture, share, vsock, engine, name, gdb, debugExit, timeout, trace, verbose };
        command.Add(new HelpOption { Action = new ManualAction() });
        command.SetAction(parsed => run(new RunOptions
        {
            Image = Checked(parsed.GetValue(image), parsed.GetValue(kernel), parsed.GetValue(initrd), parsed.GetValue(keep), parsed.GetResult(name) is not null),
            Keep = parsed.GetValue(keep),
            Vsock = parsed.GetValue(vsock),
            CloudInit = Checked(parsed.GetValue(cloudInit), parsed.GetValue(image), parsed.GetValue(kernel)),
            MemoryGiven = parsed.GetResult(memory) is not null,
            Kernel = parsed.GetValue(kernel),
            Initrd = parsed.GetValue(initrd),
            Append = parsed.GetValue(append) ?? "",
            Memory = parsed.GetResult(memory) is null ? RunOptions.DefaultMemory : parsed.GetValue(memory),
            Backing = new MemoryBacking(
                parsed.GetResult(hugePages) is null ? HugePages.None : parsed.GetValue(hugePages), parsed.GetValue(mergeable), parsed.GetValue(memoryLock)),
            Pin = parsed.GetResult(pin) is null ? [] : parsed.GetValue(pin) ?? [],
            Processors = parsed.GetResult(processors) is null ? 1 : parsed.GetValue(processors),
            Cpu = parsed.GetResult(cpu) is null ? CpuModelName.V3 : parsed.GetValue(cpu),
            Processor = ProcessorOptions.None with { HyperV = parsed.GetValue(hyperv), Nested = parsed.GetValue(nested), PerformanceMonitoring = parsed.GetValue(pmu) },
            Engine = parsed.GetValue(engine) ?? "auto",
            Name = parsed.GetValue(name) ?? "lodge",
            Named = parsed.GetResult(name) is not null,
            Disks = parsed.GetResult(disk) is null && parsed.GetResult(cdrom) is null ? [] : [.. parsed.GetValue(disk) ?? [], .. parsed.GetValue(cdrom) ?? []],
            Networks = parsed.GetResult(net) is null ? null : CheckedNetworks(parsed.GetValue(net) ?? []),
            Publish = parsed.GetResult(publish) is null ? [] : [.. (parsed.GetValue(publish) ?? []).SelectMany(p => p)],
            NetworkRules = parsed.GetResult(deny) is null && parsed.GetResult(allow) is null ? [] : [.. parsed.GetResult(deny) is null ? [] : parsed.GetValue(deny) ?? [], .. parsed.GetResult(allow) is null ? [] : parsed.GetValue(allow) ?? []],
            Capture = parsed.GetValue(capture),
            Shares = parsed.GetResult(share) is null ? [] : parsed.GetValue(share) ?? [],
            Gdb = parsed.GetValue(gdb),
            DebugExitPort = parsed.GetResult(debugExit) is null ? null : parsed.GetValue(debugExit),
            Timeout = parsed.GetValue(timeout),
            Trace = parsed.GetValue(trace),
            Verbose = parsed.GetValue(verbose),
            Command = Checked(commandWords, parsed.GetValue(kernel), parsed.GetValue(initrd)),
        }));
        return command;
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

    private static IReadOnlyList<NetworkOption> CheckedNetworks(IReadOnlyList<NetworkOption> networks) =>
        networks.Count > 1 && networks.Any(n => n.Kind == NetworkKind.None)
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

    /// <summary>The generated help, with what it cannot know: the command behind <c>--</c>, examples and exit statuses.</summary>
    internal sealed class ManualAction : SynchronousCommandLineAction
    {
        public override int Invoke(ParseResult parseResult)
        {
            InvocationConfiguration configuration = parseResult.InvocationConfiguration;
            TextWriter output = configuration.Output;
            using StringWriter generated = new();
            configuration.Output = generated;
            int status = new HelpAction { MaxWidth = 140 }.Invoke(parseResult);
            configuration.Output = output;
            output.WriteLine(generated.ToString().TrimEnd().Replace("[options]", "[options] [-- CMD [ARGS]]", StringComparison.Ordinal));
            output.WriteLine();
            output.Write(Manual);
            return status;
        }
    }
}
