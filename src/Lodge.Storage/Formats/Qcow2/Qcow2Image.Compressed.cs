using System.Buffers;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    public async ValueTask WriteCompressedAsync(long offset, ReadOnlyMemory<byte> unit, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, unit.Length);
        var size = Geometry.ClusterSize;
        if ((offset & (size - 1)) != 0 || unit.Length > size || (unit.Length < size && offset + unit.Length != Length))
        {
            throw new DiskException(DiskError.OutOfRange, $"{File.Name}: {unit.Length} bytes at {offset} are not one cluster of {size} bytes, which compressed writes need");
        }

        if (Geometry.External || _cipher is not null)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: an image with {(Geometry.External ? "an external data file" : "encryption")} cannot hold compressed clusters");
        }

        var packed = ArrayPool<byte>.Shared.Rent(size);
        byte[]? padded = null;
        try
        {
            if (unit.Length < size)
            {
                padded = ArrayPool<byte>.Shared.Rent(size);
                unit.CopyTo(padded);
                padded.AsSpan(unit.Length, size - unit.Length).Clear();
            }

            var whole = padded is null ? unit : padded.AsMemory(0, size);
            var length = ClusterCodec.Of(Header.CompressionType).TryCompress(whole.Span, packed.AsSpan(0, size - 1));
            var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
            await LeaveAfterAsync(
                ChangeAsync(() => length > 0 ? StoreCompressedAsync(offset, packed.AsMemory(0, length), cancellation) : StorePlainAsync(offset, unit, cancellation), cancellation),
                epoch).ConfigureAwait(false);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(packed);
            if (padded is not null)
            {
                ArrayPool<byte>.Shared.Return(padded);
            }
        }
    }

    private async ValueTask StorePlainAsync(long offset, ReadOnlyMemory<byte> unit, CancellationToken cancellation) =>
        await WriteMappedAsync(offset, System.Runtime.InteropServices.MemoryMarshal.AsMemory(unit), false, cancellation).ConfigureAwait(false);

    private async ValueTask StoreCompressedAsync(long offset, Memory<byte> packed, CancellationToken cancellation)
    {
        var cluster = offset >> Geometry.ClusterBits;
        using (await _ranges.EnterAsync(cluster, cluster, cancellation).ConfigureAwait(false))
        {
            var table = await _metadata.PinTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
            try
            {
                var place = await _metadata.AllocateCompressedAsync(packed.Length, cancellation).ConfigureAwait(false);
                var descriptor = Geometry.CompressedDescriptor(place, packed.Length);
                try
                {
                    await File.WriteAsync(place, packed, WriteOptions.None, cancellation).ConfigureAwait(false);
                }
                catch
                {
                    var (first, last) = Geometry.CompressedClusters(descriptor);
                    _metadata.GiveBack(new ClusterRun(first, last - first + 1));
                    throw;
                }

                lock (_metadata.Gate)
                {
                    var index = (int)cluster & (Geometry.TableEntries - 1);
                    var (old, _) = _metadata.ReadEntry(table, index);
                    _metadata.WriteEntry(table, index, descriptor, 0);
                    _metadata.Release(old);
                }
            }
            finally
            {
                _metadata.Unpin(table);
            }
        }
    }
}
