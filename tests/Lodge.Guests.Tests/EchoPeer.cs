using System.Net;
using System.Net.Sockets;

namespace Lodge.Guests.Tests;

/// <summary>
/// The host's end of a TCP connection that a guest makes and on which it sends back what it gets: noise that never repeats, so that a byte that is lost, doubled or changed is found. A guest that connects again begins anew.
/// </summary>
public sealed class EchoPeer : IDisposable
{
    private const int Part = 4096, MostAhead = 1 << 16;
    private static readonly TimeSpan Between = TimeSpan.FromMilliseconds(4);

    private readonly TcpListener _listener;
    private readonly CancellationTokenSource _end = new();
    private readonly Task _work;
    private long _echoed;
    private int _connections;

    public EchoPeer(IPAddress address)
    {
        _listener = new TcpListener(address, 0);
        _listener.Start();
        _work = Task.Run(AcceptAsync);
    }

    /// <summary>Where it listens.</summary>
    public int Port => ((IPEndPoint)_listener.LocalEndpoint).Port;

    /// <summary>How often the guest has connected.</summary>
    public int Connections => Volatile.Read(ref _connections);

    /// <summary>Bytes that have come back, over all connections.</summary>
    public long Echoed => Interlocked.Read(ref _echoed);

    /// <summary>Where the last connection came from.</summary>
    public IPAddress? From { get; private set; }

    /// <summary>The first byte that was wrong, or null.</summary>
    public string? Fault { get; private set; }

    public void Dispose()
    {
        _end.Cancel();
        _listener.Stop();
        _work.Wait();
        _end.Dispose();
    }

    private async Task AcceptAsync()
    {
        CancellationTokenSource? before = null;
        List<Task> connections = [];
        try
        {
            while (true)
            {
                TcpClient client = await _listener.AcceptTcpClientAsync(_end.Token);
                before?.Cancel(); // the guest has one at a time
                From = (client.Client.RemoteEndPoint as IPEndPoint)?.Address;
                before = CancellationTokenSource.CreateLinkedTokenSource(_end.Token);
                int number = Interlocked.Increment(ref _connections);
                connections.Add(EchoAsync(client, number, before.Token));
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The test is over.
        }
        await Task.WhenAll(connections);
    }

    private async Task EchoAsync(TcpClient client, int number, CancellationToken end)
    {
        using (client)
        {
            long sent = 0, back = 0;
            NetworkStream stream = client.GetStream();
            using CancellationTokenSource both = CancellationTokenSource.CreateLinkedTokenSource(end);
            Task send = SendAsync(), receive = ReceiveAsync();
            await Task.WhenAny(send, receive);
            both.Cancel();
            await Task.WhenAll(send, receive);

            async Task SendAsync()
            {
                Random noise = new(number);
                byte[] part = new byte[Part];
                try
                {
                    while (!both.IsCancellationRequested)
                    {
                        if (Interlocked.Read(ref sent) - Interlocked.Read(ref back) < MostAhead)
                        {
                            noise.NextBytes(part);
                            await stream.WriteAsync(part, both.Token);
                            Interlocked.Add(ref sent, part.Length);
                        }
                        await Task.Delay(Between, both.Token);
                    }
                }
                catch (Exception e) when (e is IOException or OperationCanceledException or ObjectDisposedException)
                {
                    // The connection is over.
                }
            }

            async Task ReceiveAsync()
            {
                Random noise = new(number);
                byte[] wanted = new byte[Part], got = new byte[Part];
                try
                {
                    while (true)
                    {
                        int length = await stream.ReadAtLeastAsync(got, Part, throwOnEndOfStream: false, both.Token);
                        noise.NextBytes(wanted);
                        int same = got.AsSpan(0, length).CommonPrefixLength(wanted);
                        if (same != length)
                        {
                            Fault ??= $"connection {number}: byte {back + same} is wrong";
                        }
                        Interlocked.Add(ref back, length);
                        Interlocked.Add(ref _echoed, length);
                        if (length < Part)
                        {
                            return; // the guest has closed it
                        }
                    }
                }
                catch (Exception e) when (e is IOException or OperationCanceledException or ObjectDisposedException)
                {
                    // The connection is over.
                }
            }
        }
    }
}
