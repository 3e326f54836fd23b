using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>
/// The grain directory and tables of a sparse extent with a bounded cache. Changed tables are written by <see cref="CommitAsync"/> only, after the data that
/// they point to is durable: a crash at any time leaves tables that point to complete grains.
/// </summary>
internal sealed partial class GrainTables
{
    private const int CacheBytes = 16 << 20;
    public const long MostDirectoryEntries = 4 << 20;

    private const uint ZeroedEntry = 1;
    private const int Sector = VmdkHeader.SectorLength;

    private readonly IStorageFile _file;
    private readonly GrainGeometry _geometry;
    private readonly uint[] _directory;
    private readonly uint[]? _redundant;
    private readonly SectorRanges _metadata;
    private readonly Lock _gate = new();
    private readonly SemaphoreSlim _commit = new(1, 1);
    private readonly Dictionary<long, GrainTable> _tables = [];
    private readonly List<GrainReservation> _reservations = [];
    private readonly HashSet<GrainTable> _dirty = [];
    private readonly int _cacheLimit;
    private long _commits;
    private long _end;
    private long _dataLimit;

    // Set while the file's length is being set, when no grain may be added.
    private Task? _growing;

    private GrainTables(IStorageFile file, GrainGeometry geometry, uint[] directory, uint[]? redundant, SectorRanges metadata)
    {
        _file = file;
        _geometry = geometry;
        _directory = directory;
        _redundant = redundant;
        _metadata = metadata;
        _cacheLimit = Math.Max(CacheBytes / geometry.TableLength, 64);
        _dataLimit = file.Length;
        _end = VmdkHeader.RoundUp(Math.Max(file.Length, metadata.End * Sector), geometry.GrainLength);
    }

    public GrainGeometry Geometry => _geometry;

    public IStorageFile File => _file;

    /// <summary>Whether something waits for <see cref="CommitAsync"/>.</summary>
    public bool HasChanges
    {
        get
        {
            lock (_gate)
            {
                return _dirty.Count != 0;
            }
        }
    }

    /// <summary>The directory as it stands, for checks.</summary>
    public ReadOnlySpan<uint> Directory => _directory;

    /// <summary>The redundant directory, empty if there is none.</summary>
    public ReadOnlySpan<uint> Redundant => _redundant;

    /// <summary>Where the extent's structures are.</summary>
    public SectorRanges Metadata => _metadata;

    /// <summary>Reads the directories and checks where they and the tables lie.</summary>
    /// <param name="file">The extent.</param>
    /// <param name="geometry">From its header.</param>
    /// <param name="reserved">Other structures: header and descriptor.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>.</exception>
    public static async ValueTask<GrainTables> OpenAsync(IStorageFile file, GrainGeometry geometry, List<(long Start, long End)> reserved, CancellationToken cancellation)
    {
        if (geometry.TableCount > MostDirectoryEntries)
        {
            throw Corrupt(file, $"a grain directory of {geometry.TableCount} entries is out of range");
        }

        var directory = await ReadDirectoryAsync(file, geometry, geometry.DirectorySector, reserved, cancellation).ConfigureAwait(false);
        var redundant = geometry.RedundantSector > 0
            ? await ReadDirectoryAsync(file, geometry, geometry.RedundantSector, reserved, cancellation).ConfigureAwait(false)
            : null;
        AddTables(file, geometry, directory, reserved);
        if (redundant is not null)
        {
            AddTables(file, geometry, redundant, reserved);
        }

        var metadata = new SectorRanges();
        var clash = metadata.AddAll(reserved);
        return clash < 0 ? new GrainTables(file, geometry, directory, redundant, metadata) : throw Corrupt(file, $"two of its structures overlap at sector {clash}");
    }

    /// <summary>Tables that were rebuilt from a stream; the file has none.</summary>
    public static GrainTables FromStream(IStorageFile file, GrainGeometry geometry, List<(long Start, long End)> reserved, IEnumerable<GrainTable> tables)
    {
        var metadata = new SectorRanges();
        metadata.AddAll(reserved);
        var made = new GrainTables(file, geometry, new uint[geometry.TableCount], null, metadata);
        foreach (var table in tables)
        {
            table.Fresh = table.Dirty = true;
            table.Pins++;
            made._tables.Add(table.Index, table);
            made._dirty.Add(table);
        }

        return made;
    }

    /// <summary>The run that begins at a grain, of at most <paramref name="most"/> grains.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: the entry points to where no data can be.</exception>
    public GrainRun Find(long grain, long most)
    {
        lock (_gate)
        {
            return FindLocked(grain, most);
        }
    }

    /// <summary>What a write to at most <paramref name="most"/> grains from <paramref name="grain"/> meets; what is not there is reserved behind the end of the file.</summary>
    public GrainWrite BeginWrite(long grain, long most)
    {
        lock (_gate)
        {
            if (Pending(grain, ref most) is { } wait)
            {
                return new GrainWrite(default, null, wait);
            }

            var run = FindLocked(grain, most);
            if (run.State is GrainState.NotLoaded or GrainState.Data)
            {
                return new GrainWrite(run, null, null);
            }

            var count = Math.Min(run.Count, _geometry.TableEntries - (grain % _geometry.TableEntries));
            var table = TableForChange(grain / _geometry.TableEntries);
            table.Pins++;
            var reservation = new GrainReservation(table, grain, count, TakeSectors(count * _geometry.GrainSectors), run.State == GrainState.Zero);
            _reservations.Add(reservation);
            return new GrainWrite(run with { Count = count }, reservation, null);
        }
    }

    /// <summary>Ends a reservation: the tables point to the grains if they were written.</summary>
    public void EndWrite(GrainReservation reservation, bool written)
    {
        lock (_gate)
        {
            _reservations.Remove(reservation);
            var table = reservation.Table;
            table.Pins--;
            if (written)
            {
                for (long index = 0; index < reservation.Count; index++)
                {
                    table.Entries[(reservation.First + index) % _geometry.TableEntries] = (uint)(reservation.Sector + (index * _geometry.GrainSectors));
                }

                MarkDirty(table);
            }
        }

        reservation.Done.SetResult();
    }

    /// <summary>Makes unallocated grains read as zeroes by their entries.</summary>
    /// <returns>What a write would meet; grains that were <see cref="GrainState.Unallocated"/> now are <see cref="GrainState.Zero"/>.</returns>
    public GrainWrite SetZero(long grain, long most)
    {
        lock (_gate)
        {
            if (Pending(grain, ref most) is { } wait)
            {
                return new GrainWrite(default, null, wait);
            }

            var run = FindLocked(grain, most);
            if (run.State == GrainState.Unallocated)
            {
                run = run with { Count = Math.Min(run.Count, _geometry.TableEntries - (grain % _geometry.TableEntries)) };
                var table = TableForChange(grain / _geometry.TableEntries);
                table.Entries.AsSpan((int)(grain % _geometry.TableEntries), (int)run.Count).Fill(ZeroedEntry);
                MarkDirty(table);
            }

            return new GrainWrite(run, null, null);
        }
    }

    /// <summary>What to wait for before a range of grains can be judged: a write that is filling one of them, or null.</summary>
    public Task? BusyWith(long grain, long count)
    {
        lock (_gate)
        {
            return _reservations.Find(reservation => reservation.First < grain + count && grain < reservation.First + reservation.Count)?.Done.Task;
        }
    }

    /// <summary>Points an entry of a loaded table to compressed data.</summary>
    public void SetCompressed(long grain, long sector)
    {
        lock (_gate)
        {
            var table = TableForChange(grain / _geometry.TableEntries);
            table.Entries[grain % _geometry.TableEntries] = checked((uint)sector);
            MarkDirty(table);
        }
    }

    /// <summary>Brings the table of a grain into memory.</summary>
    public async ValueTask LoadAsync(long grain, CancellationToken cancellation)
    {
        var index = grain / _geometry.TableEntries;
        uint sector;
        long commits;
        bool full;
        lock (_gate)
        {
            if (_tables.ContainsKey(index))
            {
                return;
            }

            sector = _directory[index];
            full = _tables.Count >= _cacheLimit && _dirty.Count * 2 >= _cacheLimit;
        }

        if (full)
        {
            await CommitAsync(cancellation).ConfigureAwait(false);
        }

        if (sector == 0)
        {
            return;
        }

        lock (_gate)
        {
            commits = _commits;
        }

        var entries = await ReadTableAsync(sector, cancellation).ConfigureAwait(false);
        lock (_gate)
        {
            // While it was read, another one may have loaded, changed, written and dropped it: then the caller looks again.
            if (!_tables.ContainsKey(index) && _directory[index] == sector && _commits == commits)
            {
                Evict();
                _tables.Add(index, new GrainTable(index, entries));
            }
        }
    }

    /// <summary>The entries of a table at a place.</summary>
    public async ValueTask<uint[]> ReadTableAsync(long sector, CancellationToken cancellation)
    {
        var bytes = new byte[_geometry.TableLength];
        await _file.ReadAsync(sector * Sector, bytes, cancellation).ConfigureAwait(false);
        return ToEntries(bytes);
    }

    internal static DiskException Corrupt(IStorageFile file, string why) => new(DiskError.Corrupt, $"{file.Name}: {why}");

    private static async ValueTask<uint[]> ReadDirectoryAsync(IStorageFile file, GrainGeometry geometry, long sector, List<(long Start, long End)> ranges, CancellationToken cancellation)
    {
        var sectors = VmdkHeader.DivideUp(geometry.DirectoryLength, Sector);
        if (sector <= 0 || sector > (file.Length / Sector) || (sector * Sector) + geometry.DirectoryLength > file.Length)
        {
            throw Corrupt(file, $"its grain directory of {geometry.TableCount} entries at sector {sector} lies outside of the file");
        }

        // That of a stream gives way when the stream goes on.
        if (sectors > 0 && !geometry.Movable)
        {
            ranges.Add((sector, sector + sectors));
        }

        return ToEntries(await file.ReadBytesAsync(sector * Sector, (int)geometry.DirectoryLength, cancellation).ConfigureAwait(false));
    }

    private static void AddTables(IStorageFile file, GrainGeometry geometry, uint[] directory, List<(long Start, long End)> ranges)
    {
        foreach (var sector in directory)
        {
            if (sector == 0)
            {
                continue;
            }

            if (((long)sector * Sector) + geometry.TableLength > file.Length)
            {
                throw Corrupt(file, $"a grain table at sector {sector} lies outside of the file");
            }

            ranges.Add((sector, sector + geometry.TableSectors));
        }
    }

    private static uint[] ToEntries(byte[] bytes)
    {
        var entries = new uint[bytes.Length / sizeof(uint)];
        if (BitConverter.IsLittleEndian)
        {
            MemoryMarshal.Cast<byte, uint>(bytes).CopyTo(entries);
        }
        else
        {
            BinaryPrimitives.ReverseEndianness(MemoryMarshal.Cast<byte, uint>(bytes), entries);
        }

        return entries;
    }

    private static byte[] ToBytes(ReadOnlySpan<uint> entries)
    {
        var bytes = new byte[VmdkHeader.RoundUp(entries.Length * sizeof(uint), Sector)];
        for (var index = 0; index < entries.Length; index++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(index * sizeof(uint)), entries[index]);
        }

        return bytes;
    }

    private GrainRun FindLocked(long grain, long most)
    {
        var entries = _geometry.TableEntries;
        most = Math.Min(most, _geometry.GrainCount - grain);
        var (state, sector) = Entry(grain);
        if (state == GrainState.NotLoaded)
        {
            return new GrainRun(state, 0, 1);
        }

        long count = 1;
        if (state == GrainState.Data && _geometry.Compressed)
        {
            return new GrainRun(state, sector, 1);
        }

        while (count < most)
        {
            var at = grain + count;
            if (state == GrainState.Unallocated && at % entries == 0 && _directory[at / entries] == 0 && !_tables.ContainsKey(at / entries))
            {
                count = Math.Min(most, count + entries);
                continue;
            }

            var next = Entry(at);
            if (next.State != state || (state == GrainState.Data && next.Sector != sector + (count * _geometry.GrainSectors)))
            {
                break;
            }

            count++;
        }

        return new GrainRun(state, sector, count);
    }

    private (GrainState State, long Sector) Entry(long grain)
    {
        var index = grain / _geometry.TableEntries;
        if (!_tables.TryGetValue(index, out var table))
        {
            return (_directory[index] == 0 ? GrainState.Unallocated : GrainState.NotLoaded, 0);
        }

        var entry = table.Entries[grain % _geometry.TableEntries];
        if (entry == 0)
        {
            return (GrainState.Unallocated, 0);
        }

        if (entry == ZeroedEntry && _geometry.ZeroedGrains)
        {
            return (GrainState.Zero, 0);
        }

        var end = entry + (_geometry.Compressed ? 1 : _geometry.GrainSectors);
        return (long)entry * Sector >= _dataLimit || _metadata.Overlaps(entry, end)
            ? throw Corrupt(_file, $"the entry of grain {grain} points to sector {entry}, where no data can be")
            : (GrainState.Data, entry);
    }

    private Task? Pending(long grain, ref long most)
    {
        if (_growing is { } growing)
        {
            return growing;
        }

        foreach (var reservation in _reservations)
        {
            if (grain >= reservation.First && grain < reservation.First + reservation.Count)
            {
                return reservation.Done.Task;
            }

            if (reservation.First > grain)
            {
                most = Math.Min(most, reservation.First - grain);
            }
        }

        return null;
    }

    private GrainTable TableForChange(long index)
    {
        if (!_tables.TryGetValue(index, out var table))
        {
            Evict();
            table = new GrainTable(index, new uint[_geometry.TableEntries]) { Fresh = true };
            _tables.Add(index, table);
        }

        return table;
    }

    private void MarkDirty(GrainTable table)
    {
        if (!table.Dirty)
        {
            table.Dirty = true;
            table.Pins++;
            _dirty.Add(table);
        }
    }

    private void Evict()
    {
        if (_tables.Count < _cacheLimit)
        {
            return;
        }

        var leaving = new List<long>();
        foreach (var (index, table) in _tables)
        {
            if (table.Pins == 0 && leaving.Count < _cacheLimit / 2)
            {
                leaving.Add(index);
            }
        }

        foreach (var index in leaving)
        {
            _tables.Remove(index);
        }
    }

    /// <summary>Room behind all that the file holds, which reads as zeroes.</summary>
    private long TakeSectors(long count)
    {
        var sector = _end / Sector;
        if (sector + count > uint.MaxValue)
        {
            throw new DiskException(DiskError.NoSpace, $"{_file.Name}: a sparse VMDK extent cannot grow beyond 2 TiB");
        }

        _end += count * Sector;
        _dataLimit = _end;
        return sector;
    }
}
