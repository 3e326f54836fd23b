namespace Lodge.Engine.Translation.Processor;

// Descriptor tables (Intel SDM vol. 3, 3.4.5, 3.5 and 5.8). Tables are read with supervisor rights whatever the CPL.
internal sealed unsafe partial class Vcpu
{
    private const int TypeTss16 = 1, TypeLdt = 2, TypeCallGate16 = 4, TypeTaskGate = 5, TypeTss32 = 9, TypeCallGate32 = 12;

    // Any privilege level can hold a null selector: its RPL does not count.
    private static bool IsNull(ushort selector) => (selector & ~3) == 0;

    private static uint SelectorError(ushort selector) => selector & 0xFFFCu;

    private static bool IsCode(in Segment segment) => (segment.Attributes & 0x18) == 0x18;

    private static bool IsConforming(in Segment segment) => (segment.Attributes & 0x1C) == 0x1C;

    private static bool IsWritableData(in Segment segment) => (segment.Attributes & 0x1A) == 0x12;

    private static bool IsReadable(in Segment segment) => (segment.Attributes & 0x18) == 0x10 || (segment.Attributes & 0x1A) == 0x1A;

    /// <summary>Linear address of a byte of a system table: 32 bits outside long mode.</summary>
    private ulong TableAddress(ulong tableBase, uint offset) => LongModeActive ? tableBase + offset : (uint)(tableBase + offset);

    /// <summary>Linear address of the descriptor that a selector names; false when size bytes do not lie in the table.</summary>
    private bool TryDescriptorAddress(ushort selector, int size, out ulong address)
    {
        bool local = (selector & 4) != 0;
        uint offset = selector & 0xFFF8u;
        address = TableAddress(local ? B->Ldtr.Base : B->GdtrBase, offset);
        return local
            ? !B->Ldtr.Unusable && offset + (uint)size - 1 <= B->Ldtr.Limit
            : offset + (uint)size - 1 <= B->GdtrLimit;
    }

    /// <summary>Fetches the first 8 bytes of a descriptor; outside its table: <paramref name="vector"/> with the selector.</summary>
    private ulong ReadDescriptor(ushort selector, Vector vector)
    {
        if (!TryDescriptorAddress(selector, 8, out ulong address))
        {
            GuestFault.Raise(vector, SelectorError(selector));
        }
        return ReadLinear(address, 8, false);
    }

    /// <summary>The upper half of a 16-byte descriptor of long mode.</summary>
    private ulong ReadUpperDescriptor(ushort selector, Vector vector)
    {
        if (!TryDescriptorAddress(selector, 16, out ulong address))
        {
            GuestFault.Raise(vector, SelectorError(selector));
        }
        return ReadLinear(address + 8, 8, false);
    }

    /// <summary>Reads a segment descriptor into the form of a segment register.</summary>
    private Segment ReadSegment(ushort selector, Vector vector) => ParseDescriptor(selector, ReadDescriptor(selector, vector));

    private static Segment ParseDescriptor(ushort selector, ulong descriptor)
    {
        uint limit = (uint)(descriptor & 0xFFFF) | (uint)((descriptor >> 32) & 0xF_0000);
        return new Segment
        {
            Base = ((descriptor >> 16) & 0xFF_FFFF) | ((descriptor >> 32) & 0xFF00_0000),
            Limit = (descriptor & (1UL << 55)) != 0 ? (limit << 12) | 0xFFF : limit,
            Attributes = (uint)(descriptor >> 40) & 0xF0FF,
            Selector = selector,
        };
    }

    /// <summary>Sets the accessed bit in the table and in the copy, unless it is there already.</summary>
    private void MarkAccessed(ref Segment segment)
    {
        if ((segment.Attributes & 1) == 0)
        {
            ChangeDescriptorType(segment.Selector, 1, true);
            segment.Attributes |= 1;
        }
    }

    /// <summary>Sets or clears bits of a descriptor's type byte, atomically when it lies in RAM.</summary>
    private void ChangeDescriptorType(ushort selector, byte bits, bool set)
    {
        TryDescriptorAddress(selector, 8, out ulong address);
        address += 5;
        if (!TryWalk(address, AccessKind.Write, false, out PageTranslation page, out uint errorCode))
        {
            GuestFault.Raise(Vector.PageFault, errorCode, address);
        }
        if (page.Host == null)
        {
            ulong value = ReadLinear(address, 1, false);
            WriteLinear(address, set ? value | bits : value & (byte)~bits, 1, false);
            return;
        }
        ref int word = ref *(int*)((nuint)page.Host & ~(nuint)3);
        int mask = bits << (int)(((nuint)page.Host & 3) * 8);
        if (set)
        {
            Interlocked.Or(ref word, mask);
        }
        else
        {
            Interlocked.And(ref word, ~mask);
        }
        Memory.Written(page.Physical, 1);
    }
}
