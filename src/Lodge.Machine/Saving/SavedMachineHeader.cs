using System.Buffers.Binary;
using System.Numerics;
using Lodge.Engine.Memory;
using Lodge.Engine.State;

namespace Lodge.Machine.Saving;

/// <summary>A part of the file with the CRC-32C of its bytes.</summary>
internal readonly record struct FileSection(ulong Offset, ulong Length, uint Checksum);

/// <summary>The first 4 KiB of a saved machine (docs/saved-machines.md).</summary>
internal sealed record SavedMachineHeader
{
    /// <summary>Bytes from the file's begin to the first frame.</summary>
    public const int Length = 4096;

    /// <summary>The version that is written, and the newest that is read.</summary>
    public const uint Version = 1;

    /// <summary>Bytes of an entry of the index: u64 offset of the frame, u32 chunk, u32 bytes of the frame.</summary>
    public const int EntryLength = 16;

    private const int Used = 108, MinimumShift = 12, MaximumShift = 20, MaximumMetadata = 4 << 20, MaximumState = 256 << 20;
    private const ulong MaximumMemory = 1UL << 46;
    private static ReadOnlySpan<byte> Magic => "LodgeSav"u8;

    /// <summary>Base-2 logarithm of the bytes of a chunk.</summary>
    public required int ChunkShift { get; init; }

    /// <summary>Bytes of RAM.</summary>
    public required ulong MemorySize { get; init; }

    /// <summary>Bytes of the file.</summary>
    public required ulong FileLength { get; init; }

    /// <summary><see cref="SavedMachineMetadata"/>.</summary>
    public required FileSection Metadata { get; init; }

    /// <summary>What <see cref="VirtualMachine.SaveState"/> gave.</summary>
    public required FileSection State { get; init; }

    /// <summary>The index: an entry for each chunk that is not all zero.</summary>
    public required FileSection Index { get; init; }

    /// <summary>The header as it stands in the file.</summary>
    public byte[] ToArray()
    {
        byte[] page = new byte[Length];
        Span<byte> at = page;
        Magic.CopyTo(at);
        BinaryPrimitives.WriteUInt32LittleEndian(at[8..], Version);
        BinaryPrimitives.WriteInt32LittleEndian(at[12..], ChunkShift);
        BinaryPrimitives.WriteUInt64LittleEndian(at[16..], MemorySize);
        BinaryPrimitives.WriteUInt64LittleEndian(at[24..], FileLength);
        int place = 32;
        foreach (FileSection section in (ReadOnlySpan<FileSection>)[Metadata, State, Index])
        {
            BinaryPrimitives.WriteUInt64LittleEndian(at[place..], section.Offset);
            BinaryPrimitives.WriteUInt64LittleEndian(at[(place + 8)..], section.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(at[(place + 16)..], section.Checksum);
            place += 24;
        }
        BinaryPrimitives.WriteUInt32LittleEndian(at[(Used - 4)..], Sum(page.AsSpan(0, Used - 4)));
        return page;
    }

    /// <summary>Reads and checks a header.</summary>
    /// <param name="page">The file's first bytes, at most <see cref="Length"/>.</param>
    /// <param name="fileLength">Bytes of the file as it is.</param>
    /// <exception cref="SavedStateException">It is none, or of a version that is not known, or the file is not whole.</exception>
    public static SavedMachineHeader Parse(ReadOnlySpan<byte> page, ulong fileLength)
    {
        if (page.Length < Used || !page.StartsWith(Magic))
        {
            throw new SavedStateException("this is not a saved machine");
        }
        uint version = BinaryPrimitives.ReadUInt32LittleEndian(page[8..]);
        if (version is 0 or > Version)
        {
            throw new SavedStateException($"the saved machine has version {version}; this Lodge knows versions up to {Version}");
        }
        if (BinaryPrimitives.ReadUInt32LittleEndian(page[(Used - 4)..]) != Sum(page[..(Used - 4)]))
        {
            throw new SavedStateException("the saved machine is damaged: its header");
        }
        var header = new SavedMachineHeader
        {
            ChunkShift = BinaryPrimitives.ReadInt32LittleEndian(page[12..]),
            MemorySize = BinaryPrimitives.ReadUInt64LittleEndian(page[16..]),
            FileLength = BinaryPrimitives.ReadUInt64LittleEndian(page[24..]),
            Metadata = Section(page[32..]),
            State = Section(page[56..]),
            Index = Section(page[80..]),
        };
        if (header.FileLength != fileLength)
        {
            throw new SavedStateException($"the saved machine is not whole: {fileLength} of {header.FileLength} bytes");
        }
        ulong chunks = header.ChunkShift is >= MinimumShift and <= MaximumShift ? (header.MemorySize >> header.ChunkShift) + 1 : 0;
        if (chunks == 0 || header.MemorySize is 0 or > MaximumMemory || header.MemorySize % GuestMemory.PageSize != 0
            || !Fits(header.Metadata, fileLength, MaximumMetadata) || !Fits(header.State, fileLength, MaximumState)
            || !Fits(header.Index, fileLength, chunks * EntryLength) || header.Index.Length % EntryLength != 0)
        {
            throw new SavedStateException("the saved machine is malformed: its header");
        }
        return header;
    }

    /// <summary>CRC-32C (RFC 3720, B.4).</summary>
    public static uint Sum(ReadOnlySpan<byte> bytes)
    {
        uint sum = uint.MaxValue;
        for (; bytes.Length >= 8; bytes = bytes[8..])
        {
            sum = BitOperations.Crc32C(sum, BinaryPrimitives.ReadUInt64LittleEndian(bytes));
        }
        foreach (byte value in bytes)
        {
            sum = BitOperations.Crc32C(sum, value);
        }
        return ~sum;
    }

    private static FileSection Section(ReadOnlySpan<byte> at) => new(
        BinaryPrimitives.ReadUInt64LittleEndian(at), BinaryPrimitives.ReadUInt64LittleEndian(at[8..]), BinaryPrimitives.ReadUInt32LittleEndian(at[16..]));

    private static bool Fits(in FileSection section, ulong fileLength, ulong maximum) =>
        section.Offset >= Length && section.Offset <= fileLength && section.Length <= fileLength - section.Offset && section.Length <= maximum;
}
