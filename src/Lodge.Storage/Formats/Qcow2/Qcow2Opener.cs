using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Reads header and tables of an image and makes the disk of them.</summary>
internal static class Qcow2Opener
{
    public static async ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation)
    {
        var header = await ReadHeaderAsync(file, cancellation).ConfigureAwait(false);
        var writable = !context.ReadOnly && context.Snapshot is null;
        if ((header.Incompatible & IncompatibleFeatures.Corrupt) != 0 && writable && !context.Checking)
        {
            throw new DiskException(DiskError.Corrupt, $"{file.Name} is marked as corrupt and can only be read; repair it with: lodge image check -r all {file.Name}");
        }

        if ((header.Autoclear & (ulong)AutoclearFeatures.Bitmaps) != 0 && header.Extension(Qcow2Header.BitmapsType) is null)
        {
            throw new DiskException(DiskError.Corrupt, $"{file.Name}: the qcow2 header is corrupt: the bitmaps bit is set and the bitmaps extension is missing");
        }

        var (snapshots, snapshotTableLength) = await ReadSnapshotsAsync(file, header, cancellation).ConfigureAwait(false);
        var (l1Offset, l1Size, length) = (header.L1Offset, header.L1Size, header.Size);
        if (context.Snapshot is { } wanted)
        {
            var entry = Find(snapshots, wanted) ?? throw new DiskException(DiskError.NotFound, $"{file.Name} has no snapshot '{wanted}'");
            (l1Offset, l1Size) = (entry.L1Offset, entry.L1Size);
            length = entry.DiskSize == 0 ? length : entry.DiskSize;
            var span = header.ClusterBits + header.ClusterBits - (header.Extended ? 4 : 3);
            if (length > 0 && (length - 1) >> span >= l1Size)
            {
                throw new DiskException(DiskError.Corrupt, $"{file.Name}: the snapshot '{wanted}' has an L1 table too small for its disk");
            }
        }

        var l1 = new MetadataBlock(-1, l1Offset, await ReadTableAsync(file, l1Offset, l1Size * 8L, "L1 table", cancellation).ConfigureAwait(false));
        var tableBytes = await ReadTableAsync(file, header.RefcountTableOffset, (long)header.RefcountTableClusters << header.ClusterBits, "refcount table", cancellation).ConfigureAwait(false);
        var table = new MetadataBlock(-2, header.RefcountTableOffset, tableBytes);
        IStorageFile? data = null;
        IDisk? backing = null;
        LuksVolume? cipher = null;
        try
        {
            data = await OpenDataFileAsync(file, header, context, writable, cancellation).ConfigureAwait(false);
            cipher = await UnlockAsync(file, header, context, cancellation).ConfigureAwait(false);
            if (header.BackingName is { } name && context.OpenBacking)
            {
                if (header.RawDataFile)
                {
                    throw new DiskException(DiskError.Corrupt, $"{file.Name}: the qcow2 header is corrupt: a backing file and a raw external data file");
                }

                backing = await context.Files.OpenBackingAsync(name, header.BackingFormat, cancellation).ConfigureAwait(false);
            }

            var metadata = new Qcow2Metadata(file, data ?? file, header, l1, table) { SnapshotTableLength = snapshotTableLength };
            if (writable)
            {
                MapMetadata(metadata, snapshots, context.Checking);
            }

            var image = new Qcow2Image(metadata, context, snapshots, backing, cipher, length, !writable);
            await image.LoadBitmapsAsync(cancellation).ConfigureAwait(false);
            if (writable && !context.Checking && (header.Incompatible & IncompatibleFeatures.Dirty) != 0)
            {
                await image.RepairDirtyAsync(cancellation).ConfigureAwait(false);
            }

            return image;
        }
        catch
        {
            cipher?.Dispose();
            if (backing is not null)
            {
                await backing.DisposeAsync().ConfigureAwait(false);
            }

            if (data is not null)
            {
                await data.DisposeAsync().ConfigureAwait(false);
            }

            throw;
        }
    }

    /// <summary>The snapshot of an id, or else of a name.</summary>
    public static SnapshotEntry? Find(List<SnapshotEntry> snapshots, string idOrName) =>
        snapshots.Find(entry => entry.Id == idOrName) ?? snapshots.Find(entry => entry.Name == idOrName);

    /// <summary>Reads and checks the header.</summary>
    public static async ValueTask<Qcow2Header> ReadHeaderAsync(IStorageFile file, CancellationToken cancellation)
    {
        var head = await file.ReadBytesAsync(0, 4096, cancellation).ConfigureAwait(false);
        if (head.Length >= 24 && BinaryPrimitives.ReadUInt32BigEndian(head) == Qcow2Header.Magic &&
            BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(20)) is var bits and > 12 and <= Qcow2Header.MaximumClusterBits)
        {
            head = await file.ReadBytesAsync(0, 1 << (int)bits, cancellation).ConfigureAwait(false);
        }

        return Qcow2Header.Parse(head, file.Name);
    }

    /// <summary>Reads a table; memory is taken only for what the file is long enough for.</summary>
    public static async ValueTask<byte[]> ReadTableAsync(IStorageFile file, long offset, long length, string what, CancellationToken cancellation)
    {
        if (length > 0 && (offset <= 0 || offset > file.Length - length))
        {
            throw new DiskException(DiskError.Corrupt, $"{file.Name}: the {what} of {length} bytes at {offset} does not lie in the file of {file.Length} bytes");
        }

        return length == 0 ? [] : await file.ReadBytesAsync(offset, (int)length, cancellation).ConfigureAwait(false);
    }

    /// <summary>Enters all metadata of the active disk into the map of what data must not be written to.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: a structure that is written in place overlaps another, unless that is to be <paramref name="tolerated"/>.</exception>
    public static void MapMetadata(Qcow2Metadata metadata, List<SnapshotEntry> snapshots, bool tolerated)
    {
        var header = metadata.Header;
        var map = metadata.Map;
        map.Clear();
        var others = new List<(long Offset, long Bytes, string What)>();
        foreach (var (offset, bytes, inPlace, what) in Structures(metadata, snapshots))
        {
            if (!inPlace)
            {
                others.Add((offset, bytes, what));
            }
            else if (!AddTo(map, offset, bytes, header.ClusterBits) && !tolerated)
            {
                throw Overlap(metadata, offset, what);
            }
        }

        // These are never written where they stand, so that only an overlap with the former does harm.
        foreach (var (offset, bytes, what) in others)
        {
            if (!tolerated && map.Contains(offset >> header.ClusterBits, (offset + bytes - 1) >> header.ClusterBits))
            {
                throw Overlap(metadata, offset, what);
            }
        }

        foreach (var (offset, bytes, _) in others)
        {
            AddTo(map, offset, bytes, header.ClusterBits);
        }
    }

    private static bool AddTo(MetadataMap map, long offset, long bytes, int bits) => map.Add(offset >> bits, (bytes + (1L << bits) - 1) >> bits);

    private static DiskException Overlap(Qcow2Metadata metadata, long offset, string what) =>
        new(DiskError.Corrupt, $"{metadata.File.Name}: the {what} at {offset} overlaps other metadata; repair the image with: lodge image check -r all {metadata.File.Name}");

    private static IEnumerable<(long Offset, long Bytes, bool InPlace, string What)> Structures(Qcow2Metadata metadata, List<SnapshotEntry> snapshots)
    {
        var header = metadata.Header;
        yield return (0, 1, true, "header");
        if (metadata.L1.Bytes.Length > 0)
        {
            yield return (metadata.L1.Offset, metadata.L1.Bytes.Length, true, "L1 table");
        }

        var table = metadata.Refcounts.Table;
        yield return (table.Offset, table.Bytes.Length, true, "refcount table");
        for (var index = 0; index < table.Count; index++)
        {
            if (table[index] is var offset and not 0)
            {
                yield return ((long)(offset & ~511UL & long.MaxValue), 1, true, "refcount block");
            }
        }

        for (var index = 0; index < metadata.L1.Count; index++)
        {
            if ((metadata.L1[index] & Qcow2Geometry.OffsetMask) is var offset and not 0)
            {
                yield return ((long)offset, 1, (metadata.L1[index] & Qcow2Geometry.Copied) != 0, "L2 table");
            }
        }

        if (snapshots.Count > 0)
        {
            yield return (header.SnapshotsOffset, Math.Max(1, metadata.SnapshotTableLength), false, "snapshot table");
            foreach (var snapshot in snapshots.Where(snapshot => snapshot.L1Size > 0))
            {
                yield return (snapshot.L1Offset, snapshot.L1Size * 8L, false, "L1 table of a snapshot");
            }
        }

        if (header.Extension(Qcow2Header.CryptType) is { Data.Length: >= 16 } crypt)
        {
            var offset = BinaryPrimitives.ReadInt64BigEndian(crypt.Data);
            var length = BinaryPrimitives.ReadInt64BigEndian(crypt.Data.AsSpan(8));
            if (offset > 0 && length is > 0 and <= 16 << 20)
            {
                yield return (offset, length, false, "encryption header");
            }
        }

        if (header.Extension(Qcow2Header.BitmapsType) is { } extension && BitmapDirectory.ParseExtension(extension.Data, metadata.File) is var directory)
        {
            yield return (directory.Offset, directory.Size, false, "bitmap directory");
        }
    }

    private static async ValueTask<(List<SnapshotEntry> Entries, int Length)> ReadSnapshotsAsync(IStorageFile file, Qcow2Header header, CancellationToken cancellation)
    {
        if (header.SnapshotCount == 0)
        {
            return ([], 0);
        }

        var most = Math.Min(SnapshotTable.MaximumBytes, Math.Max(0, file.Length - header.SnapshotsOffset));
        for (var length = Math.Min(most, 4096 + (header.SnapshotCount * 256L)); ; length = Math.Min(most, length * 8))
        {
            try
            {
                var bytes = await file.ReadBytesAsync(header.SnapshotsOffset, (int)length, cancellation).ConfigureAwait(false);
                return (SnapshotTable.Parse(bytes, header.SnapshotCount, header.ClusterSize, file.Name, out var taken), taken);
            }
            catch (DiskException) when (length < most)
            {
                // Perhaps only what was read is too short.
            }
        }
    }

    private static async ValueTask<IStorageFile?> OpenDataFileAsync(IStorageFile file, Qcow2Header header, ImageContext context, bool writable, CancellationToken cancellation)
    {
        if (!header.HasDataFile)
        {
            return null;
        }

        var name = header.DataFileName ?? throw new DiskException(DiskError.Unsupported, $"{file.Name} has an external data file and does not name it");
        return await context.Files.OpenPartAsync(name, writable, cancellation).ConfigureAwait(false);
    }

    private static async ValueTask<LuksVolume?> UnlockAsync(IStorageFile file, Qcow2Header header, ImageContext context, CancellationToken cancellation)
    {
        if (header.Crypt == CryptMethod.None)
        {
            return null;
        }

        if (header.Crypt == CryptMethod.Aes)
        {
            if (context.Secret is null && (!context.OpenBacking || context.Checking))
            {
                return null;
            }

            throw new DiskException(DiskError.Unsupported, $"{file.Name} is encrypted by the old AES method of qcow2, which is broken; convert it with: qemu-img convert");
        }

        if (header.Extension(Qcow2Header.CryptType) is not { Data.Length: >= 16 } extension)
        {
            throw new DiskException(DiskError.Corrupt, $"{file.Name}: the qcow2 header is corrupt: encrypted by LUKS and the LUKS header is missing");
        }

        var offset = BinaryPrimitives.ReadInt64BigEndian(extension.Data);
        var length = BinaryPrimitives.ReadInt64BigEndian(extension.Data.AsSpan(8));
        if (offset <= 0 || (offset & (header.ClusterSize - 1)) != 0 || length is <= 0 or > 16 << 20 || offset > file.Length - length)
        {
            throw new DiskException(DiskError.Corrupt, $"{file.Name}: the LUKS header of {length} bytes at {offset} does not lie in the file");
        }

        if (context.Secret is not { } secret)
        {
            // Facts and checks need no key.
            return !context.OpenBacking || context.Checking ? null : throw new DiskException(DiskError.Secret, $"{file.Name} is encrypted; give its passphrase");
        }

        try
        {
            return await LuksVolume.OpenAsync(new FileWindow(file, offset, length), secret, cancellation).ConfigureAwait(false);
        }
        catch (DiskException failure)
        {
            throw new DiskException(failure.Error, $"{file.Name}: {failure.Message}", failure);
        }
    }
}
