using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Shares;

/// <summary>
/// The Linux system calls under a shared folder (sections 2 of the man-pages), all of its unsafe code. Files are named by descriptor, or by a descriptor of a
/// folder and one name in it, never by a path. Results below 0 are negated error numbers.
/// </summary>
internal static unsafe partial class ShareSystemCalls
{
    public const int ReadOnly = 0;
    public const int WriteOnly = 1;
    public const int ReadWrite = 2;
    public const int AccessModeMask = 3;
    public const int Create = 0x40;
    public const int Exclusive = 0x80;
    public const int Truncate = 0x200;
    public const int Append = 0x400;
    public const int NonBlocking = 0x800;
    public const int DataSync = 0x1000;
    public const int Folder = 0x10000;
    public const int NoFollow = 0x20000;
    public const int CloseOnExec = 0x80000;
    public const int FullSync = 0x101000;
    public const int PathOnly = 0x200000;

    public const int WriteAppend = 0x10;    // RWF_APPEND
    public const int RemoveFolder = 0x200;  // AT_REMOVEDIR
    public const uint NoReplace = 1;
    public const uint Exchange = 2;
    public const long ProcFileSystem = 0x9FA0;

    private const int CurrentFolder = -100;
    private const int NoFollowLink = 0x100;     // AT_SYMLINK_NOFOLLOW
    private const int FollowLink = 0x400;       // AT_SYMLINK_FOLLOW
    private const int EmptyPath = 0x1000;       // AT_EMPTY_PATH
    private const uint BasicAndBirth = 0xFFF;   // STATX_BASIC_STATS | STATX_BTIME
    private const ulong ResolveStrictly = 0x02 | 0x04 | 0x08;    // no magic links, no symbolic links, beneath
    private const int SystemCallOpenAt2 = 437, SystemCallGetDents = 217;
    private const int SystemCallSetFsUser = 122, SystemCallSetFsGroup = 123;
    private const int SystemCallCapGet = 125, SystemCallCapSet = 126;
    private const uint CapabilityVersion = 0x20080522;
    private const int MostPieces = 256;
    private const int Interrupted = -4;
    private const int Again = -11;      // of openat2: a rename went on meanwhile

    // A descriptor of /proc/self/fd, through which a file known by an O_PATH descriptor is opened again; -1: the host has no /proc.
    private static readonly int DescriptorFolder = OpenDescriptorFolder();

    /// <summary>Whether files can be opened again through /proc.</summary>
    public static bool HasProc => DescriptorFolder >= 0;

    /// <summary>Opens the folder that is shared; here, and only here, a path is resolved.</summary>
    public static int OpenRoot(string path)
    {
        fixed (byte* text = System.Text.Encoding.UTF8.GetBytes(path + "\0"))
        {
            return Number(openat(CurrentFolder, text, PathOnly | Folder | CloseOnExec, 0));
        }
    }

    /// <summary>Opens one name in a folder. The kernel follows no link and does not leave the folder, whatever the name has become.</summary>
    /// <param name="folder">Descriptor of the folder.</param>
    /// <param name="name">The name, ended by a zero byte.</param>
    /// <param name="flags">Flags of open(2); a symbolic link itself is opened only with <see cref="PathOnly"/>.</param>
    /// <param name="mode">Mode of a new file.</param>
    public static int OpenName(int folder, ReadOnlySpan<byte> name, int flags, uint mode = 0)
    {
        ulong* how = stackalloc ulong[3];
        how[0] = (ulong)(uint)(flags | NoFollow | CloseOnExec);
        how[1] = mode;
        how[2] = ResolveStrictly;
        fixed (byte* text = name)
        {
            for (int tries = 0; ; tries++)
            {
                int result = Number(syscall(SystemCallOpenAt2, folder, (nint)text, (nint)how, 24));
                if (result != Interrupted && (result != Again || tries == 64))
                {
                    return result;
                }
            }
        }
    }

    /// <summary>Opens the file of a descriptor again, for reading or writing. The caller knows that it is a regular file or a folder.</summary>
    public static int Reopen(int descriptor, int flags)
    {
        byte* text = stackalloc byte[16];
        Decimal(descriptor, text);
        return Number(openat(DescriptorFolder, text, flags | CloseOnExec, 0));
    }

    public static int Close(int descriptor) => close(descriptor);

    public static int Status(int descriptor, out ShareStatus status)
    {
        byte empty = 0;
        fixed (ShareStatus* pointer = &status)
        {
            return Number(statx(descriptor, &empty, EmptyPath | NoFollowLink, BasicAndBirth, pointer));
        }
    }

    public static int StatusOfName(int folder, ReadOnlySpan<byte> name, out ShareStatus status)
    {
        fixed (byte* text = name)
        fixed (ShareStatus* pointer = &status)
        {
            return Number(statx(folder, text, NoFollowLink, BasicAndBirth, pointer));
        }
    }

    public static int MakeFolder(int folder, ReadOnlySpan<byte> name, uint mode)
    {
        fixed (byte* text = name)
        {
            return Number(mkdirat(folder, text, mode));
        }
    }

    public static int MakeNode(int folder, ReadOnlySpan<byte> name, uint mode)
    {
        fixed (byte* text = name)
        {
            return Number(mknodat(folder, text, mode, 0));
        }
    }

    public static int MakeLink(ReadOnlySpan<byte> target, int folder, ReadOnlySpan<byte> name)
    {
        fixed (byte* to = target, text = name)
        {
            return Number(symlinkat(to, folder, text));
        }
    }

    /// <summary>A further name for the file of a descriptor.</summary>
    public static int LinkDescriptor(int descriptor, int folder, ReadOnlySpan<byte> name)
    {
        byte* number = stackalloc byte[16];
        Decimal(descriptor, number);
        fixed (byte* text = name)
        {
            return Number(linkat(DescriptorFolder, number, folder, text, FollowLink));
        }
    }

    public static int Unlink(int folder, ReadOnlySpan<byte> name, int flags)
    {
        fixed (byte* text = name)
        {
            return Number(unlinkat(folder, text, flags));
        }
    }

    public static int Rename(int fromFolder, ReadOnlySpan<byte> from, int toFolder, ReadOnlySpan<byte> to, uint flags)
    {
        fixed (byte* source = from, target = to)
        {
            return Number(renameat2(fromFolder, source, toFolder, target, flags));
        }
    }

    public static int ReadLink(int descriptor, Span<byte> target)
    {
        byte empty = 0;
        fixed (byte* buffer = target)
        {
            return Number(readlinkat(descriptor, &empty, buffer, (nuint)target.Length));
        }
    }

    /// <summary>chmod(2) of the file of a descriptor, which may be an O_PATH one.</summary>
    public static int ChangeMode(int descriptor, uint mode)
    {
        byte* number = stackalloc byte[16];
        Decimal(descriptor, number);
        return Number(fchmodat(DescriptorFolder, number, mode, 0));
    }

    public static int ChangeOwner(int descriptor, uint user, uint group)
    {
        byte empty = 0;
        return Number(fchownat(descriptor, &empty, user, group, EmptyPath | NoFollowLink));
    }

    /// <summary>utimensat(2) of the file of a descriptor; four numbers: seconds and nanoseconds of access and modification.</summary>
    public static int ChangeTimes(int descriptor, ReadOnlySpan<long> times)
    {
        byte* number = stackalloc byte[16];
        Decimal(descriptor, number);
        fixed (long* pointer = times)
        {
            return Number(utimensat(DescriptorFolder, number, pointer, 0));
        }
    }

    public static int ChangeLength(int descriptor, long length) => Number(ftruncate(descriptor, length));

    public static int Synchronize(int descriptor, bool dataOnly) => Number(dataOnly ? fdatasync(descriptor) : fsync(descriptor));

    public static int SynchronizeFileSystem(int descriptor) => Number(syncfs(descriptor));

    public static int Allocate(int descriptor, int mode, long offset, long length) => Number(fallocate(descriptor, mode, offset, length));

    public static long Seek(int descriptor, long offset, int whence)
    {
        long result = lseek(descriptor, offset, whence);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    public static long CopyRange(int from, long fromOffset, int to, long toOffset, ulong length)
    {
        long result = copy_file_range(from, &fromOffset, to, &toOffset, (nuint)length, 0);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    /// <summary>Entries of an open folder as getdents64(2) gives them; returns the bytes, 0 at the end.</summary>
    public static int ReadFolder(int descriptor, Span<byte> entries)
    {
        fixed (byte* buffer = entries)
        {
            return Number(syscall(SystemCallGetDents, descriptor, (nint)buffer, entries.Length, 0));
        }
    }

    /// <summary>Ten numbers of statfs(2) as x86-64 lays them out: type, block size, blocks, free, available, files, free files, ID, name length, fragment size.</summary>
    public static int StatFileSystem(int descriptor, Span<long> numbers)
    {
        long* buffer = stackalloc long[15];
        int result = Number(fstatfs(descriptor, buffer));
        new ReadOnlySpan<long>(buffer, Math.Min(10, numbers.Length)).CopyTo(numbers);
        return result;
    }

    public static int GetAttribute(int descriptor, ReadOnlySpan<byte> name, Span<byte> value)
    {
        byte* path = stackalloc byte[32];
        DescriptorPath(descriptor, path);
        fixed (byte* text = name, buffer = value)
        {
            return Number(getxattr(path, text, buffer, (nuint)value.Length));
        }
    }

    public static int ListAttributes(int descriptor, Span<byte> names)
    {
        byte* path = stackalloc byte[32];
        DescriptorPath(descriptor, path);
        fixed (byte* buffer = names)
        {
            return Number(listxattr(path, buffer, (nuint)names.Length));
        }
    }

    public static int SetAttribute(int descriptor, ReadOnlySpan<byte> name, ReadOnlySpan<byte> value, int flags)
    {
        byte* path = stackalloc byte[32];
        DescriptorPath(descriptor, path);
        fixed (byte* text = name, buffer = value)
        {
            return Number(setxattr(path, text, buffer, (nuint)value.Length, flags));
        }
    }

    public static int RemoveAttribute(int descriptor, ReadOnlySpan<byte> name)
    {
        byte* path = stackalloc byte[32];
        DescriptorPath(descriptor, path);
        fixed (byte* text = name)
        {
            return Number(removexattr(path, text));
        }
    }

    /// <summary>Reads or writes at an offset; fewer bytes than asked at the end of the file, on a full disk, or when there are very many pieces.</summary>
    public static int Transfer(int descriptor, bool write, long offset, in IoVector data, int flags)
    {
        Piece* pieces = stackalloc Piece[MostPieces];
        if (data.TryGetSingle(out Memory<byte> single))
        {
            using System.Buffers.MemoryHandle pin = single.Pin();
            pieces[0] = new Piece { Base = (nint)pin.Pointer, Length = single.Length };
            return Transfer(descriptor, write, offset, pieces, 1, flags);
        }
        System.Buffers.MemoryHandle[] pins = System.Buffers.ArrayPool<System.Buffers.MemoryHandle>.Shared.Rent(MostPieces);
        int count = 0;
        try
        {
            foreach (Memory<byte> piece in data)
            {
                if (count == MostPieces)
                {
                    break;
                }
                pins[count] = piece.Pin();
                pieces[count] = new Piece { Base = (nint)pins[count].Pointer, Length = piece.Length };
                count++;
            }
            return Transfer(descriptor, write, offset, pieces, count, flags);
        }
        finally
        {
            for (int i = 0; i < count; i++)
            {
                pins[i].Dispose();
                pins[i] = default;
            }
            System.Buffers.ArrayPool<System.Buffers.MemoryHandle>.Shared.Return(pins);
        }
    }

    /// <summary>File system user and group of the calling thread (setfsuid(2)); returns whether they are now those.</summary>
    public static bool SetFileUser(uint user)
    {
        syscall(SystemCallSetFsUser, (nint)user, 0, 0, 0);
        return (uint)syscall(SystemCallSetFsUser, -1, 0, 0, 0) == user;
    }

    /// <summary>The same for the group.</summary>
    public static bool SetFileGroup(uint group)
    {
        syscall(SystemCallSetFsGroup, (nint)group, 0, 0, 0);
        return (uint)syscall(SystemCallSetFsGroup, -1, 0, 0, 0) == group;
    }

    /// <summary>Capabilities of the calling thread: effective and permitted.</summary>
    public static bool GetCapabilities(out ulong effective, out ulong permitted, out ulong inheritable)
    {
        uint* header = stackalloc uint[2] { CapabilityVersion, 0 };
        uint* data = stackalloc uint[6];
        bool done = syscall(SystemCallCapGet, (nint)header, (nint)data, 0, 0) == 0;
        effective = data[0] | ((ulong)data[3] << 32);
        permitted = data[1] | ((ulong)data[4] << 32);
        inheritable = data[2] | ((ulong)data[5] << 32);
        return done;
    }

    /// <summary>Sets the capabilities of the calling thread.</summary>
    public static bool SetCapabilities(ulong effective, ulong permitted, ulong inheritable)
    {
        uint* header = stackalloc uint[2] { CapabilityVersion, 0 };
        uint* data = stackalloc uint[6]
        {
            (uint)effective, (uint)permitted, (uint)inheritable, (uint)(effective >> 32), (uint)(permitted >> 32), (uint)(inheritable >> 32),
        };
        return syscall(SystemCallCapSet, (nint)header, (nint)data, 0, 0) == 0;
    }

    public static uint EffectiveUser() => geteuid();

    public static uint EffectiveGroup() => getegid();

    /// <summary>Most descriptors that this process may have; raises what it has to what it may have.</summary>
    public static long DescriptorLimit()
    {
        const int OpenFiles = 7;
        ulong* limit = stackalloc ulong[2];
        if (getrlimit(OpenFiles, limit) != 0)
        {
            return 1024;
        }
        if (limit[0] < limit[1])
        {
            ulong soft = limit[0];
            limit[0] = limit[1];
            if (setrlimit(OpenFiles, limit) != 0)
            {
                limit[0] = soft;
            }
        }
        return (long)Math.Min(limit[0], 1 << 20);
    }

    private static int Transfer(int descriptor, bool write, long offset, Piece* pieces, int count, int flags)
    {
        int result;
        do
        {
            result = Number(write ? pwritev2(descriptor, pieces, count, offset, flags) : preadv2(descriptor, pieces, count, offset, flags));
        }
        while (result == Interrupted);
        return result;
    }

    private static int OpenDescriptorFolder()
    {
        fixed (byte* text = "/proc/self/fd\0"u8)
        {
            int folder = openat(CurrentFolder, text, PathOnly | Folder | CloseOnExec, 0);
            long* numbers = stackalloc long[15];
            return folder >= 0 && fstatfs(folder, numbers) == 0 && numbers[0] == ProcFileSystem ? folder : -1;
        }
    }

    private static int Number(nint result) => result < 0 ? -Marshal.GetLastPInvokeError() : (int)result;

    private static void Decimal(int number, byte* text)
    {
        number.TryFormat(new Span<byte>(text, 15), out int length);
        text[length] = 0;
    }

    private static void DescriptorPath(int descriptor, byte* text)
    {
        ReadOnlySpan<byte> folder = "/proc/self/fd/"u8;
        folder.CopyTo(new Span<byte>(text, folder.Length));
        Decimal(descriptor, text + folder.Length);
    }

    private struct Piece
    {
        public nint Base;
        public nint Length;
    }
}
