using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>
/// The Linux system calls under host files (sections 2 of the man-pages), all of this room's unsafe code. Results below 0 are negated error numbers; calls that a
/// signal interrupts are repeated.
/// </summary>
internal static unsafe partial class HostSystemCalls
{
    public const int OpenReadOnly = 0;
    public const int OpenReadWrite = 2;
    public const int OpenCreate = 0x40;
    public const int OpenExclusive = 0x80;
    public const int OpenDataSync = 0x1000;
    public const int OpenDirect = 0x4000;
    public const int OpenDirectory = 0x10000;
    public const int OpenCloseOnExec = 0x80000;
    public const int OpenPath = 0x200000;
    public const int OpenUnnamed = 0x410000;

    public const ulong ResolveNoMagicLinks = 0x02;
    public const ulong ResolveBeneath = 0x08;

    public const int FallocateKeepSize = 1;
    public const int FallocatePunchHole = 2;
    public const int FallocateZeroRange = 0x10;

    public const int SeekData = 3;
    public const int SeekHole = 4;

    public const int NoWait = 0x8;
    public const int DataSync = 0x2;

    public const uint BlockGetSize = 0x80081272;
    public const uint BlockDiscard = 0x1277;
    public const uint BlockZeroOut = 0x127F;

    /// <summary>Pieces of memory that one transfer takes; more go in further transfers.</summary>
    private const int MostPieces = 256;

    private const int CurrentFolder = -100;
    private const int EmptyPath = 0x1000;
    private const int FollowLink = 0x400;
    private const int OfdGetLock = 36;
    private const int OfdSetLock = 37;
    private const int SystemCallOpenAt2 = 437;
    private const int RenameNoReplace = 1;

    /// <summary>Whether the host has no openat2 (before Linux 5.6, or a sandbox that hides it); tests set it.</summary>
    internal static bool LacksOpenAt2 { get; set; }

    /// <summary>
    /// Opens relative to a folder (null: the current one) with limits on how the path is resolved. On a host without openat2 a limit to what is beneath holds only
    /// for single names of new files; other opens with it fail with <see cref="HostErrors.CrossDevice"/>, as if they led out.
    /// </summary>
    public static SafeFileHandle? Open(SafeFileHandle? folder, string path, int flags, ulong resolve, out int error)
    {
        var how = new OpenHow { Flags = (ulong)(uint)(flags | OpenCloseOnExec), Mode = (flags & (OpenCreate | OpenUnnamed)) is OpenCreate or OpenUnnamed ? 0b110_110_110u : 0, Resolve = resolve };
        var name = Terminated(path);
        var added = false;
        try
        {
            folder?.DangerousAddRef(ref added);
            long result;
            fixed (byte* pointer = name)
            {
                var descriptor = folder is null ? CurrentFolder : (int)folder.DangerousGetHandle();
                do
                {
                    result = LacksOpenAt2 ? -HostErrors.NoSystemCall : Number(syscall(SystemCallOpenAt2, descriptor, (nint)pointer, (nint)(&how), sizeof(OpenHow)));
                    if (result == -HostErrors.NoSystemCall)
                    {
                        LacksOpenAt2 = true;
                        var isNewName = !path.Contains('/') && ((flags & OpenExclusive) != 0 || path == ".");
                        result = (resolve & ResolveBeneath) == 0 || isNewName
                            ? Number(openat(descriptor, pointer, flags | OpenCloseOnExec, (uint)how.Mode))
                            : -HostErrors.CrossDevice;
                    }
                }
                while (result == -HostErrors.Interrupted);
            }

            error = result < 0 ? (int)-result : 0;
            return result < 0 ? null : new SafeFileHandle((nint)result, ownsHandle: true);
        }
        finally
        {
            if (added)
            {
                folder!.DangerousRelease();
            }
        }
    }

    /// <summary>Facts about an open file.</summary>
    public static int Status(SafeFileHandle file, out FileStatus status)
    {
        const uint Basic = 0x7FF;
        const uint DirectAlignment = 0x2000;
        byte empty = 0;
        fixed (FileStatus* pointer = &status)
        {
            return (int)Number(statx(file, &empty, EmptyPath, Basic | DirectAlignment, pointer));
        }
    }

    /// <summary>Reads into or writes from as many of the vector's first pieces as one call takes.</summary>
    /// <returns>Bytes transferred, or a negated error number.</returns>
    public static long Transfer(SafeFileHandle file, bool write, long offset, in IoVector vector, int flags)
    {
        if (vector.TryGetSingle(out var single))
        {
            fixed (byte* pointer = single.Span)
            {
                var piece = new IoPiece { Base = pointer, Length = (nuint)single.Length };
                return Transfer(file, write, offset, &piece, 1, flags);
            }
        }

        var handles = default(PieceHandles);
        var pieces = stackalloc IoPiece[MostPieces];
        var count = 0;
        try
        {
            foreach (var memory in vector)
            {
                if (count == MostPieces)
                {
                    break;
                }

                handles[count] = memory.Pin();
                pieces[count] = new IoPiece { Base = (byte*)handles[count].Pointer, Length = (nuint)memory.Length };
                count++;
            }

            return Transfer(file, write, offset, pieces, count, flags);
        }
        finally
        {
            for (var index = 0; index < count; index++)
            {
                handles[index].Dispose();
            }
        }
    }

    /// <summary>Whether every piece begins and ends at a multiple of the alignment, and stays there: only native and pinned memory can tell.</summary>
    public static bool IsAligned(in IoVector vector, int memoryAlignment, int lengthAlignment)
    {
        foreach (var memory in vector)
        {
            if (memory.Length % lengthAlignment != 0)
            {
                return false;
            }

            using var pin = memory.Pin();
            if ((nuint)pin.Pointer % (nuint)memoryAlignment != 0)
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Memory of the pinned heap that begins at a multiple of 4096.</summary>
    public static Memory<byte> AllocateAligned(int length)
    {
        const int Page = 4096;
        var array = GC.AllocateUninitializedArray<byte>(length + Page, pinned: true);
        var address = (nuint)Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(array));
        return array.AsMemory((int)((Page - (address % Page)) % Page), length);
    }

    public static int SynchronizeData(SafeFileHandle file)
    {
        int result;
        do
        {
            result = (int)Number(fdatasync(file));
        }
        while (result == -HostErrors.Interrupted);
        return result;
    }

    public static int Truncate(SafeFileHandle file, long length)
    {
        int result;
        do
        {
            result = (int)Number(ftruncate(file, length));
        }
        while (result == -HostErrors.Interrupted);
        return result;
    }

    public static int Allocate(SafeFileHandle file, int mode, long offset, long length)
    {
        int result;
        do
        {
            result = (int)Number(fallocate(file, mode, offset, length));
        }
        while (result == -HostErrors.Interrupted);
        return result;
    }

    public static long Seek(SafeFileHandle file, long offset, int whence) => Number(lseek(file, offset, whence));

    /// <summary>The size of a block device.</summary>
    public static long DeviceLength(SafeFileHandle file)
    {
        ulong size = 0;
        var result = Number(ioctl(file, BlockGetSize, &size));
        return result < 0 ? result : (long)size;
    }

    /// <summary>BLKDISCARD or BLKZEROOUT.</summary>
    public static int DeviceRange(SafeFileHandle file, uint request, long offset, long length)
    {
        var range = stackalloc ulong[] { (ulong)offset, (ulong)length };
        return (int)Number(ioctl(file, request, range));
    }

    /// <summary>Takes (or with <paramref name="shared"/> null gives back) an open-file-description lock on one byte.</summary>
    public static int SetLock(SafeFileHandle file, long at, bool? shared)
    {
        var wanted = new FileLock { Type = (short)(shared switch { true => 0, false => 1, null => 2 }), Start = at, Length = 1 };
        return (int)Number(fcntl(file, OfdSetLock, &wanted));
    }

    /// <summary>Whether another open file description holds any lock on a byte: 1 or 0.</summary>
    public static int TestLock(SafeFileHandle file, long at)
    {
        var wanted = new FileLock { Type = 1, Start = at, Length = 1 };
        var result = (int)Number(fcntl(file, OfdGetLock, &wanted));
        return result < 0 ? result : wanted.Type == 2 ? 0 : 1;
    }

    /// <summary>Gives an unnamed file a name; the name must be free.</summary>
    public static int Link(SafeFileHandle file, SafeFileHandle folder, string name)
    {
        fixed (byte* from = Terminated(PathOf(file)), to = Terminated(name))
        {
            return (int)Number(linkat(CurrentFolder, from, folder, to, FollowLink));
        }
    }

    public static int Rename(SafeFileHandle folder, string from, string to, bool replace)
    {
        fixed (byte* source = Terminated(from), target = Terminated(to))
        {
            return (int)Number(renameat2(folder, source, folder, target, replace ? 0u : RenameNoReplace));
        }
    }

    public static int Unlink(SafeFileHandle folder, string name)
    {
        fixed (byte* pointer = Terminated(name))
        {
            return (int)Number(unlinkat(folder, pointer, 0));
        }
    }

    /// <summary>Makes the names in a folder durable; the folder is opened for reading.</summary>
    public static int Synchronize(SafeFileHandle folder) => (int)Number(fsync(folder));

    /// <summary>A path that leads to what is open, whatever its name has become.</summary>
    public static string PathOf(SafeFileHandle file) => $"/proc/self/fd/{file.DangerousGetHandle()}";

    private static long Transfer(SafeFileHandle file, bool write, long offset, IoPiece* pieces, int count, int flags)
    {
        long result;
        do
        {
            result = Number(write ? pwritev2(file, pieces, count, offset, flags) : preadv2(file, pieces, count, offset, flags));
        }
        while (result == -HostErrors.Interrupted);
        return result;
    }

    private static long Number(long result) => result < 0 ? -Marshal.GetLastPInvokeError() : result;

    private static byte[] Terminated(string text)
    {
        if (text.Contains('\0'))
        {
            throw new DiskException(DiskError.NotFound, "a path holds a zero byte");
        }

        return Encoding.UTF8.GetBytes(text + "\0");
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint preadv2(SafeFileHandle file, IoPiece* pieces, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwritev2(SafeFileHandle file, IoPiece* pieces, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fdatasync(SafeFileHandle file);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fsync(SafeFileHandle file);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ftruncate(SafeFileHandle file, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fallocate(SafeFileHandle file, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long lseek(SafeFileHandle file, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(SafeFileHandle file, nuint request, void* argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(SafeFileHandle file, int command, FileLock* argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int statx(SafeFileHandle folder, byte* path, int flags, uint mask, FileStatus* status);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int linkat(int fromFolder, byte* from, SafeFileHandle toFolder, byte* to, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int renameat2(SafeFileHandle fromFolder, byte* from, SafeFileHandle toFolder, byte* to, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int unlinkat(SafeFileHandle folder, byte* path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int openat(int folder, byte* path, int flags, uint mode);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint first, nint second, nint third, nint fourth);

    /// <summary>struct iovec.</summary>
    private struct IoPiece
    {
        public byte* Base;
        public nuint Length;
    }

    /// <summary>struct open_how.</summary>
    private struct OpenHow
    {
        public ulong Flags;
        public ulong Mode;
        public ulong Resolve;
    }

    /// <summary>struct flock of x86-64.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 32)]
    private struct FileLock
    {
        [FieldOffset(0)]
        public short Type;

        [FieldOffset(8)]
        public long Start;

        [FieldOffset(16)]
        public long Length;
    }

    [InlineArray(MostPieces)]
    private struct PieceHandles
    {
        private System.Buffers.MemoryHandle _first;
    }
}

/// <summary>struct statx, as far as it is used.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct FileStatus
{
    [FieldOffset(0)]
    public uint Mask;

    [FieldOffset(4)]
    public uint BlockSize;

    [FieldOffset(28)]
    public ushort Mode;

    [FieldOffset(32)]
    public ulong Inode;

    [FieldOffset(40)]
    public long Size;

    [FieldOffset(48)]
    public long Blocks;

    [FieldOffset(136)]
    public uint DeviceMajor;

    [FieldOffset(140)]
    public uint DeviceMinor;

    [FieldOffset(152)]
    public uint DirectMemoryAlignment;

    [FieldOffset(156)]
    public uint DirectOffsetAlignment;

    /// <summary>The S_IFMT bits of the mode.</summary>
    public readonly int Kind => Mode & 0xF000;

    public const int KindRegular = 0x8000;
    public const int KindBlockDevice = 0x6000;
    public const int KindFolder = 0x4000;
    public const int KindPipe = 0x1000;
    public const int KindCharacterDevice = 0x2000;
    public const int KindSocket = 0xC000;
}
