using System.Net;
using System.Net.Sockets;
using Lodge.Network.Tests.Harness;

namespace Lodge.Management.Tests.Networks;

/// <summary>A TCP server in a namespace that sends the same bytes to all who connect.</summary>
internal sealed class TestServer : IDisposable
{
    private readonly Socket _listener;

    public TestServer(NetworkNamespace space, int port, byte[] data)
    {
        // A socket belongs to the namespace of the thread that makes it; which thread uses it does not matter.
        _listener = space.Get(() => new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp));
        _listener.Bind(new IPEndPoint(IPAddress.Any, port));
        _listener.Listen();
        new Thread(() =>
        {
            try
            {
                while (true)
                {
                    using Socket connection = _listener.Accept();
                    connection.Send(data);
                    connection.Shutdown(SocketShutdown.Send);
                }
            }
            catch (SocketException)
            {
                // disposed
            }
        })
        { IsBackground = true }.Start();
    }

    /// <summary>What a server sends to somebody in a namespace, or null when it is not reached.</summary>
    public static byte[]? Fetch(NetworkNamespace space, string address, int port, TimeSpan patience)
    {
        using Socket socket = space.Get(() => new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp));
        using CancellationTokenSource end = new(patience);
        try
        {
            socket.ConnectAsync(new IPEndPoint(IPAddress.Parse(address), port), end.Token).AsTask().GetAwaiter().GetResult();
            socket.ReceiveTimeout = 30_000;
            using MemoryStream all = new();
            byte[] buffer = new byte[1 << 16];
            for (int length; (length = socket.Receive(buffer)) != 0;)
            {
                all.Write(buffer, 0, length);
            }
            return all.ToArray();
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException)
        {
            return null;
        }
    }

    public void Dispose() => _listener.Dispose();
}
