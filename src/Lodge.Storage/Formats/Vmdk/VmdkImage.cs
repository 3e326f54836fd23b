using System.Globalization;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>What an opened VMDK is made of.</summary>
internal sealed record VmdkParts(IStorageFile File, DescriptorStore? Store, string CreateType, IReadOnlyList<VmdkExtent> Extents, ImageContext Context)
{
    public IDisk? Backing { get; init; }

    public bool ReadOnly { get; init; }

    public bool Unclean { get; init; }
}

/// <summary>A VMDK image: extents one after the other, and the descriptor that tells of them.</summary>
internal class VmdkImage(VmdkParts parts) : IBackedImage, IDiscard, IWriteZeroes, ICheck
{
    private readonly VmdkExtent[] _extents = [.. parts.Extents];

    public string FormatName => "vmdk";

    public IStorageFile File => parts.File;

    public IDisk? Backing => parts.Backing;

    public long Length { get; } = parts.Extents.Sum(extent => extent.Length);

    public int RequestAlignment => Math.Max(File.RequestAlignment, VmdkHeader.SectorLength);

    public bool IsReadOnly => parts.ReadOnly;

    public int DiscardGranularity => VmdkHeader.SectorLength;

    /// <summary>Id of the content; an image on top of this one remembers it.</summary>
    public uint ContentId => parts.Store?.Descriptor.ContentId ?? 0;

    public ImageInformation Describe()
    {
        var descriptor = parts.Store?.Descriptor;
        var grain = _extents.Length != 0 && _extents.All(extent => extent.GrainLength == _extents[0].GrainLength) ? _extents[0].GrainLength : null;
        List<KeyValuePair<string, string>> facts =
        [
            new("cid", ContentId.ToString(CultureInfo.InvariantCulture)),
            new("parent-cid", (descriptor?.ParentContentId ?? VmdkDescriptor.NoParent).ToString(CultureInfo.InvariantCulture)),
            new("create-type", parts.CreateType),
        ];
        for (var index = 0; index < _extents.Length; index++)
        {
            var extent = _extents[index];
            var prefix = string.Create(CultureInfo.InvariantCulture, $"extents.{index}.");
            if (extent.IsCompressed)
            {
                facts.Add(new(prefix + "compressed", "true"));
            }

            facts.Add(new(prefix + "virtual-size", extent.Length.ToString(CultureInfo.InvariantCulture)));
            facts.Add(new(prefix + "filename", extent.Part is null ? File.Name : Path.Combine(Path.GetDirectoryName(File.Name) ?? "", extent.Name)));
            if (extent.GrainLength is { } size)
            {
                facts.Add(new(prefix + "cluster-size", size.ToString(CultureInfo.InvariantCulture)));
            }

            facts.Add(new(prefix + "format", extent.Type));
        }

        return new ImageInformation
        {
            VirtualSize = Length,
            ClusterSize = grain,
            Compressed = _extents.Length != 0 && _extents.All(extent => extent.IsCompressed),
            Dirty = parts.Unclean,
            BackingName = descriptor?.ParentName,
            BackingFormat = descriptor?.ParentName is null ? null : "vmdk",
            FormatSpecific = facts,
            Parts = [.. _extents.Where(extent => extent.Part is not null).Select(extent => extent.Name).Distinct()],
        };
    }

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        var extent = At(offset);
        return extent is null ? ValueTask.CompletedTask
            : offset - extent.Start + destination.Length <= extent.Length ? extent.ReadAsync(offset - extent.Start, destination, cancellation)
            : ReadAcrossAsync(offset, destination, cancellation);
    }

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        var extent = At(offset);
        if (extent is null || source.Length == 0)
        {
            return ValueTask.CompletedTask;
        }

        var mark = MarkChangedAsync(cancellation);
        return mark.IsCompletedSuccessfully && options == WriteOptions.None && extent.Writable && offset - extent.Start + source.Length <= extent.Length
            ? extent.WriteAsync(offset - extent.Start, source, cancellation)
            : WriteAcrossAsync(mark, offset, source, options, cancellation);
    }

    public async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        await MarkChangedAsync(cancellation).ConfigureAwait(false);
        for (var end = offset + length; offset < end;)
        {
            var extent = WritableAt(offset);
            var part = Math.Min(end, extent.Start + extent.Length) - offset;
            await extent.WriteZeroesAsync(offset - extent.Start, part, options, cancellation).ConfigureAwait(false);
            offset += part;
        }

        if ((options & ZeroOptions.ForceUnitAccess) != 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    public async ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        if (!parts.Context.DiscardToFile)
        {
            return;
        }

        var end = (offset + length) / DiscardGranularity * DiscardGranularity;
        offset = VmdkHeader.RoundUp(offset, DiscardGranularity);
        await MarkChangedAsync(cancellation).ConfigureAwait(false);
        while (offset < end)
        {
            var extent = WritableAt(offset);
            var part = Math.Min(end, extent.Start + extent.Length) - offset;
            await extent.DiscardAsync(offset - extent.Start, part, cancellation).ConfigureAwait(false);
            offset += part;
        }
    }

    public async ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        if (IsReadOnly)
        {
            return;
        }

        foreach (var extent in _extents)
        {
            if (extent.Writable)
            {
                await extent.FlushAsync(cancellation).ConfigureAwait(false);
            }
        }

        await (parts.Store?.FlushAsync(cancellation) ?? ValueTask.CompletedTask).ConfigureAwait(false);
    }

    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        if (At(offset) is not { } extent)
        {
            return new BlockExtent(length, BlockState.None);
        }

        var part = Math.Min(length, extent.Start + extent.Length - offset);
        return await extent.GetStatusAsync(offset - extent.Start, part, cancellation).ConfigureAwait(false);
    }

    public async ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        return At(offset) is { } extent
            ? await extent.IsOwnAsync(offset - extent.Start, Math.Min(length, extent.Start + extent.Length - offset), cancellation).ConfigureAwait(false)
            : (false, length);
    }

    public async ValueTask SetBackingAsync(string? name, string? format, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        if (parts.Store is null || _extents.Any(extent => !extent.HasMetadata))
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: a VMDK of type {parts.CreateType} has no parent");
        }

        var contentId = name is null ? VmdkDescriptor.NoParent : await ContentIdOfAsync(parts.Context.Files, name, format, cancellation).ConfigureAwait(false);
        await parts.Store.SetParentAsync(name, contentId, cancellation).ConfigureAwait(false);
    }

    public async ValueTask MakeEmptyAsync(CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        foreach (var extent in _extents)
        {
            await extent.MakeEmptyAsync(cancellation).ConfigureAwait(false);
        }
    }

    public async ValueTask<CheckResult> CheckAsync(CheckRepair repair, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        var check = new VmdkCheck(progress);
        foreach (var extent in _extents)
        {
            await extent.CheckAsync(check, extent.Writable && !IsReadOnly ? repair : CheckRepair.None, cancellation).ConfigureAwait(false);
        }

        return check.Result;
    }

    public async ValueTask DisposeAsync()
    {
        List<IAsyncDisposable> owned = [.. _extents];
        owned.Add(File);
        if (Backing is not null)
        {
            owned.Add(Backing);
        }

        DiskException? failure = null;
        foreach (var one in owned)
        {
            try
            {
                await one.DisposeAsync().ConfigureAwait(false);
            }
            catch (DiskException e)
            {
                failure ??= e;
            }
        }

        if (failure is not null)
        {
            throw failure;
        }
    }

    /// <summary>The id of the content of an image that is to be a parent.</summary>
    internal static async ValueTask<uint> ContentIdOfAsync(IImageFiles files, string name, string? format, CancellationToken cancellation)
    {
        if (format is not (null or "vmdk"))
        {
            throw new DiskException(DiskError.InvalidOption, $"the parent of a VMDK is a VMDK, not '{format}'");
        }

        var parent = await files.OpenBackingAsync(name, "vmdk", cancellation).ConfigureAwait(false);
        await using (parent.ConfigureAwait(false))
        {
            return parent is VmdkImage image ? image.ContentId : throw new DiskException(DiskError.WrongFormat, $"{name} is no VMDK");
        }
    }

    protected ValueTask MarkChangedAsync(CancellationToken cancellation) => parts.Store?.MarkChangedAsync(cancellation) ?? ValueTask.CompletedTask;

    private async ValueTask ReadAcrossAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        for (long done = 0; done < destination.Length;)
        {
            var extent = At(offset + done)!;
            var part = Math.Min(destination.Length - done, extent.Start + extent.Length - offset - done);
            await extent.ReadAsync(offset + done - extent.Start, destination.Slice(done, part), cancellation).ConfigureAwait(false);
            done += part;
        }
    }

    private async ValueTask WriteAcrossAsync(ValueTask mark, long offset, IoVector source, WriteOptions options, CancellationToken cancellation)
    {
        await mark.ConfigureAwait(false);
        for (long done = 0; done < source.Length;)
        {
            var extent = WritableAt(offset + done);
            var part = Math.Min(source.Length - done, extent.Start + extent.Length - offset - done);
            await extent.WriteAsync(offset + done - extent.Start, source.Slice(done, part), cancellation).ConfigureAwait(false);
            done += part;
        }

        if ((options & WriteOptions.ForceUnitAccess) != 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>The extent at an offset; null at the end of the disk.</summary>
    private VmdkExtent? At(long offset)
    {
        var (low, high) = (0, _extents.Length);
        while (low < high)
        {
            var middle = (low + high) / 2;
            (low, high) = _extents[middle].Start + _extents[middle].Length <= offset ? (middle + 1, high) : (low, middle);
        }

        return low < _extents.Length ? _extents[low] : null;
    }

    private VmdkExtent WritableAt(long offset) => At(offset) is { Writable: true } extent
        ? extent
        : throw new DiskException(DiskError.ReadOnly, $"{File.Name}: the extent at {offset} is read-only");
}

/// <summary>A streamOptimized VMDK: written once, in ascending order, compressed.</summary>
internal sealed class VmdkStreamImage(VmdkParts parts, StreamExtent extent) : VmdkImage(parts), ISplitCompression
{
    public int CompressionUnit => extent.GrainLength!.Value;

    public bool InOrder => true;

    public int CompressedCapacity => GrainCodec.Capacity(CompressionUnit);

    public int Compress(ReadOnlySpan<byte> unit, Span<byte> destination) => extent.Pack(unit, destination);

    public async ValueTask StoreCompressedAsync(long offset, ReadOnlyMemory<byte> unit, ReadOnlyMemory<byte> compressed, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, unit.Length);
        await MarkChangedAsync(cancellation).ConfigureAwait(false);
        await extent.StoreAsync(offset, unit, compressed, cancellation).ConfigureAwait(false);
    }

    public ValueTask WriteCompressedAsync(long offset, ReadOnlyMemory<byte> unit, CancellationToken cancellation = default) =>
        StoreCompressedAsync(offset, unit, default, cancellation);
}
