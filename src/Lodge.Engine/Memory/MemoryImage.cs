namespace Lodge.Engine.Memory;

/// <summary>RAM at one moment: live RAM of a machine that stands still, or what was kept of one that runs on. Thread-safe.</summary>
public abstract class MemoryImage : IDisposable
{
    private readonly Lazy<IReadOnlyList<BackingRange>> _data;

    private protected MemoryImage(ulong size, Func<IReadOnlyList<BackingRange>> data) => (Size, _data) = (size, new Lazy<IReadOnlyList<BackingRange>>(data));

    /// <summary>Bytes.</summary>
    public ulong Size { get; }

    /// <summary>Ranges of the backing that may hold other than zeros, in multiples of 4 KiB, ascending and apart from each other. All else was never touched or was given back.</summary>
    public IReadOnlyList<BackingRange> Data => _data.Value;

    /// <summary>Copies a part that lies inside.</summary>
    /// <exception cref="IOException">What kept the image is lost (the host's memory ran out, for example).</exception>
    public void Read(ulong offset, Span<byte> destination)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Size);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)destination.Length, Size - offset);
        ReadInside(offset, destination);
    }

    /// <summary>Gives back what kept it.</summary>
    public abstract void Dispose();

    private protected abstract void ReadInside(ulong offset, Span<byte> destination);
}

/// <summary>RAM that stands still.</summary>
internal sealed unsafe class LiveImage(GuestMemory memory, IReadOnlyList<BackingRange> data) : MemoryImage(memory.Size, () => data)
{
    /// <inheritdoc/>
    public override void Dispose()
    {
    }

    private protected override void ReadInside(ulong offset, Span<byte> destination) => new ReadOnlySpan<byte>(memory.HostBase + offset, destination.Length).CopyTo(destination);
}

/// <summary>A memory file that nobody writes any more.</summary>
internal sealed class FileImage(ulong size, IReadOnlyList<BackingRange> data, Microsoft.Win32.SafeHandles.SafeFileHandle file, Action? ended) : MemoryImage(size, () => data)
{
    private int _ended;

    /// <inheritdoc/>
    public override void Dispose()
    {
        if (Interlocked.Exchange(ref _ended, 1) == 0)
        {
            file.Dispose();
            ended?.Invoke();
        }
    }

    private protected override void ReadInside(ulong offset, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int read = RandomAccess.Read(file, destination, (long)offset);
            if (read <= 0)
            {
                throw new IOException("the image of guest memory ends early");
            }
            offset += (ulong)read;
            destination = destination[read..];
        }
    }
}
