using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>A file that is opened for reading only, seen as it would be after its log was replayed.</summary>
internal sealed class VhdxReplayedFile(IStorageFile file, VhdxLogContent content) : IStorageFile
{
    public string Name => file.Name;

    public long Length => Math.Max(file.Length, content.FileLength);

    public long AllocatedLength => file.AllocatedLength;

    public int RequestAlignment => file.RequestAlignment;

    public bool IsReadOnly => true;

    public int DiscardGranularity => file.DiscardGranularity;

    public async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        var inside = Math.Clamp(file.Length - offset, 0, destination.Length);
        await file.ReadAsync(Math.Min(offset, file.Length), destination.Slice(0, inside), cancellation).ConfigureAwait(false);
        destination.Slice(inside, destination.Length - inside).Clear();
        foreach (var change in content.Changes)
        {
            var start = Math.Max(change.Offset, offset);
            var end = Math.Min(change.Offset + change.Length, offset + destination.Length);
            if (start >= end)
            {
                continue;
            }

            var part = destination.Slice(start - offset, end - start);
            if (change.Bytes is { } bytes)
            {
                part.CopyFrom(bytes.AsSpan((int)(start - change.Offset)));
            }
            else
            {
                part.Clear();
            }
        }
    }

    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        // Where the log may say otherwise, all is data.
        var overlap = content.Changes.Any(change => change.Offset < offset + length && change.Offset + change.Length > offset);
        return overlap || offset + length > file.Length
            ? new BlockExtent(length, BlockState.Data | BlockState.Allocated)
            : await file.GetStatusAsync(offset, length, cancellation).ConfigureAwait(false);
    }

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) => throw ReadOnly();

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) => throw ReadOnly();

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => throw ReadOnly();

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default) => throw ReadOnly();

    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) => throw ReadOnly();

    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    public ValueTask DisposeAsync() => file.DisposeAsync();

    private DiskException ReadOnly() => new(DiskError.ReadOnly, $"{Name} is read-only");
}
