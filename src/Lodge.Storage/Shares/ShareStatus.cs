using System.Runtime.InteropServices;

namespace Lodge.Storage.Shares;

/// <summary>What statx(2) tells of a file.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct ShareStatus
{
    [FieldOffset(0x00)] public uint Mask;
    [FieldOffset(0x04)] public uint BlockSize;
    [FieldOffset(0x10)] public uint Links;
    [FieldOffset(0x14)] public uint User;
    [FieldOffset(0x18)] public uint Group;
    [FieldOffset(0x1C)] public ushort Mode;
    [FieldOffset(0x20)] public ulong Inode;
    [FieldOffset(0x28)] public ulong Size;
    [FieldOffset(0x30)] public ulong Blocks;
    [FieldOffset(0x40)] public ShareTime Access;
    [FieldOffset(0x50)] public ShareTime Birth;
    [FieldOffset(0x60)] public ShareTime Change;
    [FieldOffset(0x70)] public ShareTime Modification;
    [FieldOffset(0x80)] public uint SpecialMajor;
    [FieldOffset(0x84)] public uint SpecialMinor;
    [FieldOffset(0x88)] public uint DeviceMajor;
    [FieldOffset(0x8C)] public uint DeviceMinor;

    /// <summary>The part of the mode that tells the type (S_IFMT).</summary>
    public readonly int Type => Mode & ModeBits.TypeMask;

    /// <summary>The file system.</summary>
    public readonly ulong Device => ((ulong)DeviceMajor << 32) | DeviceMinor;
}

/// <summary>A time as statx(2) has it.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal struct ShareTime
{
    [FieldOffset(0)] public long Seconds;
    [FieldOffset(8)] public uint Nanoseconds;
}

/// <summary>Bits of a file's mode (inode(7)).</summary>
internal static class ModeBits
{
    public const int TypeMask = 0xF000;
    public const int Fifo = 0x1000;
    public const int Character = 0x2000;
    public const int Folder = 0x4000;
    public const int Block = 0x6000;
    public const int Regular = 0x8000;
    public const int Link = 0xA000;
    public const int Socket = 0xC000;

    public const int SetUser = 0x800;
    public const int SetGroup = 0x400;
    public const int Permissions = 0xFFF;
}
