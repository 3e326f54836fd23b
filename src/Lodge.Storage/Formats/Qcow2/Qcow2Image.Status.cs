using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
        try
        {
            var run = await ResolveAsync(offset, length, cancellation).ConfigureAwait(false);
            switch (run.Kind)
            {
                case ClusterKind.Normal:
                    return new BlockExtent(run.Length, BlockState.Data | BlockState.Allocated, 0, _cipher is null && Header.Crypt == CryptMethod.None ? run.Host : -1);
                case ClusterKind.Compressed:
                    return new BlockExtent(run.Length, BlockState.Data | BlockState.Allocated | BlockState.Compressed);
                case ClusterKind.Zero or ClusterKind.ZeroHeld:
                    return new BlockExtent(run.Length, BlockState.Zero | BlockState.Allocated, 0, run.Kind == ClusterKind.ZeroHeld ? run.Host : -1);
                case ClusterKind.Invalid:
                    throw Corrupt($"the L2 entry for the guest's offset {offset} is invalid");
            }

            if (Backing is null || offset >= Backing.Length)
            {
                return new BlockExtent(run.Length, BlockState.None, 0);
            }

            var below = await Backing.StatusAsync(offset, Math.Min(run.Length, Backing.Length - offset), cancellation).ConfigureAwait(false);
            return below with { State = below.State & ~BlockState.Allocated, Depth = below.Depth + 1 };
        }
        finally
        {
            epoch.Leave();
        }
    }

    public async ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
        try
        {
            var run = await ResolveAsync(offset, length, cancellation).ConfigureAwait(false);
            return (run.Kind is not (ClusterKind.Unallocated or ClusterKind.UnallocatedHeld), run.Length);
        }
        finally
        {
            epoch.Leave();
        }
    }

    /// <summary>The run at an offset, over as many empty L2 tables as follow each other.</summary>
    private async ValueTask<MappedRun> ResolveAsync(long offset, long length, CancellationToken cancellation)
    {
        var table = await _metadata.FindTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
        var run = _metadata.Resolve(table, offset, length);
        while (table is null && run.Length < length && _metadata.TryFindTable(TableIndex(offset + run.Length), out table) && table is null)
        {
            run = run with { Length = Math.Min(length, run.Length + (1L << Geometry.TableSpanBits)) };
        }

        return run;
    }
}
