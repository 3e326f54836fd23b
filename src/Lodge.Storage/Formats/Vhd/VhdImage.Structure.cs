using Lodge.Storage.Disks;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vhd;

internal sealed partial class VhdImage
{
    /// <inheritdoc/>
    /// <remarks>
    /// A table that grows beyond its room moves, and with it the header, to the file's end; writing the footer, one sector, then switches to both. Where the size
    /// followed the geometry it counts in bytes afterwards.
    /// </remarks>
    public override async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        VhdFormat.CheckLength(length);
        var size = (length + 511) / 512 * 512;
        var count = CountBlocks(size);
        VhdFormat.CheckEntries(count);
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
                await GrowTableAsync((int)count, cancellation).ConfigureAwait(false);
                await File.FlushAsync(cancellation).ConfigureAwait(false);
                Footer = Footer.WithLength(size);
                _footerStale = true;
                return true;
            },
            cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        SetLength(size);
        if (Backing is not null && Backing.Length > old)
        {
            await WriteZeroesAsync(old, Math.Min(Backing.Length, size) - old, ZeroOptions.None, cancellation).ConfigureAwait(false);
            await CommitAsync(cancellation).ConfigureAwait(false);
        }
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

            throw new DiskException(DiskError.Unsupported, $"{File.Name} is a dynamic disk and cannot get a parent; make a differencing one with: lodge image create -f vpc -b {name} -F vpc");
        }

        if (format is not (null or "vpc" or "vhd"))
        {
            throw new DiskException(DiskError.Unsupported, $"the parent of an image of the format vpc must be one, too, not {format}");
        }

        await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        var parent = name is null ? null : await VhdFormat.IdentifyParentAsync(name, Context.Files, cancellation).ConfigureAwait(false);
        await WithAllocationAsync(
            async () =>
            {
                var header = _header with { Locators = [], ParentUnicodeName = "", ParentUniqueId = Guid.Empty, ParentTimeStamp = 0 };
                if (parent is not null)
                {
                    var offset = await AddRoomAsync(0, VhdParentName.Space, cancellation).ConfigureAwait(false);
                    header = await WriteParentAsync(File, header, name!, parent, offset, cancellation).ConfigureAwait(false);
                }

                await MoveHeaderAsync(header, cancellation).ConfigureAwait(false);
                Footer = Footer with { DiskType = parent is null ? VhdDiskType.Dynamic : VhdDiskType.Differencing };
                return true;
            },
            cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        _parentName = name;
        IsDifferencing = parent is not null;
        if (parent is null)
        {
            await (Backing?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
            Backing = null;
        }
    }

    /// <inheritdoc/>
    public async ValueTask MakeEmptyAsync(CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        for (long block = 0; block < BlockCount; block++)
        {
            if (Find(block).Kind != BlockKind.Absent)
            {
                Assign(block, new BlockEntry(BlockKind.Absent));
            }
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
        Bitmaps.Clear();
        Array.Clear(_ready);
        await CutAsync(Structures.Max(region => region.End), cancellation).ConfigureAwait(false);
    }

    protected override async ValueTask<CheckResult> CheckFormatAsync(CheckRepair repair, List<string> messages, CancellationToken cancellation)
    {
        var last = VhdFooter.TryParse(await File.ReadBytesAsync(Math.Max(File.Length - VhdFooter.Size, 0), VhdFooter.Size, cancellation).ConfigureAwait(false));
        var first = VhdFooter.TryParse(await File.ReadBytesAsync(0, VhdFooter.Size, cancellation).ConfigureAwait(false));
        if (last == Footer && first == Footer)
        {
            return new CheckResult();
        }

        Report(messages, last == Footer ? "the copy of the footer at the beginning is missing or another" : "the footer at the end is missing or another than its copy");
        _footerStale = repair != CheckRepair.None;
        return new CheckResult { Leaks = 1, LeaksFixed = _footerStale ? 1 : 0 };
    }

    private async ValueTask ShrinkAsync(long size, int count, CancellationToken cancellation)
    {
        SetLength(size);
        for (long block = count; block < Table.Count; block++)
        {
            if (Find(block).Kind != BlockKind.Absent)
            {
                Assign(block, new BlockEntry(BlockKind.Absent));
            }
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
        await ZeroTailAsync(size, cancellation).ConfigureAwait(false);
        await WithAllocationAsync(
            () =>
            {
                Footer = Footer.WithLength(size);
                _footerStale = true;
                Table.Reshape(Table.Offset, count, Unused);
                return ValueTask.FromResult(true);
            },
            cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>Makes the table longer, in its room or elsewhere; the allocation is held.</summary>
    private async ValueTask GrowTableAsync(int count, CancellationToken cancellation)
    {
        var old = Table.Count;
        if (count > old)
        {
            // After the table was cut there may be more than it has entries.
            var ready = new bool[count];
            _ready.AsSpan(0, Math.Min(old, _ready.Length)).CopyTo(ready);
            _ready = ready;
        }

        if (count <= old)
        {
            return;
        }

        if (count <= _header.MaxTableEntries && IsFree(Table.Offset + Table.ByteLength, Table.Offset + (count * 4L)))
        {
            Table.Reshape(Table.Offset, count, Unused);
            await WriteTableAsync(File, Table, old, count - old, cancellation).ConfigureAwait(false);
            return;
        }

        var offset = await AddRoomAsync(0, ((count * 4L) + 511) / 512 * 512, cancellation).ConfigureAwait(false);
        Table.Reshape(offset, count, Unused);
        await WriteTableAsync(File, Table, 0, count, cancellation).ConfigureAwait(false);
        await MoveHeaderAsync(_header with { TableOffset = (ulong)offset, MaxTableEntries = (uint)count }, cancellation).ConfigureAwait(false);
    }

    private bool IsFree(long start, long end)
    {
        start = (start + 511) / 512 * 512;
        for (long block = 0; block < Table.Count; block++)
        {
            if (Find(block) is { Kind: not BlockKind.Absent } entry && entry.Offset - BlockPrefix < end && entry.Offset + BlockSize > start)
            {
                return false;
            }
        }

        return end <= File.Length && !Structures.Any(region => region.Start < end && region.End > start);
    }

    /// <summary>Puts a new header at the end; the next footer names it. Two sectors cannot be overwritten at once, the footer's one can.</summary>
    private async ValueTask MoveHeaderAsync(VhdHeader header, CancellationToken cancellation)
    {
        var offset = await AddRoomAsync(0, VhdHeader.Size, cancellation).ConfigureAwait(false);
        await File.WriteAsync(offset, header.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        await File.FlushAsync(cancellation).ConfigureAwait(false);
        _header = header;
        Footer = Footer with { DataOffset = (ulong)offset };
        (_footerMoved, _footerStale) = (true, true);
    }
}
