using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Blocks;

internal abstract partial class BlockImage
{
    private bool IsMetadataDirty => Table.IsDirty || HasPending || (IsDifferencing && Bitmaps.IsDirty);

    public ValueTask FlushAsync(CancellationToken cancellation = default) =>
        IsReadOnly ? ValueTask.CompletedTask : IsMetadataDirty || _committing ? CommitAsync(cancellation) : File.FlushAsync(cancellation);

    /// <summary>Makes data durable, then table and bitmaps.</summary>
    protected async ValueTask CommitAsync(CancellationToken cancellation)
    {
        await _commit.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            _committing = true;

            // Bits and entries that are taken here stand for data written before the first flush below.
            var bitmaps = new List<(SectorBitmap Bitmap, byte[] Bytes)>();
            foreach (var bitmap in Bitmaps.Dirty())
            {
                if (bitmap.Take() is { } bytes)
                {
                    bitmaps.Add((bitmap, bytes));
                }
            }

            var pages = await TakeTableAsync(cancellation).ConfigureAwait(false);
            try
            {
                await BeforeCommitAsync(cancellation).ConfigureAwait(false);
                await File.FlushAsync(cancellation).ConfigureAwait(false);
                if (pages.Count == 0 && bitmaps.Count == 0)
                {
                    return;
                }

                await OrderCommitAsync(cancellation).ConfigureAwait(false);
                foreach (var (bitmap, bytes) in bitmaps)
                {
                    await File.WriteAsync(bitmap.Offset, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
                }

                await WriteTableAsync(pages, cancellation).ConfigureAwait(false);
                await File.FlushAsync(cancellation).ConfigureAwait(false);
            }
            catch
            {
                Table.PutBack(pages);
                foreach (var (bitmap, _) in bitmaps)
                {
                    bitmap.PutBack();
                }

                throw;
            }
        }
        finally
        {
            _committing = false;
            _commit.Release();
        }
    }

    /// <summary>Takes what changed of the table.</summary>
    protected virtual ValueTask<List<PendingWrite>> TakeTableAsync(CancellationToken cancellation) => ValueTask.FromResult(Table.TakeDirty());

    /// <summary>Writes what was taken of the table, and what belongs to it.</summary>
    protected virtual async ValueTask WriteTableAsync(List<PendingWrite> pages, CancellationToken cancellation)
    {
        foreach (var page in pages)
        {
            await File.WriteAsync(page.Offset, page.Bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
        }
    }
}
