using System.Collections.Concurrent;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Network.Taps;

/// <summary>
/// The one thread that waits for all taps of the process. A tap is armed for one event at a time (EPOLLONESHOT), only when it was found empty or full, so
/// that a busy tap costs no wake-ups.
/// </summary>
internal sealed class TapWatcher
{
    private static readonly Lazy<TapWatcher> Instance = new(() => new TapWatcher());

    private readonly SafeFileHandle _epoll;
    private readonly ConcurrentDictionary<long, Action> _called = new();
    private long _last;

    private TapWatcher()
    {
        _epoll = TapSystemCalls.OpenEpoll(out int error) ?? throw new NetworkException($"the host has no epoll descriptor left (error {error})");
        new Thread(Run) { IsBackground = true, Name = "taps" }.Start();
    }

    /// <summary>The watcher of this process.</summary>
    public static TapWatcher Shared => Instance.Value;

    /// <summary>Starts to watch. <paramref name="ready"/> is called on the watcher's thread after each <see cref="Arm"/> at most once, and must neither block nor throw.</summary>
    /// <returns>The number to arm and remove it by.</returns>
    public long Add(SafeFileHandle handle, Action ready)
    {
        long number = Interlocked.Increment(ref _last);
        _called[number] = ready;
        if (TapSystemCalls.Watch(_epoll, TapSystemCalls.EpollAdd, handle, TapSystemCalls.EventOneShot, number) is < 0 and int error)
        {
            _called.TryRemove(number, out _);
            throw new NetworkException($"the host cannot watch a tap (error {-error})");
        }
        return number;
    }

    /// <summary>Asks for a call when the descriptor is readable, or also when it is writable; at once if it is already.</summary>
    public void Arm(SafeFileHandle handle, long number, bool writable) =>
        _ = TapSystemCalls.Watch(_epoll, TapSystemCalls.EpollModify, handle, TapSystemCalls.EventIn | (writable ? TapSystemCalls.EventOut : 0) | TapSystemCalls.EventOneShot, number);

    /// <summary>Ends it; a call may still be under way on the watcher's thread.</summary>
    public void Remove(SafeFileHandle handle, long number)
    {
        _ = TapSystemCalls.Watch(_epoll, TapSystemCalls.EpollDelete, handle, 0, number);
        _called.TryRemove(number, out _);
    }

    private void Run()
    {
        Span<TapSystemCalls.EpollEvent> events = stackalloc TapSystemCalls.EpollEvent[32];
        while (true)
        {
            int count = TapSystemCalls.Wait(_epoll, events);
            for (int i = 0; i < count; i++)
            {
                if (_called.TryGetValue(events[i].Data, out Action? ready))
                {
                    ready();
                }
            }
        }
    }
}
