using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Lodge.Engine.Memory;

/// <summary>A range of guest physical addresses backed by RAM.</summary>
/// <param name="Address">First guest physical address; a multiple of 4 KiB.</param>
/// <param name="Length">Bytes; a multiple of 4 KiB.</param>
/// <param name="Offset">Offset of its first byte in the backing memory file.</param>
public readonly record struct MemorySlot(ulong Address, ulong Length, ulong Offset);

/// <summary>Flags that an engine keeps for each 4 KiB page of RAM.</summary>
[Flags]
public enum PageFlags : byte
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>The software engine holds code translated from this page: a write must be reported.</summary>
    Code = 1,
}

/// <summary>
/// Guest RAM: one memory file (memfd; see <see cref="MemoryBacking"/> for other kinds) mapped once and lazily backed, seen by the guest as one or two slots around the hole under 4 GiB. Together
/// with the virtqueue layer this is the only place where devices reach guest memory; every access is bounds-checked and none throws on a bad
/// guest address. All members are thread-safe.
/// </summary>
public sealed unsafe partial class GuestMemory : IDisposable
{
    /// <summary>Size of a page in bytes.</summary>
    public const int PageSize = 4096;

    /// <summary>Where RAM below 4 GiB ends; from here to 4 GiB lie PCI, ECAM and the interrupt controllers.</summary>
    public const ulong LowMemoryEnd = 0xC000_0000;

    private const ulong FourGiB = 0x1_0000_0000;
    private readonly MemorySlot[] _slots;
    private readonly RamWindow[] _windows;
    private byte* _base;
    private byte* _pageFlags;

    /// <summary>Creates zeroed RAM of <paramref name="size"/> bytes (a multiple of 4 KiB, at least 1 MiB). No host memory is used until touched, unless the backing says otherwise.</summary>
    /// <exception cref="ArgumentException">The size or the backing is impossible; the message says why.</exception>
    /// <exception cref="IOException">The host refused the memory file or the mapping.</exception>
    public GuestMemory(ulong size, MemoryBacking? backing = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1UL << 20);
        if (size % PageSize != 0)
        {
            throw new ArgumentException($"memory size {size} is not a multiple of {PageSize}", nameof(size));
        }
        Size = size;
        _slots = size <= LowMemoryEnd
            ? [new MemorySlot(0, size, 0)]
            : [new MemorySlot(0, LowMemoryEnd, 0), new MemorySlot(FourGiB, size - LowMemoryEnd, LowMemoryEnd)];
        Backing = backing ?? MemoryBacking.Default;
        if (Backing.Contradiction(size) is { } contradiction)
        {
            throw new ArgumentException(contradiction, nameof(backing));
        }
        FileDescriptor = Map();
        _pageFlags = (byte*)mmap(null, (nuint)(size / PageSize), ProtReadWrite, MapPrivate | MapAnonymous | MapNoReserve, -1, 0);
        if (_pageFlags == (byte*)-1)
        {
            _pageFlags = null;
            IOException failure = NotMapped(FileDescriptor);
            Unmap();
            throw failure;
        }
        _windows = new RamWindow[(size + RamWindow.Step - 1) / RamWindow.Step];
        for (ulong i = 0; i < (ulong)_windows.Length; i++)
        {
            ulong start = i * RamWindow.Step;
            _windows[i] = new RamWindow(this, start, (int)Math.Min(size - start, RamWindow.Length));
        }
    }

    /// <summary>Bytes of RAM.</summary>
    public ulong Size { get; }

    /// <summary>The memory file that backs all slots, for engines and other processes that map it; -1 when it is private memory (<see cref="MemoryBacking.IsFile"/>).</summary>
    public int FileDescriptor { get; }

    /// <summary>RAM as the guest sees it, ascending.</summary>
    public ReadOnlySpan<MemorySlot> Slots => _slots;

    /// <summary>One past the highest RAM address.</summary>
    public ulong End => _slots[^1].Address + _slots[^1].Length;

    /// <summary>Raised (on the writing thread) after a write through this class touched a page flagged <see cref="PageFlags.Code"/>: address, length.</summary>
    public event Action<ulong, ulong>? CodeWritten;

    /// <summary>Raised (on the writing thread) after every write through this class; for comparing engines. Costs nothing without a listener.</summary>
    public event Action<ulong, ulong>? AnyWritten;

    /// <summary>Host address of the first byte of the backing; slot offsets count from here. For engines.</summary>
    public byte* HostBase => _base;

    /// <summary>Flags by page number in the backing (offset / 4096). For engines; change them with atomic operations only.</summary>
    public byte* PageFlagArray => _pageFlags;

    /// <summary>Offset in the backing of a guest physical address, when <paramref name="length"/> bytes from there lie in one slot.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryGetOffset(ulong address, ulong length, out ulong offset)
    {
        MemorySlot[] slots = _slots;
        for (int i = 0; i < slots.Length; i++)
        {
            ulong inside = address - slots[i].Address;
            if (inside < slots[i].Length && length <= slots[i].Length - inside)
            {
                offset = slots[i].Offset + inside;
                return true;
            }
        }
        offset = 0;
        return false;
    }

    /// <summary>Guest physical address of an offset in the backing.</summary>
    public ulong AddressOfOffset(ulong offset) => offset < _slots[0].Length ? offset : offset - _slots[0].Length + FourGiB;

    /// <summary>Host pointer to a range that lies in one slot, or null. For engines and loaders; devices use the copying members.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* Pointer(ulong address, ulong length) => TryGetOffset(address, length, out ulong offset) ? _base + offset : null;

    /// <summary>Copies from guest memory. False, with <paramref name="destination"/> untouched, when the range is not all RAM.</summary>
    public bool TryRead(ulong address, Span<byte> destination)
    {
        byte* source = Pointer(address, (ulong)destination.Length);
        if (source == null)
        {
            return destination.IsEmpty;
        }
        new ReadOnlySpan<byte>(source, destination.Length).CopyTo(destination);
        return true;
    }

    /// <summary>Copies to guest memory. False, with nothing written, when the range is not all RAM.</summary>
    public bool TryWrite(ulong address, ReadOnlySpan<byte> source)
    {
        byte* destination = Pointer(address, (ulong)source.Length);
        if (destination == null)
        {
            return source.IsEmpty;
        }
        source.CopyTo(new Span<byte>(destination, source.Length));
        Written(address, (ulong)source.Length);
        return true;
    }

    /// <summary>Reads one little-endian value with a single access when naturally aligned (acquire).</summary>
    public bool TryRead<T>(ulong address, out T value) where T : unmanaged
    {
        byte* source = Pointer(address, (ulong)sizeof(T));
        if (source == null)
        {
            value = default;
            return false;
        }
        value = Unsafe.ReadUnaligned<T>(source);
        Interlocked.MemoryBarrier();
        return true;
    }

    /// <summary>Writes one little-endian value with a single access when naturally aligned (release).</summary>
    public bool TryWrite<T>(ulong address, T value) where T : unmanaged
    {
        byte* destination = Pointer(address, (ulong)sizeof(T));
        if (destination == null)
        {
            return false;
        }
        Interlocked.MemoryBarrier();
        Unsafe.WriteUnaligned(destination, value);
        Written(address, (ulong)sizeof(T));
        return true;
    }

    /// <summary>
    /// Lends RAM for direct I/O without allocating. Whoever takes it owns the range until the I/O completes: this object is not disposed and the
    /// device does not tell its driver before. Call <see cref="Written"/> when data has been put there. False when the range is not all RAM in one
    /// slot, or is longer than <see cref="RamWindow.Step"/>.
    /// </summary>
    public bool TryLend(ulong address, uint length, out Memory<byte> memory)
    {
        if (length > RamWindow.Step || !TryGetOffset(address, length, out ulong offset))
        {
            memory = default;
            return false;
        }
        memory = _windows[offset / RamWindow.Step].Memory.Slice((int)(offset % RamWindow.Step), (int)length);
        return true;
    }

    /// <summary>Reports that a range was written other than through this class, so that translated code in it is dropped.</summary>
    public void Written(ulong address, ulong length)
    {
        if (length == 0 || !TryGetOffset(address, length, out ulong offset))
        {
            return;
        }
        Interlocked.MemoryBarrier();
        AnyWritten?.Invoke(address, length);
        for (ulong page = offset / PageSize; page <= (offset + length - 1) / PageSize; page++)
        {
            if ((_pageFlags[page] & (byte)PageFlags.Code) != 0)
            {
                CodeWritten?.Invoke(address, length);
                return;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _pager?.Cancel();
        lock (_imageGate)
        {
            if (_base == null)
            {
                return;
            }
            Unmap();
            munmap(_pageFlags, (nuint)(Size / PageSize));
            CloseIfOpen(FileDescriptor);
            _pageFlags = null;
        }
    }
}
