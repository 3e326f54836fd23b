using Lodge.Engine.Memory;
using Xunit;

namespace Lodge.Engine.Tests;

/// <summary>RAM as it was at one moment while somebody goes on writing, for each kind of RAM.</summary>
public sealed class MemoryImageTests
{
    private const ulong Size = 16UL << 20;
    private const int Pages = (int)(Size / GuestMemory.PageSize);

    public static TheoryData<bool, bool, int> Kinds => new() { { false, false, 1 }, { false, false, 3 }, { true, false, 1 }, { true, false, 3 }, { false, true, 2 } };

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_snapshot_is_of_one_moment_and_memory_goes_on(bool mergeable, bool locked, int snapshots)
    {
        using GuestMemory memory = Create(mergeable, locked);
        // Whole rounds over all pages: at any moment the pages up to some one are of a round and those behind it of the round before.
        using var gate = new ManualResetEventSlim(true);
        bool end = false;
        ulong rounds = 0;
        using var pausedNow = new SemaphoreSlim(0);
        var writer = new Thread(() =>
        {
            for (ulong round = 1; !Volatile.Read(ref end); round++)
            {
                for (int page = 0; page < Pages; page++)
                {
                    if (!gate.IsSet)
                    {
                        pausedNow.Release();
                        gate.Wait();
                    }
                    ulong at = (ulong)page * GuestMemory.PageSize;
                    Assert.True(memory.TryRead(at, out ulong before) && before == round - 1, $"page {page} has {before} in round {round}");
                    memory.TryWrite(at, round);
                }
                Volatile.Write(ref rounds, round);
            }
        });
        writer.Start();
        for (int i = 0; i < snapshots; i++)
        {
            ulong seen = Volatile.Read(ref rounds);
            Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref rounds) > seen || !writer.IsAlive, TimeSpan.FromSeconds(60)) && writer.IsAlive);
            gate.Reset();
            pausedNow.Wait();
            byte[] expected = new byte[Size];
            memory.TryRead(0, expected);
            using MemoryImage image = memory.TakeSnapshot();
            gate.Set();
            seen = Volatile.Read(ref rounds);
            Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref rounds) > seen + 1 || !writer.IsAlive, TimeSpan.FromSeconds(60)) && writer.IsAlive); // all pages are other ones now
            Assert.Equal(expected, Contents(image));
        }
        Volatile.Write(ref end, true);
        writer.Join();
        // What was left to the snapshot came back.
        ulong inFile = memory.FileDescriptor < 0 ? 0 : memory.FileData(memory.FileDescriptor).Aggregate(0UL, static (sum, range) => sum + range.End - range.Start);
        Assert.Equal(0UL, inFile);
        Assert.Equal(rounds, memory.TryRead(Size - GuestMemory.PageSize, out ulong last) ? last : 0);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Untouched_and_discarded_memory_is_no_data(bool mergeable)
    {
        using GuestMemory memory = Create(mergeable, false);
        memory.TryWrite(5UL << 20, 1UL);
        memory.TryWrite(9UL << 20, 1UL);
        for (int i = 0; i < 3; i++)
        {
            using (MemoryImage image = i == 1 ? memory.TakeSnapshot() : memory.CurrentImage())
            {
                Assert.InRange(image.Data.Aggregate(0UL, static (sum, range) => sum + range.End - range.Start), 2UL * GuestMemory.PageSize, 1UL << 20);
                Assert.Contains(image.Data, static range => range.Start <= 5UL << 20 && range.End > 5UL << 20);
                byte[] contents = Contents(image);
                Assert.Equal((1, 1), (contents[5 << 20], contents[9 << 20]));
                Assert.Equal(2, contents.Count(static b => b != 0));
            }
        }
        Assert.True(memory.TryDiscard(5UL << 20, 1UL << 20));
        using MemoryImage after = memory.CurrentImage();
        Assert.DoesNotContain(after.Data, static range => range.Start < 6UL << 20 && range.End > 5UL << 20);
        Assert.True(memory.TryRead(5UL << 20, out ulong zero) && zero == 0);
    }

    [Fact]
    public void A_discard_during_a_snapshot_changes_memory_and_not_the_image()
    {
        using GuestMemory memory = Create(false, false);
        for (int round = 0; round < 2; round++)
        {
            memory.TryWrite(1UL << 20, 7UL);
            using MemoryImage image = memory.TakeSnapshot();
            Assert.True(memory.TryDiscard(1UL << 20, 1UL << 20));
            Assert.True(memory.TryRead(1UL << 20, out ulong value) && value == 0);
            Assert.Equal(7, Contents(image)[1 << 20]);
        }
    }

    [Fact]
    public void The_process_that_keeps_memory_has_no_other_files_and_ends_with_the_image()
    {
        using GuestMemory memory = Create(true, false);
        memory.TryWrite(0, 1UL);
        int[] before = Children();
        using (MemoryImage image = memory.TakeSnapshot())
        {
            int child = Assert.Single(Children().Except(before));
            Assert.Equal(1, Contents(image)[0]); // it has answered, so it is past its beginning
            Assert.Equal(["0"], Directory.GetFiles($"/proc/{child}/fd").Select(Path.GetFileName));
        }
        Assert.Empty(Children().Except(before));
    }

    [Fact]
    public void The_process_that_keeps_memory_ends_with_its_thread()
    {
        using GuestMemory memory = Create(true, false);
        memory.TryWrite(0, 1UL);
        MemoryImage image = null!;
        var thread = new Thread(() =>
        {
            image = memory.TakeSnapshot();
            Contents(image); // it is past its beginning
        });
        thread.Start();
        thread.Join();
        Assert.True(SpinWait.SpinUntil(() => Record.Exception(() => Contents(image)) is IOException, TimeSpan.FromSeconds(30)));
        image.Dispose();
    }

    [Fact]
    public void Memory_that_began_as_a_copy_has_images_too()
    {
        string path = Path.GetTempFileName();
        try
        {
            using (GuestMemory original = Create(false, false))
            {
                original.TryWrite(1UL << 20, 1UL);
                original.TryWrite(2UL << 20, 2UL);
                original.TakeSnapshot().Dispose(); // what is copied is RAM and not what is left of its file
                original.TryWrite(2UL << 20, 3UL);
                using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Write);
                original.CopyTo(file);
            }
            using var memory = new GuestMemory(Size, MemoryBacking.Default with { CopyOf = path });
            memory.TryWrite(4UL << 20, 4UL);
            for (int i = 0; i < 2; i++)
            {
                using MemoryImage image = i == 0 ? memory.CurrentImage() : memory.TakeSnapshot();
                memory.TryWrite(1UL << 20, i == 0 ? 1UL : 9UL);
                byte[] contents = Contents(image);
                Assert.Equal((1, 3, 4), (contents[1 << 20], contents[2 << 20], contents[4 << 20]));
                Assert.Equal(3, contents.Count(static b => b != 0));
            }
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void One_snapshot_at_a_time()
    {
        using GuestMemory memory = Create(false, false);
        MemoryImage first = memory.TakeSnapshot();
        Assert.Throws<InvalidOperationException>(() => memory.TakeSnapshot());
        first.Dispose();
        memory.TakeSnapshot().Dispose();
    }

    [Fact]
    public void An_image_outlives_its_memory()
    {
        GuestMemory memory = Create(false, false);
        memory.TryWrite(12345, 99UL);
        using MemoryImage image = memory.TakeSnapshot();
        memory.Dispose();
        Assert.Equal(99, Contents(image)[12345]);
    }

    private static int[] Children() =>
        [.. Directory.GetDirectories("/proc/self/task").SelectMany(static task => ReadWords($"{task}/children")).Select(int.Parse)];

    private static string[] ReadWords(string path)
    {
        try
        {
            return File.ReadAllText(path).Split(' ', StringSplitOptions.RemoveEmptyEntries);
        }
        catch (IOException)
        {
            return []; // the thread is over
        }
    }

    private static byte[] Contents(MemoryImage image)
    {
        byte[] contents = new byte[image.Size];
        foreach (BackingRange range in image.Data)
        {
            image.Read(range.Start, contents.AsSpan((int)range.Start, (int)(range.End - range.Start)));
        }
        return contents;
    }

    private static GuestMemory Create(bool mergeable, bool locked)
    {
        try
        {
            return new GuestMemory(Size, new MemoryBacking(HugePages.None, mergeable, locked));
        }
        catch (IOException e) when (locked)
        {
            Assert.Skip(e.Message);
            throw;
        }
    }
}
