using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>
/// The tables of an opened image in memory: the active L1 table, a bounded set of L2 tables, the refcounts, and what was released but is not free yet. All
/// changes happen under <see cref="Gate"/> and reach the file through <see cref="CommitAsync"/>.
/// </summary>
internal sealed partial class Qcow2Metadata
{
    private const long TableCacheBytes = 32 << 20;
    private const int MostReleased = 1 << 16;
    private readonly Dictionary<int, Task> _loads = [];
    private readonly List<int> _resident = [];
    private readonly List<MetadataBlock> _dirtyTables = [];
    private MetadataBlock?[] _tables;
    private int _hand;
    private long _freshFrom;

    public Qcow2Metadata(IStorageFile file, IStorageFile data, Qcow2Header header, MetadataBlock l1, MetadataBlock refcountTable)
    {
        File = file;
        Data = data;
        Header = header;
        Geometry = new Qcow2Geometry(header);
        L1 = l1;
        _tables = new MetadataBlock?[l1.Count];
        Refcounts = new RefcountStore(Gate, file, Map, header.ClusterBits, header.RefcountOrder, refcountTable);
        _freshFrom = (file.Length + Geometry.ClusterSize - 1) >> Geometry.ClusterBits;
    }

    public Lock Gate { get; } = new();

    public IStorageFile File { get; }

    /// <summary>Where guest clusters are: the image's file or the external data file.</summary>
    public IStorageFile Data { get; }

    public Qcow2Header Header { get; }

    public Qcow2Geometry Geometry { get; private set; }

    public RequestGate Requests { get; } = new();

    public MetadataMap Map { get; } = new();

    public RefcountStore Refcounts { get; private set; }

    public MetadataBlock L1 { get; private set; }

    /// <summary>Where the next compressed data goes, in bytes; 0 for nowhere yet. Under the lock.</summary>
    public long CompressedCursor { get; set; }

    /// <summary>Bytes of the snapshot table.</summary>
    public int SnapshotTableLength { get; set; }

    /// <summary>Whether what was released is discarded in the file.</summary>
    public bool DiscardToFile { get; set; } = true;

    /// <summary>So much has changed in memory that it should be written although no flush asks for it.</summary>
    public bool NeedsCommit =>
        (long)(_dirtyTables.Count + (LazyNow ? 0 : Refcounts.Dirty.Count)) << Geometry.ClusterBits > TableCacheBytes / 2 || _released.Count > MostReleased;

    private long ClusterLimit => Qcow2Geometry.MaximumOffset >> Geometry.ClusterBits;

    /// <summary>The L2 table at an L1 index without waiting: true with null where the L1 entry is empty; false where it must be loaded.</summary>
    public bool TryFindTable(int index, out MetadataBlock? table)
    {
        table = null;
        if (index >= _tables.Length)
        {
            return true;
        }

        table = Volatile.Read(ref _tables[index]);
        if (table is not null)
        {
            table.Used = true;
            return true;
        }

        return (L1[index] & Qcow2Geometry.OffsetMask) == 0;
    }

    /// <summary>The L2 table at an L1 index, or null where the entry is empty.</summary>
    public async ValueTask<MetadataBlock?> FindTableAsync(int index, CancellationToken cancellation)
    {
        while (true)
        {
            if (TryFindTable(index, out var table))
            {
                return table;
            }

            await LoadTableAsync(index).WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>
    /// An L2 table that may be changed: made where there is none, copied where snapshots share it. It stays in memory until <see cref="Unpin"/>.
    /// </summary>
    public async ValueTask<MetadataBlock> PinTableAsync(int index, CancellationToken cancellation)
    {
        while (true)
        {
            long need = -1;
            lock (Gate)
            {
                var entry = L1[index];
                var table = _tables[index];
                if (table is not null && (entry & Qcow2Geometry.Copied) != 0)
                {
                    table.Pins++;
                    table.Used = true;
                    return table;
                }

                if ((table is not null || (entry & Qcow2Geometry.OffsetMask) == 0) && TryAddTable(index, table, out need))
                {
                    return _tables[index]!;
                }
            }

            if (need >= 0)
            {
                await Refcounts.LoadAsync(need, cancellation).ConfigureAwait(false);
            }
            else
            {
                await LoadTableAsync(index).WaitAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    public void Unpin(MetadataBlock table)
    {
        lock (Gate)
        {
            table.Pins--;
        }
    }

    /// <summary>An L2 entry and, with extended L2, its bitmap.</summary>
    public (ulong Descriptor, ulong Bitmap) ReadEntry(MetadataBlock table, int index)
    {
        if (!Geometry.Extended)
        {
            return (table[index], 0);
        }

        lock (Gate)
        {
            return (table[index * 2], table[(index * 2) + 1]);
        }
    }

    /// <summary>Changes an L2 entry. Under the lock, of a pinned table.</summary>
    public void WriteEntry(MetadataBlock table, int index, ulong descriptor, ulong bitmap)
    {
        if (!table.IsDirty)
        {
            _dirtyTables.Add(table);
        }

        if (Geometry.Extended)
        {
            table[index * 2] = descriptor;
            table[(index * 2) + 1] = bitmap;
        }
        else
        {
            table[index] = descriptor;
        }
    }

    /// <summary>Takes free clusters for guest data.</summary>
    /// <returns>The clusters, and whether they lie beyond all that the file ever had, so that they read as zeroes where they are not written.</returns>
    public async ValueTask<(ClusterRun Run, bool Fresh)> AllocateAsync(long want, bool exact, CancellationToken cancellation)
    {
        while (true)
        {
            long need;
            lock (Gate)
            {
                if (Refcounts.TryAllocate(want, exact, ClusterLimit, out var run, out need))
                {
                    var fresh = run.First >= _freshFrom;
                    _freshFrom = Math.Max(_freshFrom, run.First + run.Count);
                    return (run, fresh);
                }
            }

            await Refcounts.LoadAsync(need, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Takes room for compressed data of <paramref name="length"/> bytes, which may share host clusters with other compressed data.</summary>
    /// <returns>Its offset in the file.</returns>
    public async ValueTask<long> AllocateCompressedAsync(int length, CancellationToken cancellation)
    {
        while (true)
        {
            long need;
            lock (Gate)
            {
                var bits = Geometry.ClusterBits;
                var cursor = CompressedCursor;
                var room = cursor == 0 ? 0 : (int)(-cursor & (Geometry.ClusterSize - 1));
                if (room > 0 && length <= room)
                {
                    if (!Refcounts.TryGet(cursor >> bits, out var count, out need))
                    {
                        goto load;
                    }

                    if (count < Refcounts.Maximum)
                    {
                        Refcounts.TryAdjust(cursor >> bits, 1, out _, out _);
                        CompressedCursor = ((cursor + length) & (Geometry.ClusterSize - 1)) == 0 ? 0 : cursor + length;
                        return cursor;
                    }

                    room = 0;
                }

                if (!Refcounts.TryAllocate(1, true, Geometry.CompressedLimit >> bits, out var run, out need))
                {
                    goto load;
                }

                _freshFrom = Math.Max(_freshFrom, run.First + 1);
                var start = run.First << bits;
                if (room > 0 && run.First == (cursor >> bits) + 1 && Refcounts.TryGet(cursor >> bits, out var shared, out _) && shared < Refcounts.Maximum)
                {
                    Refcounts.TryAdjust(cursor >> bits, 1, out _, out _);
                    start = cursor;
                }

                var end = start + length;
                CompressedCursor = (end & (Geometry.ClusterSize - 1)) == 0 ? 0 : end;
                return start;
            }

        load:
            await Refcounts.LoadAsync(need, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Gives clusters back at once that no table ever named.</summary>
    public void GiveBack(ClusterRun run)
    {
        lock (Gate)
        {
            for (var cluster = run.First; cluster < run.First + run.Count; cluster++)
            {
                Refcounts.TryAdjust(cluster, -1, out _, out _);
            }
        }
    }

    /// <summary>Notes that an L2 entry's host clusters are no longer named by it. Under the lock; they become free once the file says so, too.</summary>
    public void Release(ulong descriptor)
    {
        if ((descriptor & Qcow2Geometry.CompressedBit) != 0)
        {
            var (first, last) = Geometry.CompressedClusters(descriptor);
            Release(new ClusterRun(first, last - first + 1));
        }
        else if (!Geometry.External && (descriptor & Qcow2Geometry.OffsetMask) is var offset and not 0)
        {
            Release(new ClusterRun((long)offset >> Geometry.ClusterBits, 1));
        }
    }

    /// <summary>Forgets all L2 tables in memory, after something else rewrote them in the file.</summary>
    public void Reload(MetadataBlock l1, Qcow2Geometry geometry)
    {
        lock (Gate)
        {
            L1 = l1;
            Geometry = geometry;
            _tables = new MetadataBlock?[l1.Count];
            _resident.Clear();
            _dirtyTables.Clear();
            _hand = 0;
            CompressedCursor = 0;
        }
    }

    /// <summary>Starts over with other refcounts, after something else rewrote them in the file.</summary>
    public void ReloadRefcounts(MetadataBlock table)
    {
        lock (Gate)
        {
            Refcounts = new RefcountStore(Gate, File, Map, Header.ClusterBits, Header.RefcountOrder, table);
            _released.Clear();
            _waiting.Clear();
            CompressedCursor = 0;
        }
    }

    /// <summary>The first cluster beyond all that the file has.</summary>
    public long EndOfFile => Math.Max(Volatile.Read(ref _freshFrom), (File.Length + Geometry.ClusterSize - 1) >> Geometry.ClusterBits);

    private bool TryAddTable(int index, MetadataBlock? shared, out long need)
    {
        if (!Refcounts.TryAllocate(1, true, ClusterLimit, out var run, out need))
        {
            return false;
        }

        _freshFrom = Math.Max(_freshFrom, run.First + 1);
        var bytes = shared is null ? new byte[Geometry.ClusterSize] : (byte[])shared.Bytes.Clone();
        var table = new MetadataBlock(index, run.First << Geometry.ClusterBits, bytes) { IsNew = true, Pins = 1, Used = true };
        if (shared is not null)
        {
            // What a shared table names is shared as well.
            for (var entry = 0; entry < table.Count; entry += Geometry.Extended ? 2 : 1)
            {
                table[entry] &= ~Qcow2Geometry.Copied;
            }

            Map.Remove(shared.Offset >> Geometry.ClusterBits, 1);
            Release(new ClusterRun(shared.Offset >> Geometry.ClusterBits, 1));
        }
        else
        {
            MakeRoom();
            _resident.Add(index);
        }

        table.TouchAll();
        _dirtyTables.Add(table);
        Map.Add(run.First);
        L1[index] = (ulong)table.Offset | Qcow2Geometry.Copied;
        Volatile.Write(ref _tables[index], table);
        return true;
    }

    private Task LoadTableAsync(int index)
    {
        TaskCompletionSource completion;
        lock (Gate)
        {
            if (_loads.TryGetValue(index, out var load))
            {
                return load;
            }

            completion = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _loads[index] = completion.Task;
        }

        return LoadAsync(index, completion);
    }

    private async Task LoadAsync(int index, TaskCompletionSource completion)
    {
        try
        {
            await LoadAsync(index).ConfigureAwait(false);
        }
        finally
        {
            lock (Gate)
            {
                _loads.Remove(index);
            }

            // Whoever waits looks again, and meets a failure itself.
            completion.SetResult();
        }
    }

    private async Task LoadAsync(int index)
    {
        var entry = L1[index];
        var offset = (long)(entry & Qcow2Geometry.OffsetMask);
        if (offset == 0)
        {
            return;
        }

        if ((offset & (Geometry.ClusterSize - 1)) != 0 || offset > File.Length - Geometry.ClusterSize)
        {
            throw new DiskException(DiskError.Corrupt, $"{File.Name}: the L2 table {index} at {offset} is not a cluster of the file; repair the image with: lodge image check -r all {File.Name}");
        }

        var table = new MetadataBlock(index, offset, new byte[Geometry.ClusterSize]) { Used = true };
        await File.ReadAsync(offset, table.Bytes).ConfigureAwait(false);
        lock (Gate)
        {
            if (_tables[index] is null && L1[index] == entry)
            {
                MakeRoom();
                _resident.Add(index);
                Volatile.Write(ref _tables[index], table);
            }
        }
    }

    private void MakeRoom()
    {
        var most = Math.Max(8, TableCacheBytes >> Geometry.ClusterBits);
        for (var tries = 2 * _resident.Count; _resident.Count >= most && tries > 0; tries--)
        {
            _hand = _hand >= _resident.Count ? 0 : _hand;
            var index = _resident[_hand];
            var table = _tables[index]!;
            if (table.Used || table.IsDirty || table.Pins > 0)
            {
                table.Used = false;
                _hand++;
                continue;
            }

            Volatile.Write(ref _tables[index], null);
            _resident[_hand] = _resident[^1];
            _resident.RemoveAt(_resident.Count - 1);
        }
    }
}
