using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Cli.Run;

/// <summary>What a disk is connected to in the guest.</summary>
internal enum DiskBus
{
    /// <summary>A virtio block device of its own.</summary>
    Virtio,

    /// <summary>An NVMe controller of its own.</summary>
    Nvme,

    /// <summary>A target of the machine's virtio SCSI controller.</summary>
    Scsi,
}

/// <summary>A disk that <c>--disk</c> or <c>--cdrom</c> asked for.</summary>
internal sealed record DiskOption
{
    /// <summary>Path or address of the image.</summary>
    public required string Path { get; init; }

    /// <summary>Format of the image; never found out from its content, which the guest may have written.</summary>
    public required string Format { get; init; }

    /// <summary>Whether the guest may only read.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Serial number that the guest sees; null: one is made from the disk's place.</summary>
    public string? Serial { get; init; }

    /// <summary>Host caching.</summary>
    public CacheMode Cache { get; init; } = CacheMode.WriteBack;

    /// <summary>What it is connected to.</summary>
    public DiskBus Bus { get; init; }

    /// <summary>Whether what the guest discards is given back.</summary>
    public bool Discard { get; init; } = true;

    /// <summary>Bytes in a logical block.</summary>
    public int BlockSize { get; init; } = 512;

    /// <summary>Folders, beside the image's own, in which backing files may lie.</summary>
    public IReadOnlyList<string> AllowedFolders { get; init; } = [];

    /// <summary>A CD-ROM drive with this medium.</summary>
    public bool CdRom { get; init; }

    /// <summary>Its name in the machine; null: <c>disk</c> and its place among those without a name.</summary>
    public string? Device { get; init; }

    /// <summary>PCI slot that it gets, where it is a function of its own also with <see cref="DiskBus.Scsi"/>; null: the next.</summary>
    public int? Slot { get; init; }

    /// <summary>No disk: the place of one that was detached, so that those after it keep their names and slots.</summary>
    public bool IsPlace { get; init; }

    /// <summary>Faults that it shows.</summary>
    public IReadOnlyList<DiskFault> Faults { get; init; } = [];

    /// <summary>Limits of its traffic.</summary>
    public DiskLimits Limits { get; init; } = DiskLimits.None;

    /// <summary>Parses the argument of <c>--cdrom</c>: <c>PATH[,NAME=VALUE...]</c>, an image that is raw unless its format is given.</summary>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static DiskOption ParseCdRom(string text)
    {
        List<string> parts = OptionWords.Split(text);
        foreach (string part in parts.Skip(1))
        {
            string name = part.Split('=')[0];
            if (name is "readonly" or "discard" or "blocksize" or "slot" || (name == "bus" && parts[0] != DevicePlaces.Empty))
            {
                throw new FormatException($"option '{name}' is not for --cdrom, whose medium is read through SCSI only; use --disk");
            }
        }
        return Parse(text, "raw") with { CdRom = true, ReadOnly = true, Bus = DiskBus.Scsi };
    }

    /// <summary>Parses <c>PATH[,NAME=VALUE...]</c>; a comma in the path is written twice.</summary>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static DiskOption Parse(string text) => Parse(text, null);

    private static DiskOption Parse(string text, string? defaultFormat)
    {
        List<string> parts = OptionWords.Split(text);
        string path = parts[0];
        if (path.Length == 0)
        {
            throw new FormatException($"disk '{text}' has no path; write it as disk.qcow2 or disk.img,readonly=on");
        }
        var option = new DiskOption { Path = path, Format = "" };
        if (path == DevicePlaces.Empty && parts.Contains(DevicePlaces.PlaceWord))
        {
            return option with { IsPlace = true, ReadOnly = true, Bus = parts.Contains("bus=scsi") ? DiskBus.Scsi : DiskBus.Virtio };
        }
        string? format = null;
        foreach (string part in parts.Skip(1))
        {
            (string name, string value) = OptionWords.Pair(part);
            switch (name)
            {
                case "format":
                    format = KnownFormat(value);
                    break;
                case "readonly":
                    option = option with { ReadOnly = Switch(name, value) };
                    break;
                case "serial":
                    option = option with { Serial = CheckSerial(value) };
                    break;
                case "cache":
                    option = option with { Cache = CacheOf(value) };
                    break;
                case "bus":
                    option = option with { Bus = BusOf(value) };
                    break;
                case "discard":
                    option = option with { Discard = value is "unmap" || (value is not "ignore" && Switch(name, value)) };
                    break;
                case "blocksize":
                    option = option with { BlockSize = value is "512" or "4096" ? int.Parse(value) : throw new FormatException($"block size '{value}' of a disk is not possible; give 512 or 4096") };
                    break;
                case "allow":
                    option = option with { AllowedFolders = [.. option.AllowedFolders, value.Length != 0 ? value : throw new FormatException("allow= of a disk has no folder")] };
                    break;
                case "name":
                    option = option with { Device = DevicePlaces.CheckName(value) };
                    break;
                case "slot":
                    option = option with { Slot = DevicePlaces.CheckSlot(value) };
                    break;
                case "fault":
                    option = option with { Faults = [.. option.Faults, Understood(() => DiskFault.Parse(value))] };
                    break;
                case var limit when DiskLimits.Names.Contains(limit):
                    option = option with { Limits = Understood(() => option.Limits.With(limit, value)) };
                    break;
                default:
                    throw new FormatException(
                        $"disk option '{name}' is not known; there are format, readonly, serial, cache, bus, discard, blocksize, allow, name, slot, fault, {string.Join(", ", DiskLimits.Names)} "
                        + "(a comma in a path is written twice)");
            }
        }
        Understood(() =>
        {
            option.Limits.Check();
            return true;
        });
        return option with { Format = format ?? defaultFormat ?? FormatOfName(path) };
    }

    /// <summary>The format that a path tells plainly.</summary>
    /// <exception cref="FormatException">It does not.</exception>
    private static string FormatOfName(string path)
    {
        string? format = System.IO.Path.GetExtension(path).ToLowerInvariant() switch
        {
            ".raw" or ".img" or ".iso" => "raw",
            ".qcow2" => "qcow2",
            ".vhd" or ".vpc" => "vpc",
            ".vhdx" => "vhdx",
            ".vmdk" => "vmdk",
            ".vdi" => "vdi",
            _ when path.StartsWith("/dev/", StringComparison.Ordinal) || path.StartsWith("nbd:", StringComparison.Ordinal) || path.StartsWith("nbd+unix:", StringComparison.Ordinal) => "raw",
            _ => null,
        };
        return format is null
            ? throw new FormatException($"the format of disk '{path}' cannot be told from its name; add it, for example: --disk {path},format=raw")
            : KnownFormat(format);
    }

    private static string KnownFormat(string name) => Understood(() => DiskFormats.Named(name).Name);

    private static T Understood<T>(Func<T> parse)
    {
        try
        {
            return parse();
        }
        catch (DiskException e)
        {
            throw new FormatException(e.Message);
        }
    }

    private static CacheMode CacheOf(string value) => value switch
    {
        "writeback" => CacheMode.WriteBack,
        "none" => CacheMode.None,
        "writethrough" => CacheMode.WriteThrough,
        "directsync" => CacheMode.DirectSync,
        "unsafe" => CacheMode.Unsafe,
        _ => throw new FormatException($"cache mode '{value}' of a disk is not known; give writeback, none, writethrough, directsync or unsafe"),
    };

    private static DiskBus BusOf(string value) => value switch
    {
        "virtio" => DiskBus.Virtio,
        "nvme" => DiskBus.Nvme,
        "scsi" => DiskBus.Scsi,
        _ => throw new FormatException($"bus '{value}' of a disk is not known; give virtio, nvme or scsi"),
    };

    private static string CheckSerial(string value) => value.Length is > 0 and <= 20 && value.All(c => c is > ' ' and < '\x7f')
        ? value
        : throw new FormatException($"serial number '{value}' of a disk is not possible; give 1 to 20 ASCII characters without spaces");

    private static bool Switch(string name, string value) => OptionWords.Switch("disk", name, value);
}
