using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    private List<BitmapEntry> _bitmaps = [];

    public IReadOnlyList<string> BitmapNames => [.. _bitmaps.Where(IsConsistent).Select(bitmap => bitmap.Name)];

    public async ValueTask<(bool Dirty, long Length)> GetDirtyAsync(string name, long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        var bitmap = _bitmaps.Find(entry => entry.Name == name) ?? throw new DiskException(DiskError.NotFound, $"{File.Name} has no bitmap '{name}'");
        if (!IsConsistent(bitmap))
        {
            throw new DiskException(DiskError.Corrupt, $"{File.Name}: the bitmap '{name}' was not closed and may miss changes");
        }

        // Bits of one cluster of the bitmap are looked at; the caller asks again for what follows.
        var bit = offset >> bitmap.GranularityBits;
        var clusterBytes = Geometry.ClusterSize;
        var index = bit / (clusterBytes * 8L);
        if (index >= bitmap.TableSize)
        {
            return (false, length);
        }

        var raw = await File.ReadBytesAsync(bitmap.TableOffset + (index * 8), 8, cancellation).ConfigureAwait(false);
        var entry = BinaryPrimitives.ReadUInt64BigEndian(raw);
        var firstBit = index * clusterBytes * 8;
        var end = Math.Min(Length, offset + length);
        var host = (long)(entry & Qcow2Geometry.OffsetMask);
        if (host == 0)
        {
            var reach = BitToOffset(firstBit + (clusterBytes * 8L), bitmap.GranularityBits);
            return ((entry & 1) != 0, Math.Min(end, reach) - offset);
        }

        if ((host & (clusterBytes - 1)) != 0 || host > File.Length - clusterBytes)
        {
            throw Corrupt($"the bitmap '{name}' names a cluster at {host} that is not in the file");
        }

        var bits = await File.ReadBytesAsync(host, clusterBytes, cancellation).ConfigureAwait(false);
        bool IsSet(long number) => (bits[(number - firstBit) >> 3] >> (int)(number & 7) & 1) != 0;
        var dirty = IsSet(bit);
        var next = bit + 1;
        while (next < firstBit + (clusterBytes * 8L) && BitToOffset(next, bitmap.GranularityBits) < end && IsSet(next) == dirty)
        {
            next++;
        }

        return (dirty, Math.Min(end, BitToOffset(next, bitmap.GranularityBits)) - offset);
    }

    /// <summary>Reads the directory of bitmaps.</summary>
    internal async ValueTask LoadBitmapsAsync(CancellationToken cancellation) =>
        _bitmaps = await BitmapDirectory.ReadAsync(File, Header, cancellation).ConfigureAwait(false);

    private static bool IsConsistent(BitmapEntry bitmap) => bitmap.Usable && (bitmap.Flags & BitmapEntry.InUse) == 0;

    private static long BitToOffset(long bit, int granularityBits) => bit > long.MaxValue >> granularityBits ? long.MaxValue : bit << granularityBits;

    /// <summary>Bitmaps that should follow all changes do not follow those made here: before the first change the file says so of each.</summary>
    private async ValueTask MarkBitmapsInUseAsync(CancellationToken cancellation)
    {
        for (var index = 0; index < _bitmaps.Count; index++)
        {
            var bitmap = _bitmaps[index];
            if ((bitmap.Flags & (BitmapEntry.Auto | BitmapEntry.InUse)) != BitmapEntry.Auto)
            {
                continue;
            }

            var flags = new byte[4];
            BinaryPrimitives.WriteUInt32BigEndian(flags, bitmap.Flags | BitmapEntry.InUse);
            await File.WriteAsync(bitmap.FlagsOffset, flags, WriteOptions.None, cancellation).ConfigureAwait(false);
            _bitmaps[index] = bitmap with { Flags = bitmap.Flags | BitmapEntry.InUse };
        }
    }
}
