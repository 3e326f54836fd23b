using System.Globalization;
using System.Xml;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Ovf;

/// <summary>A disk of an OVF package.</summary>
/// <param name="Id">Its id in the descriptor.</param>
/// <param name="FileName">Its file relative to the descriptor; null for an empty disk.</param>
/// <param name="FormatName">Name of the image's format.</param>
/// <param name="Capacity">Size in bytes as the descriptor has it, 0 if it does not say.</param>
public sealed record OvfDisk(string Id, string? FileName, string FormatName, long Capacity);

/// <summary>The descriptor of an OVF package: what Lodge takes from it (DMTF, DSP0243 1.1 and 2.0).</summary>
public sealed class OvfDescriptor
{
    /// <summary>Longest descriptor in bytes.</summary>
    public const int MostBytes = 16 << 20;

    private const int MostDisks = 1024;
    private const int MostFiles = 4096;
    private readonly Dictionary<string, (string Name, string? Compression, bool Chunked)> _files = new(StringComparer.Ordinal);
    private readonly List<OvfDisk> _disks = [];

    private OvfDescriptor()
    {
    }

    /// <summary>The machine's name, empty if it has none.</summary>
    public string Name { get; private set; } = "";

    /// <summary>The disks in order.</summary>
    public IReadOnlyList<OvfDisk> Disks => _disks;

    /// <summary>Number of processors, or null.</summary>
    public int? Processors { get; private set; }

    /// <summary>Memory in bytes, or null.</summary>
    public long? Memory { get; private set; }

    /// <summary>Reads a descriptor. It is hostile: no document type, no entities, bounded.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.WrongFormat"/>, <see cref="DiskError.Corrupt"/>, <see cref="DiskError.Unsupported"/>.</exception>
    public static OvfDescriptor Parse(byte[] bytes, string path)
    {
        var settings = new XmlReaderSettings
        {
            DtdProcessing = DtdProcessing.Prohibit,
            XmlResolver = null,
            MaxCharactersInDocument = MostBytes,
            IgnoreComments = true,
            IgnoreProcessingInstructions = true,
        };
        try
        {
            using var reader = XmlReader.Create(new MemoryStream(bytes, writable: false), settings);
            var descriptor = new OvfDescriptor();
            descriptor.Read(reader, path);
            return descriptor;
        }
        catch (XmlException e)
        {
            throw new DiskException(DiskError.Corrupt, $"{path} is no sound OVF descriptor: {e.Message}", e);
        }
    }

    /// <summary>Bytes that an allocation unit stands for, such as <c>byte * 2^20</c> (DSP0004, programmatic units).</summary>
    internal static long? UnitLength(string? text)
    {
        var unit = (text ?? "byte").Replace(" ", "", StringComparison.Ordinal).ToLowerInvariant();
        switch (unit)
        {
            case "" or "byte" or "bytes":
                return 1;
            case "kilobytes":
                return 1 << 10;
            case "megabytes":
                return 1 << 20;
            case "gigabytes":
                return 1 << 30;
        }

        if (!unit.StartsWith("byte*", StringComparison.Ordinal))
        {
            return null;
        }

        var factors = unit[5..].Split('^');
        return factors.Length == 2
            ? factors[0] == "2" && int.TryParse(factors[1], NumberStyles.None, CultureInfo.InvariantCulture, out var power) && power < 60 ? 1L << power : null
            : long.TryParse(factors[0], NumberStyles.None, CultureInfo.InvariantCulture, out var factor) && factor is > 0 and < 1L << 50 ? factor : null;
    }

    private static string? Attribute(XmlReader reader, string name)
    {
        string? value = null;
        for (var found = reader.MoveToFirstAttribute(); found; found = reader.MoveToNextAttribute())
        {
            if (reader.LocalName == name)
            {
                value = reader.Value;
            }
        }

        reader.MoveToElement();
        return value;
    }

    /// <summary>The format that a disk's URI stands for.</summary>
    private static string FormatOf(string? uri, string path)
    {
        var text = (uri ?? "").ToLowerInvariant();
        foreach (var (part, format) in ((string, string)[])[("vmdk", "vmdk"), ("qcow", "qcow2"), ("vhdx", "vhdx"), ("vhd", "vpc"), ("vpc", "vpc"), ("vdi", "vdi"), ("raw", "raw")])
        {
            if (text.Contains(part, StringComparison.Ordinal))
            {
                return format;
            }
        }

        throw new DiskException(DiskError.Unsupported, $"{path}: the disk format '{uri}' is not known");
    }

    private void Read(XmlReader reader, string path)
    {
        reader.MoveToContent();
        if (reader.LocalName != "Envelope")
        {
            throw new DiskException(DiskError.WrongFormat, $"{path} is not an OVF descriptor: its root is {reader.LocalName}, not Envelope");
        }

        var inSystem = false;
        reader.Read();
        while (!reader.EOF)
        {
            if (reader.NodeType != XmlNodeType.Element)
            {
                reader.Read();
                continue;
            }

            switch (reader.LocalName)
            {
                case "File":
                    AddFile(reader, path);
                    break;
                case "Disk" when Attribute(reader, "diskId") is { } id:
                    AddDisk(reader, id, path);
                    break;
                case "VirtualSystem":
                    inSystem = true;
                    Name = Name.Length != 0 ? Name : Attribute(reader, "id") ?? "";
                    break;
                case "Name" when inSystem:
                    inSystem = false;
                    Name = reader.ReadElementContentAsString().Trim() is { Length: > 0 } name ? name : Name;
                    continue;
                case "Item":
                    using (var item = reader.ReadSubtree())
                    {
                        ReadItem(item);
                    }

                    break;
            }

            reader.Read();
        }
    }

    private void AddFile(XmlReader reader, string path)
    {
        if (Attribute(reader, "id") is { } id && Attribute(reader, "href") is { } name)
        {
            if (_files.Count == MostFiles || !_files.TryAdd(id, (Uri.UnescapeDataString(name), Attribute(reader, "compression"), Attribute(reader, "chunkSize") is not null)))
            {
                throw new DiskException(DiskError.Corrupt, $"{path} names more than {MostFiles} files, or the file {id} twice");
            }
        }
    }

    private void AddDisk(XmlReader reader, string id, string path)
    {
        if (_disks.Count == MostDisks)
        {
            throw new DiskException(DiskError.Corrupt, $"{path} names more than {MostDisks} disks");
        }

        if (Attribute(reader, "parentRef") is not null)
        {
            throw new DiskException(DiskError.Unsupported, $"{path}: the disk {id} keeps only what differs from another one, which cannot be imported");
        }

        long capacity = 0;
        if (long.TryParse(Attribute(reader, "capacity"), NumberStyles.None, CultureInfo.InvariantCulture, out var count))
        {
            var unit = UnitLength(Attribute(reader, "capacityAllocationUnits"));
            capacity = unit is { } bytes && count <= long.MaxValue / 2 / bytes
                ? count * bytes
                : throw new DiskException(DiskError.Corrupt, $"{path}: the capacity of the disk {id} is out of range");
        }

        string? name = null;
        if (Attribute(reader, "fileRef") is { } reference)
        {
            if (!_files.TryGetValue(reference, out var file))
            {
                throw new DiskException(DiskError.Corrupt, $"{path}: the disk {id} is in the file {reference}, which is not named");
            }

            if (file.Chunked || file.Compression is not (null or "" or "identity"))
            {
                throw new DiskException(DiskError.Unsupported, $"{path}: the file {file.Name} is {(file.Chunked ? "split" : $"compressed with {file.Compression}")}, which cannot be imported");
            }

            name = file.Name;
        }
        else if (capacity == 0)
        {
            throw new DiskException(DiskError.Corrupt, $"{path}: the disk {id} has neither a file nor a capacity");
        }

        _disks.Add(new OvfDisk(id, name, name is null ? "raw" : FormatOf(Attribute(reader, "format"), path), capacity));
    }

    /// <summary>A resource: processors (type 3) and memory (type 4) of the CIM schema.</summary>
    private void ReadItem(XmlReader reader)
    {
        string type = "", quantity = "", unit = "";
        reader.Read();
        reader.Read();
        while (!reader.EOF)
        {
            if (reader.NodeType != XmlNodeType.Element)
            {
                reader.Read();
                continue;
            }

            var name = reader.LocalName;
            if (name is "ResourceType" or "VirtualQuantity" or "AllocationUnits")
            {
                var value = reader.ReadElementContentAsString().Trim();
                (type, quantity, unit) = name switch
                {
                    "ResourceType" => (value, quantity, unit),
                    "VirtualQuantity" => (type, value, unit),
                    _ => (type, quantity, value),
                };
            }
            else
            {
                reader.Skip();
            }
        }

        if (!long.TryParse(quantity, NumberStyles.None, CultureInfo.InvariantCulture, out var number) || number is <= 0 or > 1L << 40)
        {
            return;
        }

        if (type == "3" && number <= 4096)
        {
            Processors ??= (int)number;
        }
        else if (type == "4" && UnitLength(unit.Length == 0 ? "byte * 2^20" : unit) is { } bytes && number <= (1L << 50) / bytes)
        {
            Memory ??= number * bytes;
        }
    }
}
