using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    /// <summary>Gives host clusters to a range that has none; it reads as before.</summary>
    /// <param name="offset">In bytes.</param>
    /// <param name="length">In bytes.</param>
    /// <param name="mode"><c>metadata</c> (a hole in the file), <c>falloc</c> (reserved) or <c>full</c> (written).</param>
    /// <param name="cancellation">Ends it between tables.</param>
    internal async ValueTask PreallocateAsync(long offset, long length, string mode, CancellationToken cancellation)
    {
        await PrepareAsync(cancellation).ConfigureAwait(false);
        var bits = Geometry.ClusterBits;
        var end = (offset + length + Geometry.ClusterSize - 1) >> bits << bits;
        while (offset < end)
        {
            var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
            var span = 1L << Geometry.TableSpanBits;
            var stop = Math.Min(end, (offset & ~(span - 1)) + span);
            try
            {
                offset = await PreallocateTableAsync(offset & ~(Geometry.ClusterSize - 1L), stop, mode, cancellation).ConfigureAwait(false);
            }
            finally
            {
                epoch.Leave();
            }

            if (_metadata.NeedsCommit)
            {
                await _metadata.CommitAsync(cancellation).ConfigureAwait(false);
            }
        }

        await _metadata.CommitAsync(cancellation).ConfigureAwait(false);
    }

    private async ValueTask<long> PreallocateTableAsync(long offset, long stop, string mode, CancellationToken cancellation)
    {
        var bits = Geometry.ClusterBits;
        using var range = await _ranges.EnterAsync(offset >> bits, (stop - 1) >> bits, cancellation).ConfigureAwait(false);
        var table = await _metadata.PinTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
        try
        {
            while (offset < stop)
            {
                var index = (int)(offset >> bits) & (Geometry.TableEntries - 1);
                long wanted = 0;
                while (offset + (wanted << bits) < stop && _metadata.ReadEntry(table, index + (int)wanted) == (0, 0))
                {
                    wanted++;
                }

                if (wanted == 0)
                {
                    offset += Geometry.ClusterSize;
                    continue;
                }

                var run = new ClusterRun(offset >> bits, wanted);
                if (!Geometry.External)
                {
                    (run, _) = await _metadata.AllocateAsync(wanted, false, cancellation).ConfigureAwait(false);
                }

                await ReserveAsync(run.First << bits, run.Count << bits, mode, cancellation).ConfigureAwait(false);
                lock (_metadata.Gate)
                {
                    for (var cluster = 0; cluster < run.Count; cluster++)
                    {
                        // What lies in the file would be noise once it is decrypted: the entries of an encrypted image say zero.
                        var zero = _cipher is not null;
                        var descriptor = (ulong)((run.First + cluster) << bits) | Qcow2Geometry.Copied | (zero && !Geometry.Extended ? Qcow2Geometry.ZeroBit : 0);
                        _metadata.WriteEntry(table, index + cluster, descriptor, !Geometry.Extended ? 0 : zero ? 0xffffffff00000000 : uint.MaxValue);
                    }
                }

                offset += run.Count << bits;
            }
        }
        finally
        {
            _metadata.Unpin(table);
        }

        return offset;
    }

    private async ValueTask ReserveAsync(long host, long length, string mode, CancellationToken cancellation)
    {
        var data = _metadata.Data;
        if (Geometry.External)
        {
            length = Math.Min(length, Length - host);
        }

        switch (mode)
        {
            case "falloc":
                await data.AllocateAsync(host, length, cancellation).ConfigureAwait(false);
                break;
            case "full":
                await data.WriteZeroesAsync(host, length, ZeroOptions.None, cancellation).ConfigureAwait(false);
                break;
            default:
                if (data.Length < host + length)
                {
                    await data.ResizeAsync(host + length, cancellation).ConfigureAwait(false);
                }

                break;
        }
    }
}
