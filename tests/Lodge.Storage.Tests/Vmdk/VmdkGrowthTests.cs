using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Vmdk;

/// <summary>A flush that makes the file longer while others add grains.</summary>
public class VmdkGrowthTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_flush_cuts_nothing_off_that_is_written_meanwhile(bool allocates)
    {
        var files = new MemoryFiles();
        await files.CreateAsync("disk.vmdk", "vmdk", 4 << 20);
        var file = new GrowingFile(files["disk.vmdk"], allocates);
        await using var image = await DiskFormats.Named("vmdk").OpenAsync(file, new ImageContext(false, files));
        var bytes = Enumerable.Repeat((byte)7, 512).ToArray();
        Task? write = null;
        file.BeforeGrowth = async () =>
        {
            // The write is over before the file grows, or it waits until that is done.
            write ??= Task.Run(async () => await image.WriteAsync(1 << 20, bytes));
            await Task.WhenAny(write, Task.Delay(300));
        };
        await image.WriteAsync(0, bytes);
        await image.FlushAsync();
        Assert.NotNull(write);
        await write;
        Assert.Equal(bytes, await image.ReadBytesAsync(1 << 20, 512));
        Assert.Equal(bytes, await image.ReadBytesAsync(0, 512));
    }

    private sealed class GrowingFile(MemoryFile file, bool allocates) : IStorageFile
    {
        public Func<Task> BeforeGrowth { get; set; } = () => Task.CompletedTask;

        public string Name => file.Name;

        public long AllocatedLength => file.AllocatedLength;

        public long Length => file.Length;

        public int RequestAlignment => 1;

        public bool IsReadOnly => false;

        public int DiscardGranularity => 1;

        public async ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default)
        {
            if (!allocates)
            {
                throw new DiskException(DiskError.Unsupported, "this file system cannot reserve room");
            }

            await BeforeGrowth();
            await file.AllocateAsync(offset, length, cancellation);
        }

        public async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
        {
            await BeforeGrowth();
            await file.ResizeAsync(length, cancellation);
        }

        public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default) => file.ReadAsync(offset, destination, cancellation);

        public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) => file.WriteAsync(offset, source, options, cancellation);

        public ValueTask FlushAsync(CancellationToken cancellation = default) => file.FlushAsync(cancellation);

        public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) => file.WriteZeroesAsync(offset, length, options, cancellation);

        public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => file.DiscardAsync(offset, length, cancellation);

        public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default) => file.GetStatusAsync(offset, length, cancellation);

        public ValueTask DisposeAsync() => file.DisposeAsync();
    }
}
