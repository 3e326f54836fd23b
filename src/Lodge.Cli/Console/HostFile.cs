using System.Runtime.InteropServices;
using System.Text;

namespace Lodge.Cli.Console;

/// <summary>Reads and writes on the process's own file descriptors, which may be pipes, files, sockets or terminals, blocking or not.</summary>
internal static unsafe partial class HostFile
{
    public const int StandardInput = 0;
    public const int StandardOutput = 1;
    public const int StandardError = 2;

    private const int EIntr = 4;
    private const int EAgain = 11;
    private const short PollIn = 1;
    private const short PollOut = 4;

    /// <summary>Reads what is there, waiting for at least one byte.</summary>
    /// <returns>Bytes read; 0 at the end or on an error.</returns>
    public static int Read(int fd, Span<byte> buffer)
    {
        fixed (byte* data = buffer)
        {
            while (true)
            {
                nint n = read(fd, data, buffer.Length);
                if (n >= 0)
                {
                    return (int)n;
                }
                if (!Again(fd, PollIn))
                {
                    return 0;
                }
            }
        }
    }

    /// <summary>Writes everything.</summary>
    /// <returns>False when the other side is gone or the device refuses.</returns>
    public static bool Write(int fd, ReadOnlySpan<byte> buffer)
    {
        fixed (byte* data = buffer)
        {
            for (int done = 0; done < buffer.Length;)
            {
                nint n = write(fd, data + done, buffer.Length - done);
                if (n >= 0)
                {
                    done += (int)n;
                }
                else if (!Again(fd, PollOut))
                {
                    return false;
                }
            }
        }
        return true;
    }

    /// <summary>Gets the lines of <see cref="Error"/> too.</summary>
    public static Action<string>? Listener { get; set; }

    /// <summary>Writes one line to standard error.</summary>
    public static void Error(string line)
    {
        Write(StandardError, Encoding.UTF8.GetBytes(line + (Terminal.IsRaw ? "\r\n" : "\n")));
        Listener?.Invoke(line);
    }

    private static bool Again(int fd, short events)
    {
        int error = Marshal.GetLastPInvokeError();
        if (error == EIntr)
        {
            return true;
        }
        if (error != EAgain)
        {
            return false;
        }
        PollFd wait = new() { Fd = fd, Events = events };
        _ = poll(&wait, 1, -1);
        return true;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct PollFd
    {
        public int Fd;
        public short Events;
        public short Returned;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint read(int fd, byte* buffer, nint count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint write(int fd, byte* buffer, nint count);

    [LibraryImport("libc")]
    private static partial int poll(PollFd* fds, ulong count, int timeout);
}
