using System.Buffers;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Blocks;

/// <summary>A part of an image's file that holds no block.</summary>
internal readonly record struct FileRegion(long Start, long End, string What);

internal abstract partial class BlockImage
{
    private const int MostMessages = 100;

    /// <summary>The parts of the file that hold no block, in any order.</summary>
    protected abstract IEnumerable<FileRegion> Structures { get; }

    /// <summary>Bytes behind the last block that belong to the image (a footer).</summary>
    protected virtual int TrailerLength => 0;

    private long Stride => BlockPrefix + (long)BlockSize;

    /// <inheritdoc/>
    /// <remarks>
    /// A corruption is a block outside of the file, in another's place or in that of a structure; mending it gives the block up. A leak is room for
    /// a block that none uses; mending it moves the last block there and cuts the file.
    /// </remarks>
    public async ValueTask<CheckResult> CheckAsync(CheckRepair repair, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        if (repair != CheckRepair.None)
        {
            this.CheckWrite(0, 0);
            await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        }

        if (!IsReadOnly && IsMetadataDirty)
        {
            await CommitAsync(cancellation).ConfigureAwait(false);
        }

        var messages = new List<string>();
        var (placed, bad) = Survey(messages);
        var other = await CheckFormatAsync(repair, messages, cancellation).ConfigureAwait(false);
        long fragmented = 0;
        var byBlock = placed.OrderBy(place => place.Block).ToArray();
        for (var index = 1; index < byBlock.Length; index++)
        {
            fragmented += byBlock[index].Start - byBlock[index - 1].Start != Stride ? 1 : 0;
        }

        var slots = FindSlots(placed);
        var end = UsedEnd(placed);
        var behind = Math.Max(File.Length - end - TrailerLength, 0);
        var leaks = slots.Count + ((behind + Stride - 1) / Stride);
        if (leaks > 0)
        {
            Report(messages, $"room for {leaks} blocks is not used");
        }

        long corruptionsFixed = 0;
        long leaksFixed = 0;
        if (repair == CheckRepair.All && bad.Count > 0)
        {
            foreach (var block in bad)
            {
                Assign(block, new BlockEntry(BlockKind.Absent));
            }

            corruptionsFixed = bad.Count;
        }

        if (repair != CheckRepair.None && leaks > 0 && (bad.Count == 0 || repair == CheckRepair.All))
        {
            await MoveIntoSlotsAsync(placed, slots, progress, cancellation).ConfigureAwait(false);
            leaksFixed = leaks;
        }

        if (repair != CheckRepair.None)
        {
            await CommitAsync(cancellation).ConfigureAwait(false);
            if (leaksFixed > 0)
            {
                end = UsedEnd(placed);
                await CutAsync(end, cancellation).ConfigureAwait(false);
            }
        }

        progress?.Report(1);
        return other with
        {
            Corruptions = bad.Count + other.Corruptions,
            CorruptionsFixed = corruptionsFixed + other.CorruptionsFixed,
            Leaks = leaks + other.Leaks,
            LeaksFixed = leaksFixed + other.LeaksFixed,
            TotalClusters = BlockCount,
            AllocatedClusters = placed.Count,
            FragmentedClusters = fragmented,
            ImageEndOffset = end + TrailerLength,
            Messages = messages,
        };
    }

    /// <summary>Checks what is particular to the format; only the counts matter.</summary>
    protected virtual ValueTask<CheckResult> CheckFormatAsync(CheckRepair repair, List<string> messages, CancellationToken cancellation) => ValueTask.FromResult(new CheckResult());

    /// <summary>What is wrong with an entry of the table besides its place, or null.</summary>
    protected virtual string? Fault(long block) => null;

    protected static void Report(List<string> messages, string message)
    {
        if (messages.Count < MostMessages)
        {
            messages.Add(message);
        }
    }

    /// <summary>Sets <see cref="End"/> behind all that the image uses.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: blocks lie outside of the file, overlap each other or a structure; not when the image is opened to be checked.</exception>
    protected void CheckPlacement()
    {
        var messages = new List<string>();
        var (placed, _) = Survey(messages);
        if (messages.Count > 0 && !_context.Checking)
        {
            throw new DiskException(DiskError.Corrupt, messages[0]);
        }

        End = UsedEnd(placed);
    }

    /// <summary>The structure that a range meets, of structures in order and the farthest end of each and those before it.</summary>
    private static string? InStructure(FileRegion[] structures, long[] ends, long start, long end)
    {
        var (low, high) = (0, structures.Length);
        while (low < high)
        {
            var middle = (low + high) / 2;
            (low, high) = structures[middle].Start < end ? (middle + 1, high) : (low, middle);
        }

        return low > 0 && ends[low - 1] > start ? structures[low - 1].What : null;
    }

    private long UsedEnd(List<Place> placed)
    {
        var end = placed.Count == 0 ? 0 : placed.Max(place => place.Start) + Stride;
        foreach (var region in Structures)
        {
            end = Math.Max(end, region.End);
        }

        return end;
    }

    /// <summary>The blocks that are well placed, by place, and the others.</summary>
    private (List<Place> Placed, List<long> Bad) Survey(List<string> messages)
    {
        var placed = new List<Place>();
        var bad = new List<long>();
        var structures = Structures.OrderBy(region => region.Start).ToArray();
        var ends = new long[structures.Length];
        for (var index = 0; index < ends.Length; index++)
        {
            ends[index] = Math.Max(structures[index].End, index > 0 ? ends[index - 1] : 0);
        }

        var sorted = true;
        for (long block = 0; block < BlockCount; block++)
        {
            if (Fault(block) is { } fault)
            {
                Report(messages, $"block {block}: {fault}");
                bad.Add(block);
                continue;
            }

            var entry = Find(block);
            if (entry.Kind is not (BlockKind.Data or BlockKind.Partial))
            {
                continue;
            }

            var start = entry.Offset - BlockPrefix;
            if (start < 0 || start > File.Length - Stride)
            {
                Report(messages, $"block {block} at {start} reaches beyond the file's end");
                bad.Add(block);
            }
            else if (InStructure(structures, ends, start, start + Stride) is { } what)
            {
                Report(messages, $"block {block} at {start} overlaps the {what}");
                bad.Add(block);
            }
            else
            {
                sorted &= placed.Count == 0 || placed[^1].Start < start;
                placed.Add(new Place(start, block));
            }
        }

        if (!sorted)
        {
            placed.Sort((one, other) => one.Start != other.Start ? one.Start.CompareTo(other.Start) : one.Block.CompareTo(other.Block));
        }

        var kept = 0;
        for (var index = 0; index < placed.Count; index++)
        {
            if (kept > 0 && placed[index].Start < placed[kept - 1].Start + Stride)
            {
                Report(messages, $"block {placed[index].Block} at {placed[index].Start} overlaps block {placed[kept - 1].Block}");
                bad.Add(placed[index].Block);
            }
            else
            {
                placed[kept++] = placed[index];
            }
        }

        placed.RemoveRange(kept, placed.Count - kept);
        return (placed, bad);
    }

    /// <summary>Places between what begins the file and the last block that could hold one.</summary>
    private List<long> FindSlots(List<Place> placed)
    {
        var slots = new List<long>();
        if (placed.Count == 0)
        {
            return slots;
        }

        var used = Structures.Select(region => (region.Start, region.End)).Concat(placed.Select(place => (place.Start, End: place.Start + Stride))).OrderBy(region => region.Start);
        var at = Structures.Where(region => region.Start < placed[0].Start).Max(region => region.End);
        foreach (var (start, end) in used)
        {
            // Behind the last block there is only a structure that was moved there: no block could be put before it to make the file shorter.
            if (at > placed[^1].Start)
            {
                break;
            }

            while (PlaceAfter(at + BlockPrefix) - BlockPrefix is var slot && slot + Stride <= start)
            {
                slots.Add(slot);
                at = slot + Stride;
            }

            at = Math.Max(at, end);
        }

        return slots;
    }

    private async ValueTask MoveIntoSlotsAsync(List<Place> placed, List<long> slots, IProgress<double>? progress, CancellationToken cancellation)
    {
        var buffer = ArrayPool<byte>.Shared.Rent(1 << 20);
        try
        {
            for (var index = 0; index < slots.Count; index++)
            {
                var slot = slots[index];
                var (last, block) = placed[^1];
                if (slot > last)
                {
                    break;
                }

                for (long done = 0; done < Stride;)
                {
                    var part = buffer.AsMemory(0, (int)Math.Min(buffer.Length, Stride - done));
                    await File.ReadAsync(last + done, part, cancellation).ConfigureAwait(false);
                    await File.WriteAsync(slot + done, part, WriteOptions.None, cancellation).ConfigureAwait(false);
                    done += part.Length;
                }

                Assign(block, Find(block) with { Offset = slot + BlockPrefix });
                placed.RemoveAt(placed.Count - 1);
                placed.Insert(placed.FindIndex(place => place.Start > slot) is var at and >= 0 ? at : placed.Count, new Place(slot, block));
                progress?.Report((double)index / slots.Count);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
            Bitmaps.Clear();
        }
    }

    /// <summary>Cuts the file behind all that the image uses.</summary>
    protected async ValueTask CutAsync(long end, CancellationToken cancellation)
    {
        await WithAllocationAsync(
            async () =>
            {
                ResetEnd(end);
                if (File.Length > end)
                {
                    await File.ResizeAsync(end, cancellation).ConfigureAwait(false);
                }

                OnCut();
                return true;
            },
            cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>Called when the file is cut behind the last block.</summary>
    protected virtual void OnCut()
    {
    }

    private readonly record struct Place(long Start, long Block);
}
