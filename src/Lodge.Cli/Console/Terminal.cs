using System.Runtime.InteropServices;

namespace Lodge.Cli.Console;

/// <summary>
/// The user's terminal: raw mode and back (termios(3)), and its size. The mode is restored when the process ends in any way that lets it run
/// code: normal exit, unhandled exception, SIGINT, SIGTERM, SIGHUP, SIGQUIT; and while it is stopped by SIGTSTP.
/// </summary>
internal static unsafe partial class Terminal
{
    private const int TcsaDrain = 1;
    private const ulong TiocGWinSz = 0x5413;
    private const int SigStop = 19;
    private const int TermiosRoom = 256; // larger than struct termios of any libc
    private static readonly Lock Gate = new();
    private static readonly byte[] Saved = new byte[TermiosRoom];
    private static readonly List<PosixSignalRegistration> Signals = [];
    private static bool _raw;
    private static bool _left;

    /// <summary>Whether the terminal is in raw mode now.</summary>
    public static bool IsRaw => _raw;

    /// <summary>Whether a file descriptor is a terminal.</summary>
    public static bool IsTerminal(int fd) => isatty(fd) == 1;

    /// <summary>Columns and rows, or null when unknown.</summary>
    public static (int Columns, int Rows)? Size()
    {
        WindowSize size;
        foreach (int fd in (ReadOnlySpan<int>)[HostFile.StandardOutput, HostFile.StandardInput, HostFile.StandardError])
        {
            if (ioctl(fd, TiocGWinSz, &size) == 0 && size.Columns != 0 && size.Rows != 0)
            {
                return (size.Columns, size.Rows);
            }
        }
        return null;
    }

    /// <summary>Enters raw mode on standard input's terminal and arranges that it is left again.</summary>
    public static void EnterRaw()
    {
        lock (Gate)
        {
            if (_raw || _left)
            {
                return;
            }
            fixed (byte* saved = Saved)
            {
                if (tcgetattr(HostFile.StandardInput, saved) != 0)
                {
                    return;
                }
            }
            if (Signals.Count == 0)
            {
                AppDomain.CurrentDomain.ProcessExit += (_, _) => Leave();
                AppDomain.CurrentDomain.UnhandledException += (_, _) => Leave();
                Signals.Add(PosixSignalRegistration.Create(PosixSignal.SIGTSTP, context =>
                {
                    context.Cancel = true;
                    Restore();
                    _ = kill(Environment.ProcessId, SigStop);
                    Thread.Sleep(50); // the stop takes this thread within that time; it goes on after SIGCONT
                    EnterRaw();
                }));
            }
            SetRaw();
        }
    }

    /// <summary>Puts the terminal back for good: raw mode is not entered again.</summary>
    public static void Leave()
    {
        lock (Gate)
        {
            _left = true;
        }
        Restore();
    }

    /// <summary>Puts the terminal back as it was. Any thread, any number of times.</summary>
    public static void Restore()
    {
        lock (Gate)
        {
            if (_raw)
            {
                fixed (byte* saved = Saved)
                {
                    _ = tcsetattr(HostFile.StandardInput, TcsaDrain, saved);
                }
                _raw = false;
            }
        }
    }

    private static void SetRaw()
    {
        byte* mode = stackalloc byte[TermiosRoom];
        Saved.CopyTo(new Span<byte>(mode, TermiosRoom));
        cfmakeraw(mode);
        _raw = tcsetattr(HostFile.StandardInput, TcsaDrain, mode) == 0;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct WindowSize
    {
        public ushort Rows;
        public ushort Columns;
        public ushort Width;
        public ushort Height;
    }

    [LibraryImport("libc")]
    private static partial int isatty(int fd);

    [LibraryImport("libc")]
    private static partial int ioctl(int fd, ulong request, WindowSize* size);

    [LibraryImport("libc")]
    private static partial int tcgetattr(int fd, byte* mode);

    [LibraryImport("libc")]
    private static partial int tcsetattr(int fd, int when, byte* mode);

    [LibraryImport("libc")]
    private static partial void cfmakeraw(byte* mode);

    [LibraryImport("libc")]
    private static partial int kill(int pid, int signal);
}
