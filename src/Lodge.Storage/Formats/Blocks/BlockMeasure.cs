using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Blocks;

/// <summary>How many blocks a disk's content needs.</summary>
internal static class BlockMeasure
{
    /// <summary>Blocks of <paramref name="blockSize"/> bytes in which <paramref name="source"/> has data.</summary>
    public static async ValueTask<long> CountAsync(IDisk? source, int blockSize, CancellationToken cancellation)
    {
        long count = 0;
        long counted = -1;
        for (long offset = 0; source is not null && offset < source.Length;)
        {
            var extent = await source.StatusAsync(offset, source.Length - offset, cancellation).ConfigureAwait(false);
            var end = offset + Math.Max(extent.Length, 1);
            if ((extent.State & BlockState.Data) != 0 && (extent.State & BlockState.Zero) == 0)
            {
                var first = Math.Max(offset / blockSize, counted + 1);
                var last = (end - 1) / blockSize;
                count += Math.Max(last - first + 1, 0);
                counted = Math.Max(counted, last);
            }

            offset = end;
        }

        return count;
    }
}
