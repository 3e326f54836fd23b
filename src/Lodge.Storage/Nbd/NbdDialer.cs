using System.Net;
using System.Net.Sockets;
using Lodge.Storage.Disks;
using Lodge.Storage.Nbd.Tls;

namespace Lodge.Storage.Nbd;

/// <summary>Connects to the server of an address.</summary>
internal sealed class NbdDialer : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly NbdAddress _address;
    private readonly TlsCredentials? _credentials;

    /// <summary>Loads the address's credentials.</summary>
    /// <exception cref="DiskException">A file of them is missing or wrong.</exception>
    public NbdDialer(NbdAddress address)
    {
        _address = address;
        _credentials = !address.Tls ? null
            : address.Keys is { } keys ? TlsCredentials.ClientKey(keys, address.User)
            : TlsCredentials.ClientCertificates(address.Certificates, address.VerifyPeer);
    }

    /// <summary>Connects and negotiates.</summary>
    /// <exception cref="DiskException">The message names the address.</exception>
    public async ValueTask<NbdClientConnection> ConnectAsync(CancellationToken cancellation)
    {
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        deadline.CancelAfter(Patience);
        Socket? socket = null;
        try
        {
            socket = await OpenAsync(deadline.Token).ConfigureAwait(false);

            // Without a wait of .NET's, its thread for sockets does not wake at everything that arrives.
            var channel = new SocketChannel(socket, waitsInPlace: !_address.Tls);
            var receiver = new NbdReceiver(channel);
            NbdClientSession session;
            using (deadline.Token.UnsafeRegister(state => ((SocketChannel)state!).Abort(), channel))
            {
                session = await Task.Run(() => new NbdClientNegotiation(receiver, _address, _credentials).RunAsync(deadline.Token).AsTask(), CancellationToken.None).ConfigureAwait(false);
            }

            deadline.Token.ThrowIfCancellationRequested();
            return new NbdClientConnection(receiver, session, _address.Text);
        }
        catch (Exception failure)
        {
            socket?.Dispose();
            cancellation.ThrowIfCancellationRequested();
            throw (deadline.IsCancellationRequested ? new OperationCanceledException(failure.Message, failure) : failure) switch
            {
                DiskException known => known,
                OperationCanceledException => new DiskException(DiskError.Connection, $"{_address}: no answer within {Patience.TotalSeconds:0} seconds", failure),
                NbdProtocolException => new DiskException(DiskError.Connection, $"{_address}: the server broke the protocol: {failure.Message}", failure),
                SocketException { SocketErrorCode: SocketError.AccessDenied } => new DiskException(DiskError.Denied, $"{_address}: permission denied", failure),
                _ when NbdChannel.IsGone(failure) => new DiskException(DiskError.Connection, $"{_address}: cannot connect: {failure.Message}", failure),
                _ => failure,
            };
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _credentials?.Dispose();

    private async ValueTask<Socket> OpenAsync(CancellationToken cancellation)
    {
        if (_address.Socket is { } path)
        {
            try
            {
                return await OpenAsync(new UnixDomainSocketEndPoint(path), cancellation).ConfigureAwait(false);
            }
            catch (ArgumentOutOfRangeException failure)
            {
                throw new DiskException(DiskError.InvalidOption, $"{_address}: the path of the socket is too long", failure);
            }
        }

        SocketException? last = null;
        foreach (var host in await Dns.GetHostAddressesAsync(_address.Host, cancellation).ConfigureAwait(false))
        {
            try
            {
                return await OpenAsync(new IPEndPoint(host, _address.Port), cancellation).ConfigureAwait(false);
            }
            catch (SocketException failure)
            {
                last = failure;
            }
        }

        throw last ?? new SocketException((int)SocketError.HostNotFound);
    }

    private static async ValueTask<Socket> OpenAsync(EndPoint place, CancellationToken cancellation)
    {
        var socket = new Socket(place.AddressFamily, SocketType.Stream, place.AddressFamily == AddressFamily.Unix ? ProtocolType.Unspecified : ProtocolType.Tcp);
        try
        {
            using (cancellation.UnsafeRegister(state => ((Socket)state!).Dispose(), socket))
            {
                await Task.Run(() => socket.Connect(place), CancellationToken.None).ConfigureAwait(false);
            }

            cancellation.ThrowIfCancellationRequested();
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }
}
