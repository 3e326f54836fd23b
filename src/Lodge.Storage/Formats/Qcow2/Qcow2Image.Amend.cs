using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    public async ValueTask AmendAsync(FormatOptions options, IProgress<double>? progress, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        var known = new Qcow2Format().Options;
        if (options.Names.FirstOrDefault(name => !known.First(option => option.Name == name).Amendable) is { } fixedName)
        {
            throw new DiskException(DiskError.InvalidOption, $"option '{fixedName}' cannot be changed on an existing image");
        }

        var version = options.Text("compat") switch { null => Header.Version, "0.10" or "v2" => 2, _ => 3 };
        var order = options.Text("refcount_bits") is null ? Header.RefcountOrder : Order(options.Number("refcount_bits", 0));
        var lazy = options.Switch("lazy_refcounts", Header.LazyRefcounts && version >= 3);
        if (version == 2 && (lazy || order != 4))
        {
            throw new DiskException(DiskError.InvalidOption, "lazy_refcounts and refcount_bits other than 16 need compat=1.1");
        }

        if (options.Switch("data_file_raw", Header.RawDataFile) && !Header.RawDataFile)
        {
            throw new DiskException(DiskError.InvalidOption, "option 'data_file_raw' cannot be switched on on an existing image");
        }

        if (version > Header.Version)
        {
            await UpgradeAsync(cancellation).ConfigureAwait(false);
        }

        if (order != Header.RefcountOrder)
        {
            await ChangeRefcountBitsAsync(order, cancellation).ConfigureAwait(false);
        }

        progress?.Report(0.3);
        if (version >= 3)
        {
            var raw = options.Switch("data_file_raw", Header.RawDataFile);
            await ChangeFeaturesAsync(lazy, raw, cancellation).ConfigureAwait(false);
        }

        if (options.Text("backing_file") is not null || options.Text("backing_fmt") is not null)
        {
            var name = options.Text("backing_file") ?? Header.BackingName;
            await SetBackingAsync(name is { Length: > 0 } ? name : null, options.Text("backing_fmt") ?? Header.BackingFormat, cancellation).ConfigureAwait(false);
        }

        if (options.Text("size") is not null)
        {
            await ResizeAsync(options.Size("size", Length), cancellation).ConfigureAwait(false);
        }

        progress?.Report(0.6);
        if (version < Header.Version)
        {
            await DowngradeAsync(cancellation).ConfigureAwait(false);
        }

        progress?.Report(1);
    }

    private static int Order(long bits) => bits is >= 1 and <= 64 && (bits & (bits - 1)) == 0
        ? (int)long.Log2(bits)
        : throw new DiskException(DiskError.InvalidOption, $"option 'refcount_bits' has the value '{bits}'; give 1, 2, 4, 8, 16, 32 or 64");

    private ValueTask UpgradeAsync(CancellationToken cancellation) => RewriteAsync(
        _ => ValueTask.FromResult<Action<Qcow2Header>>(header =>
        {
            header.Version = 3;
            header.HeaderLength = new Qcow2Header().HeaderLength;
            header.AddFeatureNames();
        }),
        cancellation);

    private async ValueTask ChangeFeaturesAsync(bool lazy, bool raw, CancellationToken cancellation)
    {
        if (lazy == Header.LazyRefcounts && raw == Header.RawDataFile)
        {
            return;
        }

        await RewriteAsync(
            _ => ValueTask.FromResult<Action<Qcow2Header>>(header =>
            {
                header.Compatible = (header.Compatible & ~Qcow2Header.LazyRefcountsBit) | (lazy ? Qcow2Header.LazyRefcountsBit : 0);
                header.Autoclear = (header.Autoclear & ~(ulong)AutoclearFeatures.RawDataFile) | (raw ? (ulong)AutoclearFeatures.RawDataFile : 0);
                if (!lazy)
                {
                    header.Incompatible &= ~IncompatibleFeatures.Dirty;
                }
            }),
            cancellation).ConfigureAwait(false);

        // The next change sets the dirty bit where it is now needed.
        _prepared = false;
    }

    private async ValueTask ChangeRefcountBitsAsync(int order, CancellationToken cancellation)
    {
        await PrepareAsync(cancellation).ConfigureAwait(false);
        await _metadata.ShutAsync(cancellation).ConfigureAwait(false);
        try
        {
            var check = await WalkAsync(null, cancellation).ConfigureAwait(false);
            if (check.Corruptions > 0 || check.CheckErrors > 0)
            {
                throw Corrupt($"the image has errors ({check.Messages[0]})");
            }

            await RebuildRefcountsAsync(check, order, _ => { }, cancellation).ConfigureAwait(false);
            await ReloadAsync(true).ConfigureAwait(false);
        }
        finally
        {
            _metadata.LazyNow = (Header.Incompatible & IncompatibleFeatures.Dirty) != 0 && Header.LazyRefcounts;
            _metadata.Open();
        }
    }

    /// <summary>Goes back to version 2, which has no zero clusters and none of the later features.</summary>
    private async ValueTask DowngradeAsync(CancellationToken cancellation)
    {
        var features = Header.Incompatible & ~IncompatibleFeatures.Dirty;
        if (features != 0 || _snapshots.Count > 0 || _bitmaps.Count > 0)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name} has {(features != 0 ? features : _snapshots.Count > 0 ? "snapshots" : "bitmaps")}, which keeps it from compat=0.10");
        }

        for (long offset = 0; offset < Length;)
        {
            var extent = await GetStatusAsync(offset, Length - offset, cancellation).ConfigureAwait(false);
            if ((extent.State & (BlockState.Zero | BlockState.Allocated)) == (BlockState.Zero | BlockState.Allocated))
            {
                await ExpandZeroesAsync(offset, extent.Length, cancellation).ConfigureAwait(false);
            }

            offset += extent.Length;
        }

        await RewriteAsync(
            _ => ValueTask.FromResult<Action<Qcow2Header>>(header =>
            {
                (header.Version, header.Incompatible, header.Compatible, header.Autoclear) = (2, 0, 0, 0);
                header.SetExtension(Qcow2Header.FeatureNamesType, null);
            }),
            cancellation).ConfigureAwait(false);
    }

    private async ValueTask ExpandZeroesAsync(long offset, long length, CancellationToken cancellation)
    {
        var end = offset + length;
        while (offset < end)
        {
            var part = Math.Min(end - offset, Geometry.ClusterSize - (offset & (Geometry.ClusterSize - 1)));
            if (BackingCovers(offset))
            {
                await WriteAsync(offset, ZeroCluster.AsMemory(0, (int)part), WriteOptions.None, cancellation).ConfigureAwait(false);
            }
            else
            {
                await DiscardAsync(offset, part, cancellation).ConfigureAwait(false);
            }

            offset += part;
        }
    }
}
