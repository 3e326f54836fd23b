using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

// The order of writes. Whatever a table in the file points to was written and flushed before the pointer was; what it no longer points to is reused only after
// the change of the pointer was flushed. So every state of the file between two writes is free of corruption; clusters may leak.
internal sealed partial class Qcow2Metadata
{
    private readonly SemaphoreSlim _commit = new(1, 1);
    private readonly List<ClusterRun> _waiting = [];
    private List<ClusterRun> _released = [];
    private long _commitsBegun;
    private long _commitsEnded;

    /// <summary>The file is marked dirty, so that refcounts need not be written before what depends on them.</summary>
    public bool LazyNow { get; set; }

    /// <summary>Makes everything durable that completed before the call.</summary>
    public async ValueTask CommitAsync(CancellationToken cancellation)
    {
        var begun = Interlocked.Read(ref _commitsBegun);
        await _commit.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            // A commit that began after this call and has ended did what this one would do.
            if (_commitsEnded <= begun)
            {
                await CommitNowAsync(cancellation).ConfigureAwait(false);
            }
        }
        finally
        {
            _commit.Release();
        }
    }

    /// <summary>Shuts out all requests and commits, makes everything durable and frees all that was released; ends with <see cref="Open"/>.</summary>
    public async ValueTask ShutAsync(CancellationToken cancellation)
    {
        await Requests.ShutAsync(cancellation).ConfigureAwait(false);
        try
        {
            await _commit.WaitAsync(cancellation).ConfigureAwait(false);
        }
        catch
        {
            Requests.Open();
            throw;
        }

        try
        {
            // The first writes, what it frees is written by the second.
            LazyNow = false;
            for (var round = 0; round == 0 || (round < 4 && (_released.Count > 0 || _waiting.Count > 0 || Refcounts.Dirty.Count > 0)); round++)
            {
                await CommitNowAsync(cancellation).ConfigureAwait(false);
            }
        }
        catch
        {
            Open();
            throw;
        }
    }

    /// <summary>Makes everything durable between <see cref="ShutAsync"/> and <see cref="Open"/>.</summary>
    public ValueTask CommitShutAsync(CancellationToken cancellation) => CommitNowAsync(cancellation);

    public void Open()
    {
        _commit.Release();
        Requests.Open();
    }

    /// <summary>Writes the header as it now is.</summary>
    public ValueTask WriteHeaderAsync(CancellationToken cancellation) => File.WriteAsync(0, Header.Write(), WriteOptions.None, cancellation);

    public async ValueTask FlushFilesAsync(CancellationToken cancellation)
    {
        if (!ReferenceEquals(Data, File))
        {
            await Data.FlushAsync(cancellation).ConfigureAwait(false);
        }

        await File.FlushAsync(cancellation).ConfigureAwait(false);
    }

    private void Release(ClusterRun run)
    {
        if (_released.Count > 0 && _released[^1] is var last && last.First + last.Count == run.First)
        {
            _released[^1] = last with { Count = last.Count + run.Count };
            return;
        }

        _released.Add(run);
    }

    private async ValueTask CommitNowAsync(CancellationToken cancellation)
    {
        var number = Interlocked.Increment(ref _commitsBegun);
        var changes = TakeChanges();
        try
        {
            if (!changes.IsEmpty)
            {
                await WriteAllAsync(changes.Contents, cancellation).ConfigureAwait(false);
                await FlushFilesAsync(cancellation).ConfigureAwait(false);
                if (changes.TableMoved || changes.RefcountTable.Count > 0)
                {
                    await WriteAllAsync(changes.RefcountTable, cancellation).ConfigureAwait(false);
                    if (changes.TableMoved)
                    {
                        Header.RefcountTableOffset = Refcounts.Table.Offset;
                        Header.RefcountTableClusters = Refcounts.TableClusters;
                        await WriteHeaderAsync(cancellation).ConfigureAwait(false);
                    }

                    await File.FlushAsync(cancellation).ConfigureAwait(false);
                }

                changes.PointersBegun = true;
                if (changes.Pointers.Count > 0)
                {
                    await WriteAllAsync(changes.Pointers, cancellation).ConfigureAwait(false);
                    await File.FlushAsync(cancellation).ConfigureAwait(false);
                }
            }
            else
            {
                await FlushFilesAsync(cancellation).ConfigureAwait(false);
            }
        }
        catch
        {
            PutBack(changes);
            throw;
        }

        Settle(changes);
        _commitsEnded = number;
        await FreeReleasedAsync(cancellation).ConfigureAwait(false);
    }

    private CommitChanges TakeChanges()
    {
        var changes = new CommitChanges();
        lock (Gate)
        {
            Requests.Advance();
            _waiting.AddRange(_released);
            _released = [];
            foreach (var table in _dirtyTables)
            {
                Take(table, changes, changes.Pointers);
            }

            _dirtyTables.Clear();
            L1.TakeDirty(changes.Pointers);
            if (LazyNow && (long)Refcounts.Dirty.Count << Geometry.ClusterBits < TableCacheBytes / 4)
            {
                return changes;
            }

            foreach (var block in Refcounts.Dirty)
            {
                Take(block, changes, changes.Contents);
            }

            Refcounts.Dirty.Clear();
            if (Refcounts.TableMoved)
            {
                changes.TableMoved = true;
                changes.Contents.Add(new MetadataWrite(Refcounts.Table, 0, (byte[])Refcounts.Table.Bytes.Clone()));
                Refcounts.Table.Forget();
                Refcounts.TableMoved = false;
                changes.FormerTables.AddRange(Refcounts.FormerTables);
                Refcounts.FormerTables.Clear();
            }
            else
            {
                Refcounts.Table.TakeDirty(changes.RefcountTable);
            }
        }

        return changes;
    }

    private static void Take(MetadataBlock block, CommitChanges changes, List<MetadataWrite> changed)
    {
        block.Pins++;
        changes.Blocks.Add(block);
        if (block.IsNew)
        {
            changes.New.Add(block);
            changes.Contents.Add(new MetadataWrite(block, 0, (byte[])block.Bytes.Clone()));
            block.Forget();
        }
        else
        {
            block.TakeDirty(changed);
        }
    }

    private async ValueTask WriteAllAsync(List<MetadataWrite> writes, CancellationToken cancellation)
    {
        foreach (var write in writes)
        {
            await File.WriteAsync(write.Offset, write.Bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
        }
    }

    private void Settle(CommitChanges changes)
    {
        lock (Gate)
        {
            foreach (var block in changes.Blocks)
            {
                block.Pins--;
            }

            foreach (var block in changes.New)
            {
                block.IsNew = false;
            }

            foreach (var run in changes.FormerTables)
            {
                Map.Remove(run.First, run.Count);
                _waiting.Add(run);
            }
        }
    }

    private void PutBack(CommitChanges changes)
    {
        lock (Gate)
        {
            foreach (var block in changes.Blocks)
            {
                block.Pins--;
                if (!block.IsDirty)
                {
                    (block.Bytes.Length == Geometry.ClusterSize && IsTable(block) ? _dirtyTables : Refcounts.Dirty).Add(block);
                }

                if (changes.New.Contains(block))
                {
                    // Once a pointer to it may be in the file, only what is ordered may change in it.
                    block.IsNew = !changes.PointersBegun;
                    block.TouchAll();
                }
            }

            foreach (var write in changes.Contents.Concat(changes.RefcountTable).Concat(changes.Pointers))
            {
                write.Block.TouchAgain(write);
            }

            if (changes.TableMoved)
            {
                Refcounts.TableMoved = true;
                Refcounts.FormerTables.AddRange(changes.FormerTables);
            }
        }
    }

    private bool IsTable(MetadataBlock block) => block.Index < _tables.Length && ReferenceEquals(_tables[block.Index], block);

    /// <summary>Frees what was released, once no request that may still use it is inside.</summary>
    private async ValueTask FreeReleasedAsync(CancellationToken cancellation)
    {
        if (_waiting.Count == 0 || !Requests.IsDrained)
        {
            return;
        }

        var runs = _waiting.ToArray();
        _waiting.Clear();
        foreach (var run in runs)
        {
            var start = -1L;
            for (var cluster = run.First; cluster < run.First + run.Count; cluster++)
            {
                var last = await IsLastUseAsync(cluster, cancellation).ConfigureAwait(false);
                if (last && start < 0)
                {
                    start = cluster;
                }
                else if (!last && start >= 0)
                {
                    await DiscardAsync(start, cluster - start, cancellation).ConfigureAwait(false);
                    start = -1;
                }
            }

            if (start >= 0)
            {
                await DiscardAsync(start, run.First + run.Count - start, cancellation).ConfigureAwait(false);
            }

            for (var cluster = run.First; cluster < run.First + run.Count; cluster++)
            {
                await AdjustAsync(cluster, -1, cancellation).ConfigureAwait(false);
            }
        }

        FreedCompressed?.Invoke();
    }

    /// <summary>Called when clusters became free: what was decompressed before may no longer be what the same descriptor means.</summary>
    public Action? FreedCompressed { get; set; }

    /// <summary>Changes a count, loading its block if needed.</summary>
    public async ValueTask<ulong> AdjustAsync(long cluster, long change, CancellationToken cancellation)
    {
        while (true)
        {
            long need;
            lock (Gate)
            {
                if (Refcounts.TryAdjust(cluster, change, out var count, out need))
                {
                    return count;
                }
            }

            await Refcounts.LoadAsync(need, cancellation).ConfigureAwait(false);
        }
    }

    private async ValueTask<bool> IsLastUseAsync(long cluster, CancellationToken cancellation)
    {
        while (true)
        {
            long need;
            lock (Gate)
            {
                if (Refcounts.TryGet(cluster, out var count, out need))
                {
                    if (CompressedCursor >> Geometry.ClusterBits == cluster)
                    {
                        CompressedCursor = 0;
                    }

                    return count == 1;
                }
            }

            await Refcounts.LoadAsync(need, cancellation).ConfigureAwait(false);
        }
    }

    private async ValueTask DiscardAsync(long first, long count, CancellationToken cancellation)
    {
        if (!DiscardToFile)
        {
            return;
        }

        try
        {
            await File.DiscardAsync(first << Geometry.ClusterBits, count << Geometry.ClusterBits, cancellation).ConfigureAwait(false);
        }
        catch (DiskException)
        {
            // The room stays taken in the file system; the image is right all the same.
        }
    }

    /// <summary>What one commit writes.</summary>
    private sealed class CommitChanges
    {
        /// <summary>Structures that nothing in the file points to yet, and refcounts.</summary>
        public List<MetadataWrite> Contents { get; } = [];

        /// <summary>Entries of the refcount table.</summary>
        public List<MetadataWrite> RefcountTable { get; } = [];

        /// <summary>L2 and L1 entries.</summary>
        public List<MetadataWrite> Pointers { get; } = [];

        public List<MetadataBlock> Blocks { get; } = [];

        public HashSet<MetadataBlock> New { get; } = [];

        public List<ClusterRun> FormerTables { get; } = [];

        public bool TableMoved { get; set; }

        public bool PointersBegun { get; set; }

        public bool IsEmpty => Contents.Count == 0 && RefcountTable.Count == 0 && Pointers.Count == 0;
    }
}
