using System.Buffers.Binary;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Boot;

/// <summary>A program header of an ELF file (System V gABI, "Program Header").</summary>
internal readonly record struct ElfSegment(uint Type, ulong Offset, ulong VirtualAddress, ulong PhysicalAddress, ulong FileSize, ulong MemorySize)
{
    public const uint Load = 1;
    public const uint Note = 4;
}

/// <summary>The parts of an ELF32 or ELF64 x86 executable that a boot loader needs. The file is untrusted.</summary>
internal sealed class ElfImage
{
    private const int MaxSegments = 256;
    private readonly BootSource _source;

    private ElfImage(BootSource source, bool is64, ulong entry, ElfSegment[] segments)
    {
        _source = source;
        Is64 = is64;
        Entry = entry;
        Segments = segments;
    }

    public bool Is64 { get; }

    /// <summary>e_entry: a virtual address.</summary>
    public ulong Entry { get; }

    public IReadOnlyList<ElfSegment> Segments { get; }

    public static bool Matches(ReadOnlySpan<byte> head) => head.Length >= 52 && head[0] == 0x7F && head[1..4].SequenceEqual("ELF"u8);

    public static ElfImage Parse(BootSource source)
    {
        byte[] header = new byte[64];
        source.Read(0, header.AsSpan(0, (int)Math.Min(64, source.Length)));
        bool is64 = header[4] == 2;
        ushort machine = U16(header, 18);
        if (!Matches(header) || header[4] is not (1 or 2) || header[5] != 1)
        {
            throw new BootException($"'{source.Name}' is not a little-endian ELF file (class {header[4]}, data encoding {header[5]})");
        }
        if (is64 && source.Length < 64)
        {
            throw new BootException($"'{source.Name}' is truncated: an ELF64 header has 64 bytes, the file {source.Length}");
        }
        if (machine is not (3 or 62))
        {
            throw new BootException($"'{source.Name}' is for ELF machine {machine}; x86 (3) or x86-64 (62) is needed");
        }
        ulong entry = is64 ? U64(header, 24) : U32(header, 24);
        ulong table = is64 ? U64(header, 32) : U32(header, 28);
        int entrySize = U16(header, is64 ? 54 : 42);
        int count = U16(header, is64 ? 56 : 44);
        if (count == 0 || count > MaxSegments || entrySize < (is64 ? 56 : 32))
        {
            throw new BootException($"'{source.Name}' has {count} program headers of {entrySize} bytes; 1 to {MaxSegments} of at least {(is64 ? 56 : 32)} are accepted");
        }
        ElfSegment[] segments = new ElfSegment[count];
        byte[] row = new byte[56];
        for (int i = 0; i < count; i++)
        {
            ulong at = table + ((ulong)i * (ulong)entrySize);
            if (at < table)
            {
                throw new BootException($"'{source.Name}' has its program headers at 0x{table:X}, past its end");
            }
            source.Read(at, row.AsSpan(0, is64 ? 56 : 32));
            segments[i] = is64
                ? new ElfSegment(U32(row, 0), U64(row, 8), U64(row, 16), U64(row, 24), U64(row, 32), U64(row, 40))
                : new ElfSegment(U32(row, 0), U32(row, 4), U32(row, 8), U32(row, 12), U32(row, 16), U32(row, 20));
        }
        return new ElfImage(source, is64, entry, segments);
    }

    /// <summary>Copies the PT_LOAD segments to their physical addresses.</summary>
    /// <returns>The lowest and one past the highest address used.</returns>
    public (ulong Start, ulong End) LoadSegments(GuestMemory memory)
    {
        ulong start = ulong.MaxValue;
        ulong end = 0;
        foreach (ElfSegment segment in Segments)
        {
            if (segment.Type != ElfSegment.Load || segment.MemorySize == 0)
            {
                continue;
            }
            if (segment.FileSize > segment.MemorySize)
            {
                throw new BootException($"'{_source.Name}' has a segment with file size 0x{segment.FileSize:X} above its memory size 0x{segment.MemorySize:X}");
            }
            GuestRange.Require(memory, segment.PhysicalAddress, segment.MemorySize, _source.Name);
            _source.CopyTo(segment.Offset, segment.FileSize, memory, segment.PhysicalAddress);
            GuestRange.Clear(memory, segment.PhysicalAddress + segment.FileSize, segment.MemorySize - segment.FileSize);
            start = Math.Min(start, segment.PhysicalAddress);
            end = Math.Max(end, segment.PhysicalAddress + segment.MemorySize);
        }
        if (end == 0)
        {
            throw new BootException($"'{_source.Name}' has nothing to load (no PT_LOAD segment)");
        }
        return (start, end);
    }

    /// <summary>The physical address of the entry point: e_entry translated by the segment that holds it.</summary>
    public ulong PhysicalEntry()
    {
        foreach (ElfSegment segment in Segments)
        {
            if (segment.Type == ElfSegment.Load && Entry - segment.VirtualAddress < segment.MemorySize)
            {
                return segment.PhysicalAddress + (Entry - segment.VirtualAddress);
            }
        }
        return Entry;
    }

    /// <summary>Finds a note by owner and type.</summary>
    /// <returns>Its descriptor (at most 4 KiB), or null.</returns>
    public byte[]? FindNote(ReadOnlySpan<byte> owner, uint type)
    {
        const int MaxNotes = 1 << 20;
        foreach (ElfSegment segment in Segments)
        {
            if (segment.Type != ElfSegment.Note || segment.FileSize > MaxNotes)
            {
                continue;
            }
            byte[] notes = new byte[segment.FileSize];
            _source.Read(segment.Offset, notes);
            for (ulong at = 0; at + 12 <= (ulong)notes.Length;)
            {
                ulong nameSize = U32(notes, (int)at);
                ulong descriptorSize = U32(notes, (int)at + 4);
                ulong name = at + 12;
                ulong descriptor = name + ((nameSize + 3) & ~3UL);
                ulong next = descriptor + ((descriptorSize + 3) & ~3UL);
                if (descriptor > (ulong)notes.Length || descriptorSize > (ulong)notes.Length - descriptor)
                {
                    break;
                }
                if (U32(notes, (int)at + 8) == type && descriptorSize <= 4096
                    && notes.AsSpan((int)name, (int)nameSize).TrimEnd((byte)0).SequenceEqual(owner))
                {
                    return notes.AsSpan((int)descriptor, (int)descriptorSize).ToArray();
                }
                at = next;
            }
        }
        return null;
    }

    private static ushort U16(byte[] data, int at) => BinaryPrimitives.ReadUInt16LittleEndian(data.AsSpan(at));

    private static uint U32(byte[] data, int at) => BinaryPrimitives.ReadUInt32LittleEndian(data.AsSpan(at));

    private static ulong U64(byte[] data, int at) => BinaryPrimitives.ReadUInt64LittleEndian(data.AsSpan(at));
}

/// <summary>Checks and fills ranges of guest RAM for loaders.</summary>
internal static unsafe class GuestRange
{
    /// <exception cref="BootException">The range is not all RAM.</exception>
    public static void Require(GuestMemory memory, ulong address, ulong length, string name)
    {
        if (!memory.TryGetOffset(address, length, out _))
        {
            throw new BootException($"'{name}' needs 0x{length:X} bytes of RAM at 0x{address:X}, which the machine does not have; give it more with --memory");
        }
    }

    public static void Clear(GuestMemory memory, ulong address, ulong length)
    {
        byte* target = memory.Pointer(address, length);
        if (target != null && length != 0)
        {
            System.Runtime.InteropServices.NativeMemory.Clear(target, (nuint)length);
            memory.Written(address, length);
        }
    }
}
