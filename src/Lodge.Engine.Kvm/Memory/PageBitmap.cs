using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Memory;

/// <summary>A bit for each page of RAM, set by any thread and taken by one.</summary>
internal sealed class PageBitmap(GuestMemory memory)
{
    private readonly ulong[] _words = new ulong[(memory.Size / GuestMemory.PageSize + 63) / 64];

    /// <summary>Number of words.</summary>
    public int WordCount => _words.Length;

    /// <summary>Marks a page by its number in the backing.</summary>
    public void Set(ulong page)
    {
        if (page / 64 < (ulong)_words.Length)
        {
            Interlocked.Or(ref _words[page / 64], 1UL << (int)(page % 64));
        }
    }

    /// <summary>Marks the pages of a guest physical range; for <see cref="GuestMemory.AnyWritten"/>.</summary>
    public void Set(ulong address, ulong length)
    {
        if (length != 0 && memory.TryGetOffset(address, length, out ulong offset))
        {
            for (ulong page = offset / GuestMemory.PageSize; page <= (offset + length - 1) / GuestMemory.PageSize; page++)
            {
                Set(page);
            }
        }
    }

    /// <summary>Moves all marks to <paramref name="destination"/>, where they are added.</summary>
    public void Take(Span<ulong> destination)
    {
        for (int i = 0; i < _words.Length; i++)
        {
            if (Volatile.Read(ref _words[i]) != 0)
            {
                destination[i] |= Interlocked.Exchange(ref _words[i], 0);
            }
        }
    }

    /// <summary>Forgets all marks.</summary>
    public void Clear() => Array.Clear(_words);
}
