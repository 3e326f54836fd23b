using System.Buffers;

namespace Lodge.Engine.Memory;

/// <summary>
/// A part of the RAM's backing as <see cref="Memory{T}"/>, which counts in 32 bits: windows begin every GiB and are twice as long, so that a range of up
/// to a GiB always lies in one. The only way by which asynchronous I/O reaches guest memory; see <see cref="GuestMemory.TryLend"/>.
/// </summary>
internal sealed unsafe class RamWindow(GuestMemory owner, ulong offset, int length) : MemoryManager<byte>
{
    /// <summary>Bytes from one window to the next, and the longest range that is sure to lie in one.</summary>
    public const uint Step = 1U << 30;

    /// <summary>Bytes of a window, where RAM goes on that far.</summary>
    public const ulong Length = int.MaxValue;

    /// <inheritdoc/>
    public override Memory<byte> Memory => CreateMemory(length);

    /// <inheritdoc/>
    public override Span<byte> GetSpan() => new(Base, length);

    /// <inheritdoc/>
    public override MemoryHandle Pin(int elementIndex = 0) => (uint)elementIndex <= (uint)length
        ? new MemoryHandle(Base + elementIndex)
        : throw new ArgumentOutOfRangeException(nameof(elementIndex));

    /// <inheritdoc/>
    public override void Unpin()
    {
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
    }

    // RAM that was given back has no address: late I/O, which is an error of a device, ends in an exception and not in another's memory.
    private byte* Base => owner.HostBase is var start && start != null ? start + offset : throw new ObjectDisposedException(nameof(GuestMemory));
}
