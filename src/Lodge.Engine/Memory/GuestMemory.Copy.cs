using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine.Memory;

// RAM that begins as a copy of a file (MemoryBacking.CopyOf): a private mapping of it, mmap(2).
public sealed unsafe partial class GuestMemory
{
    private const int MapFixed = 0x10, OpenReadOnly = 0, OpenCloseOnExec = 0x80000;

    /// <summary>Each range that is taken out of the file's mapping may cost two mappings more; the host allows 65,530 for a process (vm.max_map_count).</summary>
    private const int MaximumPieces = 8192;

    private readonly Lock _pieceGate = new();
    private ulong[] _zeroed = [];       // a bit for each page: it is anonymous memory, no longer the file's
    private int _pieces;
    private List<BackingRange> _original = []; // where the file has data

    private void MapCopy(string path)
    {
        int file = open(path, OpenReadOnly | OpenCloseOnExec);
        if (file < 0)
        {
            throw new IOException($"guest memory cannot begin as '{path}': error {Marshal.GetLastPInvokeError()}");
        }
        const int seekEnd = 2;
        long length = lseek(file, 0, seekEnd);
        if (length != (long)Size)
        {
            close(file);
            throw new IOException($"guest memory cannot begin as '{path}': the file has {length} bytes, the memory {Size}");
        }
        _base = (byte*)mmap(null, (nuint)Size, ProtReadWrite, MapPrivate | MapNoReserve, file, 0);
        if (_base == (byte*)-1)
        {
            throw NotMapped(file);
        }
        _original = FileData(file);
        close(file);
        _ = madvise(_base, (nuint)Size, AdviseDontFork);
        _zeroed = new ulong[(Size / PageSize / 64) + 1];
        if (Backing.Mergeable && madvise(_base, (nuint)Size, AdviseMergeable) != 0)
        {
            throw new IOException($"guest memory cannot be made mergeable: error {Marshal.GetLastPInvokeError()}");
        }
    }

    /// <summary>
    /// Makes a range read as zero and gives its memory back. Forgetting the pages would bring the file's back, so new memory is mapped over them; where that would make
    /// too many mappings, they are cleared and stay.
    /// </summary>
    private bool DiscardCopied(ulong offset, ulong length)
    {
        lock (_pieceGate)
        {
            ulong page = offset / PageSize, end = page + (length / PageSize);
            while (page < end)
            {
                bool zeroed = IsZeroed(page);
                ulong first = page;
                do
                {
                    page++;
                }
                while (page < end && IsZeroed(page) == zeroed);
                byte* start = _base + (first * PageSize);
                nuint bytes = (nuint)((page - first) * PageSize);
                if (zeroed)
                {
                    if (madvise(start, bytes, AdviseDontNeed) != 0)
                    {
                        return false;
                    }
                }
                else if (_pieces < MaximumPieces)
                {
                    if (mmap(start, bytes, ProtReadWrite, MapPrivate | MapAnonymous | MapNoReserve | MapFixed, -1, 0) == (void*)-1)
                    {
                        // Nothing has changed: a fixed mapping takes the old one away only when it succeeds.
                        NativeMemory.Clear(start, bytes);
                        continue;
                    }
                    _pieces++;
                    _ = madvise(start, bytes, AdviseDontFork);
                    _ = Backing.Mergeable ? madvise(start, bytes, AdviseMergeable) : 0;
                    for (ulong i = first; i < page; i++)
                    {
                        _zeroed[i / 64] |= 1UL << (int)(i % 64);
                    }
                }
                else
                {
                    NativeMemory.Clear(start, bytes);
                }
            }
            return true;
        }
    }

    /// <summary>
    /// Writes what RAM holds to a file, which can then be another machine's <see cref="MemoryBacking.CopyOf"/>: as long as RAM, with holes where there are only zeros. The machine
    /// must stand still.
    /// </summary>
    /// <param name="file">An empty file, open for writing.</param>
    /// <returns>Bytes that are not in holes.</returns>
    /// <exception cref="IOException">It cannot be written.</exception>
    public long CopyTo(SafeFileHandle file)
    {
        long written = 0;
        RandomAccess.SetLength(file, (long)Size);
        FinishLoading();
        foreach (BackingRange range in FindData(Environment.ProcessId))
        {
            written += CopyTo(file, range.Start, range.End);
        }
        return written;
    }

    private long CopyTo(SafeFileHandle file, ulong start, ulong end)
    {
        long written = 0;
        const ulong longest = 1 << 20;
        while (start < end)
        {
            if (IsZero(start))
            {
                start += PageSize;
                continue;
            }
            ulong first = start;
            do
            {
                start += PageSize;
            }
            while (start < end && start - first < longest && !IsZero(start));
            RandomAccess.Write(file, new ReadOnlySpan<byte>(_base + first, (int)(start - first)), (long)first);
            written += (long)(start - first);
        }
        return written;
    }

    private bool IsZero(ulong offset) => !new ReadOnlySpan<byte>(_base + offset, PageSize).ContainsAnyExcept((byte)0);

    private bool IsZeroed(ulong page) => (_zeroed[page / 64] >> (int)(page % 64) & 1) != 0;

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long lseek(int fd, long offset, int whence);
}
