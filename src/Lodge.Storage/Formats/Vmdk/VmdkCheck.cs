using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>
/// Checks grain tables: entries that point to where no data can be or to the same place twice are corruptions; grains that nothing points to are leaks, unless
/// the host's file system holds no data there. A redundant table that differs from its original is reported and counted as a leak, for it does no harm.
/// </summary>
internal sealed class VmdkCheck(IProgress<double>? progress)
{
    private const int MostMessages = 100;
    private readonly List<string> _messages = [];
    private long _corruptions;
    private long _leaks;
    private long _corruptionsFixed;
    private long _leaksFixed;
    private long _errors;
    private long _total;
    private long _allocated;
    private long _compressed;
    private long _fragmented;
    private long _end;

    public CheckResult Result => new()
    {
        Corruptions = _corruptions,
        Leaks = _leaks,
        CheckErrors = _errors,
        CorruptionsFixed = _corruptionsFixed,
        LeaksFixed = _leaksFixed,
        TotalClusters = _total,
        AllocatedClusters = _allocated,
        CompressedClusters = _compressed,
        FragmentedClusters = _fragmented,
        ImageEndOffset = _end,
        Messages = _messages,
    };

    /// <summary>A stream whose writer was interrupted; repair gives it its end.</summary>
    public void Unfinished(string name, CheckRepair repair)
    {
        _leaks++;
        _leaksFixed += repair == CheckRepair.None ? 0 : 1;
        Tell($"{name}: the stream has no end; its grains were found by their markers");
    }

    /// <summary>Checks one extent.</summary>
    public async ValueTask RunAsync(GrainTables tables, CheckRepair repair, CancellationToken cancellation)
    {
        var geometry = tables.Geometry;
        var places = new List<(long Start, long End)>();
        if (tables.HasChanges && !geometry.Movable && repair != CheckRepair.None)
        {
            await tables.FlushAsync(cancellation).ConfigureAwait(false);
        }

        _total += geometry.GrainCount;
        for (long index = 0; index < geometry.TableCount; index++)
        {
            cancellation.ThrowIfCancellationRequested();
            try
            {
                await CheckTableAsync(tables, index, repair, places, cancellation).ConfigureAwait(false);
            }
            catch (DiskException e) when (e.Error == DiskError.InputOutput)
            {
                _errors++;
                Tell(e.Message);
            }

            progress?.Report((double)index / geometry.TableCount);
        }

        if (repair != CheckRepair.None && tables.HasChanges)
        {
            await tables.FlushAsync(cancellation).ConfigureAwait(false);
        }

        places.AddRange(tables.Metadata.All);
        await CheckPlacesAsync(tables, places, repair, cancellation).ConfigureAwait(false);
        progress?.Report(1);
    }

    private async ValueTask CheckTableAsync(GrainTables tables, long index, CheckRepair repair, List<(long Start, long End)> places, CancellationToken cancellation)
    {
        var geometry = tables.Geometry;
        var sector = tables.Directory[(int)index];
        var copySector = tables.Redundant.IsEmpty ? 0 : tables.Redundant[(int)index];
        var entries = tables.Peek(index) ?? (sector == 0 ? null : await tables.ReadTableAsync(sector, cancellation).ConfigureAwait(false));
        if (entries is null)
        {
            return;
        }

        var copy = copySector == 0 || tables.HasChanges ? null : await tables.ReadTableAsync(copySector, cancellation).ConfigureAwait(false);
        var differs = copy is not null && !copy.AsSpan().SequenceEqual(entries);
        if (differs)
        {
            _leaks++;
            _leaksFixed += repair == CheckRepair.None ? 0 : 1;
            Tell($"{tables.File.Name}: the redundant grain table {index} differs");
        }

        var mended = differs && repair != CheckRepair.None ? entries.ToArray() : null;
        var count = Math.Min(geometry.TableEntries, geometry.GrainCount - (index * geometry.TableEntries));
        for (var at = 0; at < count; at++)
        {
            var entry = entries[at];
            if (entry == 0 || (entry == 1 && geometry.ZeroedGrains))
            {
                continue;
            }

            var grain = (index * geometry.TableEntries) + at;
            if (await PlaceAsync(tables, grain, entry, cancellation).ConfigureAwait(false) is { } place)
            {
                Add(places, place, geometry.Compressed);
                continue;
            }

            _corruptions++;
            Tell($"{tables.File.Name}: the entry of grain {grain} points to sector {entry}, where its data cannot be");
            if (repair == CheckRepair.All)
            {
                mended ??= entries.ToArray();
                var other = copy is not null && copy[at] != entry ? await PlaceAsync(tables, grain, copy[at], cancellation).ConfigureAwait(false) : null;
                mended[at] = other is null ? 0 : copy![at];
                _corruptionsFixed++;
                if (other is { } found)
                {
                    Add(places, found, geometry.Compressed);
                }
            }
        }

        if (mended is not null)
        {
            await tables.ReplaceAsync(index, mended, cancellation).ConfigureAwait(false);
        }
    }

    private void Add(List<(long Start, long End)> places, (long Start, long End) place, bool compressed)
    {
        _allocated++;
        _compressed += compressed ? 1 : 0;
        _fragmented += places.Count != 0 && places[^1].End != place.Start ? 1 : 0;
        places.Add(place);
    }

    /// <summary>The sectors of a grain's data, or null if they cannot be that.</summary>
    private static async ValueTask<(long Start, long End)?> PlaceAsync(GrainTables tables, long grain, uint entry, CancellationToken cancellation)
    {
        const int Sector = VmdkHeader.SectorLength;
        var geometry = tables.Geometry;
        if (entry == 0 || (long)entry * Sector >= tables.File.Length)
        {
            return null;
        }

        var end = entry + geometry.GrainSectors;
        if (geometry.Compressed)
        {
            end = entry + 1;
            if (geometry.Markers)
            {
                var head = await tables.File.ReadBytesAsync((long)entry * Sector, 16, cancellation).ConfigureAwait(false);
                if (head.Length < 16 || VmdkMarker.Parse(head) is var marker
                    && (marker.Value != (ulong)(grain * geometry.GrainSectors) || marker.Size == 0 || ((long)entry * Sector) + VmdkMarker.GrainLength + marker.Size > tables.File.Length))
                {
                    return null;
                }

                end = entry + VmdkHeader.DivideUp(VmdkMarker.GrainLength + VmdkMarker.Parse(head).Size, Sector);
            }
        }

        return tables.Metadata.Overlaps(entry, end) ? null : (entry, end);
    }

    private async ValueTask CheckPlacesAsync(GrainTables tables, List<(long Start, long End)> places, CheckRepair repair, CancellationToken cancellation)
    {
        const int Sector = VmdkHeader.SectorLength;
        places.Sort();
        long end = 0;
        var grain = tables.Geometry.GrainSectors;
        var fileEnd = VmdkHeader.DivideUp(tables.File.Length, Sector);
        foreach (var place in places.Append((Start: fileEnd, End: fileEnd)))
        {
            if (place.Start < end && place.Start != fileEnd)
            {
                _corruptions++;
                Tell($"{tables.File.Name}: two grains share sector {place.Start}");
            }
            else if (!tables.Geometry.Compressed && place.Start - end >= grain && end != 0)
            {
                await CheckGapAsync(tables, end, place.Start, repair, cancellation).ConfigureAwait(false);
            }

            end = Math.Max(end, place.End);
            _end = place.Start == fileEnd ? _end : Math.Max(_end, Math.Min(end * Sector, tables.File.Length));
        }
    }

    private async ValueTask CheckGapAsync(GrainTables tables, long start, long end, CheckRepair repair, CancellationToken cancellation)
    {
        const int Sector = VmdkHeader.SectorLength;
        var grain = tables.Geometry.GrainLength;
        long held = 0;
        var last = Math.Min(end * Sector, tables.File.Length);
        for (var offset = VmdkHeader.RoundUp(start * Sector, grain); offset < last;)
        {
            var status = await tables.File.GetStatusAsync(offset, last - offset, cancellation).ConfigureAwait(false);
            held += (status.State & BlockState.Zero) == 0 ? status.Length : 0;
            offset += status.Length;
        }

        var leaks = held / grain;
        if (leaks == 0)
        {
            return;
        }

        _leaks += leaks;
        Tell($"{tables.File.Name}: nothing points to {leaks} grains from sector {start}");
        if (repair != CheckRepair.None)
        {
            var from = VmdkHeader.RoundUp(start * Sector, grain);
            if (last == tables.File.Length)
            {
                await tables.File.ResizeAsync(from, cancellation).ConfigureAwait(false);
            }
            else
            {
                await tables.File.WriteZeroesAsync(from, last - from, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
            }

            _leaksFixed += leaks;
        }
    }

    private void Tell(string message)
    {
        if (_messages.Count < MostMessages)
        {
            _messages.Add(message);
        }
    }
}
