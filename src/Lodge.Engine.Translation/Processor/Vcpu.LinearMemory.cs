using System.Runtime.CompilerServices;

namespace Lodge.Engine.Translation.Processor;

// Segmentation of data accesses (Intel SDM vol. 3, 6.3 and 3.3-3.4) and accesses at linear addresses.
internal sealed unsafe partial class Vcpu
{
    private const int PageMask = 0xFFF;

    /// <summary>Data accesses must be told to <see cref="NoteDataAccess"/>: DR7 enables a data breakpoint or a debugger watches.</summary>
    internal bool WatchesData;

    /// <summary>A debugger has watchpoints.</summary>
    internal bool DebuggerWatches;

    /// <summary>DR6 bits of data breakpoints hit by the current instruction, delivered as a trap after it.</summary>
    internal ulong PendingDebug;

    /// <summary>Linear address of segment:offset for an access of <paramref name="size"/> bytes.</summary>
    /// <param name="alignment">Bytes that #AC wants, when they do not follow from the size.</param>
    /// <exception cref="GuestFault">#GP(0), or #SS(0) for SS: outside the limit, not canonical, or against the segment's type. #AC(0), and #PF, which comes before it.</exception>
    internal ulong LinearAddress(int segment, ulong offset, int size, AccessKind access, int alignment = 0)
    {
        ulong linear = SegmentedAddress(segment, offset, size, access);
        if (_checksAlignment)
        {
            CheckAlignment(linear, size, access, alignment);
        }
        return linear;
    }

    // Natural alignment, but that of its parts for a far pointer and a table register, and none beyond 8 bytes but for images of the x87 unit (Intel SDM vol. 3, table 6-7).
    private static int AlignmentOf(int size) => size switch
    {
        2 or 4 or 8 => size,
        6 or 10 or 28 or 108 => 4,
        14 or 94 => 2,
        _ => 1,
    };

    private void CheckAlignment(ulong linear, int size, AccessKind access, int alignment)
    {
        if ((linear & (ulong)((alignment != 0 ? alignment : AlignmentOf(size)) - 1)) != 0)
        {
            Probe(linear, size, access, true);
            GuestFault.Raise(Vector.AlignmentCheck, 0);
        }
    }

    private ulong SegmentedAddress(int segment, ulong offset, int size, AccessKind access)
    {
        Segment* s = Segment(segment);
        ulong last = (ulong)Math.Max(size, 1) - 1;
        if (Code64)
        {
            ulong linear = segment >= Seg.Fs ? s->Base + offset : offset;
            if (!IsCanonical(linear) || !IsCanonical(linear + last))
            {
                SegmentFault(segment);
            }
            return linear;
        }
        if (s->Unusable)
        {
            SegmentFault(segment);
        }
        offset = (uint)offset;
        if (ProtectedMode && !Virtual8086)
        {
            // Type: bit 3 code, bit 1 writable (data) or readable (code).
            int type = s->Type;
            bool allowed = access == AccessKind.Write ? (type & 0xA) == 2 : (type & 8) == 0 || (type & 2) != 0 || access == AccessKind.Execute;
            if (!allowed)
            {
                SegmentFault(segment);
            }
            if ((type & 0xC) == 4)
            {
                ulong top = s->Default32 ? 0xFFFF_FFFF : 0xFFFFu;
                if (offset <= s->Limit || offset + last > top)
                {
                    SegmentFault(segment);
                }
                return (uint)(s->Base + offset);
            }
        }
        // A limit of 4 GiB - 1 admits accesses that wrap (5.3 leaves it open).
        if (offset + last > s->Limit && s->Limit != uint.MaxValue)
        {
            SegmentFault(segment);
        }
        return (uint)(s->Base + offset);
    }

    private static void SegmentFault(int segment) => GuestFault.Raise(segment == Seg.Ss ? Vector.StackFault : Vector.GeneralProtection, 0);

    /// <summary>Loads up to 8 bytes at a linear address; <paramref name="user"/>: with the rights of CPL 3.</summary>
    /// <exception cref="GuestFault">#PF.</exception>
    internal ulong ReadLinear(ulong linear, int size, bool user)
    {
        NoteDataAccess(linear, size, false);
        if ((int)(linear & PageMask) + size > PageMask + 1)
        {
            ulong assembled = 0;
            ReadPages(linear, new Span<byte>(&assembled, size), user);
            return assembled;
        }
        PageTranslation page = Translate(linear, AccessKind.Read, user);
        if (page.Host == null)
        {
            ulong value = 0;
            ReadDevice(page.Physical, new Span<byte>(&value, size));
            return value;
        }
        return size switch
        {
            1 => *page.Host,
            2 => Unsafe.ReadUnaligned<ushort>(page.Host),
            4 => Unsafe.ReadUnaligned<uint>(page.Host),
            8 => Unsafe.ReadUnaligned<ulong>(page.Host),
            _ => ReadOdd(page.Host, size),
        };
    }

    /// <summary>Stores up to 8 bytes at a linear address.</summary>
    /// <exception cref="GuestFault">#PF, with nothing stored.</exception>
    internal void WriteLinear(ulong linear, ulong value, int size, bool user)
    {
        NoteDataAccess(linear, size, true);
        if ((int)(linear & PageMask) + size > PageMask + 1)
        {
            WritePages(linear, new ReadOnlySpan<byte>(&value, size), user);
            return;
        }
        PageTranslation page = Translate(linear, AccessKind.Write, user);
        if (page.Host == null)
        {
            WriteDevice(page.Physical, new ReadOnlySpan<byte>(&value, size));
            return;
        }
        switch (size)
        {
            case 1:
                *page.Host = (byte)value;
                break;
            case 2:
                Unsafe.WriteUnaligned(page.Host, (ushort)value);
                break;
            case 4:
                Unsafe.WriteUnaligned(page.Host, (uint)value);
                break;
            case 8:
                Unsafe.WriteUnaligned(page.Host, value);
                break;
            default:
                new ReadOnlySpan<byte>(&value, size).CopyTo(new Span<byte>(page.Host, size));
                break;
        }
        Memory.Written(page.Physical, (ulong)size);
    }

    /// <summary>Loads any number of bytes, over page boundaries.</summary>
    /// <exception cref="GuestFault">#PF.</exception>
    internal void ReadLinear(ulong linear, Span<byte> data, bool user)
    {
        NoteDataAccess(linear, data.Length, false);
        ReadPages(linear, data, user);
    }

    /// <summary>Stores any number of bytes, over page boundaries.</summary>
    /// <exception cref="GuestFault">#PF, with nothing stored.</exception>
    internal void WriteLinear(ulong linear, ReadOnlySpan<byte> data, bool user)
    {
        NoteDataAccess(linear, data.Length, true);
        WritePages(linear, data, user);
    }

    /// <summary>Checks that a store would succeed on every page that it touches, without storing.</summary>
    /// <exception cref="GuestFault">#PF.</exception>
    internal void ProbeWrite(ulong linear, int size, bool user) => Probe(linear, size, AccessKind.Write, user);

    private void Probe(ulong linear, int size, AccessKind access, bool user)
    {
        for (int done = 0; done < size;)
        {
            ulong address = LinearAt(linear, done);
            Translate(address, access, user);
            done += PageMask + 1 - (int)(address & PageMask);
        }
    }

    private PageTranslation Translate(ulong linear, AccessKind access, bool user)
    {
        if (!TryWalk(linear, access, user, out PageTranslation page, out uint errorCode))
        {
            GuestFault.Raise(Vector.PageFault, errorCode, linear);
        }
        return page;
    }

    // Linear addresses have 32 bits outside long mode.
    private ulong LinearAt(ulong linear, int offset) => LongModeActive ? linear + (ulong)offset : (uint)(linear + (ulong)offset);

    private void ReadPages(ulong linear, Span<byte> data, bool user)
    {
        while (!data.IsEmpty)
        {
            int length = Math.Min(data.Length, PageMask + 1 - (int)(linear & PageMask));
            PageTranslation page = Translate(linear, AccessKind.Read, user);
            if (page.Host == null)
            {
                ReadDevice(page.Physical, data[..length]);
            }
            else
            {
                new ReadOnlySpan<byte>(page.Host, length).CopyTo(data);
            }
            data = data[length..];
            linear = LinearAt(linear, length);
        }
    }

    private void WritePages(ulong linear, ReadOnlySpan<byte> data, bool user)
    {
        if ((int)(linear & PageMask) + data.Length > PageMask + 1)
        {
            Probe(linear, data.Length, AccessKind.Write, user);
        }
        while (!data.IsEmpty)
        {
            int length = Math.Min(data.Length, PageMask + 1 - (int)(linear & PageMask));
            PageTranslation page = Translate(linear, AccessKind.Write, user);
            if (page.Host == null)
            {
                WriteDevice(page.Physical, data[..length]);
            }
            else
            {
                data[..length].CopyTo(new Span<byte>(page.Host, length));
                Memory.Written(page.Physical, (ulong)length);
            }
            data = data[length..];
            linear = LinearAt(linear, length);
        }
    }

    private static ulong ReadOdd(byte* host, int size)
    {
        ulong value = 0;
        new ReadOnlySpan<byte>(host, size).CopyTo(new Span<byte>(&value, 8));
        return value;
    }

    /// <summary>Loads from physical memory that is not RAM, in naturally aligned accesses of 1, 2, 4 or 8 bytes.</summary>
    internal void ReadDevice(ulong physical, Span<byte> data)
    {
        RefuseWhileComparing();
        while (!data.IsEmpty)
        {
            int size = AlignedSize(physical, data.Length);
            if ((physical & ~0xFFFUL) == Apic.MemoryBase)
            {
                size = Math.Min(size, 4);
                uint value = Apic.ReadMemory((uint)physical & 0xFFC) >> (int)((physical & 3) * 8);
                new ReadOnlySpan<byte>(&value, size).CopyTo(data);
            }
            else
            {
                Bus.ReadMemory(physical, data[..size]);
            }
            data = data[size..];
            physical += (ulong)size;
        }
    }

    /// <summary>Stores to physical memory that is not RAM. The local APIC takes aligned doublewords only (11.4.1), other stores to it are dropped.</summary>
    internal void WriteDevice(ulong physical, ReadOnlySpan<byte> data)
    {
        RefuseWhileComparing();
        while (!data.IsEmpty)
        {
            int size = AlignedSize(physical, data.Length);
            if ((physical & ~0xFFFUL) == Apic.MemoryBase)
            {
                size = Math.Min(size, 4);
                if (size == 4)
                {
                    Apic.WriteMemory((uint)physical & 0xFFC, BitConverter.ToUInt32(data));
                }
            }
            else
            {
                Bus.WriteMemory(physical, data[..size]);
            }
            data = data[size..];
            physical += (ulong)size;
        }
    }

    private static int AlignedSize(ulong physical, int length)
    {
        int size = 8;
        while (size > length || (physical & (ulong)(size - 1)) != 0)
        {
            size >>= 1;
        }
        return size;
    }

    /// <summary>Compares a data access with the breakpoints of DR0-DR3 (Intel SDM vol. 3, 19.2.5) and the debugger's watchpoints.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void NoteDataAccess(ulong linear, int size, bool write)
    {
        if (WatchesData)
        {
            MatchDataAccess(linear, size, write);
        }
    }

    private void MatchDataAccess(ulong linear, int size, bool write)
    {
        ulong* addresses = &B->Dr0;
        for (int i = 0; i < 4; i++)
        {
            uint control = (uint)(B->Dr7 >> (16 + (i * 4))) & 15;
            bool matches = (control & 3) switch
            {
                1 => write,
                3 => true,
                _ => false,
            };
            if (!matches)
            {
                continue;
            }
            ulong length = BreakpointLength(control >> 2);
            ulong start = addresses[i] & ~(length - 1);
            if (linear < start + length && start < linear + (ulong)size)
            {
                if (((B->Dr7 >> (i * 2)) & 3) != 0)
                {
                    PendingDebug |= 1UL << i;
                }
            }
        }
        if (DebuggerWatches)
        {
            NoteDebuggerAccess(linear, size, write);
        }
    }

    /// <summary>A debugger watches and data was accessed.</summary>
    partial void NoteDebuggerAccess(ulong linear, int size, bool write);

    /// <summary>Recomputes <see cref="WatchesData"/> after DR7 or the debugger's watchpoints changed.</summary>
    internal void UpdateDataWatch()
    {
        bool any = DebuggerWatches;
        for (int i = 0; i < 4; i++)
        {
            bool data = ((B->Dr7 >> (16 + (i * 4))) & 1) != 0; // R/W = 01 (stores) or 11 (both)
            any |= data && ((B->Dr7 >> (i * 2)) & 3) != 0;
        }
        WatchesData = any;
    }

    private static ulong BreakpointLength(uint field) => field switch
    {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    };
}
