using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

internal sealed partial class GrainTables
{
    /// <summary>
    /// Writes changed tables after the data they point to. When it returns, tables are written but not durable: whoever wants that flushes the file afterwards.
    /// Who finds nothing changed still waits for a commit that is on its way.
    /// </summary>
    public async ValueTask CommitAsync(CancellationToken cancellation)
    {
        await _commit.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            await CommitOneAsync(cancellation).ConfigureAwait(false);
        }
        finally
        {
            _commit.Release();
        }
    }

    /// <summary>Commits and makes all durable.</summary>
    public async ValueTask FlushAsync(CancellationToken cancellation)
    {
        await CommitAsync(cancellation).ConfigureAwait(false);
        await _file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>Writes a changed table of a stream where the stream is, its place being kept for the directory.</summary>
    /// <returns>The table's bytes, or null if it has not changed.</returns>
    public byte[]? Place(long index, long sector)
    {
        lock (_gate)
        {
            if (!_tables.TryGetValue(index, out var table) || !table.Dirty)
            {
                return null;
            }

            Settle(table);
            table.Fresh = false;
            _directory[index] = checked((uint)sector);
            _metadata.Add(sector, sector + _geometry.TableSectors);
            return ToBytes(table.Entries);
        }
    }

    /// <summary>The tables that changed, in order.</summary>
    public List<long> ChangedTables()
    {
        lock (_gate)
        {
            return [.. _dirty.Select(table => table.Index).Order()];
        }
    }

    /// <summary>The directory as it is stored.</summary>
    public byte[] DirectoryBytes()
    {
        lock (_gate)
        {
            return ToBytes(_directory);
        }
    }

    /// <summary>The entries of a table that is in memory, or null.</summary>
    public uint[]? Peek(long index)
    {
        lock (_gate)
        {
            return _tables.TryGetValue(index, out var table) ? table.Entries.ToArray() : null;
        }
    }

    /// <summary>Puts other entries in the place of a table's; its redundant copy is written with it.</summary>
    public async ValueTask ReplaceAsync(long index, uint[] entries, CancellationToken cancellation)
    {
        while (true)
        {
            await LoadAsync(index * _geometry.TableEntries, cancellation).ConfigureAwait(false);
            lock (_gate)
            {
                if (_tables.TryGetValue(index, out var table))
                {
                    entries.CopyTo(table.Entries, 0);
                    MarkDirty(table);
                    return;
                }
            }
        }
    }

    /// <summary>Tells where the data of a stream now ends, in bytes.</summary>
    public void SetEnd(long end)
    {
        lock (_gate)
        {
            _end = Math.Max(_end, end);
            _dataLimit = Math.Max(_dataLimit, end);
        }
    }

    /// <summary>Makes all entries 0 and gives the data's room back; no other request may run.</summary>
    public async ValueTask MakeEmptyAsync(CancellationToken cancellation)
    {
        for (long index = 0; index < _directory.Length; index++)
        {
            await LoadAsync(index * _geometry.TableEntries, cancellation).ConfigureAwait(false);
            lock (_gate)
            {
                if (_tables.TryGetValue(index, out var table) && table.Entries.AsSpan().ContainsAnyExcept(0u))
                {
                    table.Entries.AsSpan().Clear();
                    MarkDirty(table);
                }
            }
        }

        await FlushAsync(cancellation).ConfigureAwait(false);
        var end = VmdkHeader.RoundUp(_metadata.End * Sector, _geometry.GrainLength);
        if (end < _file.Length)
        {
            await _file.ResizeAsync(end, cancellation).ConfigureAwait(false);
            lock (_gate)
            {
                _end = _dataLimit = end;
            }
        }
    }

    private async ValueTask CommitOneAsync(CancellationToken cancellation)
    {
        List<Change> changes = [];
        long end;
        lock (_gate)
        {
            if (_dirty.Count == 0)
            {
                return;
            }

            foreach (var table in _dirty)
            {
                changes.Add(Snapshot(table));
                table.Dirty = false;
            }

            _dirty.Clear();
            _commits++;
            end = _end;
        }

        try
        {
            await WriteAsync(changes, end, cancellation).ConfigureAwait(false);
        }
        catch
        {
            lock (_gate)
            {
                foreach (var change in changes)
                {
                    MarkDirty(change.Table);
                    change.Table.Pins--;
                }
            }

            throw;
        }

        lock (_gate)
        {
            _commits++;
            foreach (var change in changes)
            {
                change.Table.Pins--;
                change.Table.Fresh = false;
            }
        }
    }

    private async ValueTask WriteAsync(List<Change> changes, long end, CancellationToken cancellation)
    {
        // New tables are complete before the directory points to them.
        List<(long Sector, byte[] Bytes)> fresh = [];
        List<(long Sector, byte[] Bytes)> known = [];
        foreach (var change in changes)
        {
            var list = change.Fresh ? fresh : known;
            list.Add((change.Sector, change.Bytes));
            if (change.RedundantSector != 0)
            {
                list.Add((change.RedundantSector, change.Bytes));
            }
        }

        await WriteMergedAsync(fresh, cancellation).ConfigureAwait(false);
        if (_file.Length < end)
        {
            await GrowAsync(end, cancellation).ConfigureAwait(false);
        }

        await _file.FlushAsync(cancellation).ConfigureAwait(false);
        await WriteMergedAsync(known, cancellation).ConfigureAwait(false);
        if (fresh.Count != 0)
        {
            List<(long Sector, byte[] Bytes)> directories = [];
            lock (_gate)
            {
                foreach (var change in changes)
                {
                    if (change.Fresh)
                    {
                        AddDirectorySector(directories, _directory, _geometry.DirectorySector, change.Table.Index);
                        AddDirectorySector(directories, _redundant, _geometry.RedundantSector, change.Table.Index);
                    }
                }
            }

            await WriteMergedAsync(directories, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Makes the file reach up to <paramref name="end"/>, so that its last grain is whole, and leaves alone what others write behind at this time.</summary>
    private async ValueTask GrowAsync(long end, CancellationToken cancellation)
    {
        try
        {
            await _file.AllocateAsync(end - 1, 1, cancellation).ConfigureAwait(false);
            return;
        }
        catch (DiskException failure) when (failure.Error == DiskError.Unsupported)
        {
            // By setting the length then, which would cut off what lies behind: nobody may write new grains meanwhile.
        }

        var grown = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Task[] busy;
        lock (_gate)
        {
            _growing = grown.Task;
            busy = [.. _reservations.Select(reservation => reservation.Done.Task)];
        }

        try
        {
            await Task.WhenAll(busy).WaitAsync(cancellation).ConfigureAwait(false);
            if (_file.Length < end)
            {
                await _file.ResizeAsync(end, cancellation).ConfigureAwait(false);
            }
        }
        finally
        {
            lock (_gate)
            {
                _growing = null;
            }

            grown.SetResult();
        }
    }

    private static void AddDirectorySector(List<(long Sector, byte[] Bytes)> list, uint[]? directory, long start, long index)
    {
        const int PerSector = Sector / sizeof(uint);
        var sector = start + (index / PerSector);
        if (directory is not null && !list.Exists(item => item.Sector == sector))
        {
            var first = (int)(index / PerSector * PerSector);
            list.Add((sector, ToBytes(directory.AsSpan(first, Math.Min(PerSector, directory.Length - first)))));
        }
    }

    /// <summary>Writes pieces, those that follow each other in one go.</summary>
    private async ValueTask WriteMergedAsync(List<(long Sector, byte[] Bytes)> pieces, CancellationToken cancellation)
    {
        pieces.Sort((one, other) => one.Sector.CompareTo(other.Sector));
        for (var first = 0; first < pieces.Count;)
        {
            var next = first + 1;
            while (next < pieces.Count && next - first < 256 && pieces[next].Sector == pieces[next - 1].Sector + (pieces[next - 1].Bytes.Length / Sector))
            {
                next++;
            }

            var segments = new Memory<byte>[next - first];
            for (var index = first; index < next; index++)
            {
                segments[index - first] = pieces[index].Bytes;
            }

            await _file.WriteAsync(pieces[first].Sector * Sector, new IoVector(segments), WriteOptions.None, cancellation).ConfigureAwait(false);
            first = next;
        }
    }

    /// <summary>Takes a table's content; a table without a place gets one.</summary>
    private Change Snapshot(GrainTable table)
    {
        if (table.Fresh && _directory[table.Index] == 0)
        {
            _directory[table.Index] = TakeTable();
        }

        if (table.Fresh && _redundant is not null && _redundant[table.Index] == 0)
        {
            _redundant[table.Index] = TakeTable();
        }

        return new Change(table, table.Fresh, _directory[table.Index], _redundant is null ? 0 : _redundant[table.Index], ToBytes(table.Entries));
    }

    private uint TakeTable()
    {
        var sector = TakeSectors(VmdkHeader.RoundUp(_geometry.TableSectors, _geometry.GrainSectors));
        _metadata.Add(sector, sector + _geometry.TableSectors);
        return (uint)sector;
    }

    private void Settle(GrainTable table)
    {
        table.Dirty = false;
        table.Pins--;
        _dirty.Remove(table);
    }

    private readonly record struct Change(GrainTable Table, bool Fresh, long Sector, long RedundantSector, byte[] Bytes);
}
