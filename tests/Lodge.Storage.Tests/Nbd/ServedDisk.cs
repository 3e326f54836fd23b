using System.Net.Sockets;
using Lodge.Storage.Disks;
using Lodge.Storage.Nbd;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>A running server on a unix socket.</summary>
internal sealed class ServedDisk : IAsyncDisposable
{
    private readonly TemporaryFolder? _own;
    private readonly NbdServer _server;
    private readonly Task _running;

    public ServedDisk(IDisk disk, NbdServerOptions? options = null, string? socket = null, Func<NbdExport, NbdExport>? change = null)
        : this([(change ?? (export => export))(new NbdExport("disk", disk))], options, socket)
    {
    }

    public ServedDisk(IReadOnlyList<NbdExport> exports, NbdServerOptions? options = null, string? socket = null)
    {
        _own = socket is null ? new TemporaryFolder() : null;
        Socket = socket ?? _own!["nbd"];
        _server = new NbdServer(exports, options ?? new NbdServerOptions { Shared = 0, Persistent = true });
        _server.Listen(new UnixDomainSocketEndPoint(Socket));
        _running = _server.RunAsync();
    }

    public string Socket { get; }

    public NbdServer Server => _server;

    /// <summary>Ends when the server has ended.</summary>
    public Task Running => _running;

    public string Address(string export = "disk", string more = "", bool tls = false) => $"nbd{(tls ? "s" : "")}+unix:///{export}?socket={Socket}{more}";

    public ValueTask<NbdDisk> OpenAsync(string more = "", bool tls = false, bool readOnly = false, string export = "disk") =>
        NbdDisk.OpenAsync(NbdAddress.Parse(Address(export, more, tls)), readOnly);

    /// <summary>A client that speaks bytes.</summary>
    public Socket Connect()
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 20_000 };
        socket.Connect(new UnixDomainSocketEndPoint(Socket));
        return socket;
    }

    public async ValueTask DisposeAsync()
    {
        await _server.StopAsync();
        await _running.WaitAsync(TimeSpan.FromSeconds(20));
        await _server.DisposeAsync();
        _own?.Dispose();
    }
}

/// <summary>A disk in memory whose requests a test can hold, and that knows zeroes, bitmaps and its size's changes.</summary>
internal sealed class TestDisk(int length) : IDisk, IBlockStatus, IDiscard, IWriteZeroes, IResize, IDirtyBitmaps
{
    private readonly Lock _lock = new();

    public byte[] Content { get; private set; } = new byte[length];

    public Func<long, Task>? BeforeRead { get; set; }

    public Func<Task>? BeforeFlush { get; set; }

    public Func<Task>? BeforeWrite { get; set; }

    public int Flushes { get; private set; }

    public ZeroOptions LastZero { get; private set; }

    public WriteOptions LastWrite { get; private set; }

    public long Length => Content.Length;

    public int RequestAlignment => 1;

    public bool IsReadOnly { get; init; }

    public int DiscardGranularity => 1;

    public IReadOnlyList<string> BitmapNames => ["changed"];

    public async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        if (BeforeRead is { } wait)
        {
            await wait(offset);
        }

        lock (_lock)
        {
            destination.CopyFrom(Content.AsSpan((int)offset, (int)destination.Length));
        }
    }

    public async ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        if (BeforeWrite is { } wait)
        {
            await wait();
        }

        lock (_lock)
        {
            LastWrite = options;
            source.CopyTo(Content.AsSpan((int)offset));
        }
    }

    public async ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        if (BeforeFlush is { } wait)
        {
            await wait();
        }

        Flushes++;
    }

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => WriteZeroesAsync(offset, length, default, cancellation);

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        lock (_lock)
        {
            LastZero = options;
            Content.AsSpan((int)offset, (int)length).Clear();
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        var content = Content;
        Array.Resize(ref content, (int)length);
        Content = content;
        return ValueTask.CompletedTask;
    }

    /// <summary>Whole blocks of 4096 bytes that are zero are holes.</summary>
    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        var zero = IsZero(offset / 4096);
        var end = (offset / 4096) + 1;
        while (end * 4096 < offset + length && IsZero(end) == zero)
        {
            end++;
        }

        return ValueTask.FromResult(new BlockExtent(Math.Min((end * 4096) - offset, length), zero ? BlockState.Zero : BlockState.Data | BlockState.Allocated, zero ? 1 : 0));
    }

    /// <summary>The second half is dirty.</summary>
    public ValueTask<(bool Dirty, long Length)> GetDirtyAsync(string name, long offset, long length, CancellationToken cancellation = default)
    {
        Assert.Equal("changed", name);
        var half = Content.Length / 2;
        return ValueTask.FromResult(offset < half ? (false, Math.Min(length, half - offset)) : (true, length));
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private bool IsZero(long block)
    {
        lock (_lock)
        {
            var start = (int)(block * 4096);
            return !Content.AsSpan(start, Math.Min(4096, Content.Length - start)).ContainsAnyExcept((byte)0);
        }
    }
}
