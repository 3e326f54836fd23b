using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;
using Lodge.Storage.Shares;

namespace Lodge.Machine.Devices.Virtio.FileSystem;

/// <summary>A chain of the driver while the server works on it. Used again after it is completed.</summary>
internal sealed class FileSystemRequest(Action<FileSystemRequest> finished) : IFuseExchange
{
    // An array for each direction: a vector keeps the array that it was lent with.
    private Memory<byte>[] _read = new Memory<byte>[4];
    private Memory<byte>[] _written = new Memory<byte>[4];

    /// <summary>Queue that the chain came from.</summary>
    public VirtQueue Queue { get; private set; } = null!;

    /// <summary>The driver's buffers.</summary>
    public DescriptorChain Chain { get; private set; } = null!;

    /// <inheritdoc/>
    public uint Unread => Chain.Unread;

    /// <inheritdoc/>
    public uint ReplyCapacity => Chain.WritableLength;

    /// <summary>Takes a chain.</summary>
    public void Begin(VirtQueue queue, DescriptorChain chain) => (Queue, Chain) = (queue, chain);

    /// <summary>Forgets the driver's buffers.</summary>
    public void End()
    {
        (Queue, Chain) = (null!, null!);
        Array.Clear(_read);
        Array.Clear(_written);
    }

    /// <inheritdoc/>
    public int Read(Span<byte> destination) => Chain.Read(destination);

    /// <inheritdoc/>
    public bool TryLendUnread(uint length, out IoVector data) => Chain.TryLendReadable(Chain.ReadableLength - Chain.Unread, length, ref _read, out data);

    /// <inheritdoc/>
    public bool TryLendReply(uint offset, uint length, out IoVector data) => Chain.TryLendWritable(offset, length, ref _written, out data);

    /// <inheritdoc/>
    public void Reply(ReadOnlySpan<byte> bytes) => Chain.Write(bytes);

    /// <inheritdoc/>
    public void Filled(uint count) => Chain.Filled(count);

    /// <inheritdoc/>
    public void Finished() => finished(this);
}
