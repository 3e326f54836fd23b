using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>
/// Finds the grains of a stream that has no end (its writer was interrupted) by going from marker to marker. It stops at the first that is not sound; what was
/// flushed stands before that.
/// </summary>
internal static class StreamScan
{
    // Tables in memory at the same time; with usual grains they cover 1 TiB.
    private const int MostTables = 32768;

    /// <summary>Reads the stream.</summary>
    /// <param name="file">The extent.</param>
    /// <param name="geometry">From its header.</param>
    /// <param name="sector">Where the stream begins.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <returns>The tables, and the sector where the stream breaks off.</returns>
    public static async ValueTask<(IReadOnlyCollection<GrainTable> Tables, long EndSector)> RunAsync(
        IStorageFile file, GrainGeometry geometry, long sector, CancellationToken cancellation)
    {
        const int Sector = VmdkHeader.SectorLength;
        var tables = new Dictionary<long, GrainTable>();
        var most = 2 * GrainCodec.Capacity(geometry.GrainLength);
        var head = new byte[Sector];
        var packed = new byte[most];
        var grain = new byte[geometry.GrainLength];
        while ((sector + 1) * Sector <= file.Length)
        {
            cancellation.ThrowIfCancellationRequested();
            await file.ReadAsync(sector * Sector, head, cancellation).ConfigureAwait(false);
            var marker = VmdkMarker.Parse(head);
            if (marker.Size == 0)
            {
                if (marker.Type is not (VmdkMarkerType.GrainTable or VmdkMarkerType.GrainDirectory) || marker.Value > (ulong)((file.Length / Sector) - sector - 1))
                {
                    break;
                }

                sector += 1 + (long)marker.Value;
                continue;
            }

            var number = (long)(marker.Value / (ulong)geometry.GrainSectors);
            var place = (sector * Sector) + VmdkMarker.GrainLength;
            if (marker.Value % (ulong)geometry.GrainSectors != 0 || marker.Value >= (ulong)geometry.Capacity || marker.Size > most
                || place + marker.Size > file.Length || sector > uint.MaxValue)
            {
                break;
            }

            await file.ReadAsync(place, packed.AsMemory(0, (int)marker.Size), cancellation).ConfigureAwait(false);
            if (!GrainCodec.TryExpand(packed, 0, (int)marker.Size, grain))
            {
                break;
            }

            if (!tables.TryGetValue(number / geometry.TableEntries, out var table))
            {
                if (tables.Count == MostTables)
                {
                    throw new DiskException(DiskError.Unsupported, $"{file.Name} is a stream without end and too long to be put together");
                }

                table = new GrainTable(number / geometry.TableEntries, new uint[geometry.TableEntries]);
                tables.Add(table.Index, table);
            }

            table.Entries[number % geometry.TableEntries] = (uint)sector;
            sector += VmdkHeader.DivideUp(VmdkMarker.GrainLength + marker.Size, Sector);
        }

        return (tables.Values, sector);
    }
}
