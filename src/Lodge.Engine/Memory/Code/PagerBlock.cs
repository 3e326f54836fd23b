using System.Runtime.InteropServices;

namespace Lodge.Engine.Memory.Code;

/// <summary>What pager.s works with; the offsets stand there, too.</summary>
[StructLayout(LayoutKind.Explicit, Size = 264)]
internal unsafe struct PagerBlock
{
    /// <summary>The userfaultfd, which does not wait.</summary>
    [FieldOffset(0)]
    public long UserFault;

    /// <summary>RAM.</summary>
    [FieldOffset(8)]
    public byte* Base;

    /// <summary>Bytes of RAM.</summary>
    [FieldOffset(16)]
    public ulong Size;

    /// <summary>Chunks that are not all zero.</summary>
    [FieldOffset(24)]
    public PagedChunk* Entries;

    /// <summary>How many.</summary>
    [FieldOffset(32)]
    public ulong Count;

    /// <summary>For each chunk of RAM its entry's index + 1, or 0.</summary>
    [FieldOffset(40)]
    public uint* Table;

    /// <summary>The file that has the frames.</summary>
    [FieldOffset(48)]
    public long File;

    /// <summary>Room for a frame.</summary>
    [FieldOffset(56)]
    public byte* Packed;

    /// <summary>Room for a chunk, at a page's begin.</summary>
    [FieldOffset(64)]
    public byte* Plain;

    /// <summary>Base-2 logarithm of the bytes of a chunk.</summary>
    [FieldOffset(72)]
    public long Shift;

    /// <summary>size_t decompress(context, output, capacity, frame, length).</summary>
    [FieldOffset(80)]
    public nint Function;

    /// <summary>Its first argument.</summary>
    [FieldOffset(88)]
    public nint Context;

    /// <summary>Set by the code when it runs.</summary>
    [FieldOffset(96)]
    public int Running;

    /// <summary>Set when memory is registered.</summary>
    [FieldOffset(100)]
    public int Go;

    /// <summary>Set to end it early.</summary>
    [FieldOffset(104)]
    public int Cancel;

    /// <summary>The entry that failed.</summary>
    [FieldOffset(108)]
    public uint Failed;

    /// <summary>Entries that are in memory.</summary>
    [FieldOffset(112)]
    public long Loaded;

    /// <summary>An eventfd that is signalled when it has failed.</summary>
    [FieldOffset(120)]
    public long Notify;

    /// <summary>struct pollfd of an eventfd by which that is acknowledged.</summary>
    [FieldOffset(128)]
    public int Acknowledged;

    /// <summary>Its events: POLLIN.</summary>
    [FieldOffset(132)]
    public short Events;

    /// <summary>The plain length of the chunk in work; when it has failed, the result.</summary>
    [FieldOffset(240)]
    public long Length;

    /// <summary>What an eventfd is written with.</summary>
    [FieldOffset(256)]
    public ulong One;
}
