using System.Runtime.InteropServices;

namespace Lodge.Network.Vsock;

/// <summary>What kind of file a path names.</summary>
internal static unsafe partial class SocketFile
{
    private const int CurrentFolder = -100;         // AT_FDCWD
    private const int SymbolicLinkNoFollow = 0x100; // AT_SYMLINK_NOFOLLOW
    private const uint TypeMask = 1;                // STATX_TYPE
    private const int ModeOffset = 28;              // stx_mode
    private const ushort FormatMask = 0xF000;
    private const ushort FormatSocket = 0xC000;

    /// <summary>Whether the path itself is a Unix socket.</summary>
    public static bool IsSocket(string path)
    {
        byte* buffer = stackalloc byte[256];
        return Statx(CurrentFolder, path, SymbolicLinkNoFollow, TypeMask, buffer) == 0 && (*(ushort*)(buffer + ModeOffset) & FormatMask) == FormatSocket;
    }

    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Statx(int folder, string path, int flags, uint mask, byte* buffer);
}
