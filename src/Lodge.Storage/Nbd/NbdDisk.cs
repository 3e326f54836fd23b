using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Nbd;

/// <summary>
/// The export of an NBD server as a disk, or as the file under an image of any format. When the server is gone, requests fail with <see cref="DiskError.Connection"/>; if the address
/// says so (<c>x-reconnect</c>), they wait for it to come back and are sent again. Writes that a lost server had acknowledged and not flushed may be lost with it: the next flush then
/// fails once, so that this does not go unseen.
/// </summary>
public sealed partial class NbdDisk : IStorageFile, IDirtyBitmaps
{
    private static readonly TimeSpan RetryPause = TimeSpan.FromMilliseconds(200);

    private readonly NbdAddress _address;
    private readonly NbdDialer _dialer;
    private readonly SemaphoreSlim _connecting = new(1);
    private readonly RangeLock _partial = new();
    private readonly CancellationTokenSource _disposed = new();
    private NbdClientPool _connection;
    private NbdClientPool? _unflushed;
    private long _length;

    private NbdDisk(NbdAddress address, NbdDialer dialer, NbdClientPool connection, bool readOnly)
    {
        _address = address;
        _dialer = dialer;
        _connection = connection;
        _length = Usable(connection.Session);
        IsReadOnly = readOnly || connection.Session.Has(NbdTransmissionFlags.ReadOnly);
        BitmapNames = [.. connection.Session.Contexts.Values.Where(name => name.StartsWith(NbdProtocol.QemuDirtyBitmap, StringComparison.Ordinal)).Select(name => name[NbdProtocol.QemuDirtyBitmap.Length..])];
    }

    /// <inheritdoc/>
    public string Name => _address.Text;

    /// <inheritdoc/>
    public long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public long AllocatedLength => Length;

    /// <inheritdoc/>
    public int RequestAlignment => _connection.Session.MinimumBlock;

    /// <inheritdoc/>
    public int DiscardGranularity => _connection.Session.MinimumBlock;

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <summary>Connections at present.</summary>
    internal int Connections => _connection.Count;

    /// <inheritdoc/>
    public IReadOnlyList<string> BitmapNames { get; }

    /// <summary>Opens an address; what <see cref="Images.DiskAddresses"/> calls.</summary>
    /// <exception cref="DiskException">The message names the address.</exception>
    public static async ValueTask<IStorageFile> OpenAsync(string address, HostFileOptions options, CancellationToken cancellation = default) =>
        await OpenAsync(NbdAddress.Parse(address), options.ReadOnly, cancellation).ConfigureAwait(false);

    /// <summary>Opens an address.</summary>
    /// <exception cref="DiskException">The message names the address; <see cref="DiskError.ReadOnly"/> when it shall be written and the server forbids it.</exception>
    public static async ValueTask<NbdDisk> OpenAsync(NbdAddress address, bool readOnly, CancellationToken cancellation = default)
    {
        var dialer = new NbdDialer(address);
        try
        {
            var connection = await dialer.ConnectAsync(cancellation).ConfigureAwait(false);
            if (!readOnly && connection.Session.Has(NbdTransmissionFlags.ReadOnly))
            {
                await connection.DisposeAsync().ConfigureAwait(false);
                throw new DiskException(DiskError.ReadOnly, $"{address}: the server allows only reading");
            }

            return new NbdDisk(address, dialer, new NbdClientPool(connection, dialer), readOnly);
        }
        catch
        {
            dialer.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public async ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        if (!IsReadOnly && _connection.Session.Has(NbdTransmissionFlags.SendFlush))
        {
            await RunAsync(NbdCommand.Flush, NbdCommandFlags.None, 0, 0, default, default, cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        if (length == Length)
        {
            return;
        }

        this.CheckWrite(0, 0);
        if (!_connection.Session.Has(NbdTransmissionFlags.SendResize))
        {
            throw new DiskException(DiskError.Unsupported, $"{Name}: the server does not let clients change the size");
        }

        await RunAsync(NbdCommand.Resize, NbdCommandFlags.None, length, 0, default, default, cancellation).ConfigureAwait(false);
        Volatile.Write(ref _length, length);
    }

    /// <inheritdoc/>
    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) =>
        throw new DiskException(DiskError.Unsupported, $"{Name}: room cannot be reserved over NBD");

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        if (_disposed.IsCancellationRequested)
        {
            return;
        }

        await _disposed.CancelAsync().ConfigureAwait(false);
        await _connection.DisposeAsync().ConfigureAwait(false);
        _dialer.Dispose();
    }

    /// <summary>Ends the connections, as if the server were gone.</summary>
    internal void Abort() => _connection.Abort();

    /// <summary>Runs a request, again after a reconnection if the address allows it. Every request gives the same result when it is done twice.</summary>
    private ValueTask RunAsync(NbdCommand command, NbdCommandFlags flags, long offset, long length, IoVector destination, IoVector source, CancellationToken cancellation)
    {
        var connection = _connection;
        return connection.IsAlive && _address.Reconnect == TimeSpan.Zero && command is NbdCommand.Read
            ? connection.RunAsync(command, flags, offset, length, destination, source, cancellation)
            : RunSafelyAsync(command, flags, offset, length, destination, source, cancellation);
    }

    private async ValueTask RunSafelyAsync(NbdCommand command, NbdCommandFlags flags, long offset, long length, IoVector destination, IoVector source, CancellationToken cancellation)
    {
        while (true)
        {
            var connection = await AliveAsync(cancellation).ConfigureAwait(false);
            var unflushed = Volatile.Read(ref _unflushed);
            if (command == NbdCommand.Flush && unflushed is not null && !ReferenceEquals(unflushed, connection))
            {
                Interlocked.CompareExchange(ref _unflushed, null, unflushed);
                throw new DiskException(DiskError.Connection, $"{Name}: the connection was lost before writes were flushed; they may be lost");
            }

            var covered = command == NbdCommand.Flush && ReferenceEquals(Interlocked.CompareExchange(ref _unflushed, null, connection), connection);
            try
            {
                await connection.RunAsync(command, flags, offset, length, destination, source, cancellation).ConfigureAwait(false);
                if (command is NbdCommand.Write or NbdCommand.WriteZeroes or NbdCommand.Trim && (flags & NbdCommandFlags.Fua) == 0)
                {
                    // A loss that nobody was told of yet stays noted.
                    Interlocked.CompareExchange(ref _unflushed, connection, null);
                }

                covered = false;
                return;
            }
            catch (DiskException failure) when (failure.Error == DiskError.Connection && _address.Reconnect > TimeSpan.Zero && !_disposed.IsCancellationRequested)
            {
                connection.Abort(); // also a server that is stopping is left
                await Task.Delay(RetryPause, cancellation).ConfigureAwait(false);
            }
            finally
            {
                if (covered)
                {
                    Interlocked.CompareExchange(ref _unflushed, connection, null); // the flush failed: what it should have made durable is still not
                }
            }
        }
    }

    /// <summary>The connection, a new one when the old one is lost and the address allows it.</summary>
    private async ValueTask<NbdClientPool> AliveAsync(CancellationToken cancellation)
    {
        var connection = _connection;
        if (connection.IsAlive || _address.Reconnect == TimeSpan.Zero || _disposed.IsCancellationRequested)
        {
            return connection; // a dead one tells why
        }

        await _connecting.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            if (_connection.IsAlive)
            {
                return _connection;
            }

            await _connection.DisposeAsync().ConfigureAwait(false);
            using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellation, _disposed.Token);
            var started = TimeProvider.System.GetTimestamp();
            while (true)
            {
                try
                {
                    var fresh = await _dialer.ConnectAsync(either.Token).ConfigureAwait(false);
                    return _connection = await SameAsync(fresh).ConfigureAwait(false);
                }
                catch (DiskException failure) when (failure.Error == DiskError.Connection && TimeProvider.System.GetElapsedTime(started) < _address.Reconnect)
                {
                    await Task.Delay(RetryPause, either.Token).ConfigureAwait(false);
                }
            }
        }
        finally
        {
            _connecting.Release();
        }
    }

    /// <summary>Bytes in whole blocks; no request may touch what follows.</summary>
    private static long Usable(NbdClientSession session) => session.Length & -session.MinimumBlock;

    /// <summary>Accepts a new connection only to an export that can stand in for the old one.</summary>
    private async ValueTask<NbdClientPool> SameAsync(NbdClientConnection fresh)
    {
        var (now, before) = (fresh.Session, _connection.Session);
        if (Usable(now) == Length && now.MinimumBlock == before.MinimumBlock && (now.Has(NbdTransmissionFlags.ReadOnly) ? IsReadOnly : true))
        {
            return new NbdClientPool(fresh, _dialer);
        }

        await fresh.DisposeAsync().ConfigureAwait(false);
        throw new DiskException(DiskError.Unsupported, $"{Name}: the server came back with another export (size, block size or permission differ)");
    }
}
