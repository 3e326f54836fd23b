using System.Globalization;
using Lodge.Engine.Memory;
using Xunit;

namespace Lodge.Engine.Tests;

/// <summary>RAM of every kind that this host has; those that change settings of the host put them back and run one after the other.</summary>
public sealed class MemoryBackingTests
{
    private const string Merging = "/sys/kernel/mm/ksm", Pool = "/sys/kernel/mm/hugepages/hugepages-2048kB", Transparent = "/sys/kernel/mm/transparent_hugepage/enabled";

    [Theory]
    [InlineData(HugePages.None, false, false)]
    [InlineData(HugePages.None, true, false)]
    [InlineData(HugePages.None, false, true)]
    [InlineData(HugePages.Transparent, false, false)]
    public void Memory_is_zero_keeps_what_is_written_and_is_zero_after_a_discard(HugePages pages, bool mergeable, bool locked)
    {
        Assert.SkipWhen(pages == HugePages.Transparent && File.ReadAllText(Transparent).Contains("[never]", StringComparison.Ordinal), "transparent huge pages are off");
        using GuestMemory? memory = LockedOrNot(new MemoryBacking(pages, mergeable, locked), 4UL << 20);
        Assert.SkipWhen(memory is null, "RLIMIT_MEMLOCK is too small");
        WriteAndDiscard(memory, 4UL << 20);
        Assert.Equal(mergeable || pages == HugePages.Transparent, memory.FileDescriptor < 0);
    }

    [Theory]
    [InlineData(HugePages.Pool2M, true, false)]
    [InlineData(HugePages.Transparent, true, false)]
    [InlineData(HugePages.None, true, true)]
    public void Backings_that_contradict_themselves_are_refused(HugePages pages, bool mergeable, bool locked)
    {
        var backing = new MemoryBacking(pages, mergeable, locked);
        Assert.NotNull(backing.Contradiction(1 << 30));
        Assert.Throws<ArgumentException>(() => new GuestMemory(1 << 30, backing));
    }

    [Fact]
    public void Size_is_a_multiple_of_the_pages()
    {
        Assert.Contains("2 MiB", new MemoryBacking(HugePages.Pool2M).Contradiction(17UL << 20), StringComparison.Ordinal);
        Assert.Contains("1 GiB", new MemoryBacking(HugePages.Pool1G).Contradiction(1536UL << 20), StringComparison.Ordinal);
        Assert.Null(new MemoryBacking(HugePages.Pool2M).Contradiction(18UL << 20));
    }

    [Fact]
    public void A_pool_without_pages_is_named_with_what_to_do()
    {
        const ulong size = 1UL << 40;
        Assert.SkipUnless(Directory.Exists(Pool), "no 2 MiB pages on this host");
        IOException e = Assert.Throws<IOException>(() => new GuestMemory(size, new MemoryBacking(HugePages.Pool2M)));
        Assert.Contains("524288 huge pages of 2 MiB are needed and", e.Message, StringComparison.Ordinal);
        Assert.Contains("nr_hugepages", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Pages_of_the_pool_are_taken_at_once_and_come_back()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess && File.Exists($"{Pool}/nr_hugepages"), "needs root to fill the pool");
        const int pages = 8;
        long before = Number($"{Pool}/nr_hugepages");
        try
        {
            File.WriteAllText($"{Pool}/nr_hugepages", $"{before + pages}");
            Assert.SkipUnless(Number($"{Pool}/free_hugepages") >= pages, "the host has no huge pages left");
            long free = Number($"{Pool}/free_hugepages");
            using (var memory = new GuestMemory(pages * (2UL << 20), new MemoryBacking(HugePages.Pool2M)))
            {
                Assert.Equal(free - pages, Number($"{Pool}/free_hugepages"));
                WriteAndDiscard(memory, 4UL << 20);
                // They stay with the machine, or one day they would be gone.
                Assert.True(memory.TryDiscard(0, memory.Size));
                Assert.Equal(free - pages, Number($"{Pool}/free_hugepages"));
            }
            Assert.Equal(free, Number($"{Pool}/free_hugepages"));
        }
        finally
        {
            File.WriteAllText($"{Pool}/nr_hugepages", $"{before}");
        }
    }

    [Fact]
    public void Locked_memory_is_in_the_hosts_memory_from_the_beginning()
    {
        long before = Status("VmLck:");
        using GuestMemory? memory = LockedOrNot(new MemoryBacking(Locked: true), 8UL << 20);
        Assert.SkipWhen(memory is null, "RLIMIT_MEMLOCK is too small");
        Assert.True(Status("VmLck:") - before >= 8 << 10);
    }

    [Fact]
    public void More_than_the_host_has_is_not_locked()
    {
        IOException e = Assert.Throws<IOException>(() => new GuestMemory(1UL << 44, new MemoryBacking(Locked: true)));
        Assert.Contains("cannot be locked: the host has", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Transparent_pages_are_huge()
    {
        Assert.SkipWhen(File.ReadAllText(Transparent).Contains("[never]", StringComparison.Ordinal), "transparent huge pages are off");
        using var memory = new GuestMemory(64UL << 20, new MemoryBacking(HugePages.Transparent));
        for (ulong address = 0; address < memory.Size; address += 4096)
        {
            Assert.True(memory.TryWrite(address, address + 1));
        }
        Assert.SkipUnless(HugeKilobytes(memory) > 0, "the host had no free huge page");
        Assert.True(HugeKilobytes(memory) >= 2048);
    }

    [Fact]
    public void Equal_pages_of_two_machines_are_merged()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess && Directory.Exists(Merging), "needs root and a kernel with KSM");
        string[] settings = ["pages_to_scan", "sleep_millisecs", "run"];
        string[] before = [.. settings.Select(name => File.ReadAllText($"{Merging}/{name}").Trim())];
        const int size = 8 << 20, pages = size / 4096;
        var backing = new MemoryBacking(Mergeable: true);
        using var one = new GuestMemory(size, backing);
        using var other = new GuestMemory(size, backing);
        byte[] page = new byte[4096];
        for (int i = 0; i < pages; i++)
        {
            new Random(i).NextBytes(page);
            Assert.True(one.TryWrite((ulong)i * 4096, page));
            Assert.True(other.TryWrite((ulong)i * 4096, page));
        }
        try
        {
            Set(["100000", "1", "1"]);
            // Bounded by scans, not by time: a page is merged in the third at the latest, and each scan ends.
            long scans = Number($"{Merging}/full_scans");
            while (Number($"{Merging}/full_scans") < scans + 6 && Merged() < pages)
            {
                Thread.Sleep(5);
            }
            Assert.True(Merged() >= pages * 9 / 10, $"{Merged()} of {pages} pages were merged");
            // Each machine still has its own memory.
            Assert.True(one.TryWrite(0, 0x1234_5678UL));
            Assert.True(other.TryRead(0, out ulong untouched));
            Assert.NotEqual(0x1234_5678UL, untouched);
        }
        finally
        {
            Set(before);
        }

        void Set(string[] values)
        {
            for (int i = 0; i < settings.Length; i++)
            {
                File.WriteAllText($"{Merging}/{settings[i]}", values[i]);
            }
        }

        // Of this process alone (Linux 6.1 and later), as other work of the host may be merged too.
        static long Merged() => File.ReadLines("/proc/self/ksm_stat").Where(line => line.StartsWith("ksm_merging_pages", StringComparison.Ordinal))
            .Select(line => long.Parse(line.AsSpan(line.LastIndexOf(' ') + 1), CultureInfo.InvariantCulture)).FirstOrDefault();
    }

    private static GuestMemory? LockedOrNot(MemoryBacking backing, ulong size)
    {
        try
        {
            return new GuestMemory(size, backing);
        }
        catch (IOException e) when (backing.Locked && e.Message.Contains("RLIMIT_MEMLOCK", StringComparison.Ordinal))
        {
            return null;
        }
    }

    private static void WriteAndDiscard(GuestMemory memory, ulong size)
    {
        foreach (ulong address in (ulong[])[0, 0x1000, size - 0x1000])
        {
            Assert.True(memory.TryRead(address, out ulong fresh));
            Assert.True(memory.TryWrite(address, 0x1122_3344_5566_7788UL));
            Assert.True(memory.TryRead(address, out ulong written));
            Assert.Equal((0UL, 0x1122_3344_5566_7788UL), (fresh, written));
        }
        Assert.True(memory.TryDiscard(0x1000, size - 0x1000));
        Assert.True(memory.TryRead(0x1000, out ulong gone));
        Assert.True(memory.TryRead(size - 0x1000, out ulong alsoGone));
        Assert.True(memory.TryRead(0, out ulong kept));
        Assert.Equal((0UL, 0UL, 0x1122_3344_5566_7788UL), (gone, alsoGone, kept));
    }

    private static unsafe long HugeKilobytes(GuestMemory memory)
    {
        bool inside = false;
        long sum = 0;
        foreach (string line in File.ReadLines("/proc/self/smaps"))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words[0].Split('-') is [{ } from, { } to] && ulong.TryParse(from, NumberStyles.HexNumber, null, out ulong start) && ulong.TryParse(to, NumberStyles.HexNumber, null, out ulong end))
            {
                inside = start < (ulong)memory.HostBase + memory.Size && end > (ulong)memory.HostBase;
            }
            else if (inside && words[0] == "AnonHugePages:")
            {
                sum += long.Parse(words[1], CultureInfo.InvariantCulture);
            }
        }
        return sum;
    }

    private static long Number(string path) => long.Parse(File.ReadAllText(path), CultureInfo.InvariantCulture);

    private static long Status(string field) => File.ReadLines("/proc/self/status").Where(line => line.StartsWith(field, StringComparison.Ordinal))
        .Select(line => long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[^2].Trim(field[^1], '\t'), CultureInfo.InvariantCulture)).First();
}
