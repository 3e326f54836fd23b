using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>Makes a new image of a subformat.</summary>
internal sealed class VmdkCreation
{
    /// <summary>The default grain: 64 KiB.</summary>
    public const int GrainSectors = 128;

    private const int Sector = VmdkHeader.SectorLength;
    private const int DescriptorSectors = 20;

    /// <summary>Longest extent of the twoGbMaxExtent types (VMware's own: 2 GiB less a MiB, so that no offset needs 32 bits).</summary>
    private const long SplitSectors = 4192256;

    private readonly long _sectors;
    private readonly string _subformat;
    private readonly bool _zeroedGrain;
    private readonly string _adapter;
    private readonly string _hardwareVersion;
    private readonly string _toolsVersion;
    private readonly string? _backing;
    private readonly string? _backingFormat;

    public VmdkCreation(long length, FormatOptions options)
    {
        _subformat = options.Text("subformat") ?? "monolithicSparse";
        _zeroedGrain = options.Switch("zeroed_grain", false);
        _adapter = options.Text("adapter_type") ?? "ide";
        _toolsVersion = VmdkDescriptor.CheckName(options.Text("toolsversion") ?? "2147483647");
        _backing = options.Text("backing_file") is { Length: > 0 } backing ? VmdkDescriptor.CheckName(backing) : null;
        _backingFormat = options.Text("backing_fmt");
        _sectors = VmdkHeader.DivideUp(length, Sector);
        if (options.Switch("compat6", false) && options.Text("hwversion") is not null)
        {
            throw new DiskException(DiskError.InvalidOption, "compat6 sets hwversion; give only one of them");
        }

        _hardwareVersion = VmdkDescriptor.CheckName(options.Switch("compat6", false) ? "6" : options.Text("hwversion") ?? "4");
        if (IsFlat && _zeroedGrain)
        {
            throw new DiskException(DiskError.InvalidOption, $"zeroed_grain=on needs a sparse subformat, not {_subformat}");
        }

        if (IsFlat && _backing is not null)
        {
            throw new DiskException(DiskError.InvalidOption, $"backing_file needs a sparse subformat, not {_subformat}");
        }

        if (length < 0 || (IsSingle && VmdkHeader.DivideUp(_sectors, (long)GrainSectors * VmdkHeader.EntriesPerTable) > GrainTables.MostDirectoryEntries))
        {
            throw new DiskException(DiskError.Unsupported, $"a VMDK of {length} bytes is out of range");
        }
    }

    public bool IsFlat => _subformat is "monolithicFlat" or "twoGbMaxExtentFlat";

    public bool IsStream => _subformat == "streamOptimized";

    private bool IsSplit => _subformat is "twoGbMaxExtentSparse" or "twoGbMaxExtentFlat";

    private bool IsSingle => _subformat is "monolithicSparse" or "streamOptimized";

    public async ValueTask WriteAsync(IStorageFile file, ImageContext context, CancellationToken cancellation)
    {
        var parentId = _backing is null ? VmdkDescriptor.NoParent : await VmdkImage.ContentIdOfAsync(context.Files, _backing, _backingFormat, cancellation).ConfigureAwait(false);
        var name = VmdkDescriptor.CheckName(Path.GetFileName(file.Name));
        if (IsSingle)
        {
            var text = Encoding.UTF8.GetBytes(Text($"RW {_sectors} SPARSE \"{name}\"\n", parentId));
            if (text.Length > DescriptorSectors * Sector)
            {
                throw new DiskException(DiskError.InvalidOption, $"the names {name} and {_backing} are too long for a VMDK's descriptor");
            }

            await WriteSparseAsync(file, _sectors, text, cancellation).ConfigureAwait(false);
        }
        else
        {
            var lines = new StringBuilder();
            var left = _sectors;
            for (var number = 1; left > 0 || number == 1; number++)
            {
                var sectors = IsSplit ? Math.Min(left, SplitSectors) : left;
                var part = PartName(name, number);
                lines.Append(CultureInfo.InvariantCulture, $"RW {sectors} {(IsFlat ? "FLAT" : "SPARSE")} \"{part}\"{(IsFlat ? " 0" : "")}\n");
                await WritePartAsync(context, part, sectors, cancellation).ConfigureAwait(false);
                left -= sectors;
            }

            await file.WriteAsync(0, Encoding.UTF8.GetBytes(Text(lines.ToString(), parentId)), WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>Bytes of all files with so many grains of data.</summary>
    public long Measure(long grains)
    {
        if (IsFlat)
        {
            return (_sectors * Sector) + Sector;
        }

        long metadata = 0;
        var left = _sectors;
        do
        {
            var sectors = IsSplit ? Math.Min(left, SplitSectors) : left;
            metadata += Layout(sectors).OverHead * Sector;
            left -= sectors;
        }
        while (left > 0);

        var size = IsStream ? VmdkHeader.RoundUp(GrainCodec.Capacity(GrainSectors * Sector) + VmdkMarker.GrainLength, Sector) : GrainSectors * Sector;
        return metadata + (grains * size) + (IsStream ? (VmdkHeader.DivideUp(_sectors, (long)GrainSectors * VmdkHeader.EntriesPerTable) * ((5 * Sector) + 4)) + (6 * Sector) : 0);
    }

    private async ValueTask WritePartAsync(ImageContext context, string name, long sectors, CancellationToken cancellation)
    {
        var part = await context.Files.CreatePartAsync(name, cancellation).ConfigureAwait(false);
        await using (part.ConfigureAwait(false))
        {
            if (IsFlat)
            {
                await part.ResizeAsync(sectors * Sector, cancellation).ConfigureAwait(false);
            }
            else
            {
                await WriteSparseAsync(part, sectors, [], cancellation).ConfigureAwait(false);
            }

            await part.FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    private string PartName(string name, int number)
    {
        var extension = Path.GetExtension(name);
        var stem = Path.GetFileNameWithoutExtension(name);
        var suffix = !IsSplit ? "-flat" : string.Create(CultureInfo.InvariantCulture, $"-{(IsFlat ? 'f' : 's')}{number:000}");
        return stem + suffix + (extension.Length == 0 ? ".vmdk" : extension);
    }

    private VmdkHeader Layout(long sectors)
    {
        var header = new VmdkHeader
        {
            Capacity = sectors,
            GrainSectors = GrainSectors,
            DescriptorSector = 1,
            DescriptorSectors = DescriptorSectors,
        };
        if (IsStream)
        {
            return header with
            {
                Version = 3,
                Flags = VmdkFlags.NewlineTest | VmdkFlags.CompressedGrains | VmdkFlags.Markers | (_zeroedGrain ? VmdkFlags.ZeroedGrains : 0),
                DirectorySector = -1,
                OverHead = GrainSectors,
                Compression = VmdkHeader.Deflate,
            };
        }

        var (directory, tables) = Structures(sectors);
        return header with
        {
            Version = _zeroedGrain ? 2u : 1u,
            Flags = VmdkFlags.NewlineTest | VmdkFlags.RedundantTable | (_zeroedGrain ? VmdkFlags.ZeroedGrains : 0),
            RedundantSector = 1 + DescriptorSectors,
            DirectorySector = 1 + DescriptorSectors + directory + tables,
            OverHead = VmdkHeader.RoundUp(1 + DescriptorSectors + (2 * (directory + tables)), GrainSectors),
        };
    }

    /// <summary>Sectors of a directory and of its tables.</summary>
    private static (long Directory, long Tables) Structures(long sectors)
    {
        var count = VmdkHeader.DivideUp(sectors, (long)GrainSectors * VmdkHeader.EntriesPerTable);
        return (VmdkHeader.DivideUp(count * sizeof(uint), Sector), count * VmdkHeader.EntriesPerTable * sizeof(uint) / Sector);
    }

    private async ValueTask WriteSparseAsync(IStorageFile file, long sectors, byte[] descriptor, CancellationToken cancellation)
    {
        var header = Layout(sectors);
        await file.ResizeAsync(header.OverHead * Sector, cancellation).ConfigureAwait(false);
        if (descriptor.Length != 0)
        {
            await file.WriteAsync(Sector, descriptor, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        if (IsStream)
        {
            await WriteEndAsync(file, header, cancellation).ConfigureAwait(false);
        }
        else
        {
            var (directory, tables) = Structures(sectors);
            foreach (var start in (long[])[header.RedundantSector, header.DirectorySector])
            {
                var bytes = new byte[directory * Sector];
                for (long index = 0; index < tables / 4; index++)
                {
                    BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((int)index * sizeof(uint)), (uint)(start + directory + (index * 4)));
                }

                await file.WriteAsync(start * Sector, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
            }
        }

        await file.WriteAsync(0, header.ToBytes(), WriteOptions.None, cancellation).ConfigureAwait(false);
    }

    /// <summary>The end of a stream without grains.</summary>
    private static async ValueTask WriteEndAsync(IStorageFile file, VmdkHeader header, CancellationToken cancellation)
    {
        var directory = new byte[VmdkHeader.RoundUp(header.Geometry.DirectoryLength, Sector)];
        Memory<byte>[] end =
        [
            VmdkMarker.Metadata(VmdkMarkerType.GrainDirectory, directory.Length / Sector),
            directory,
            VmdkMarker.Metadata(VmdkMarkerType.Footer, 1),
            (header with { DirectorySector = header.OverHead + 1 }).ToBytes(),
            VmdkMarker.Metadata(VmdkMarkerType.EndOfStream, 0),
        ];
        await file.WriteAsync(header.OverHead * Sector, new IoVector(end), WriteOptions.None, cancellation).ConfigureAwait(false);
    }

    private string Text(string extents, uint parentId)
    {
        Span<byte> random = stackalloc byte[4];
        RandomNumberGenerator.Fill(random);

        // Eight digits, so that another id always has room; neither of the two highest, which are reserved.
        var id = Math.Clamp(BitConverter.ToUInt32(random), 1, VmdkDescriptor.NoParent - 2);
        var (heads, limit) = _adapter == "ide" ? (16, 16383) : (255, int.MaxValue);
        var cylinders = Math.Clamp(_sectors / (heads * 63), 1, limit);
        var parent = _backing is null ? "" : $"parentFileNameHint=\"{_backing}\"\n";
        return string.Create(
            CultureInfo.InvariantCulture,
            $"""
            # Disk DescriptorFile
            version=1
            CID={id:x8}
            parentCID={parentId:x8}
            createType="{_subformat}"
            {parent}
            # Extent description
            {extents}
            # The Disk Data Base
            #DDB

            ddb.virtualHWVersion = "{_hardwareVersion}"
            ddb.geometry.cylinders = "{cylinders}"
            ddb.geometry.heads = "{heads}"
            ddb.geometry.sectors = "63"
            ddb.adapterType = "{_adapter}"
            ddb.toolsVersion = "{_toolsVersion}"

            """);
    }
}
