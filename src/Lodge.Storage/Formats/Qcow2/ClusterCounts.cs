using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>How often each host cluster is named, counted by walking all tables. Memory follows the number of clusters named, not the largest offset.</summary>
internal sealed class ClusterCounts
{
    private const int ChunkBits = 10;
    private readonly Dictionary<long, uint[]> _chunks = [];
    private long _added;

    /// <summary>Highest cluster named, or -1.</summary>
    public long Highest { get; private set; } = -1;

    /// <summary>Clusters that hold something, in ascending order.</summary>
    public IEnumerable<(long Cluster, uint Count)> All
    {
        get
        {
            foreach (var chunk in _chunks.Keys.Order().ToArray())
            {
                var counts = _chunks[chunk];
                for (var index = 0; index < counts.Length; index++)
                {
                    if (counts[index] != 0)
                    {
                        yield return ((chunk << ChunkBits) + index, counts[index]);
                    }
                }
            }
        }
    }

    public uint this[long cluster] => _chunks.TryGetValue(cluster >> ChunkBits, out var counts) ? counts[cluster & ((1 << ChunkBits) - 1)] : 0;

    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: the clusters are scattered as in no real image, and counting them would take all memory.</exception>
    public void Add(long cluster, long times)
    {
        if (!_chunks.TryGetValue(cluster >> ChunkBits, out var counts))
        {
            if (_chunks.Count > 65536 + (_added / 16))
            {
                throw new DiskException(DiskError.Corrupt, "the image's tables name clusters scattered over the whole of a sparse file");
            }

            _chunks[cluster >> ChunkBits] = counts = new uint[1 << ChunkBits];
        }

        _added++;
        Highest = Math.Max(Highest, cluster);
        ref var count = ref counts[cluster & ((1 << ChunkBits) - 1)];
        count = (uint)Math.Min(uint.MaxValue, count + times);
    }

    public void Remove(long cluster)
    {
        if (_chunks.TryGetValue(cluster >> ChunkBits, out var counts))
        {
            counts[cluster & ((1 << ChunkBits) - 1)]--;
        }
    }
}
