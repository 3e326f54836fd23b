using System.Runtime.CompilerServices;

namespace Lodge.Engine.Translation.Processor;

// Repeated string instructions a page at a time, through host pointers, where both sides are RAM. What is done is exactly what the elements one by
// one would do; whatever cannot be proved so is left to them by doing nothing.
internal sealed unsafe partial class Vcpu
{
    private const ulong PageSize = 4096;

    // Host memory of a run of elements: the first element and how many follow each other in one page.
    private struct StringRange
    {
        public byte* Host;
        public ulong Physical;
        public ulong Count;
    }

    /// <summary>
    /// REP MOVS or STOS in 64-bit mode with 64-bit addresses, DS and ES, as translated code meets it most often. Does not throw. True when all of RCX was
    /// done; false when the rest, from the registers as they now are, must be executed as an instruction (fault, device memory, interrupt).
    /// </summary>
    internal bool TryFastRepeat(StringOperation operation, int size)
    {
        if (!StringBlocksAllowed)
        {
            return B->Gpr[1] == 0;
        }
        var s = new StringInstruction(operation, size, 8, Seg.Ds, 1, (B->SystemFlags & FlagDf) != 0);
        while (B->Gpr[1] != 0)
        {
            ulong done = operation == StringOperation.Move ? MoveBlock(s, B->Gpr[1], flat: true) : StoreBlock(s, B->Gpr[1], flat: true);
            if (done == 0)
            {
                return false;
            }
            AdvanceString(s, done);
            B->Gpr[1] -= done;
            if (B->Gpr[1] != 0 && Volatile.Read(ref B->ExitRequest) != 0)
            {
                return false;
            }
        }
        return true;
    }

    // A trap flag stops after each element; data breakpoints and alignment checks (CPL 3, CR0.AM, EFLAGS.AC) want to see every element.
    private bool StringBlocksAllowed =>
        !Replaying && (B->SystemFlags & FlagTf) == 0 && (B->Dr7 & 0xFF) == 0 && !(B->Cpl == 3 && (B->Cr0 & (1UL << 18)) != 0 && (B->SystemFlags & FlagAc) != 0);

    // Number of elements done, 0 when the next one must go the long way. The flags of CMPS and SCAS are those of the last element done.
    private ulong ExecuteBlock(in StringInstruction s, ulong count) => s.Operation switch
    {
        StringOperation.Move => MoveBlock(s, count, flat: false),
        StringOperation.Store => StoreBlock(s, count, flat: false),
        StringOperation.Load => LoadBlock(s, count),
        StringOperation.Compare => CompareBlock(s, count),
        StringOperation.Scan => ScanBlock(s, count),
        _ => 0,
    };

    // The elements from a register's address that lie in one page of RAM, all within the segment and without address wrap.
    private bool TryRange(in StringInstruction s, int segment, int register, ulong count, AccessKind access, bool flat, out StringRange range)
    {
        range = default;
        ulong offset = B->Gpr[register] & s.Mask, size = (uint)s.Size;
        ulong linear;
        if (flat)
        {
            if ((ulong)((long)(offset << 16) >> 16) != offset)
            {
                return false;
            }
            linear = offset;
        }
        else
        {
            if (!Code64)
            {
                Segment* descriptor = Segment(segment);
                bool expandDown = descriptor->IsCodeOrData && (descriptor->Type & 0xC) == 4;
                if (descriptor->Unusable || (expandDown && !Virtual8086 && ProtectedMode) || offset > descriptor->Limit || descriptor->Limit - offset < size - 1)
                {
                    return false;
                }
                ulong toLimit = ((descriptor->Limit - offset + 1) / size);
                count = s.Backward ? count : Math.Min(count, toLimit);
            }
            linear = LinearAddress(segment, offset, s.Size, access);

            // Downwards the offset may reach 0 but not pass it; upwards not the end of the address width.
            ulong toWrap = s.Backward ? (offset / size) + 1 : s.Mask - offset < size - 1 ? 0 : ((s.Mask - offset - (size - 1)) / size) + 1;
            count = Math.Min(count, toWrap);
        }
        ulong inPage = linear & (PageSize - 1);
        if (inPage > PageSize - size)
        {
            return false;
        }
        ulong fit = s.Backward ? (inPage / size) + 1 : (PageSize - inPage) / size;
        range.Count = Math.Min(count, fit);
        if (range.Count == 0 || Watched(linear - inPage))
        {
            return false;
        }
        SecondLevelEntry* entry = TlbLookup(linear, access, TlbMode);
        if (entry == null || entry->Host == null || Watched(linear & ~0xFFFUL))
        {
            return false;
        }
        EnterFirstLevel(linear, entry, TlbMode); // the next one runs as emitted code
        range.Host = entry->Host + inPage;
        range.Physical = entry->Physical + inPage;
        return true;
    }

    // Reports a finished store of elements that starts at the range's first element and runs in the direction of DF.
    private void BlockWritten(in StringInstruction s, in StringRange range, ulong count)
    {
        ulong bytes = count * (uint)s.Size;
        Memory.Written(s.Backward ? range.Physical - (bytes - (uint)s.Size) : range.Physical, bytes);
    }

    private ulong MoveBlock(in StringInstruction s, ulong count, bool flat)
    {
        if (!TryRange(s, s.Segment, 6, count, AccessKind.Read, flat, out StringRange source)
            || !TryRange(s, Seg.Es, 7, source.Count, AccessKind.Write, flat, out StringRange destination))
        {
            return 0;
        }
        count = destination.Count;
        long size = s.Size, bytes = (long)count * size;
        byte* from = s.Backward ? source.Host - (bytes - size) : source.Host;
        byte* to = s.Backward ? destination.Host - (bytes - size) : destination.Host;

        // Elements in order equal one big move unless a later element reads what an earlier one wrote.
        bool carries = s.Backward ? to < from && from - to < bytes : to > from && to - from < bytes;
        if (!carries)
        {
            Buffer.MemoryCopy(from, to, bytes, bytes);
        }
        else
        {
            CopyElements(source.Host, destination.Host, count, s.Size, s.Backward);
        }
        BlockWritten(s, destination, count);
        return count;
    }

    private static void CopyElements(byte* from, byte* to, ulong count, int size, bool backward)
    {
        long step = backward ? -size : size;
        for (; count != 0; count--, from += step, to += step)
        {
            switch (size)
            {
                case 1:
                    *to = *from;
                    break;
                case 2:
                    Unsafe.WriteUnaligned(to, Unsafe.ReadUnaligned<ushort>(from));
                    break;
                case 4:
                    Unsafe.WriteUnaligned(to, Unsafe.ReadUnaligned<uint>(from));
                    break;
                default:
                    Unsafe.WriteUnaligned(to, Unsafe.ReadUnaligned<ulong>(from));
                    break;
            }
        }
    }

    private ulong StoreBlock(in StringInstruction s, ulong count, bool flat)
    {
        if (!TryRange(s, Seg.Es, 7, count, AccessKind.Write, flat, out StringRange range))
        {
            return 0;
        }
        count = range.Count;
        byte* start = s.Backward ? range.Host - ((long)(count - 1) * s.Size) : range.Host;
        ulong value = B->Gpr[0];
        switch (s.Size)
        {
            case 1:
                new Span<byte>(start, (int)count).Fill((byte)value);
                break;
            case 2:
                new Span<ushort>(start, (int)count).Fill((ushort)value);
                break;
            case 4:
                new Span<uint>(start, (int)count).Fill((uint)value);
                break;
            default:
                new Span<ulong>(start, (int)count).Fill(value);
                break;
        }
        BlockWritten(s, range, count);
        return count;
    }

    // Only the last element stays in the accumulator.
    private ulong LoadBlock(in StringInstruction s, ulong count)
    {
        if (!TryRange(s, s.Segment, 6, count, AccessKind.Read, flat: false, out StringRange range))
        {
            return 0;
        }
        LoadAccumulator(ElementAt(range, s, range.Count - 1), s.Size);
        return range.Count;
    }

    private static ulong ElementAt(in StringRange range, in StringInstruction s, ulong index)
    {
        long offset = (long)index * s.Size;
        byte* element = s.Backward ? range.Host - offset : range.Host + offset;
        return s.Size switch
        {
            1 => *element,
            2 => Unsafe.ReadUnaligned<ushort>(element),
            4 => Unsafe.ReadUnaligned<uint>(element),
            _ => Unsafe.ReadUnaligned<ulong>(element),
        };
    }

    private ulong ScanBlock(in StringInstruction s, ulong count)
    {
        if (s.Backward || !TryRange(s, Seg.Es, 7, count, AccessKind.Read, flat: false, out StringRange range))
        {
            return 0;
        }
        int length = (int)range.Count;
        ulong value = B->Gpr[0];
        bool equal = s.Repeat == 2;
        int found = s.Size switch
        {
            1 => Find(new ReadOnlySpan<byte>(range.Host, length), (byte)value, equal),
            2 => Find(new ReadOnlySpan<ushort>(range.Host, length), (ushort)value, equal),
            4 => Find(new ReadOnlySpan<uint>(range.Host, length), (uint)value, equal),
            _ => Find(new ReadOnlySpan<ulong>(range.Host, length), value, equal),
        };
        ulong done = found < 0 ? range.Count : (ulong)found + 1;

        // Read again: the caller stops by these flags, so that they agree with each other even if another processor stores meanwhile.
        SetStatusFlags(CompareFlags(value, ElementAt(range, s, done - 1), s.Size));
        return done;
    }

    private static int Find<T>(ReadOnlySpan<T> elements, T value, bool equal) where T : unmanaged, IEquatable<T> =>
        equal ? elements.IndexOf(value) : elements.IndexOfAnyExcept(value);

    private ulong CompareBlock(in StringInstruction s, ulong count)
    {
        if (s.Backward || s.Repeat != 1 || !TryRange(s, s.Segment, 6, count, AccessKind.Read, flat: false, out StringRange left)
            || !TryRange(s, Seg.Es, 7, left.Count, AccessKind.Read, flat: false, out StringRange right))
        {
            return 0;
        }
        int bytes = (int)right.Count * s.Size;
        int same = new ReadOnlySpan<byte>(left.Host, bytes).CommonPrefixLength(new ReadOnlySpan<byte>(right.Host, bytes));
        ulong done = same == bytes ? right.Count : (ulong)(same / s.Size) + 1;
        SetStatusFlags(CompareFlags(ElementAt(left, s, done - 1), ElementAt(right, s, done - 1), s.Size));
        return done;
    }
}
