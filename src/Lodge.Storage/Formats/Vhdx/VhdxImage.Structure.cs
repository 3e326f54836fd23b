using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vhdx;

internal sealed partial class VhdxImage
{
    /// <inheritdoc/>
    /// <remarks>A table that grows beyond its region moves to the file's end. The size, and the region table with it, change through the log.</remarks>
    public override async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        VhdxFormat.CheckLength(length);
        var size = (length + SectorSize - 1) / SectorSize * SectorSize;
        var count = VhdxFormat.CountSlots(size, _metadata);
        VhdxFormat.CheckSlots(count);
        await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        var old = Length;
        if (size < old)
        {
            await ShrinkAsync(size, (int)count, cancellation).ConfigureAwait(false);
            return;
        }

        await ZeroTailAsync(old, cancellation).ConfigureAwait(false);
        await WithAllocationAsync(
            async () =>
            {
                var changes = await GrowTableAsync((int)count, cancellation).ConfigureAwait(false);
                await WriteSizeAsync(size, changes, cancellation).ConfigureAwait(false);
                return true;
            },
            cancellation).ConfigureAwait(false);
        SetLength(size);
        if (_metadata.LeaveBlocksAllocated && !IsDifferencing)
        {
            for (var block = CountBlocks(old); block < CountBlocks(size); block++)
            {
                await EnsureAllocatedAsync(block, cancellation).ConfigureAwait(false);
            }
        }

        if (Backing is not null && Backing.Length > old)
        {
            await WriteZeroesAsync(old, Math.Min(Backing.Length, size) - old, ZeroOptions.None, cancellation).ConfigureAwait(false);
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask SetBackingAsync(string? name, string? format, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        if (!IsDifferencing)
        {
            if (name is null)
            {
                return;
            }

            throw new DiskException(DiskError.Unsupported, $"{File.Name} is not a differencing disk and cannot get a parent; make one with: lodge image create -f vhdx -b {name} -F vhdx");
        }

        if (name is null)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: a differencing disk of the format vhdx keeps its parent; make one without with: lodge image convert -O vhdx");
        }

        if (format is not (null or "vhdx"))
        {
            throw new DiskException(DiskError.Unsupported, $"the parent of an image of the format vhdx must be one, too, not {format}");
        }

        await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        var id = await VhdxFormat.IdentifyParentAsync(name, Context.Files, cancellation).ConfigureAwait(false);
        var metadata = _metadata.WithParent(VhdxParentLocator.Create(name, id));
        var locator = metadata.Parent!.Encode();
        var region = _regions.Metadata;
        if (metadata.ParentOffset + VhdxParentLocator.Space > region.Length)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: the metadata region has no room for another parent's name");
        }

        await WithAllocationAsync(
            async () =>
            {
                var room = new byte[(locator.Length + Sector - 1) / Sector * Sector];
                locator.CopyTo(room, 0);
                var changes = Sectors(region.Offset, VhdxMetadata.EncodeTable(metadata.Items)).Concat(Sectors(region.Offset + metadata.ParentOffset, room));
                _header = await VhdxLog.ChangeAsync(File, _header, [.. changes], cancellation).ConfigureAwait(false);
                _metadata = metadata;
                return true;
            },
            cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask MakeEmptyAsync(CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        for (long block = 0; block < BlockCount; block++)
        {
            Assign(block, new BlockEntry(BlockKind.Absent));
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
        for (long chunk = 0; IsDifferencing && chunk < Table.Count / (_ratio + 1); chunk++)
        {
            Table.Set(BitmapSlot(chunk), NotPresent);
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
        Bitmaps.Clear();
        await CutAsync(Structures.Max(region => region.End), cancellation).ConfigureAwait(false);
    }

    private static IEnumerable<VhdxLogChange> Sectors(long offset, byte[] bytes)
    {
        for (var at = 0; at < bytes.Length; at += Sector)
        {
            yield return new VhdxLogChange(offset + at, Sector, bytes[at..(at + Sector)]);
        }
    }

    private async ValueTask ShrinkAsync(long size, int count, CancellationToken cancellation)
    {
        SetLength(size);
        for (var block = CountBlocks(size); Slot(block) < Table.Count; block++)
        {
            Assign(block, new BlockEntry(BlockKind.Absent));
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
        for (var chunk = count / (_ratio + 1); IsDifferencing && chunk < Table.Count / (_ratio + 1); chunk++)
        {
            Table.Set(BitmapSlot(chunk), NotPresent);
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
        Bitmaps.Clear();
        await ZeroTailAsync(size, cancellation).ConfigureAwait(false);
        await WithAllocationAsync(
            async () =>
            {
                Table.Reshape(Table.Offset, count, NotPresent);
                await WriteSizeAsync(size, [], cancellation).ConfigureAwait(false);
                return true;
            },
            cancellation).ConfigureAwait(false);
    }

    /// <summary>Makes the table longer, in its region or elsewhere, and gives the changes that name it.</summary>
    private async ValueTask<List<VhdxLogChange>> GrowTableAsync(int count, CancellationToken cancellation)
    {
        const int Part = 1 << 17;
        var first = Table.Count;
        var changes = new List<VhdxLogChange>();
        if (count * 8L > _regions.Bat.Length)
        {
            var length = VhdxFormat.RoundToMegabyte(count * 8L);
            var offset = await AddRoomAsync(0, length, cancellation).ConfigureAwait(false);
            _regions = _regions.WithBat(offset, (uint)length);
            Table.Reshape(offset, count, NotPresent);
            first = 0;

            // Of the two copies of the region table only the first sectors differ.
            var table = _regions.Encode();
            changes.Add(new VhdxLogChange(VhdxRegions.FirstOffset, Sector, table[..Sector]));
            changes.Add(new VhdxLogChange(VhdxRegions.SecondOffset, Sector, table[..Sector]));
            if (_regions.Entries.Count > 64)
            {
                throw new DiskException(DiskError.Unsupported, $"{File.Name}: too many regions");
            }
        }
        else if (count > first)
        {
            Table.Reshape(Table.Offset, count, NotPresent);
        }

        for (; first < count; first += Part)
        {
            await File.WriteAsync(Table.Offset + (first * 8L), Table.Encode(first, Math.Min(Part, count - first)), WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await File.FlushAsync(cancellation).ConfigureAwait(false);
        return changes;
    }

    private async ValueTask WriteSizeAsync(long size, List<VhdxLogChange> changes, CancellationToken cancellation)
    {
        var place = _regions.Metadata.Offset + _metadata.DiskSizeOffset;
        var start = place / Sector * Sector;
        var length = (int)(((place + 8 + Sector - 1) / Sector * Sector) - start);
        var bytes = await File.ReadBytesAsync(start, length, cancellation).ConfigureAwait(false);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan((int)(place - start)), size);
        _header = await VhdxLog.ChangeAsync(File, _header, [.. changes, .. Sectors(start, bytes)], cancellation).ConfigureAwait(false);
        _metadata = _metadata with { DiskSize = (ulong)size };
    }
}
