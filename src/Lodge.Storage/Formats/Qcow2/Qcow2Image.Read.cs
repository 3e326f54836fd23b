using System.Buffers;
using System.Runtime.CompilerServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    private const int KeptDecompressed = 4;
    private readonly Lock _decompressedGate = new();
    private readonly (ulong Descriptor, byte[]? Bytes)[] _decompressed = new (ulong, byte[]?)[KeptDecompressed];
    private int _nextDecompressed;

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        if (destination.Length == 0)
        {
            return ValueTask.CompletedTask;
        }

        if (!_metadata.Requests.TryEnter(out var epoch))
        {
            return ReadWhenOpenAsync(offset, destination, cancellation);
        }

        // The usual case: allocated data in one piece, under a table that is in memory.
        if (_cipher is null && _metadata.TryFindTable(TableIndex(offset), out var table))
        {
            var run = _metadata.Resolve(table, offset, destination.Length);
            if (run.Kind == ClusterKind.Normal && run.Length == destination.Length && run.Host <= _metadata.Data.Length - run.Length)
            {
                ValueTask read;
                try
                {
                    read = _metadata.Data.ReadAsync(run.Host, destination, cancellation);
                }
                catch
                {
                    epoch.Leave();
                    throw;
                }

                if (!read.IsCompletedSuccessfully)
                {
                    return LeaveAfterAsync(read, epoch);
                }

                read.GetAwaiter().GetResult();
                epoch.Leave();
                return ValueTask.CompletedTask;
            }
        }

        return LeaveAfterAsync(ReadMappedAsync(offset, destination, cancellation), epoch);
    }

    private async ValueTask ReadWhenOpenAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
        await LeaveAfterAsync(ReadMappedAsync(offset, destination, cancellation), epoch).ConfigureAwait(false);
    }

    /// <summary>Reads guest bytes, also beyond the disk's end in its last cluster.</summary>
    private async ValueTask ReadMappedAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        while (destination.Length > 0)
        {
            var table = await _metadata.FindTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
            var run = _metadata.Resolve(table, offset, destination.Length);
            var part = destination.Slice(0, run.Length);
            switch (run.Kind)
            {
                case ClusterKind.Unallocated or ClusterKind.UnallocatedHeld:
                    await ReadBackingAsync(offset, part, cancellation).ConfigureAwait(false);
                    break;
                case ClusterKind.Zero or ClusterKind.ZeroHeld:
                    part.Clear();
                    break;
                case ClusterKind.Normal:
                    await ReadHostAsync(run.Host, part, cancellation).ConfigureAwait(false);
                    break;
                case ClusterKind.Compressed:
                    await ReadCompressedAsync((ulong)run.Host, (int)(offset & (Geometry.ClusterSize - 1)), part, cancellation).ConfigureAwait(false);
                    break;
                default:
                    throw Corrupt($"the L2 entry for the guest's offset {offset} is invalid");
            }

            offset += run.Length;
            destination = destination.Slice(run.Length, destination.Length - run.Length);
        }
    }

    private async ValueTask ReadBackingAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        var inside = Backing is null ? 0 : Math.Clamp(Backing.Length - offset, 0, destination.Length);
        if (inside > 0)
        {
            await Backing!.ReadAsync(offset, destination.Slice(0, inside), cancellation).ConfigureAwait(false);
        }
        else if (Backing is null && Header.BackingName is not null)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name} was opened without its backing file {Header.BackingName}, which this range needs");
        }

        destination.Slice(inside, destination.Length - inside).Clear();
    }

    /// <summary>Reads from the data file; what lies beyond its end is zero.</summary>
    private async ValueTask ReadHostAsync(long host, IoVector destination, CancellationToken cancellation)
    {
        if (_cipher is not null)
        {
            await ReadEncryptedAsync(host, destination, cancellation).ConfigureAwait(false);
            return;
        }

        var inside = Math.Clamp(_metadata.Data.Length - host, 0, destination.Length);
        if (inside > 0)
        {
            await _metadata.Data.ReadAsync(host, destination.Slice(0, inside), cancellation).ConfigureAwait(false);
        }

        destination.Slice(inside, destination.Length - inside).Clear();
    }

    private async ValueTask ReadEncryptedAsync(long host, IoVector destination, CancellationToken cancellation)
    {
        const int Largest = 1 << 20;
        var buffer = ArrayPool<byte>.Shared.Rent((int)Math.Min(Largest, destination.Length + 1024));
        try
        {
            while (destination.Length > 0)
            {
                var start = host & ~511L;
                var skip = (int)(host - start);
                var part = (int)Math.Min(destination.Length, Largest - 1024);
                var whole = (skip + part + 511) & ~511;
                var inside = (int)Math.Clamp(_metadata.Data.Length - start, 0, whole);
                buffer.AsSpan(inside, whole - inside).Clear();
                await _metadata.Data.ReadAsync(start, buffer.AsMemory(0, inside), cancellation).ConfigureAwait(false);
                _cipher!.Decrypt(buffer.AsSpan(0, whole), (ulong)start >> 9);
                destination.Slice(0, part).CopyFrom(buffer.AsSpan(skip, part));
                host += part;
                destination = destination.Slice(part, destination.Length - part);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    private async ValueTask ReadCompressedAsync(ulong descriptor, int skip, IoVector destination, CancellationToken cancellation)
    {
        byte[]? bytes = null;
        lock (_decompressedGate)
        {
            foreach (var (kept, content) in _decompressed)
            {
                bytes = content is not null && kept == descriptor ? content : bytes;
            }
        }

        if (bytes is null)
        {
            if (skip == 0 && destination.Length == Geometry.ClusterSize && destination.TryGetSingle(out var whole))
            {
                await DecompressAsync(descriptor, whole, cancellation).ConfigureAwait(false);
                return;
            }

            bytes = new byte[Geometry.ClusterSize];
            await DecompressAsync(descriptor, bytes, cancellation).ConfigureAwait(false);
            lock (_decompressedGate)
            {
                _decompressed[_nextDecompressed++ % KeptDecompressed] = (descriptor, bytes);
                _nextDecompressed %= KeptDecompressed;
            }
        }

        destination.CopyFrom(bytes.AsSpan(skip, (int)destination.Length));
    }

    private async ValueTask DecompressAsync(ulong descriptor, Memory<byte> cluster, CancellationToken cancellation)
    {
        if (Geometry.External)
        {
            throw Corrupt("a compressed cluster in an image with an external data file");
        }

        var (offset, length) = Geometry.CompressedRange(descriptor);
        var inside = (int)Math.Clamp(File.Length - offset, 0, length);
        var packed = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            await File.ReadAsync(offset, packed.AsMemory(0, inside), cancellation).ConfigureAwait(false);
            if (!ClusterCodec.Of(Header.CompressionType).TryDecompress(packed.AsSpan(0, inside), cluster.Span))
            {
                throw Corrupt($"the compressed cluster at {offset} cannot be decompressed");
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(packed);
        }
    }

    private void ForgetDecompressed()
    {
        lock (_decompressedGate)
        {
            _decompressed.AsSpan().Clear();
        }
    }
}
