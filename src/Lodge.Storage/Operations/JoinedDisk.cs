using Lodge.Storage.Disks;

namespace Lodge.Storage.Operations;

/// <summary>Several disks one after the other, for reading: the sources of a conversion of more than one.</summary>
public sealed class JoinedDisk : IDisk, IBlockStatus
{
    private readonly IReadOnlyList<IDisk> _disks;
    private readonly long[] _ends;

    /// <summary>Joins the disks, which are not owned.</summary>
    public JoinedDisk(IReadOnlyList<IDisk> disks)
    {
        _disks = disks;
        _ends = new long[disks.Count];
        long end = 0;
        for (var index = 0; index < disks.Count; index++)
        {
            _ends[index] = end = checked(end + disks[index].Length);
        }
    }

    /// <summary>The disks in order.</summary>
    public IReadOnlyList<IDisk> Disks => _disks;

    /// <inheritdoc/>
    public long Length => _ends[^1];

    /// <inheritdoc/>
    public int RequestAlignment => _disks.Max(disk => disk.RequestAlignment);

    /// <inheritdoc/>
    public bool IsReadOnly => true;

    /// <inheritdoc/>
    public async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        for (long done = 0; done < destination.Length;)
        {
            var (disk, at, left) = Find(offset + done);
            var part = Math.Min(left, destination.Length - done);
            await disk.ReadAsync(at, destination.Slice(done, part), cancellation).ConfigureAwait(false);
            done += part;
        }
    }

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        throw new DiskException(DiskError.ReadOnly, "joined disks are for reading only");

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    /// <inheritdoc/>
    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        var (disk, at, left) = Find(offset);
        return disk.StatusAsync(at, Math.Min(left, length), cancellation);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private (IDisk Disk, long Offset, long Left) Find(long offset)
    {
        var index = 0;
        while (offset >= _ends[index])
        {
            index++;
        }

        var start = index == 0 ? 0 : _ends[index - 1];
        return (_disks[index], offset - start, _ends[index] - offset);
    }
}
