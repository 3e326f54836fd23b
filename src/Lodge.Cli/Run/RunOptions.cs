using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Management.Limits;
using Lodge.Network.Filters;
using Lodge.Network.User;

namespace Lodge.Cli.Run;

/// <summary>What <c>lodge run</c> was asked for, checked.</summary>
internal sealed record RunOptions
{
    /// <summary>Least memory of a machine in bytes.</summary>
    public const ulong MinMemory = 16UL << 20;

    /// <summary>Most memory of a machine in bytes.</summary>
    public const ulong MaxMemory = 1UL << 40;

    /// <summary>Memory when none is asked for.</summary>
    public const ulong DefaultMemory = 512UL << 20;

    /// <summary>Most processors.</summary>
    public const int MaxProcessors = 255;

    /// <summary>Port of the debug exit device when none is given, as QEMU's isa-debug-exit has it.</summary>
    public const ushort DefaultDebugExitPort = 0xF4;

    public string? Kernel { get; init; }

    public string? Initrd { get; init; }

    /// <summary>Name of a stored image to run, or null.</summary>
    public string? Image { get; init; }

    /// <summary>Whether the disk of the stored image's machine is kept under the machine's name.</summary>
    public bool Keep { get; init; }

    /// <summary>What <c>--cloud-init</c> asked for, or null.</summary>
    public CloudInitOption? CloudInit { get; init; }

    /// <summary>MAC addresses of the machine's network cards in their order, as <c>52:54:00:12:34:56</c>: a cloud-init seed configures them.</summary>
    public IReadOnlyList<string> CardAddresses { get; init; } = [];

    /// <summary>Socket of the host for the guest's vsock, or null.</summary>
    public VsockOption? Vsock { get; init; }

    /// <summary>Whether the size of memory was given.</summary>
    public bool MemoryGiven { get; init; }

    public string Append { get; init; } = "";

    public ulong Memory { get; init; } = DefaultMemory;

    /// <summary>How the host backs the memory.</summary>
    public MemoryBacking Backing { get; init; } = MemoryBacking.Default;

    public int Processors { get; init; } = 1;

    /// <summary>Most processors that it can have while it runs; null: as many as at its start.</summary>
    public int? MaximumProcessors { get; init; }

    /// <summary>CPUs of the host for the machine's, see <see cref="Machine.MachineConfiguration.Pinning"/>.</summary>
    public IReadOnlyList<int> Pin { get; init; } = [];

    public CpuModelName Cpu { get; init; } = CpuModelName.V3;

    public string Engine { get; init; } = "auto";

    /// <summary>What the processors shall have besides their model: <c>--hyperv</c>, <c>--nested</c>, <c>--pmu</c>.</summary>
    public ProcessorOptions Processor { get; init; } = ProcessorOptions.None;

    public string Name { get; init; } = "lodge";

    /// <summary>Whether the name was given: then the machine's CMOS is kept under it.</summary>
    public bool Named { get; init; }

    /// <summary>Whether an image's machine has a command port also where it has no command: one that began as a clone of a template keeps its devices.</summary>
    public bool CommandPort { get; init; }

    /// <summary>Folder of a machine that is kept; null for one that goes with its run.</summary>
    public string? Folder { get; init; }

    /// <summary>The machine ID that its guest shall have; null leaves it what it has.</summary>
    public Guid? MachineId { get; init; }

    /// <summary>Folder that the process of a machine that is kept writes to; null for one that goes with its run.</summary>
    public string? WorkFolder { get; init; }

    /// <summary>How much of the host its process may use.</summary>
    public MachineLimits Limits { get; init; } = MachineLimits.None;

    /// <summary>Whether its process is confined.</summary>
    public bool Sandbox { get; init; } = true;

    /// <summary>Disks in the order in which they were given.</summary>
    public IReadOnlyList<DiskOption> Disks { get; init; } = [];

    /// <summary>Network cards in the order in which they were given; null: none was, so it is the default.</summary>
    public IReadOnlyList<NetworkOption>? Networks { get; init; }

    /// <summary>Ports that the first user network publishes.</summary>
    public IReadOnlyList<PortForward> Publish { get; init; } = [];

    /// <summary>Rules for all cards, behind those of each; in their order.</summary>
    public IReadOnlyList<FilterRule> NetworkRules { get; init; } = [];

    /// <summary>File that gets what passes all cards that have none of their own, or null.</summary>
    public string? Capture { get; init; }

    /// <summary>Shared folders in the order in which they were given.</summary>
    public IReadOnlyList<ShareOption> Shares { get; init; } = [];

    public EndPoint? Gdb { get; init; }

    public ushort? DebugExitPort { get; init; }

    public TimeSpan? Timeout { get; init; }

    public bool Trace { get; init; }

    public bool Verbose { get; init; }

    /// <summary>Whether the run may be a clone of a template, and may make one.</summary>
    public bool Template { get; init; } = true;

    /// <summary>Whether all that is wanted is a template.</summary>
    public bool OnlyTemplate { get; init; }

    /// <summary>Program and arguments to run in the guest; empty for none.</summary>
    public IReadOnlyList<string> Command { get; init; } = [];

    /// <summary>The same with the memory of an image's machine where none was asked for.</summary>
    public RunOptions WithImageMemory() => Image is not null && !MemoryGiven ? this with { Memory = ImagePlan.DefaultMemory } : this;

    /// <summary>Parses a size: a number with K, M, G or T (powers of 1024; none means MiB as in QEMU), a multiple of 4 KiB.</summary>
    /// <exception cref="FormatException">It is none; the message says why.</exception>
    public static ulong ParseMemory(string text)
    {
        string digits = text;
        int shift = 20;
        string upper = text.ToUpperInvariant();
        foreach ((string suffix, int bits) in (ReadOnlySpan<(string, int)>)[("K", 10), ("M", 20), ("G", 30), ("T", 40)])
        {
            foreach (string form in (ReadOnlySpan<string>)[suffix, suffix + "B", suffix + "IB"])
            {
                if (upper.EndsWith(form, StringComparison.Ordinal))
                {
                    digits = text[..^form.Length];
                    shift = bits;
                }
            }
        }
        if (!ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number))
        {
            throw new FormatException($"memory size '{text}' is not understood; write it as 512M or 2G");
        }
        if (number > MaxMemory >> shift || number << shift < MinMemory)
        {
            throw new FormatException($"memory size '{text}' is out of range; give {MinMemory >> 20}M to {MaxMemory >> 40}T");
        }
        ulong size = number << shift;
        return size % 4096 == 0 ? size : throw new FormatException($"memory size '{text}' is not a multiple of 4K");
    }

    /// <summary>Parses a number of processors.</summary>
    public static int ParseProcessors(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int count) && count is >= 1 and <= MaxProcessors
            ? count
            : throw new FormatException($"number of CPUs '{text}' is out of range; give 1 to {MaxProcessors}");

    /// <summary>Parses a CPU model.</summary>
    public static CpuModelName ParseCpu(string text) => CpuModel.TryParseName(text, out CpuModelName name)
        ? name
        : throw new FormatException($"CPU model '{text}' is not known; give one of {string.Join(", ", CpuModel.Names)}");

    /// <summary>Parses an engine's name.</summary>
    public static string ParseEngine(string text) => text is "auto" or "kvm" or "translate"
        ? text
        : throw new FormatException($"engine '{text}' is not known; give auto, kvm or translate");

    /// <summary>Parses a machine's name, which is also the default system's host name.</summary>
    public static string ParseName(string text) =>
        text.Length is > 0 and <= 63 && text.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.') && char.IsAsciiLetterOrDigit(text[0])
            ? text
            : throw new FormatException($"name '{text}' is not usable; give 1 to 63 letters, digits, '-', '_' or '.', a letter or digit first");

    /// <summary>
    /// Parses where the debugger's connection is awaited: <c>:1234</c>, <c>1234</c>, <c>ADDRESS:1234</c> (without an address it is the loopback), or with a slash in it
    /// the path of a Unix socket.
    /// </summary>
    public static EndPoint ParseGdb(string text)
    {
        if (text.Contains('/'))
        {
            string path = text.StartsWith("unix:", StringComparison.Ordinal) ? text[5..] : text;
            return Encoding.UTF8.GetByteCount(path) is > 0 and < 108 && !path.Contains('\0')
                ? new UnixDomainSocketEndPoint(path)
                : throw new FormatException($"debugger socket '{text}' is not usable; a path of at most 107 bytes is");
        }
        int colon = text.LastIndexOf(':');
        string host = colon < 0 ? "" : text[..colon].Trim('[', ']');
        host = host.StartsWith("tcp:", StringComparison.Ordinal) ? host[4..] : host;
        IPAddress? address = IPAddress.Loopback;
        if (host is not ("" or "localhost" or "tcp") && !IPAddress.TryParse(host, out address))
        {
            throw new FormatException($"debugger address '{text}' is not understood; write it as :1234 or 127.0.0.1:1234");
        }
        return ushort.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out ushort port)
            ? new IPEndPoint(address, port)
            : throw new FormatException($"debugger address '{text}' has no port; write it as :1234 or 127.0.0.1:1234");
    }

    /// <summary>Parses the port of the debug exit device.</summary>
    public static ushort ParsePort(string text)
    {
        bool hex = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        return ushort.TryParse(hex ? text.AsSpan(2) : text, hex ? NumberStyles.AllowHexSpecifier : NumberStyles.None, CultureInfo.InvariantCulture, out ushort port)
            && port <= 0xFFFC
            ? port
            : throw new FormatException($"debug exit port '{text}' is not an I/O port; give one like 0xf4, at most 0xfffc");
    }

    /// <summary>Parses a time: seconds, or a number with s, m or h.</summary>
    public static TimeSpan ParseTimeout(string text)
    {
        double unit = text.Length == 0 ? 0 : text[^1] switch
        {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => 0,
        };
        string digits = unit == 0 ? text : text[..^1];
        return double.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double number)
            && number * Math.Max(unit, 1) is > 0 and <= 30 * 86400 and double seconds
            ? TimeSpan.FromSeconds(seconds)
            : throw new FormatException($"timeout '{text}' is not understood; write it as 30, 30s, 5m or 1h (at most 720h)");
    }
}
