using System.Buffers.Binary;
using System.Globalization;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

// Internal snapshots (qcow2 specification, "Snapshots").
internal sealed partial class Qcow2Image
{
    public IReadOnlyList<ImageSnapshot> Snapshots => [.. _snapshots.Select(entry => entry.Describe(Header.Size))];

    public ValueTask CreateSnapshotAsync(string name, CancellationToken cancellation = default)
    {
        CheckSnapshots();
        if (_snapshots.Count >= Qcow2Header.MaximumSnapshots)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name} has {_snapshots.Count} snapshots, as many as an image can have");
        }

        if (System.Text.Encoding.UTF8.GetByteCount(name) is 0 or > 255)
        {
            throw new DiskException(DiskError.InvalidOption, $"a snapshot's name has 1 to 255 bytes, not '{name}'");
        }

        var now = DateTimeOffset.UtcNow;
        return RewriteSnapshotsAsync(
            async (rewrite, snapshots) =>
            {
                var entries = new ulong[_metadata.L1.Count];
                CopyL1(entries);
                await ShareAsync(rewrite, entries, 1, cancellation).ConfigureAwait(false);
                await rewrite.FreeAsync(Header.L1Offset, Header.L1Size * 8L, cancellation).ConfigureAwait(false);
                var active = await rewrite.PlaceL1Async(entries, cancellation).ConfigureAwait(false);
                snapshots.Add(new SnapshotEntry
                {
                    Id = (_snapshots.Select(entry => uint.TryParse(entry.Id, out var id) ? id : 0L).DefaultIfEmpty(0).Max() + 1).ToString(CultureInfo.InvariantCulture),
                    Name = name,
                    L1Offset = await rewrite.PlaceL1Async(entries, cancellation).ConfigureAwait(false),
                    L1Size = entries.Length,
                    Seconds = (uint)now.ToUnixTimeSeconds(),
                    Nanoseconds = (uint)(now.Ticks % TimeSpan.TicksPerSecond * 100),
                    DiskSize = Length,
                });
                return header => header.L1Offset = active;
            },
            cancellation);
    }

    public ValueTask ApplySnapshotAsync(string idOrName, CancellationToken cancellation = default)
    {
        CheckSnapshots();
        var chosen = Existing(idOrName);
        return RewriteSnapshotsAsync(
            async (rewrite, snapshots) =>
            {
                var size = chosen.DiskSize == 0 ? Length : chosen.DiskSize;
                var needed = Qcow2Creation.Entries(size, Header);
                if (chosen.L1Size < needed || needed > Qcow2Header.MaximumL1Bytes / 8)
                {
                    throw Corrupt($"the snapshot '{idOrName}' has an L1 table of {chosen.L1Size} entries, too small for {size} bytes");
                }

                var entries = await ReadL1Async(chosen, cancellation).ConfigureAwait(false);
                await DropActiveAsync(rewrite, cancellation).ConfigureAwait(false);
                await ShareAsync(rewrite, entries, 1, cancellation).ConfigureAwait(false);
                await rewrite.FreeAsync(chosen.L1Offset, chosen.L1Size * 8L, cancellation).ConfigureAwait(false);
                var kept = await rewrite.PlaceL1Async(entries, cancellation).ConfigureAwait(false);
                snapshots[snapshots.IndexOf(chosen)] = chosen with { L1Offset = kept };
                var active = await rewrite.PlaceL1Async(entries, cancellation).ConfigureAwait(false);
                return header => (header.L1Offset, header.L1Size, header.Size) = (active, entries.Length, size);
            },
            cancellation);
    }

    public ValueTask DeleteSnapshotAsync(string idOrName, CancellationToken cancellation = default)
    {
        CheckSnapshots();
        var chosen = Existing(idOrName);
        return RewriteSnapshotsAsync(
            async (rewrite, snapshots) =>
            {
                foreach (var entry in await ReadL1Async(chosen, cancellation).ConfigureAwait(false))
                {
                    await DropTableAsync(rewrite, entry, cancellation).ConfigureAwait(false);
                }

                await rewrite.FreeAsync(chosen.L1Offset, chosen.L1Size * 8L, cancellation).ConfigureAwait(false);
                snapshots.Remove(chosen);
                var entries = new ulong[_metadata.L1.Count];
                CopyL1(entries);
                if (!await OwnAgainAsync(rewrite, entries, cancellation).ConfigureAwait(false))
                {
                    return _ => { };
                }

                await rewrite.FreeAsync(Header.L1Offset, Header.L1Size * 8L, cancellation).ConfigureAwait(false);
                var active = await rewrite.PlaceL1Async(entries, cancellation).ConfigureAwait(false);
                return header => header.L1Offset = active;
            },
            cancellation);
    }

    private void CheckSnapshots()
    {
        this.CheckWrite(0, 0);
        if (Geometry.External)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: an image with an external data file has no internal snapshots");
        }
    }

    private SnapshotEntry Existing(string idOrName) =>
        Qcow2Opener.Find(_snapshots, idOrName) ?? throw new DiskException(DiskError.NotFound, $"{File.Name} has no snapshot '{idOrName}'");

    private async ValueTask<ulong[]> ReadL1Async(SnapshotEntry snapshot, CancellationToken cancellation)
    {
        var bytes = await Qcow2Opener.ReadTableAsync(File, snapshot.L1Offset, snapshot.L1Size * 8L, "L1 table of a snapshot", cancellation).ConfigureAwait(false);
        var entries = new ulong[snapshot.L1Size];
        for (var index = 0; index < entries.Length; index++)
        {
            entries[index] = BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(index * 8)) & ~Qcow2Geometry.Copied;
        }

        return entries;
    }

    /// <summary>Adds a user to all that an L1 table names; its tables come to say that nothing is used once only.</summary>
    private static async ValueTask ShareAsync(Qcow2Rewrite rewrite, ulong[] entries, long users, CancellationToken cancellation)
    {
        for (var index = 0; index < entries.Length; index++)
        {
            if ((entries[index] & Qcow2Geometry.OffsetMask) == 0)
            {
                continue;
            }

            var table = await rewrite.ReadTableAsync(entries[index], cancellation).ConfigureAwait(false);
            await rewrite.AdjustDataAsync(table, users, cancellation).ConfigureAwait(false);
            if (rewrite.ClearCopied(table))
            {
                await rewrite.FreeAsync(table.Offset, 1, cancellation).ConfigureAwait(false);
                entries[index] = (ulong)await rewrite.PlaceAsync(table.Bytes, cancellation).ConfigureAwait(false);
            }

            var cluster = (long)(entries[index] & Qcow2Geometry.OffsetMask);
            await rewrite.AdjustAsync(cluster / table.Bytes.Length, users, cancellation).ConfigureAwait(false);
            entries[index] &= ~Qcow2Geometry.Copied;
        }
    }

    /// <summary>Marks what only the active disk uses after a snapshot went; true if an entry of the L1 table changed.</summary>
    private async ValueTask<bool> OwnAgainAsync(Qcow2Rewrite rewrite, ulong[] entries, CancellationToken cancellation)
    {
        var bits = Geometry.ClusterBits;
        var changed = false;
        for (var index = 0; index < entries.Length; index++)
        {
            var offset = (long)(entries[index] & Qcow2Geometry.OffsetMask);
            if (offset == 0 || await rewrite.CountAsync(offset >> bits, cancellation).ConfigureAwait(false) != 1)
            {
                continue;
            }

            var table = await rewrite.ReadTableAsync(entries[index], cancellation).ConfigureAwait(false);
            for (var at = 0; at < table.Count; at += Geometry.Extended ? 2 : 1)
            {
                var host = (long)(table[at] & Qcow2Geometry.OffsetMask);
                if ((table[at] & (Qcow2Geometry.CompressedBit | Qcow2Geometry.Copied)) == 0 && host != 0 &&
                    await rewrite.CountAsync(host >> bits, cancellation).ConfigureAwait(false) == 1)
                {
                    table[at] |= Qcow2Geometry.Copied;
                }
            }

            if (table.IsDirty)
            {
                await rewrite.FreeAsync(offset, 1, cancellation).ConfigureAwait(false);
                offset = await rewrite.PlaceAsync(table.Bytes, cancellation).ConfigureAwait(false);
            }

            var entry = (ulong)offset | Qcow2Geometry.Copied;
            changed |= entry != entries[index];
            entries[index] = entry;
        }

        return changed;
    }

    private async ValueTask RewriteSnapshotsAsync(
        Func<Qcow2Rewrite, List<SnapshotEntry>, ValueTask<Action<Qcow2Header>>> build, CancellationToken cancellation)
    {
        var snapshots = _snapshots.ToList();
        var before = _snapshots;
        var length = _metadata.SnapshotTableLength;
        try
        {
            await RewriteAsync(
                async rewrite =>
                {
                    var change = await build(rewrite, snapshots).ConfigureAwait(false);
                    if (Header.SnapshotCount > 0)
                    {
                        await rewrite.FreeAsync(Header.SnapshotsOffset, _metadata.SnapshotTableLength, cancellation).ConfigureAwait(false);
                    }

                    var table = SnapshotTable.Write(snapshots);
                    if (table.Length > SnapshotTable.MaximumBytes)
                    {
                        throw new DiskException(DiskError.Unsupported, $"{File.Name}: the table of snapshots would take {table.Length} bytes, more than one can");
                    }

                    var offset = await rewrite.PlaceAsync(table, cancellation).ConfigureAwait(false);
                    return header =>
                    {
                        _snapshots = snapshots;
                        _metadata.SnapshotTableLength = table.Length;
                        change(header);
                        (header.SnapshotsOffset, header.SnapshotCount) = (offset, snapshots.Count);
                    };
                },
                cancellation).ConfigureAwait(false);
        }
        catch
        {
            _snapshots = before;
            _metadata.SnapshotTableLength = length;
            throw;
        }
    }
}
