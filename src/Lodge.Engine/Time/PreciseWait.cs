using System.Runtime.InteropServices;

namespace Lodge.Engine.Time;

/// <summary>
/// Waits with nanosecond time-outs until woken (eventfd and ppoll; .NET's waits round to milliseconds). A wake-up that arrives while nobody
/// waits is kept for the next wait.
/// </summary>
public sealed unsafe partial class PreciseWait : IDisposable
{
    private readonly int _fd;

    /// <summary>Creates the event.</summary>
    public PreciseWait()
    {
        _fd = eventfd(0, EfdCloexec | EfdNonblock);
        if (_fd < 0)
        {
            throw new InvalidOperationException($"eventfd failed: error {Marshal.GetLastPInvokeError()}");
        }
    }

    /// <summary>Wakes the waiter, or the next one. Any thread.</summary>
    public void Wake()
    {
        ulong one = 1;
        _ = write(_fd, &one, 8);
    }

    /// <summary>Waits until woken or for <paramref name="nanoseconds"/> (negative: without limit).</summary>
    /// <returns>True when woken, false when the time ran out.</returns>
    public bool Wait(long nanoseconds)
    {
        PollFd poll = new() { Fd = _fd, Events = 1 };
        Timespec time = new() { Seconds = nanoseconds / 1_000_000_000, Nanoseconds = nanoseconds % 1_000_000_000 };
        int result = ppoll(&poll, 1, nanoseconds < 0 ? null : &time, null);
        ulong count;
        return result > 0 && read(_fd, &count, 8) == 8;
    }

    /// <inheritdoc/>
    public void Dispose() => close(_fd);

    private const int EfdCloexec = 0x80000;
    private const int EfdNonblock = 0x800;

    [StructLayout(LayoutKind.Sequential)]
    private struct PollFd
    {
        public int Fd;
        public short Events;
        public short Returned;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Timespec
    {
        public long Seconds;
        public long Nanoseconds;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int eventfd(uint initial, int flags);

    [LibraryImport("libc")]
    private static partial int ppoll(PollFd* fds, ulong count, Timespec* timeout, void* mask);

    [LibraryImport("libc")]
    private static partial nint read(int fd, void* buffer, nint count);

    [LibraryImport("libc")]
    private static partial nint write(int fd, void* buffer, nint count);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
