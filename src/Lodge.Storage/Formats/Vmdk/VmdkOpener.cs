using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>Puts an image together from its files.</summary>
internal sealed class VmdkOpener(IStorageFile file, ImageContext context)
{
    private const int Sector = VmdkHeader.SectorLength;
    private readonly List<VmdkExtent> _extents = [];
    private DescriptorStore? _store;
    private IDisk? _backing;
    private string _createType = "";
    private bool _unclean;
    private bool _readOnly = context.ReadOnly;

    public static async ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation)
    {
        if (context.Snapshot is not null)
        {
            throw new DiskException(DiskError.Unsupported, "VMDK has no internal snapshots");
        }

        var opener = new VmdkOpener(file, context);
        try
        {
            return await opener.RunAsync(cancellation).ConfigureAwait(false);
        }
        catch
        {
            foreach (var extent in opener._extents)
            {
                await (extent.Part?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
            }

            await (opener._backing?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
            throw;
        }
    }

    private async ValueTask<IImage> RunAsync(CancellationToken cancellation)
    {
        var head = await file.ReadBytesAsync(0, Sector, cancellation).ConfigureAwait(false);
        if (VmdkHeader.HasMagic(head))
        {
            var header = VmdkHeader.Parse(head, file.Name);
            await ReadDescriptorAsync(header, cancellation).ConfigureAwait(false);
            await OpenBackingAsync(cancellation).ConfigureAwait(false);
            _unclean = header.Unclean;
            _extents.Add(await OpenSparseAsync(new VmdkExtentLine("RW", header.Capacity, "", "", 0), file, null, 0, header, cancellation).ConfigureAwait(false));
            _createType = _createType.Length != 0 ? _createType : header.IsCompressed ? "streamOptimized" : "monolithicSparse";
        }
        else if (CowHeader.HasMagic(head))
        {
            _createType = "vmfsSparse";
            _readOnly = true;
            _extents.Add(await OpenCowAsync(null, file, null, 0, cancellation).ConfigureAwait(false));
        }
        else
        {
            await OpenDescribedAsync(cancellation).ConfigureAwait(false);
        }

        if (!context.ReadOnly && _readOnly && !context.Checking)
        {
            throw new DiskException(DiskError.Unsupported, $"{file.Name}: ESX host sparse extents (COWD) are only read; open it for reading or convert it");
        }

        var parts = new VmdkParts(file, _store, _createType, _extents, context) { Backing = _backing, ReadOnly = _readOnly, Unclean = _unclean };
        return _extents is [StreamExtent stream] ? new VmdkStreamImage(parts, stream) : new VmdkImage(parts);
    }

    private async ValueTask ReadDescriptorAsync(VmdkHeader header, CancellationToken cancellation)
    {
        if (header.DescriptorSector == 0 || header.DescriptorSectors == 0)
        {
            return;
        }

        var length = header.DescriptorSectors * Sector;
        if (length > VmdkDescriptor.MostBytes || (header.DescriptorSector * Sector) + length > file.Length)
        {
            throw GrainTables.Corrupt(file, $"its descriptor of {header.DescriptorSectors} sectors at sector {header.DescriptorSector} is too long or lies outside of the file");
        }

        var bytes = await file.ReadBytesAsync(header.DescriptorSector * Sector, (int)length, cancellation).ConfigureAwait(false);
        _store = new DescriptorStore(file, header.DescriptorSector * Sector, bytes, (int)length);
        _createType = _store.Descriptor.CreateType;
    }

    private async ValueTask OpenDescribedAsync(CancellationToken cancellation)
    {
        if (file.Length > VmdkDescriptor.MostBytes)
        {
            throw new DiskException(DiskError.WrongFormat, $"{file.Name} is not a VMDK");
        }

        var bytes = await file.ReadBytesAsync(0, (int)file.Length, cancellation).ConfigureAwait(false);
        if (!VmdkDescriptor.Begins(bytes))
        {
            throw new DiskException(DiskError.WrongFormat, $"{file.Name} is not a VMDK");
        }

        _store = new DescriptorStore(file, 0, bytes, 0);
        _createType = _store.Descriptor.CreateType;
        if (_store.Descriptor.Extents.Count == 0)
        {
            throw GrainTables.Corrupt(file, "its descriptor names no extents");
        }

        await OpenBackingAsync(cancellation).ConfigureAwait(false);
        long start = 0;
        foreach (var line in _store.Descriptor.Extents)
        {
            _extents.Add(await OpenExtentAsync(line, start, cancellation).ConfigureAwait(false));
            start += line.Sectors * Sector;
        }

        // A stream among several extents has no order that a writer could keep.
        _readOnly |= _extents.Exists(extent => extent is StreamExtent) && _extents.Count > 1;
    }

    private async ValueTask<VmdkExtent> OpenExtentAsync(VmdkExtentLine line, long start, CancellationToken cancellation)
    {
        if (line.Access == "NOACCESS")
        {
            throw new DiskException(DiskError.Denied, $"{file.Name}: its extent {line.Name} is marked NOACCESS");
        }

        var length = line.Sectors * Sector;
        if (line.Type == "ZERO")
        {
            return new ZeroExtent { Start = start, Length = length, Type = line.Type };
        }

        if (line.Type is not ("FLAT" or "VMFS" or "SPARSE" or "VMFSSPARSE"))
        {
            throw new DiskException(DiskError.Unsupported, $"{file.Name}: extents of type {line.Type} cannot be opened");
        }

        var writable = !context.ReadOnly && line.Access == "RW" && line.Type != "VMFSSPARSE";
        var part = await context.Files.OpenPartAsync(line.Name, writable, cancellation).ConfigureAwait(false);
        try
        {
            switch (line.Type)
            {
                case "VMFSSPARSE":
                    _readOnly = true;
                    return await OpenCowAsync(line, part, part, start, cancellation).ConfigureAwait(false);
                case "SPARSE":
                    var head = await part.ReadBytesAsync(0, Sector, cancellation).ConfigureAwait(false);
                    return await OpenSparseAsync(line, part, part, start, VmdkHeader.Parse(head, part.Name), cancellation).ConfigureAwait(false);
                default:
                    var place = line.Offset * Sector;
                    return place + length <= part.Length
                        ? new FlatExtent(part, place) { Start = start, Length = length, Type = line.Type, Name = line.Name, Writable = writable, Part = part }
                        : throw GrainTables.Corrupt(part, $"the file of {part.Length} bytes is shorter than the extent of {length} bytes at {place}");
            }
        }
        catch
        {
            await part.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    private async ValueTask<VmdkExtent> OpenCowAsync(VmdkExtentLine? line, IStorageFile at, IStorageFile? part, long start, CancellationToken cancellation)
    {
        var geometry = CowHeader.Parse(await at.ReadBytesAsync(0, Sector, cancellation).ConfigureAwait(false), at.Name);
        CheckCapacity(at, geometry.Capacity, line?.Sectors ?? geometry.Capacity);
        var tables = await GrainTables.OpenAsync(at, geometry, [(0, 1)], cancellation).ConfigureAwait(false);
        return new SparseExtent(tables, _backing)
        {
            Start = start,
            Length = (line?.Sectors ?? geometry.Capacity) * Sector,
            Type = line?.Type ?? "",
            Name = line?.Name ?? at.Name,
            Writable = false,
            Part = part,
        };
    }

    private async ValueTask<VmdkExtent> OpenSparseAsync(VmdkExtentLine line, IStorageFile at, IStorageFile? part, long start, VmdkHeader header, CancellationToken cancellation)
    {
        CheckCapacity(at, header.Capacity, line.Sectors);
        var writable = !context.ReadOnly && line.Access == "RW";
        var (length, name) = (line.Sectors * Sector, part is null ? at.Name : line.Name);
        List<(long Start, long End)> reserved = [(0, 1)];
        if (header.DescriptorSector > 0 && header.DescriptorSectors > 0)
        {
            reserved.Add((header.DescriptorSector, header.DescriptorSector + header.DescriptorSectors));
        }

        if (!header.IsCompressed)
        {
            if (header.DirectorySector < 0)
            {
                throw GrainTables.Corrupt(at, "only an extent with compressed grains can have its directory at the end");
            }

            var tables = await GrainTables.OpenAsync(at, header.Geometry, reserved, cancellation).ConfigureAwait(false);
            return new SparseExtent(tables, _backing) { Start = start, Length = length, Type = line.Type, Name = name, Writable = writable, Part = part };
        }

        var (found, append, unfinished) = await OpenStreamAsync(at, header, reserved, cancellation).ConfigureAwait(false);
        return new StreamExtent(found, header, append, unfinished, _backing) { Start = start, Length = length, Type = line.Type, Name = name, Writable = writable, Part = part };
    }

    private static async ValueTask<(GrainTables Tables, long AppendSector, bool Unfinished)> OpenStreamAsync(
        IStorageFile at, VmdkHeader header, List<(long Start, long End)> reserved, CancellationToken cancellation)
    {
        if (header.DirectorySector >= 0)
        {
            var placed = await GrainTables.OpenAsync(at, header.Geometry, reserved, cancellation).ConfigureAwait(false);
            return (placed, Math.Max(VmdkHeader.DivideUp(at.Length, Sector), placed.Metadata.End), false);
        }

        var begin = Math.Max(header.OverHead, reserved.Max(range => range.End));
        if (await FindFooterAsync(at, header, cancellation).ConfigureAwait(false) is { } footer)
        {
            var tables = await GrainTables.OpenAsync(at, footer.Geometry with { RedundantSector = 0, Movable = true }, reserved, cancellation).ConfigureAwait(false);
            var empty = !tables.Directory.ContainsAnyExcept(0u);
            return (tables, empty ? begin : (at.Length / Sector) - 3, false);
        }

        var geometry = header.Geometry with { Movable = true };
        if (!geometry.Markers)
        {
            throw GrainTables.Corrupt(at, "the footer with the place of its grain directory is missing: the file is cut off");
        }

        if (geometry.TableCount > GrainTables.MostDirectoryEntries)
        {
            throw GrainTables.Corrupt(at, $"a grain directory of {geometry.TableCount} entries is out of range");
        }

        var (rebuilt, end) = await StreamScan.RunAsync(at, geometry, begin, cancellation).ConfigureAwait(false);
        return (GrainTables.FromStream(at, geometry, reserved, rebuilt), end, true);
    }

    /// <summary>The last three sectors of a finished stream: marker, footer, end of stream.</summary>
    private static async ValueTask<VmdkHeader?> FindFooterAsync(IStorageFile at, VmdkHeader header, CancellationToken cancellation)
    {
        if (at.Length % Sector != 0 || at.Length < 4 * Sector)
        {
            return null;
        }

        var tail = await at.ReadBytesAsync(at.Length - (3 * Sector), 3 * Sector, cancellation).ConfigureAwait(false);
        if (VmdkMarker.Parse(tail) is not { Size: 0, Type: VmdkMarkerType.Footer } || !VmdkHeader.HasMagic(tail.AsSpan(Sector))
            || VmdkMarker.Parse(tail.AsSpan(2 * Sector)) is not { Size: 0, Type: VmdkMarkerType.EndOfStream })
        {
            return null;
        }

        var footer = VmdkHeader.Parse(tail.AsSpan(Sector, Sector), at.Name);
        return footer.Capacity == header.Capacity && footer.GrainSectors == header.GrainSectors && footer.TableEntries == header.TableEntries
            && footer.Flags == header.Flags && footer.DirectorySector > 0
            ? footer
            : throw GrainTables.Corrupt(at, "its footer contradicts its header");
    }

    private static void CheckCapacity(IStorageFile at, long capacity, long wanted)
    {
        if (capacity < wanted)
        {
            throw GrainTables.Corrupt(at, $"the extent has {capacity} sectors, the descriptor wants {wanted}");
        }
    }

    private async ValueTask OpenBackingAsync(CancellationToken cancellation)
    {
        if (!context.OpenBacking || _store?.Descriptor is not { } descriptor || descriptor.ParentContentId == VmdkDescriptor.NoParent)
        {
            return;
        }

        if (descriptor.ParentName is not { } name)
        {
            throw GrainTables.Corrupt(file, "it has a parent that it does not name");
        }

        _backing = await context.Files.OpenBackingAsync(name, "vmdk", cancellation).ConfigureAwait(false);
        if (_backing is VmdkImage parent && parent.ContentId != descriptor.ParentContentId)
        {
            throw new DiskException(
                DiskError.Corrupt,
                $"{file.Name}: the content of its parent {name} was changed since (its CID is {parent.ContentId:x8}, not {descriptor.ParentContentId:x8}); to take it nevertheless: lodge image rebase -u -b {name} -F vmdk {file.Name}");
        }
    }
}
