using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>
/// A sparse extent with plain grains. A grain that is zeroed or discarded keeps its place, of which the host's file system takes back the room; so that needs no
/// change of tables, and a grain in use never moves.
/// </summary>
internal sealed partial class SparseExtent(GrainTables tables, IDisk? backing) : VmdkExtent
{
    private readonly int _grain = tables.Geometry.GrainLength;

    public override int? GrainLength => _grain;

    public override bool HasMetadata => true;

    public GrainTables Tables => tables;

    private IStorageFile File => tables.File;

    public override ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        // Most requests lie in one run whose table is in memory.
        var run = Find(offset, destination.Length, out var length);
        return run.State == GrainState.Data && length == destination.Length && Host(run, offset) is var host && host + length <= File.Length
            ? File.ReadAsync(host, destination, cancellation)
            : ReadRunsAsync(offset, destination, cancellation);
    }

    public override async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation)
    {
        while (true)
        {
            var run = Find(offset, length, out var part);
            switch (run.State)
            {
                case GrainState.NotLoaded:
                    await tables.LoadAsync(offset / _grain, cancellation).ConfigureAwait(false);
                    continue;
                case GrainState.Zero:
                    return new BlockExtent(part, BlockState.Zero | BlockState.Allocated);
                case GrainState.Data:
                    var host = Host(run, offset);
                    if (host >= File.Length)
                    {
                        return new BlockExtent(part, BlockState.Zero | BlockState.Allocated);
                    }

                    var status = await File.GetStatusAsync(host, Math.Min(part, File.Length - host), cancellation).ConfigureAwait(false);
                    return new BlockExtent(status.Length, ((status.State & BlockState.Zero) != 0 ? BlockState.Zero : BlockState.Data) | BlockState.Allocated, 0, host);
                default:
                    if (backing is null || Start + offset >= backing.Length)
                    {
                        return new BlockExtent(part, BlockState.None);
                    }

                    var below = await backing.StatusAsync(Start + offset, Math.Min(part, backing.Length - Start - offset), cancellation).ConfigureAwait(false);
                    return below with { State = below.State & ~BlockState.Allocated, Depth = below.Depth + 1 };
            }
        }
    }

    public override async ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation)
    {
        while (true)
        {
            var run = Find(offset, length, out var part);
            if (run.State != GrainState.NotLoaded)
            {
                return (run.State != GrainState.Unallocated, part);
            }

            await tables.LoadAsync(offset / _grain, cancellation).ConfigureAwait(false);
        }
    }

    public override ValueTask FlushAsync(CancellationToken cancellation) => tables.FlushAsync(cancellation);

    public override ValueTask MakeEmptyAsync(CancellationToken cancellation) => tables.MakeEmptyAsync(cancellation);

    public override ValueTask CheckAsync(VmdkCheck check, CheckRepair repair, CancellationToken cancellation) => check.RunAsync(tables, repair, cancellation);

    public override async ValueTask DisposeAsync()
    {
        try
        {
            if (tables.HasChanges)
            {
                await tables.CommitAsync(CancellationToken.None).ConfigureAwait(false);
            }
        }
        finally
        {
            await base.DisposeAsync().ConfigureAwait(false);
        }
    }

    private GrainRun Find(long offset, long length, out long part)
    {
        var first = offset / _grain;
        var run = tables.Find(first, length == 0 ? 1 : ((offset + length - 1) / _grain) - first + 1);
        part = Math.Min(length, ((first + run.Count) * _grain) - offset);
        return run;
    }

    private long Host(GrainRun run, long offset) => (run.Sector * VmdkHeader.SectorLength) + (offset % _grain);

    private async ValueTask ReadRunsAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        for (long done = 0; done < destination.Length;)
        {
            var run = Find(offset + done, destination.Length - done, out var part);
            if (run.State == GrainState.NotLoaded)
            {
                await tables.LoadAsync((offset + done) / _grain, cancellation).ConfigureAwait(false);
                continue;
            }

            var piece = destination.Slice(done, part);
            switch (run.State)
            {
                case GrainState.Data:
                    // The last grain of a file may be cut off; what is missing is zero.
                    var host = Host(run, offset + done);
                    var inside = Math.Clamp(File.Length - host, 0, part);
                    if (inside > 0)
                    {
                        await File.ReadAsync(host, piece.Slice(0, inside), cancellation).ConfigureAwait(false);
                    }

                    piece.Slice(inside, part - inside).Clear();
                    break;
                case GrainState.Unallocated when backing is not null:
                    await ReadBackingAsync(offset + done, piece, cancellation).ConfigureAwait(false);
                    break;
                default:
                    piece.Clear();
                    break;
            }

            done += part;
        }
    }

    private async ValueTask ReadBackingAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        var inside = Math.Clamp(backing!.Length - Start - offset, 0, destination.Length);
        if (inside > 0)
        {
            await backing.ReadAsync(Start + offset, destination.Slice(0, inside), cancellation).ConfigureAwait(false);
        }

        destination.Slice(inside, destination.Length - inside).Clear();
    }
}
