using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>
/// The connections to one export. The first carries everything; when several transfers are under way and the server says that its connections see each other's
/// writes and flushes (NBD_FLAG_CAN_MULTI_CONN), more are opened beside, each with a thread that receives, and transfers are spread over them. They live and die
/// together: when one is lost, all requests fail as if there were only one connection.
/// </summary>
internal sealed class NbdClientPool : IAsyncDisposable
{
    private const int MostConnections = 4;
    private const long Large = 64 * 1024; // smaller transfers do not wait for the copying of others
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    private readonly NbdClientConnection _first;
    private readonly NbdDialer _dialer;
    private readonly CancellationTokenSource _disposed = new();
    private readonly Lock _gate = new();
    private NbdClientConnection[] _all;
    private Task _growth = Task.CompletedTask;
    private bool _grown;
    private bool _lost;
    private uint _turn;

    public NbdClientPool(NbdClientConnection first, NbdDialer dialer)
    {
        _first = first;
        _dialer = dialer;
        _all = [first];
        _grown = !first.Session.Has(NbdTransmissionFlags.CanMultiConn);
        first.Lost = Lose;
    }

    /// <summary>What was agreed on.</summary>
    public NbdClientSession Session => _first.Session;

    /// <summary>Whether requests have a chance.</summary>
    public bool IsAlive => _first.IsAlive && !Volatile.Read(ref _lost);

    /// <summary>Connections at present.</summary>
    internal int Count => Volatile.Read(ref _all).Length;

    /// <summary>Runs a request.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Connection"/>, or the server's error.</exception>
    public ValueTask RunAsync(NbdCommand command, NbdCommandFlags flags, long offset, long length, IoVector destination, IoVector source, CancellationToken cancellation)
    {
        var connection = command is NbdCommand.Read or NbdCommand.Write && length >= Large ? Choose() : _first;
        return connection.RunAsync(command, flags, offset, length, destination, source, cancellation);
    }

    /// <summary>Asks for the first extent of each context.</summary>
    public ValueTask<(uint Context, long Length, ulong Flags)[]> StatusAsync(long offset, long length, CancellationToken cancellation) => _first.StatusAsync(offset, length, cancellation);

    /// <summary>Ends the connections; requests under way fail.</summary>
    public void Abort() => Lose();

    public async ValueTask DisposeAsync()
    {
        await _disposed.CancelAsync().ConfigureAwait(false);
        Task growth;
        lock (_gate)
        {
            _grown = true;
            growth = _growth;
        }

        await growth.ConfigureAwait(false);
        foreach (var connection in Volatile.Read(ref _all).Reverse())
        {
            await connection.DisposeAsync().ConfigureAwait(false);
        }
    }

    private NbdClientConnection Choose()
    {
        if (!Volatile.Read(ref _grown) && _first.UnderWay > 0)
        {
            lock (_gate)
            {
                if (!_grown && !_lost)
                {
                    _grown = true;
                    _growth = Task.Run(GrowAsync);
                }
            }
        }

        var all = Volatile.Read(ref _all);
        return all.Length == 1 ? _first : all[Interlocked.Increment(ref _turn) % (uint)all.Length];
    }

    /// <summary>Opens more connections. A server may take fewer (qemu-nbd leaves those beyond its <c>--shared</c> unanswered): then it stays at what there is.</summary>
    private async Task GrowAsync()
    {
        while (Count < MostConnections)
        {
            NbdClientConnection connection;
            using var deadline = CancellationTokenSource.CreateLinkedTokenSource(_disposed.Token);
            deadline.CancelAfter(Patience);
            try
            {
                connection = await _dialer.ConnectAsync(deadline.Token).ConfigureAwait(false);
            }
            catch (Exception failure) when (failure is DiskException or OperationCanceledException)
            {
                return;
            }

            var (now, first) = (connection.Session, Session);
            var same = now.Length == first.Length && now.Flags == first.Flags && now.Style == first.Style && now.MinimumBlock == first.MinimumBlock && now.MaximumPayload == first.MaximumPayload;
            lock (_gate)
            {
                same &= !_lost && connection.IsAlive;
                if (same)
                {
                    Volatile.Write(ref _all, [.. _all, connection]);
                    connection.Lost = Lose;
                }
            }

            if (!same)
            {
                await connection.DisposeAsync().ConfigureAwait(false);
                return;
            }

            if (!connection.IsAlive)
            {
                Lose(); // before it was told whom to tell
            }
        }
    }

    private void Lose()
    {
        NbdClientConnection[] all;
        lock (_gate)
        {
            Volatile.Write(ref _lost, true);
            all = _all;
        }

        foreach (var connection in all)
        {
            connection.Abort();
        }
    }
}
