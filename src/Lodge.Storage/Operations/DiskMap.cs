using System.Runtime.CompilerServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Operations;

/// <summary>A stretch of a disk of one state.</summary>
/// <param name="Start">Offset in bytes.</param>
/// <param name="Extent">State, layer and place in the layer's file of all of it.</param>
public readonly record struct MapEntry(long Start, BlockExtent Extent)
{
    /// <summary>Whether some layer holds it.</summary>
    public bool Present => (Extent.State & (BlockState.Data | BlockState.Allocated)) != 0;

    /// <summary>Whether it reads as zeroes.</summary>
    public bool Zero => (Extent.State & BlockState.Zero) != 0 || (Extent.State & BlockState.Data) == 0;

    /// <summary>Whether it holds data.</summary>
    public bool Data => !Zero;
}

/// <summary>Lists what is where in a disk; neighbours of one state, layer and place are one entry.</summary>
public static class DiskMap
{
    /// <summary>The entries from <paramref name="start"/>, over at most <paramref name="length"/> bytes, in order.</summary>
    public static async IAsyncEnumerable<MapEntry> ListAsync(IDisk disk, long start = 0, long length = long.MaxValue, [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        var end = length > disk.Length - start ? disk.Length : start + length;
        MapEntry? open = null;
        for (var offset = start; offset < end;)
        {
            cancellation.ThrowIfCancellationRequested();
            var extent = await disk.StatusAsync(offset, end - offset, cancellation).ConfigureAwait(false);
            if (open is { } before && Continues(before.Extent, extent))
            {
                open = before with { Extent = before.Extent with { Length = before.Extent.Length + extent.Length } };
            }
            else
            {
                if (open is { } complete)
                {
                    yield return complete;
                }

                open = new MapEntry(offset, extent);
            }

            offset += extent.Length;
        }

        if (open is { } last)
        {
            yield return last;
        }
    }

    private static bool Continues(BlockExtent before, BlockExtent next) =>
        before.State == next.State && before.Depth == next.Depth &&
        (before.HostOffset < 0 ? next.HostOffset < 0 : next.HostOffset == before.HostOffset + before.Length);
}
