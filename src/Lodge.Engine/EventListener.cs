using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace Lodge.Engine;

/// <summary>
/// One thread that waits for any number of eventfds (epoll) and calls what belongs to each; started by the first. For what signals from outside of this
/// process: doorbells in the kernel, other programs.
/// </summary>
public sealed unsafe partial class EventListener : IDisposable
{
    private const int EfdCloexec = 0x80000, EfdNonblock = 0x800, EpollCloexec = 0x80000, ControlAdd = 1, ControlDelete = 2, EventIn = 1, Batch = 32;
    private const ulong EndKey = 0;
    private readonly Lock _gate = new();
    private readonly ConcurrentDictionary<ulong, EventSource> _sources = [];
    private readonly int _poll;
    private readonly int _end;
    private Thread? _thread;
    private ulong _lastKey;
    private bool _disposed;

    /// <summary>Creates a listener.</summary>
    /// <exception cref="IOException">The host has no more descriptors.</exception>
    public EventListener()
    {
        _poll = epoll_create1(EpollCloexec);
        _end = eventfd(0, EfdCloexec | EfdNonblock);
        if (_poll < 0 || _end < 0 || !Register(_end, EndKey))
        {
            throw new IOException($"cannot listen for events: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())}");
        }
    }

    /// <summary>Makes an eventfd for whose signals <paramref name="signalled"/> is called, on the listener's thread; it must be short and not throw.</summary>
    /// <exception cref="IOException">The host has no more descriptors.</exception>
    public EventSource Add(Action signalled)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            int descriptor = eventfd(0, EfdCloexec | EfdNonblock);
            ulong key = ++_lastKey;
            var source = new EventSource(this, key, descriptor, signalled);
            _sources[key] = source;
            if (descriptor < 0 || !Register(descriptor, key))
            {
                int error = Marshal.GetLastPInvokeError();
                Remove(source);
                throw new IOException($"cannot make an event: {Marshal.GetPInvokeErrorMessage(error)}");
            }
            if (_thread is null)
            {
                _thread = new Thread(Loop) { IsBackground = true, Name = "events" };
                _thread.Start();
            }
            return source;
        }
    }

    /// <summary>Ends the thread, waits for it and closes all eventfds. Not on the thread itself.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_disposed)
            {
                return;
            }
            _disposed = true;
        }
        ulong one = 1;
        _ = write(_end, &one, sizeof(ulong));
        _thread?.Join();
        foreach (EventSource source in _sources.Values)
        {
            Remove(source);
        }
        _ = close(_end);
        _ = close(_poll);
    }

    internal void Remove(EventSource source)
    {
        lock (_gate)
        {
            if (_sources.TryRemove(source.Key, out _) && source.Descriptor >= 0)
            {
                EpollEvent ignored;
                _ = epoll_ctl(_poll, ControlDelete, source.Descriptor, &ignored);
                _ = close(source.Descriptor);
            }
        }
    }

    private bool Register(int descriptor, ulong key)
    {
        EpollEvent entry = new() { Events = EventIn, Key = key };
        return epoll_ctl(_poll, ControlAdd, descriptor, &entry) == 0;
    }

    private void Loop()
    {
        EpollEvent* events = stackalloc EpollEvent[Batch];
        while (true)
        {
            int count = epoll_wait(_poll, events, Batch, -1);
            for (int i = 0; i < count; i++)
            {
                if (events[i].Key == EndKey)
                {
                    return;
                }
                EventSource? source;
                lock (_gate) // its descriptor is not closed, and perhaps another's, meanwhile
                {
                    if (_sources.TryGetValue(events[i].Key, out source))
                    {
                        ulong signals;
                        _ = read(source.Descriptor, &signals, sizeof(ulong));
                    }
                }
                source?.Signalled();
            }
        }
    }

    /// <summary>struct epoll_event, packed on x86-64.</summary>
    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    private struct EpollEvent
    {
        public uint Events;
        public ulong Key;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int eventfd(uint initial, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_create1(int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_ctl(int poll, int operation, int descriptor, EpollEvent* entry);

    [LibraryImport("libc")]
    private static partial int epoll_wait(int poll, EpollEvent* events, int maximum, int timeout);

    [LibraryImport("libc")]
    private static partial nint read(int fd, void* buffer, nint count);

    [LibraryImport("libc")]
    private static partial nint write(int fd, void* buffer, nint count);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}

/// <summary>An eventfd that an <see cref="EventListener"/> waits for. Disposing closes it; a call under way may still end after that.</summary>
public sealed class EventSource : IDisposable
{
    private readonly EventListener _listener;

    internal EventSource(EventListener listener, ulong key, int descriptor, Action signalled)
    {
        _listener = listener;
        Key = key;
        Descriptor = descriptor;
        Signalled = signalled;
    }

    /// <summary>The eventfd.</summary>
    public int Descriptor { get; }

    internal ulong Key { get; }

    internal Action Signalled { get; }

    /// <inheritdoc/>
    public void Dispose() => _listener.Remove(this);
}
