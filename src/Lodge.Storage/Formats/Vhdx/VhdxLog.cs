using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>A change that the log holds: a sector of 4096 bytes, or with no bytes a range of zeroes.</summary>
internal readonly record struct VhdxLogChange(long Offset, long Length, byte[]? Bytes);

/// <summary>The changes that a crash left in the log.</summary>
/// <param name="Changes">In the order in which they are made.</param>
/// <param name="FileLength">What the file's length is at the least afterwards.</param>
internal sealed record VhdxLogContent(IReadOnlyList<VhdxLogChange> Changes, long FileLength);

/// <summary>The log ([MS-VHDX] section 2.3): a ring of entries, each of which makes changes of the file's metadata happen whole or not at all.</summary>
internal static class VhdxLog
{
    private const int Sector = 4096;
    private const int EntryHeaderSize = 64;
    private const int DescriptorSize = 32;
    private const uint LongestLog = 256 << 20;

    /// <summary>Reads the active sequence of entries ([MS-VHDX] section 2.3.3); null if the log is empty.</summary>
    public static async ValueTask<VhdxLogContent?> ReadAsync(IStorageFile file, VhdxHeader header, CancellationToken cancellation)
    {
        if (header.LogGuid == Guid.Empty)
        {
            return null;
        }

        if (header.LogLength is 0 or > LongestLog)
        {
            throw new DiskException(DiskError.Unsupported, $"a log of {header.LogLength} bytes that has to be replayed; {LongestLog} are the most");
        }

        var ring = new Ring(await file.ReadBytesAsync((long)header.LogOffset, (int)header.LogLength, cancellation).ConfigureAwait(false), header.LogGuid);
        var entries = ring.ActiveSequence() ?? throw new DiskException(DiskError.Corrupt, "the log holds no complete sequence of entries");
        var head = entries[^1];
        if (file.Length < head.FlushedFileOffset)
        {
            throw new DiskException(DiskError.Corrupt, $"the file is shorter than the {head.FlushedFileOffset} bytes that its log tells");
        }

        var changes = new List<VhdxLogChange>();
        foreach (var entry in entries)
        {
            ring.Decode(entry, changes);
        }

        // What an older entry changed behind the end that the newest one tells of is no longer part of the file.
        var end = Math.Max(file.Length, head.LastFileOffset);
        changes.RemoveAll(change => change.Offset >= end);
        return new VhdxLogContent([.. changes.Select(change => change.Bytes is null ? change with { Length = Math.Min(change.Length, end - change.Offset) } : change)], head.LastFileOffset);
    }

    /// <summary>Makes the changes; the file is flushed.</summary>
    public static async ValueTask ReplayAsync(IStorageFile file, VhdxLogContent content, CancellationToken cancellation)
    {
        if (file.Length < content.FileLength)
        {
            await file.ResizeAsync(content.FileLength, cancellation).ConfigureAwait(false);
        }

        foreach (var change in content.Changes)
        {
            await (change.Bytes is { } bytes
                ? file.WriteAsync(change.Offset, bytes, WriteOptions.None, cancellation)
                : file.WriteZeroesAsync(change.Offset, change.Length, ZeroOptions.MayUnmap, cancellation)).ConfigureAwait(false);
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>
    /// Changes sectors of metadata so that a crash leaves either all or none of them changed: an entry is made durable, then a header that makes the log active,
    /// then the sectors, then a header that makes it empty.
    /// </summary>
    /// <returns>The header that holds afterwards.</returns>
    public static async ValueTask<VhdxHeader> ChangeAsync(IStorageFile file, VhdxHeader header, IReadOnlyList<VhdxLogChange> sectors, CancellationToken cancellation)
    {
        var id = Guid.NewGuid();
        var entry = Encode(id, sectors, file.Length);
        if (entry.Length > header.LogLength)
        {
            throw new DiskException(DiskError.Unsupported, $"{file.Name}: the log of {header.LogLength} bytes is too short");
        }

        await file.WriteAsync((long)header.LogOffset, entry, WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.FlushAsync(cancellation).ConfigureAwait(false);
        header = await header.ReplaceAsync(file, header with { LogGuid = id }, cancellation).ConfigureAwait(false);
        foreach (var sector in sectors)
        {
            await file.WriteAsync(sector.Offset, sector.Bytes!, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
        return await header.ReplaceAsync(file, header with { LogGuid = Guid.Empty }, cancellation).ConfigureAwait(false);
    }

    private static byte[] Encode(Guid id, IReadOnlyList<VhdxLogChange> sectors, long fileLength)
    {
        const ulong Sequence = 1;
        var descriptors = (EntryHeaderSize + (sectors.Count * DescriptorSize) + Sector - 1) / Sector * Sector;
        var bytes = new byte[descriptors + (sectors.Count * Sector)];
        "loge"u8.CopyTo(bytes);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), (uint)bytes.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(16), Sequence);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(24), (uint)sectors.Count);
        id.TryWriteBytes(bytes.AsSpan(32));
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(48), fileLength);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(56), fileLength);
        for (var index = 0; index < sectors.Count; index++)
        {
            var sector = sectors[index].Bytes!;
            var descriptor = bytes.AsSpan(EntryHeaderSize + (index * DescriptorSize), DescriptorSize);
            "desc"u8.CopyTo(descriptor);
            sector.AsSpan(Sector - 4).CopyTo(descriptor[4..]);
            sector.AsSpan(0, 8).CopyTo(descriptor[8..]);
            BinaryPrimitives.WriteInt64LittleEndian(descriptor[16..], sectors[index].Offset);
            BinaryPrimitives.WriteUInt64LittleEndian(descriptor[24..], Sequence);
            var data = bytes.AsSpan(descriptors + (index * Sector), Sector);
            "data"u8.CopyTo(data);
            sector.AsSpan(8, Sector - 12).CopyTo(data[8..]);
            BinaryPrimitives.WriteUInt32LittleEndian(data[4..], (uint)(Sequence >> 32));
            BinaryPrimitives.WriteUInt32LittleEndian(data[(Sector - 4)..], (uint)Sequence);
        }

        VhdxChecksum.Put(bytes, 4);
        return bytes;
    }

    /// <summary>An entry's header.</summary>
    /// <param name="Start">Its first sector in the ring.</param>
    /// <param name="Count">Its sectors.</param>
    /// <param name="Tail">The sector of the oldest entry that was in use when it was written.</param>
    /// <param name="Sequence">Its number.</param>
    /// <param name="Descriptors">How many follow the header.</param>
    /// <param name="FlushedFileOffset">The file's length that was durable.</param>
    /// <param name="LastFileOffset">The file's length that its changes need.</param>
    private sealed record Entry(int Start, int Count, int Tail, ulong Sequence, int Descriptors, long FlushedFileOffset, long LastFileOffset);

    private sealed class Ring(byte[] bytes, Guid id)
    {
        private readonly int _sectors = bytes.Length / Sector;

        // Entries whose sums are right do not overlap in a log that was written as it should be; a hostile one does not get more work than that.
        private long _workLeft = 4L * bytes.Length;

        public List<Entry>? ActiveSequence()
        {
            var entries = new Dictionary<int, Entry>();
            for (var sector = 0; sector < _sectors; sector++)
            {
                if (TryParse(sector) is { } entry)
                {
                    entries.Add(sector, entry);
                }
            }

            var followers = new HashSet<int>();
            foreach (var entry in entries.Values)
            {
                if (Next(entries, entry) is { } next)
                {
                    followers.Add(next.Start);
                }
            }

            List<Entry>? best = null;
            foreach (var first in entries.Values)
            {
                if (followers.Contains(first.Start))
                {
                    continue;
                }

                var chain = new List<Entry>();
                for (var entry = first; entry is not null; entry = Next(entries, entry))
                {
                    chain.Add(entry);
                }

                var tail = chain.FindIndex(entry => entry.Start == chain[^1].Tail);
                if (tail >= 0 && (best is null || chain[^1].Sequence > best[^1].Sequence))
                {
                    best = chain[tail..];
                }
            }

            return best;
        }

        public void Decode(Entry entry, List<VhdxLogChange> changes)
        {
            var data = (EntryHeaderSize + (entry.Descriptors * DescriptorSize) + Sector - 1) / Sector;
            for (var index = 0; index < entry.Descriptors; index++)
            {
                var at = EntryHeaderSize + (index * DescriptorSize);
                var descriptor = SectorAt(entry.Start + (at / Sector)).Slice(at % Sector, DescriptorSize);
                var offset = BinaryPrimitives.ReadInt64LittleEndian(descriptor[16..]);
                var zero = descriptor.StartsWith("zero"u8);
                var length = zero ? BinaryPrimitives.ReadInt64LittleEndian(descriptor[8..]) : Sector;
                if (BinaryPrimitives.ReadUInt64LittleEndian(descriptor[24..]) != entry.Sequence || offset % Sector != 0 || length % Sector != 0 || offset < 0
                    || length < 0 || entry.LastFileOffset < length || offset > entry.LastFileOffset - length || (!zero && !descriptor.StartsWith("desc"u8)))
                {
                    throw new DiskException(DiskError.Corrupt, $"descriptor {index} of the log entry {entry.Sequence} is wrong");
                }

                if (zero)
                {
                    changes.Add(new VhdxLogChange(offset, length, null));
                    continue;
                }

                var source = data < entry.Count ? SectorAt(entry.Start + data++) : default;
                if (!source.StartsWith("data"u8) || BinaryPrimitives.ReadUInt32LittleEndian(source[4..]) != (uint)(entry.Sequence >> 32)
                    || BinaryPrimitives.ReadUInt32LittleEndian(source[(Sector - 4)..]) != (uint)entry.Sequence)
                {
                    throw new DiskException(DiskError.Corrupt, $"a data sector of the log entry {entry.Sequence} is wrong");
                }

                var sector = source.ToArray();
                descriptor.Slice(8, 8).CopyTo(sector);
                descriptor.Slice(4, 4).CopyTo(sector.AsSpan(Sector - 4));
                changes.Add(new VhdxLogChange(offset, Sector, sector));
            }
        }

        private Entry? Next(Dictionary<int, Entry> entries, Entry entry) =>
            entries.TryGetValue((entry.Start + entry.Count) % _sectors, out var next) && next.Sequence == entry.Sequence + 1 ? next : null;

        private ReadOnlySpan<byte> SectorAt(int sector) => bytes.AsSpan(sector % _sectors * Sector, Sector);

        private Entry? TryParse(int start)
        {
            var head = SectorAt(start);
            if (!head.StartsWith("loge"u8) || new Guid(head.Slice(32, 16)) != id)
            {
                return null;
            }

            var length = BinaryPrimitives.ReadUInt32LittleEndian(head[8..]);
            var tail = BinaryPrimitives.ReadUInt32LittleEndian(head[12..]);
            var descriptors = BinaryPrimitives.ReadUInt32LittleEndian(head[24..]);
            var entry = new Entry(
                start,
                (int)(length / Sector),
                (int)(tail / Sector),
                BinaryPrimitives.ReadUInt64LittleEndian(head[16..]),
                (int)descriptors,
                BinaryPrimitives.ReadInt64LittleEndian(head[48..]),
                BinaryPrimitives.ReadInt64LittleEndian(head[56..]));
            if (length == 0 || length % Sector != 0 || length > bytes.Length || tail % Sector != 0 || entry.Sequence is 0 or ulong.MaxValue
                || EntryHeaderSize + (descriptors * (long)DescriptorSize) > length || entry.FlushedFileOffset < 0 || entry.LastFileOffset < 0)
            {
                return null;
            }

            _workLeft -= length;
            if (_workLeft < 0)
            {
                throw new DiskException(DiskError.Corrupt, "entries of the log overlap");
            }

            var whole = new byte[length];
            for (var sector = 0; sector < entry.Count; sector++)
            {
                SectorAt(start + sector).CopyTo(whole.AsSpan(sector * Sector));
            }

            return VhdxChecksum.IsRight(whole, 4) ? entry : null;
        }
    }
}
