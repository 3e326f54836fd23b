using System.Net.Sockets;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Control;

/// <summary>Unix sockets at paths of any length: the system's limit of 107 bytes is that of an address, which here begins at an open folder.</summary>
internal static class ControlSocket
{
    /// <summary>Listens; a socket file that is there is of a dead process and goes.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static Socket Listen(string path)
    {
        using SafeFileHandle folder = HostSystemCalls.OpenFolder(Path.GetDirectoryName(path)!);
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            File.Delete(path);
            socket.Bind(Address(folder, path));
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            socket.Listen(64);
            return socket;
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new IOException($"no socket at {path}: {e.Message}", e);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Connects.</summary>
    /// <exception cref="IOException">Nobody listens there.</exception>
    public static Socket Connect(string path)
    {
        using SafeFileHandle folder = HostSystemCalls.OpenFolder(Path.GetDirectoryName(path)!);
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(Address(folder, path));
            return socket;
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new IOException($"no answer at {path}: {e.Message}", e);
        }
    }

    private static UnixDomainSocketEndPoint Address(SafeFileHandle folder, string path) =>
        new($"/proc/self/fd/{folder.DangerousGetHandle()}/{Path.GetFileName(path)}");
}
