using System.Net;
using System.Net.Sockets;

namespace Lodge.Machine.Debugging;

/// <summary>
/// Waits for gdb at a TCP address or the path of a Unix socket and serves one client after the other. From the moment that a client connects the machine is
/// held, until the client lets it go on or leaves. Whoever can connect owns the machine, so that the address should be the loopback's.
/// </summary>
public sealed class GdbServer : IDisposable
{
    private readonly IDebugTarget _target;
    private readonly Socket _listener;
    private readonly string? _path;
    private readonly Thread _thread;
    private readonly Lock _gate = new();
    private GdbConnection? _connection;
    private bool _disposed;

    /// <summary>Begins to listen. The machine is not touched before a client comes.</summary>
    /// <param name="target">The machine.</param>
    /// <param name="address">An <see cref="IPEndPoint"/> (port 0: any free one) or a <see cref="UnixDomainSocketEndPoint"/>, whose file only its owner may use.</param>
    /// <exception cref="SocketException">The address cannot be listened at.</exception>
    public GdbServer(IDebugTarget target, EndPoint address)
    {
        _target = target;
        bool local = address is UnixDomainSocketEndPoint;
        _listener = new Socket(address.AddressFamily, SocketType.Stream, local ? ProtocolType.Unspecified : ProtocolType.Tcp);
        try
        {
            _listener.Bind(address);
            if (local)
            {
                _path = address.ToString();
                File.SetUnixFileMode(_path!, UnixFileMode.UserRead | UnixFileMode.UserWrite); // before anybody can connect
            }
            _listener.Listen(1);
        }
        catch
        {
            _listener.Dispose();
            throw;
        }
        Address = _listener.LocalEndPoint ?? address;
        _thread = new Thread(Accept) { IsBackground = true, Name = "gdb server" };
        _thread.Start();
    }

    /// <summary>Where it listens.</summary>
    public EndPoint Address { get; }

    /// <summary>What to type into gdb.</summary>
    public string Command => Address is IPEndPoint ip ? $"target remote {(IsAny(ip) ? $":{ip.Port}" : ip)}" : $"target remote {_path}";

    /// <summary>Stops listening and drops the client. The machine goes on.</summary>
    public void Dispose()
    {
        GdbConnection? connection;
        lock (_gate)
        {
            if (_disposed)
            {
                return;
            }
            _disposed = true;
            connection = _connection;
        }
        _listener.Dispose();
        connection?.Close();
        if (Thread.CurrentThread != _thread)
        {
            _thread.Join();
        }
        if (_path is not null)
        {
            try
            {
                File.Delete(_path);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Somebody else removed it, or the directory.
            }
        }
    }

    private static bool IsAny(IPEndPoint address) => address.Address.Equals(IPAddress.Any) || address.Address.Equals(IPAddress.IPv6Any);

    private void Accept()
    {
        while (true)
        {
            GdbConnection connection;
            try
            {
                Socket client = _listener.Accept();
                lock (_gate)
                {
                    if (_disposed)
                    {
                        client.Dispose();
                        return;
                    }
                    _connection = connection = new GdbConnection(client, _target);
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                lock (_gate)
                {
                    if (_disposed)
                    {
                        return;
                    }
                }
                Thread.Sleep(100); // out of file descriptors, say: others may be closed
                continue;
            }
            connection.Run();
        }
    }
}
