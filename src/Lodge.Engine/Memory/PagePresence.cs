using System.Runtime.InteropServices;

namespace Lodge.Engine.Memory;

/// <summary>Which pages of a mapping were ever touched (Linux Documentation/admin-guide/mm/pagemap.rst).</summary>
internal static class PagePresence
{
    private const ulong PresentOrSwapped = 3UL << 62;
    private const int EntriesAtOnce = 32768;

    /// <summary>Ranges of present or swapped pages by their offsets in the mapping; null when the host does not tell.</summary>
    public static List<BackingRange>? Find(int process, ulong address, ulong size)
    {
        try
        {
            using var map = File.OpenHandle($"/proc/{process}/pagemap");
            var ranges = new List<BackingRange>();
            ulong[] entries = new ulong[EntriesAtOnce];
            ulong pages = size / GuestMemory.PageSize, first = ulong.MaxValue;
            for (ulong page = 0; page < pages;)
            {
                int wanted = (int)Math.Min(EntriesAtOnce, pages - page);
                int read = RandomAccess.Read(map, MemoryMarshal.AsBytes(entries.AsSpan(0, wanted)), (long)(((address / GuestMemory.PageSize) + page) * 8)) / 8;
                if (read == 0)
                {
                    return null;
                }
                for (int i = 0; i < read; i++)
                {
                    bool present = (entries[i] & PresentOrSwapped) != 0;
                    if (present && first == ulong.MaxValue)
                    {
                        first = page + (ulong)i;
                    }
                    else if (!present && first != ulong.MaxValue)
                    {
                        ranges.Add(new BackingRange(first * GuestMemory.PageSize, (page + (ulong)i) * GuestMemory.PageSize));
                        first = ulong.MaxValue;
                    }
                }
                page += (ulong)read;
            }
            if (first != ulong.MaxValue)
            {
                ranges.Add(new BackingRange(first * GuestMemory.PageSize, size));
            }
            return ranges;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>What lies in one or the other.</summary>
    public static List<BackingRange> Join(List<BackingRange> a, List<BackingRange> b)
    {
        var joined = new List<BackingRange>();
        foreach (BackingRange range in a.Concat(b).OrderBy(static r => r.Start))
        {
            if (joined.Count != 0 && range.Start <= joined[^1].End)
            {
                joined[^1] = joined[^1] with { End = Math.Max(joined[^1].End, range.End) };
            }
            else
            {
                joined.Add(range);
            }
        }
        return joined;
    }
}
