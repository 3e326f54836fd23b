using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Storage.Tests.Harness;

/// <summary>Does random operations on a disk and on a plain array alike, and compares.</summary>
public sealed class DiskModel(IDisk disk, Random random, byte[]? content = null)
{
    /// <summary>What the disk should hold.</summary>
    public byte[] Content { get; } = content ?? new byte[disk.Length];

    /// <summary>What it should hold after a power cut at the least: bytes that were flushed and not written since; the mask tells which.</summary>
    public byte[] Flushed { get; private set; } = content?.ToArray() ?? new byte[disk.Length];

    /// <summary>True for bytes changed since the last flush: these may hold the old or the new value after a power cut.</summary>
    public bool[] Unflushed { get; private set; } = new bool[disk.Length];

    /// <summary>One random write, zero, discard (of a disk that reads zeroes afterwards only with <paramref name="discardZeroes"/>), flush or read with comparison.</summary>
    public async Task StepAsync(int largest = 200_000, bool discardZeroes = false)
    {
        var (offset, length) = Range(largest);
        switch (random.Next(10))
        {
            case < 5:
                var bytes = new byte[length];
                random.NextBytes(bytes);
                if (random.Next(8) == 0)
                {
                    bytes.AsSpan().Clear();
                }

                bytes.CopyTo(Content, offset);
                Mark(offset, length);
                await disk.WriteAsync(offset, Split(bytes));
                break;
            case 5:
                Content.AsSpan(offset, length).Clear();
                Mark(offset, length);
                await disk.ZeroAsync(offset, length, random.Next(2) == 0 ? ZeroOptions.MayUnmap : ZeroOptions.None);
                break;
            case 6 when discardZeroes && disk is IDiscard discard:
                var unit = discard.DiscardGranularity;
                var start = (offset + unit - 1) / unit * unit;
                var end = (offset + length) / unit * unit;
                if (start < end)
                {
                    Content.AsSpan(start, end - start).Clear();
                    Mark(start, end - start);
                    await discard.DiscardAsync(start, end - start);
                }

                break;
            case 7:
                await disk.FlushAsync();
                Flushed = Content.ToArray();
                Unflushed.AsSpan().Clear();
                break;
            default:
                var read = new byte[length];
                await disk.ReadAsync(offset, Split(read));
                Assert.True(read.AsSpan().SequenceEqual(Content.AsSpan(offset, length)), $"bytes at {offset}, {length} long, differ");
                break;
        }
    }

    /// <summary>Compares the whole disk.</summary>
    public async Task CompareAsync(IDisk? other = null)
    {
        var read = await (other ?? disk).ReadBytesAsync(0, Content.Length);
        var same = read.AsSpan().CommonPrefixLength(Content);
        Assert.True(same == Content.Length, $"the disk differs at {same}");
    }

    /// <summary>After a power cut: every byte that was flushed and not written since is there.</summary>
    public async Task CompareFlushedAsync(IDisk survivor)
    {
        var read = await survivor.ReadBytesAsync(0, Content.Length);
        for (var index = 0; index < read.Length; index++)
        {
            if (!Unflushed[index] && read[index] != Flushed[index])
            {
                Assert.Fail($"the flushed byte at {index} is lost");
            }
        }
    }

    private void Mark(int offset, int length) => Unflushed.AsSpan(offset, length).Fill(true);

    private (int Offset, int Length) Range(int largest)
    {
        var length = random.Next(1, Math.Min(largest, Content.Length) + 1);
        var offset = random.Next(0, Content.Length - length + 1);
        if (random.Next(2) == 0)
        {
            offset &= ~511;
            length = Math.Min((length + 511) & ~511, Content.Length - offset);
        }

        return (offset, length);
    }

    private IoVector Split(byte[] bytes)
    {
        if (bytes.Length < 3 || random.Next(2) == 0)
        {
            return bytes;
        }

        var at = random.Next(1, bytes.Length - 1);
        return new IoVector([bytes.AsMemory(0, at), Memory<byte>.Empty, bytes.AsMemory(at)]);
    }
}
