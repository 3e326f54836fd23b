namespace Lodge.Storage.Shares;

/// <summary>
/// The threads on which one share's requests wait for the host's file system. Each share has its own, so that a hanging network file system stops nothing else.
/// They start as they are needed and end after some idle seconds.
/// </summary>
/// <param name="most">Most threads.</param>
/// <param name="serve">Serves one request, or with null closes what is not needed any more; does not throw.</param>
internal sealed class ShareThreads(int most, Action<IFuseExchange?, FuseWorkspace> serve)
{
    private const int IdleMilliseconds = 5_000;
    private readonly object _gate = new();
    private readonly Queue<IFuseExchange?> _waiting = new();
    private int _threads;
    private int _idle;

    /// <summary>Serves a request soon. The number of those waiting is bounded by the transport's queues.</summary>
    public void Queue(IFuseExchange? exchange)
    {
        lock (_gate)
        {
            _waiting.Enqueue(exchange);
            if (_waiting.Count <= _idle || _threads == most)
            {
                if (_idle != 0)
                {
                    Monitor.Pulse(_gate);
                }
                return;
            }
            _threads++;
        }
        new Thread(Run) { IsBackground = true, Name = "lodge-share" }.Start();
    }

    private void Run()
    {
        FuseWorkspace workspace = new();
        while (true)
        {
            IFuseExchange? exchange;
            lock (_gate)
            {
                while (!_waiting.TryDequeue(out exchange))
                {
                    _idle++;
                    bool woken = Monitor.Wait(_gate, IdleMilliseconds);
                    _idle--;
                    if (!woken && _waiting.Count == 0)
                    {
                        _threads--;
                        return;
                    }
                }
            }
            serve(exchange, workspace);
        }
    }
}

/// <summary>Buffers of a thread that serves requests.</summary>
internal sealed class FuseWorkspace
{
    /// <summary>The request after its header.</summary>
    public byte[] Input { get; } = new byte[FuseProtocol.MaximumBody + 1];

    /// <summary>The reply with its header.</summary>
    public byte[] Output { get; } = new byte[FuseProtocol.OutHeaderLength + FuseProtocol.MaximumReply];

    /// <summary>What the host gives before it is put into a reply.</summary>
    public byte[] Scratch { get; } = new byte[FuseProtocol.MaximumAttributeValue + 1];
}
