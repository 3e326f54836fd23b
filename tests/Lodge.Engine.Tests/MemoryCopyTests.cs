using Lodge.Engine.Memory;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Lodge.Engine.Tests;

/// <summary>RAM that begins as a copy of a file.</summary>
public sealed class MemoryCopyTests : IDisposable
{
    private const ulong Size = 4UL << 20;
    private readonly string _path = Path.Combine(Path.GetTempPath(), $"lodge-memory-{Guid.NewGuid():n}");

    public MemoryCopyTests()
    {
        using GuestMemory original = new(Size);
        for (ulong address = 0; address < Size; address += 0x3000)
        {
            Assert.True(original.TryWrite(address, address + 1));
        }
        Assert.True(original.TryWrite(Size - 8, ulong.MaxValue));
        using SafeFileHandle file = File.OpenHandle(_path, FileMode.CreateNew, FileAccess.Write);
        original.CopyTo(file);
    }

    public void Dispose() => File.Delete(_path);

    [Fact]
    public void It_holds_what_the_original_held_and_changes_alone()
    {
        byte[] before = File.ReadAllBytes(_path);
        using GuestMemory one = Copy(), other = Copy();
        File.Delete(_path);
        Assert.True(one.FileDescriptor < 0);
        Assert.Equal(before, Contents(one));
        for (ulong address = 0; address < Size; address += 8)
        {
            Assert.True(one.TryWrite(address, 0x5555UL));
        }
        Assert.Equal(before, Contents(other));
        using GuestMemory third = new(Size);
        Assert.True(third.TryRead(0, out ulong zero) && zero == 0);
    }

    [Fact]
    public void The_file_has_holes_where_memory_is_zero()
    {
        string path = _path + ".sparse";
        try
        {
            using GuestMemory memory = new(64UL << 20);
            Assert.True(memory.TryWrite(32UL << 20, 1UL));
            Assert.True(memory.TryRead(8UL << 20, out ulong zero) && zero == 0);
            using (SafeFileHandle file = File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write))
            {
                memory.CopyTo(file);
            }
            using FileStream written = File.OpenRead(path);
            Assert.Equal(64L << 20, written.Length);
            using System.Diagnostics.Process du = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("du", ["-k", path]) { RedirectStandardOutput = true })!;
            int blocks = int.Parse(du.StandardOutput.ReadToEnd().Split('\t')[0], System.Globalization.CultureInfo.InvariantCulture);
            Assert.InRange(blocks, 4, 1024);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Discarded_pages_read_as_zero_and_the_others_as_before()
    {
        byte[] expected = File.ReadAllBytes(_path);
        using GuestMemory memory = Copy();
        Random random = new(20);
        for (int i = 0; i < 2000; i++)
        {
            int page = random.Next((int)(Size / 4096)), pages = Math.Min(random.Next(1, 9), (int)(Size / 4096) - page);
            if (random.Next(3) == 0)
            {
                Assert.True(memory.TryWrite((ulong)page * 4096, 0x0123_4567_89AB_CDEFUL));
                BitConverter.TryWriteBytes(expected.AsSpan(page * 4096), 0x0123_4567_89AB_CDEFUL);
            }
            else
            {
                Assert.True(memory.TryDiscard((ulong)page * 4096, (ulong)pages * 4096));
                expected.AsSpan(page * 4096, pages * 4096).Clear();
            }
        }
        Assert.Equal(expected, Contents(memory));
        Assert.True(memory.TryDiscard(0, Size));
        Assert.Equal(new byte[Size], Contents(memory));
    }

    [Fact]
    public void Many_small_discards_do_not_use_up_the_host_s_mappings()
    {
        const ulong size = 256UL << 20;
        string path = _path + ".large";
        try
        {
            using (SafeFileHandle file = File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write))
            {
                RandomAccess.SetLength(file, (long)size);
                RandomAccess.Write(file, new byte[] { 1 }, (long)size - 4096);
            }
            using GuestMemory memory = new(size, MemoryBacking.Default with { CopyOf = path });
            int before = File.ReadLines("/proc/self/maps").Count();
            for (ulong address = 0; address < size; address += 8192)
            {
                Assert.True(memory.TryDiscard(address, 4096));
            }
            Assert.InRange(File.ReadLines("/proc/self/maps").Count() - before, 1000, 20_000);
            Assert.True(memory.TryDiscard(size - 4096, 4096));
            Assert.True(memory.TryRead(size - 4096, out byte last) && last == 0);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_file_of_another_size_or_none_is_refused()
    {
        Assert.Contains($"{Size}", Assert.Throws<IOException>(() => new GuestMemory(2 * Size, MemoryBacking.Default with { CopyOf = _path })).Message, StringComparison.Ordinal);
        Assert.Throws<IOException>(() => new GuestMemory(Size, MemoryBacking.Default with { CopyOf = _path + ".none" }));
        Assert.Throws<ArgumentException>(() => new GuestMemory(Size, new MemoryBacking(HugePages.Pool2M) { CopyOf = _path }));
    }

    private GuestMemory Copy() => new(Size, MemoryBacking.Default with { CopyOf = _path });

    private static byte[] Contents(GuestMemory memory)
    {
        byte[] all = new byte[memory.Size];
        Assert.True(memory.TryRead(0, all));
        return all;
    }
}
