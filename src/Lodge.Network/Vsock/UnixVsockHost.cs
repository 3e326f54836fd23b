using System.Collections.Concurrent;
using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace Lodge.Network.Vsock;

/// <summary>
/// The host's side of vsock as Unix sockets, as Firecracker and Cloud Hypervisor have it. A program on the host connects to the socket at PATH, writes
/// <c>CONNECT PORT\n</c>, reads <c>OK HOSTPORT\n</c> when the guest has taken the connection, and then has the stream. When the guest connects to port N of the host
/// (CID 2), Lodge connects to the socket at PATH_N.
/// </summary>
public sealed class UnixVsockHost : IVsockHost
{
    /// <summary>Longest path of a socket, in bytes, with a port appended.</summary>
    private const int MaximumPath = 107;

    private const int MaximumHandshakes = 64;
    private const int LongestLine = 32;
    private static readonly TimeSpan _patience = TimeSpan.FromSeconds(10);

    private readonly string _path;
    private readonly Socket _listener;
    private readonly CancellationTokenSource _disposed = new();
    private readonly ConcurrentQueue<(UnixVsockStream Stream, uint Port)> _opened = new();
    private readonly SemaphoreSlim _handshakes = new(MaximumHandshakes);
    private Action _wake = static () => { };

    /// <summary>Listens at a path, which only the user may then use.</summary>
    /// <exception cref="NetworkException">The path is too long, in use, or cannot be made.</exception>
    public UnixVsockHost(string path)
    {
        if (Encoding.UTF8.GetByteCount(path) > MaximumPath - "_4294967295".Length || path.Length == 0)
        {
            throw new NetworkException($"vsock socket '{path}' has {Encoding.UTF8.GetByteCount(path)} bytes; a path of 1 to {MaximumPath - "_4294967295".Length} is usable");
        }
        if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } folder && !Directory.Exists(folder))
        {
            throw new NetworkException($"vsock socket '{path}' cannot be made: there is no folder '{folder}'");
        }
        _path = path;
        RemoveDead(path);
        _listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            _listener.Bind(new UnixDomainSocketEndPoint(path));
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);    // before anybody can connect
            _listener.Listen(MaximumHandshakes);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException)
        {
            _listener.Dispose();
            throw new NetworkException($"vsock socket '{path}' cannot be made: {e.Message}", e);
        }
        _ = ListenAsync();
    }

    /// <inheritdoc/>
    public void Connect(Action wake) => Volatile.Write(ref _wake, wake);

    /// <inheritdoc/>
    public IVsockStream? Open(uint port)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { Blocking = false };
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(string.Create(CultureInfo.InvariantCulture, $"{_path}_{port}")));    // at once, or never when the backlog is full
            return new UnixVsockStream(socket, acknowledge: false);
        }
        catch (SocketException)
        {
            socket.Dispose();
            return null;
        }
    }

    /// <inheritdoc/>
    public IVsockStream? Accept(out uint guestPort)
    {
        bool any = _opened.TryDequeue(out (UnixVsockStream Stream, uint Port) opened);
        guestPort = opened.Port;
        if (any)
        {
            _handshakes.Release();
        }
        return any ? opened.Stream : null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _disposed.Cancel();
        _listener.Dispose();
        while (_opened.TryDequeue(out (UnixVsockStream Stream, uint Port) opened))
        {
            opened.Stream.Dispose();
        }
        try
        {
            File.Delete(_path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Somebody else removed it, or the folder.
        }
    }

    /// <summary>Removes a socket that a process left behind which is no more; nobody answers there.</summary>
    private static void RemoveDead(string path)
    {
        if (!SocketFile.IsSocket(path))
        {
            return;     // nothing there, or something that is not ours to remove: binding tells
        }
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused)
        {
            try
            {
                File.Delete(path);
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                throw new NetworkException($"vsock socket '{path}' is left over and cannot be removed: {failure.Message}", failure);
            }
            return;
        }
        catch (SocketException)
        {
            return;     // nothing that may be touched: binding tells
        }
        throw new NetworkException($"vsock socket '{path}' is in use by another process; give another path");
    }

    private async Task ListenAsync()
    {
        while (!_disposed.IsCancellationRequested)
        {
            try
            {
                await _handshakes.WaitAsync(_disposed.Token).ConfigureAwait(false);
                Socket client = await _listener.AcceptAsync(_disposed.Token).ConfigureAwait(false);
                _ = GreetAsync(client);
            }
            catch (SocketException) when (!_disposed.IsCancellationRequested)
            {
                _handshakes.Release();
                await Task.Delay(100).ConfigureAwait(false);    // out of file descriptors, say: others may be closed
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException or OperationCanceledException)
            {
                return;
            }
        }
    }

    /// <summary>Reads the request, a byte at a time so that nothing behind it is taken.</summary>
    private async Task GreetAsync(Socket client)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(_disposed.Token);
        patience.CancelAfter(_patience);
        byte[] line = new byte[LongestLine];
        try
        {
            for (int length = 0; length < line.Length; length++)
            {
                if (await client.ReceiveAsync(line.AsMemory(length, 1), SocketFlags.None, patience.Token).ConfigureAwait(false) == 0)
                {
                    break;
                }
                if (line[length] == '\n')
                {
                    if (TryParse(line.AsSpan(0, length), out uint port))
                    {
                        _opened.Enqueue((new UnixVsockStream(client, acknowledge: true), port));
                        Volatile.Read(ref _wake)();
                        return;
                    }
                    break;
                }
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or OperationCanceledException)
        {
            // It went away, or says nothing.
        }
        client.Dispose();
        _handshakes.Release();
    }

    private static bool TryParse(ReadOnlySpan<byte> line, out uint port)
    {
        port = 0;
        ReadOnlySpan<byte> verb = "CONNECT "u8;
        return line.StartsWith(verb) && uint.TryParse(line[verb.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out port);
    }
}
