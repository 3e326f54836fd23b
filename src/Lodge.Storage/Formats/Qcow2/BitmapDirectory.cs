using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>An entry of the bitmap directory (qcow2 specification, "Bitmap directory").</summary>
/// <param name="Name">Its name.</param>
/// <param name="TableOffset">Where its table starts, in bytes.</param>
/// <param name="TableSize">Entries of its table.</param>
/// <param name="Flags">Bit 0: in use, 1: auto, 2: extra data compatible.</param>
/// <param name="GranularityBits">log2 of the bytes for each bit.</param>
/// <param name="FlagsOffset">Where the flags stand in the file.</param>
/// <param name="Usable">Whether it is a dirty bitmap without data that is not known here.</param>
internal sealed record BitmapEntry(string Name, long TableOffset, int TableSize, uint Flags, int GranularityBits, long FlagsOffset, bool Usable)
{
    public const uint InUse = 1;
    public const uint Auto = 2;
    public const uint ExtraDataCompatible = 4;
}

/// <summary>Parses the bitmaps extension and its directory.</summary>
internal static class BitmapDirectory
{
    private const int EntryLength = 24;

    /// <summary>Number, size and place of the directory.</summary>
    public static (int Count, long Offset, long Size) ParseExtension(ReadOnlySpan<byte> data, IStorageFile file)
    {
        if (data.Length < 24)
        {
            throw Corrupt(file, "the bitmaps extension is too short");
        }

        var count = BinaryPrimitives.ReadUInt32BigEndian(data);
        var size = BinaryPrimitives.ReadUInt64BigEndian(data[8..]);
        var offset = BinaryPrimitives.ReadUInt64BigEndian(data[16..]);
        if (count is 0 or > 65535 || size > 64 << 20 || size < count * (ulong)EntryLength || offset is 0 || offset > (ulong)file.Length || size > (ulong)file.Length - offset)
        {
            throw Corrupt(file, $"a bitmap directory of {count} entries, {size} bytes at {offset}");
        }

        return ((int)count, (long)offset, (long)size);
    }

    /// <summary>Reads the directory.</summary>
    public static async ValueTask<List<BitmapEntry>> ReadAsync(IStorageFile file, Qcow2Header header, CancellationToken cancellation)
    {
        var entries = new List<BitmapEntry>();
        if (header.Extension(Qcow2Header.BitmapsType) is not { } extension || (header.Autoclear & (ulong)AutoclearFeatures.Bitmaps) == 0)
        {
            return entries;
        }

        var (count, offset, size) = ParseExtension(extension.Data, file);
        var bytes = await file.ReadBytesAsync(offset, (int)size, cancellation).ConfigureAwait(false);
        var at = 0;
        for (var index = 0; index < count; index++)
        {
            if (bytes.Length - at < EntryLength)
            {
                throw Corrupt(file, "the bitmap directory is cut off");
            }

            var entry = bytes.AsSpan(at);
            var nameLength = BinaryPrimitives.ReadUInt16BigEndian(entry[18..]);
            var extra = BinaryPrimitives.ReadUInt32BigEndian(entry[20..]);
            var total = EntryLength + (long)extra + nameLength;
            var flags = BinaryPrimitives.ReadUInt32BigEndian(entry[12..]);
            var table = BinaryPrimitives.ReadUInt64BigEndian(entry);
            var tableSize = BinaryPrimitives.ReadUInt32BigEndian(entry[8..]);
            if (total > entry.Length || nameLength is 0 or > 1023 || entry[17] > 63 || tableSize > 4 << 20 || table > (ulong)file.Length || tableSize * 8UL > (ulong)file.Length - table)
            {
                throw Corrupt(file, $"entry {index} of the bitmap directory");
            }

            entries.Add(new BitmapEntry(
                Encoding.UTF8.GetString(entry.Slice(EntryLength + (int)extra, nameLength)),
                (long)table,
                (int)tableSize,
                flags,
                entry[17],
                offset + at + 12,
                entry[16] == 1 && (extra == 0 || (flags & BitmapEntry.ExtraDataCompatible) != 0)));
            at += (int)((total + 7) & ~7L);
        }

        return entries;
    }

    private static DiskException Corrupt(IStorageFile file, string what) => new(DiskError.Corrupt, $"{file.Name}: {what} is not valid");
}
