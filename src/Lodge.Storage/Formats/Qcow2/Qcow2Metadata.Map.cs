namespace Lodge.Storage.Formats.Qcow2;

/// <summary>A range of guest bytes of one kind that lies in a row in the file.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Host">Offset in the file of its first byte; of a compressed cluster, the descriptor.</param>
/// <param name="InPlace">Whether it may be written where it stands.</param>
internal readonly record struct MappedRun(ClusterKind Kind, long Length, long Host, bool InPlace);

internal sealed partial class Qcow2Metadata
{
    /// <summary>The first run of a range, at most to the end of the L2 table.</summary>
    public MappedRun Resolve(MetadataBlock? table, long offset, long length)
    {
        var geometry = Geometry;
        var span = 1L << geometry.TableSpanBits;
        length = Math.Min(length, span - (offset & (span - 1)));
        if (table is null)
        {
            return new MappedRun(ClusterKind.Unallocated, length, -1, false);
        }

        var mask = geometry.ClusterSize - 1;
        var own = (L1[(int)(offset >> geometry.TableSpanBits)] & Qcow2Geometry.Copied) != 0;
        MappedRun first = default;
        long done = 0;
        while (done < length)
        {
            var at = offset + done;
            var inCluster = (int)(at & mask);
            var unit = inCluster >> geometry.UnitBits;
            var (descriptor, bitmap) = ReadEntry(table, (int)(at >> geometry.ClusterBits) & (geometry.TableEntries - 1));
            var kind = geometry.Kind(descriptor, bitmap, unit);
            if (kind == ClusterKind.Compressed)
            {
                return done > 0 ? first with { Length = done } : new MappedRun(kind, Math.Min(length, geometry.ClusterSize - inCluster), (long)descriptor, false);
            }

            var host = (long)(descriptor & Qcow2Geometry.OffsetMask) + inCluster;
            if (geometry.External && kind is ClusterKind.Normal && host != at)
            {
                kind = ClusterKind.Invalid;
            }

            var inPlace = own && kind == ClusterKind.Normal && (descriptor & Qcow2Geometry.Copied) != 0;
            if (done == 0)
            {
                first = new MappedRun(kind, 0, host, inPlace);
            }
            else if (kind != first.Kind || inPlace != first.InPlace || (kind is ClusterKind.Normal or ClusterKind.ZeroHeld && host != first.Host + done))
            {
                break;
            }

            done += geometry.UnitSize - (inCluster & (geometry.UnitSize - 1));
        }

        return first with { Length = Math.Min(done, length) };
    }
}
