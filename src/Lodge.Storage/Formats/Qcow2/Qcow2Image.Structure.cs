using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

// What changes the image as a whole: size, parent, emptying.
internal sealed partial class Qcow2Image
{
    public async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        length = Qcow2Creation.WholeSectors(length);
        if (length < 0 || Qcow2Creation.Entries(length, Header) > Qcow2Header.MaximumL1Bytes / 8)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: {length} bytes are too many for clusters of {Geometry.ClusterSize} bytes");
        }

        if (_bitmaps.Count > 0 && length != Length)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name} has dirty bitmaps, which would no longer fit; remove them with: qemu-img bitmap --remove {File.Name} NAME");
        }

        var before = Length;
        if (length < before)
        {
            await WriteZeroesAsync(length, before - length, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
        }

        if (Geometry.External && length > before)
        {
            await _metadata.Data.ResizeAsync(length, cancellation).ConfigureAwait(false);
        }

        if (length > before && BackingCovers(before))
        {
            // What is added reads as zeroes, also where the parent is longer, and does so before the disk is longer.
            await WriteSizeAsync(length, before, cancellation).ConfigureAwait(false);
            var end = Backing is null ? length : Math.Min(length, Backing.Length);
            await ZeroAnywhereAsync(before, end - before, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
            await FlushAsync(cancellation).ConfigureAwait(false);
        }

        await WriteSizeAsync(length, length, cancellation).ConfigureAwait(false);
        if (Geometry.External && length < before)
        {
            await _metadata.Data.ResizeAsync(length, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Gives the L1 table room for a disk of <paramref name="most"/> bytes, and the header the size <paramref name="length"/>.</summary>
    private ValueTask WriteSizeAsync(long most, long length, CancellationToken cancellation) => RewriteAsync(
        async rewrite =>
        {
            var needed = (int)Qcow2Creation.Entries(most, Header);
            var (offset, size) = (Header.L1Offset, Header.L1Size);
            if (needed > size)
            {
                size = needed;
                var entries = new ulong[size];
                CopyL1(entries);
                offset = await rewrite.PlaceL1Async(entries, cancellation).ConfigureAwait(false);
                await rewrite.FreeAsync(Header.L1Offset, Header.L1Size * 8L, cancellation).ConfigureAwait(false);
            }

            return header => (header.L1Offset, header.L1Size, header.Size) = (offset, size, length);
        },
        cancellation);

    public ValueTask SetBackingAsync(string? name, string? format, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        if (name is not null && Header.RawDataFile)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name} has a raw external data file and cannot have a backing file");
        }

        return RewriteAsync(
            _ => ValueTask.FromResult<Action<Qcow2Header>>(header =>
            {
                header.BackingName = name;
                header.BackingFormat = name is null ? null : format;
            }),
            cancellation);
    }

    public ValueTask MakeEmptyAsync(CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        return RewriteAsync(
            async rewrite =>
            {
                await DropActiveAsync(rewrite, cancellation).ConfigureAwait(false);
                var size = (int)Qcow2Creation.Entries(Length, Header);
                var offset = await rewrite.PlaceL1Async(new ulong[size], cancellation).ConfigureAwait(false);
                return header => (header.L1Offset, header.L1Size) = (offset, size);
            },
            cancellation);
    }

    /// <summary>Takes the active disk's references away, its L1 table included.</summary>
    private async ValueTask DropActiveAsync(Qcow2Rewrite rewrite, CancellationToken cancellation)
    {
        for (var index = 0; index < _metadata.L1.Count; index++)
        {
            await DropTableAsync(rewrite, _metadata.L1[index], cancellation).ConfigureAwait(false);
        }

        await rewrite.FreeAsync(Header.L1Offset, Header.L1Size * 8L, cancellation).ConfigureAwait(false);
    }

    private static async ValueTask DropTableAsync(Qcow2Rewrite rewrite, ulong entry, CancellationToken cancellation)
    {
        if ((entry & Qcow2Geometry.OffsetMask) == 0)
        {
            return;
        }

        var table = await rewrite.ReadTableAsync(entry, cancellation).ConfigureAwait(false);
        await rewrite.AdjustDataAsync(table, -1, cancellation).ConfigureAwait(false);
        await rewrite.FreeAsync(table.Offset, 1, cancellation).ConfigureAwait(false);
    }

    private void CopyL1(ulong[] entries)
    {
        for (var index = 0; index < Math.Min(entries.Length, _metadata.L1.Count); index++)
        {
            entries[index] = _metadata.L1[index];
        }
    }

    /// <summary>Rebuilds metadata while no request is inside; <paramref name="build"/> gives what then changes in the header.</summary>
    private async ValueTask RewriteAsync(Func<Qcow2Rewrite, ValueTask<Action<Qcow2Header>>> build, CancellationToken cancellation)
    {
        await PrepareAsync(cancellation).ConfigureAwait(false);
        await _metadata.ShutAsync(cancellation).ConfigureAwait(false);
        try
        {
            var rewrite = new Qcow2Rewrite(_metadata);
            try
            {
                var change = await build(rewrite).ConfigureAwait(false);
                await rewrite.FinishAsync(change, cancellation).ConfigureAwait(false);
            }
            catch (Exception failure)
            {
                if (rewrite.HeaderTouched)
                {
                    _broken = $"{File.Name}: writing the header failed, so that the image must be opened again: {failure.Message}";
                }

                await ReloadAsync(true).ConfigureAwait(false);
                throw;
            }

            await ReloadAsync(false).ConfigureAwait(false);
        }
        finally
        {
            _metadata.LazyNow = (Header.Incompatible & IncompatibleFeatures.Dirty) != 0 && Header.LazyRefcounts;
            _metadata.Open();
        }
    }

    /// <summary>Takes the tables anew from the file.</summary>
    private async ValueTask ReloadAsync(bool refcounts)
    {
        var header = Header;
        var l1 = await Qcow2Opener.ReadTableAsync(File, header.L1Offset, header.L1Size * 8L, "L1 table", CancellationToken.None).ConfigureAwait(false);
        _metadata.Reload(new MetadataBlock(-1, header.L1Offset, l1), new Qcow2Geometry(header));
        if (refcounts)
        {
            var length = (long)header.RefcountTableClusters << header.ClusterBits;
            var table = await Qcow2Opener.ReadTableAsync(File, header.RefcountTableOffset, length, "refcount table", CancellationToken.None).ConfigureAwait(false);
            _metadata.ReloadRefcounts(new MetadataBlock(-2, header.RefcountTableOffset, table));
        }

        ForgetDecompressed();
        Volatile.Write(ref _length, header.Size);
        Qcow2Opener.MapMetadata(_metadata, _snapshots, true);
    }
}
