using System.Net;
using System.Net.Sockets;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>
/// Serves disks to NBD clients over TCP and unix sockets: fixed newstyle negotiation, TLS, simple, structured and extended replies. Clients are hostile: what breaks the
/// protocol ends that client's connection; memory for one client is bounded, and so is the time of its negotiation.
/// </summary>
public sealed class NbdServer : IAsyncDisposable
{
    private const int Backlog = 128;
    private static readonly TimeSpan AcceptPause = TimeSpan.FromMilliseconds(100);

    private readonly IReadOnlyList<NbdExport> _exports;
    private readonly NbdServerOptions _options;
    private readonly List<Socket> _listeners = [];
    private readonly List<string> _socketPaths = [];
    private readonly HashSet<Task> _clients = [];
    private readonly CancellationTokenSource _stop = new();
    private readonly CancellationTokenSource _abort = new();
    private readonly SemaphoreSlim? _places;
    private int _negotiated;

    /// <summary>Makes a server that listens nowhere yet.</summary>
    /// <param name="exports">What it offers, each name once.</param>
    /// <param name="options">How it treats clients.</param>
    public NbdServer(IReadOnlyList<NbdExport> exports, NbdServerOptions options)
    {
        _exports = exports;
        _options = options;
        _places = options.Shared > 0 ? new SemaphoreSlim(options.Shared) : null;
    }

    /// <summary>Where it listens.</summary>
    public IReadOnlyList<EndPoint> EndPoints => [.. _listeners.Select(listener => listener.LocalEndPoint!)];

    /// <summary>Clients that are connected.</summary>
    public int ClientCount
    {
        get
        {
            lock (_clients)
            {
                return _clients.Count;
            }
        }
    }

    /// <summary>Listens on a TCP or unix address; from then on clients can connect and wait until <see cref="RunAsync"/>.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InUse"/>, <see cref="DiskError.Connection"/>: the address cannot be had.</exception>
    public void Listen(EndPoint address)
    {
        var path = (address as UnixDomainSocketEndPoint)?.ToString();
        var isFile = path is { Length: > 0 } && path[0] is not ('@' or '\0');
        if (isFile)
        {
            RemoveStale(path!, address);
        }

        var listener = new Socket(address.AddressFamily, SocketType.Stream, isFile || address.AddressFamily == AddressFamily.Unix ? ProtocolType.Unspecified : ProtocolType.Tcp);
        try
        {
            if (address.AddressFamily != AddressFamily.Unix)
            {
                listener.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            }

            if (address.AddressFamily == AddressFamily.InterNetworkV6)
            {
                listener.DualMode = ((IPEndPoint)address).Address.Equals(IPAddress.IPv6Any);
            }

            listener.Bind(address);
            listener.Listen(Backlog);
        }
        catch (SocketException failure)
        {
            listener.Dispose();
            throw new DiskException(failure.SocketErrorCode == SocketError.AddressAlreadyInUse ? DiskError.InUse : DiskError.Connection, $"cannot listen on {address}: {failure.Message}", failure);
        }

        _listeners.Add(listener);
        if (isFile)
        {
            _socketPaths.Add(path!);
        }
    }

    /// <summary>
    /// Serves until <see cref="StopAsync"/>, the cancellation, or, unless the server is persistent, until the last client that chose an export has left. Requests under way are
    /// finished.
    /// </summary>
    public async Task RunAsync(CancellationToken cancellation = default)
    {
        using var outer = cancellation.UnsafeRegister(state => ((CancellationTokenSource)state!).Cancel(), _stop);
        await Task.WhenAll(_listeners.Select(listener => Task.Run(() => AcceptAsync(listener)))).ConfigureAwait(false);
        _abort.CancelAfter(_options.StopTimeout);
        Task[] clients;
        lock (_clients)
        {
            clients = [.. _clients];
        }

        await Task.WhenAll(clients).ConfigureAwait(false);
        Close();
    }

    /// <summary>Stops: no client is accepted any more, none's requests are read any more, those under way are finished. <see cref="RunAsync"/> then ends.</summary>
    public ValueTask StopAsync()
    {
        _stop.Cancel();
        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await StopAsync().ConfigureAwait(false);
        Close();
    }

    /// <summary>Serves one client on a channel, which is disposed of at the end. Never fails.</summary>
    internal async Task ServeAsync(NbdChannel channel)
    {
        var receiver = new NbdReceiver(channel);
        var negotiated = false;
        try
        {
            NbdSession? session;
            using (var deadline = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token))
            {
                deadline.CancelAfter(_options.NegotiationTimeout);
                session = await new NbdServerNegotiation(receiver, _exports, _options).RunAsync(deadline.Token).ConfigureAwait(false);
            }

            if (session is not null)
            {
                negotiated = true;
                Interlocked.Increment(ref _negotiated);
                await new NbdServerConnection(receiver, session, _options.StopTimeout, _abort.Token).RunAsync(_stop.Token).ConfigureAwait(false);
            }

            using var farewell = new CancellationTokenSource(_options.StopTimeout);
            await receiver.Channel.FinishAsync(farewell.Token).ConfigureAwait(false);
        }
        catch (Exception)
        {
            // whatever a client does ends in the end of its connection
        }
        finally
        {
            receiver.Channel.Dispose();
            channel.Dispose();
            if (negotiated && Interlocked.Decrement(ref _negotiated) == 0 && !_options.Persistent)
            {
                _stop.Cancel();
            }
        }
    }

    private async Task AcceptAsync(Socket listener)
    {
        while (!_stop.IsCancellationRequested)
        {
            Socket socket;
            try
            {
                if (_places is not null)
                {
                    await _places.WaitAsync(_stop.Token).ConfigureAwait(false);
                }
            }
            catch (OperationCanceledException)
            {
                return;
            }

            try
            {
                socket = await listener.AcceptAsync(_stop.Token).ConfigureAwait(false);
            }
            catch (Exception failure) when (failure is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException)
            {
                _places?.Release();
                await Task.Delay(AcceptPause).ConfigureAwait(false); // the client is gone already, or the host is out of descriptors
                continue;
            }

            Start(socket);
        }
    }

    private void Start(Socket socket)
    {
        var client = new Task<Task>(() => ServeAsync(new SocketChannel(socket)));
        var whole = client.Unwrap();
        lock (_clients)
        {
            _clients.Add(whole);
        }

        _ = whole.ContinueWith(
            done =>
            {
                lock (_clients)
                {
                    _clients.Remove(done);
                }

                socket.Dispose();
                _places?.Release();
            },
            TaskScheduler.Default);
        client.Start(TaskScheduler.Default);
    }

    private void Close()
    {
        foreach (var listener in _listeners)
        {
            listener.Dispose();
        }

        foreach (var path in _socketPaths)
        {
            File.Delete(path);
        }

        _listeners.Clear();
        _socketPaths.Clear();
    }

    /// <summary>Removes the file of a socket on which nobody listens any more.</summary>
    private static void RemoveStale(string path, EndPoint address)
    {
        if (!File.Exists(path))
        {
            return;
        }

        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(address);
            throw new DiskException(DiskError.InUse, $"another server listens on {path}");
        }
        catch (SocketException failure) when (failure.SocketErrorCode == SocketError.ConnectionRefused && File.GetUnixFileMode(path) >= 0)
        {
            if (new FileInfo(path).Length == 0)
            {
                File.Delete(path);
            }
        }
        catch (SocketException)
        {
            throw new DiskException(DiskError.InUse, $"{path} exists and is not the socket of a former server");
        }
    }
}
