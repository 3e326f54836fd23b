namespace Lodge.Storage.Files;

/// <summary>Work that waits for the host's disks.</summary>
internal interface IIoWork
{
    /// <summary>Does it; does not throw.</summary>
    void Run();
}

/// <summary>
/// The threads on which host file operations wait, at most 64 in the process: so many requests are with the host's disks at once. They start when they are
/// needed and end after some idle seconds. Apart from the .NET thread pool, so that waiting for a slow disk starves nobody.
/// </summary>
internal static class IoThreads
{
    private const int MostThreads = 64;
    private const int IdleMilliseconds = 10_000;
    private static readonly Lock Gate = new();
    private static readonly Queue<IIoWork> Waiting = new();
    private static readonly Stack<Sleeper> Idle = new();
    private static int _threads;

    /// <summary>Runs <paramref name="work"/> soon.</summary>
    public static void Queue(IIoWork work)
    {
        Sleeper? sleeper = null;
        lock (Gate)
        {
            if (Idle.TryPop(out sleeper))
            {
                // Handed over directly: the latest sleeper is the one whose stack is still in the caches.
                sleeper.Work = work;
            }
            else
            {
                Waiting.Enqueue(work);
                if (_threads == MostThreads)
                {
                    return;
                }

                _threads++;
            }
        }

        if (sleeper is not null)
        {
            sleeper.Signal.Release();
            return;
        }

        new Thread(static () => Run()) { IsBackground = true, Name = "lodge-io" }.Start();
    }

    private static void Run()
    {
        var self = new Sleeper();
        while (true)
        {
            IIoWork? work;
            lock (Gate)
            {
                if (!Waiting.TryDequeue(out work))
                {
                    self.Work = null;
                    Idle.Push(self);
                }
            }

            if (work is null)
            {
                if (!self.Signal.Wait(IdleMilliseconds))
                {
                    lock (Gate)
                    {
                        if (self.Work is null)
                        {
                            Remove(self);
                            _threads--;
                            return;
                        }
                    }

                    self.Signal.Wait();
                }

                work = self.Work!;
                self.Work = null;
            }

            work.Run();
        }
    }

    private static void Remove(Sleeper self)
    {
        var others = Idle.Where(sleeper => sleeper != self).Reverse().ToArray();
        Idle.Clear();
        foreach (var other in others)
        {
            Idle.Push(other);
        }
    }

    private sealed class Sleeper
    {
        public SemaphoreSlim Signal { get; } = new(0);

        public IIoWork? Work { get; set; }
    }
}
