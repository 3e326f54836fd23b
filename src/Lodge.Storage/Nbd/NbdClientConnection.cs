using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>
/// The client's side of one transmission phase: many requests under way, replies in any order. What the server sends is checked; when it breaks the protocol or goes, all requests
/// under way fail with <see cref="DiskError.Connection"/>, and not before nothing touches their memory any more.
/// </summary>
internal sealed class NbdClientConnection : IAsyncDisposable
{
    private const int MaximumRequests = 64;
    private const long Large = 64 * 1024; // from here on, what follows a transfer is likely to be the next transfer
    private const int Joined = 32 * 1024; // payloads up to this length are copied behind their header
    private const int MaximumStatusReply = 1 << 24;

    private readonly NbdReceiver _receiver;
    private readonly string _name;
    private readonly SemaphoreSlim _places = new(MaximumRequests);
    private readonly SemaphoreSlim _sending = new(1);
    private readonly Lock _lock = new();
    private readonly NbdClientRequest?[] _underWay = new NbdClientRequest?[MaximumRequests];
    private readonly Stack<NbdClientRequest> _idle = new();
    private readonly byte[] _message = GC.AllocateUninitializedArray<byte>(NbdProtocol.ExtendedRequestLength + Joined, pinned: true);
    private readonly bool _inPlace;
    private readonly Task _receiving;
    private DiskException? _gone;

    public NbdClientConnection(NbdReceiver receiver, NbdClientSession session, string name)
    {
        _receiver = receiver;
        _name = name;
        Session = session;
        for (var slot = MaximumRequests - 1; slot >= 0; slot--)
        {
            _idle.Push(new NbdClientRequest(slot));
        }

        _inPlace = receiver.Channel is SocketChannel { WaitsInPlace: true };
        _receiving = _inPlace ? Start() : Task.Run(ReceiveAsync);
    }

    /// <summary>What was agreed on.</summary>
    public NbdClientSession Session { get; }

    /// <summary>Whether requests have a chance.</summary>
    public bool IsAlive => Volatile.Read(ref _gone) is null;

    /// <summary>Told when the connection is gone, after its requests have failed. Any thread.</summary>
    public Action? Lost { get; set; }

    /// <summary>Requests that are not answered yet, about.</summary>
    public int UnderWay => MaximumRequests - _places.CurrentCount;

    /// <summary>Runs a request.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Connection"/>, or the server's error.</exception>
    public ValueTask RunAsync(NbdCommand command, NbdCommandFlags flags, long offset, long length, IoVector destination, IoVector source, CancellationToken cancellation) =>
        RunAsync(command, flags, offset, length, destination, source, null, cancellation);

    /// <summary>Asks for the first extent of each context.</summary>
    public async ValueTask<(uint Context, long Length, ulong Flags)[]> StatusAsync(long offset, long length, CancellationToken cancellation)
    {
        var extents = new List<(uint Context, long Length, ulong Flags)>();
        await RunAsync(NbdCommand.BlockStatus, NbdCommandFlags.ReqOne, offset, length, default, default, extents, cancellation).ConfigureAwait(false);
        return [.. extents];
    }

    /// <summary>Ends the connection; requests under way fail.</summary>
    public void Abort() => _receiver.Channel.Abort();

    public async ValueTask DisposeAsync()
    {
        if (IsAlive)
        {
            try
            {
                using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(1));
                await _sending.WaitAsync(patience.Token).ConfigureAwait(false);
                WriteHeader(NbdCommand.Disconnect, NbdCommandFlags.None, 0, 0, 0);
                await _receiver.Channel.SendAsync(_message.AsMemory(0, RequestLength), patience.Token).ConfigureAwait(false);
                await _receiver.Channel.FinishAsync(patience.Token).ConfigureAwait(false);
            }
            catch (Exception failure) when (NbdChannel.IsGone(failure))
            {
                // the server is gone first
            }
        }

        _receiver.Channel.Abort();
        await _receiving.ConfigureAwait(false);
        _receiver.Channel.Dispose();
    }

    private int RequestLength => Session.Style == NbdHeaderStyle.Extended ? NbdProtocol.ExtendedRequestLength : NbdProtocol.RequestLength;

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask RunAsync(
        NbdCommand command, NbdCommandFlags flags, long offset, long length, IoVector destination, IoVector source, List<(uint Context, long Length, ulong Flags)>? extents, CancellationToken cancellation)
    {
        await _places.WaitAsync(cancellation).ConfigureAwait(false);
        NbdClientRequest? request = null;
        try
        {
            lock (_lock)
            {
                if (_gone is { } gone)
                {
                    throw Again(gone);
                }

                request = _idle.Pop();
                request.Begin(command, offset, length, destination, _inPlace && (command == NbdCommand.BlockStatus || (length >= Large && command is NbdCommand.Read or NbdCommand.Write)));
                _underWay[request.Slot] = request;
            }

            // A server that does not answer is left: the request's memory must not be touched after this call.
            using (cancellation.UnsafeRegister(state => ((NbdClientConnection)state!).Abort(), this))
            {
                try
                {
                    await SendAsync(request, flags, source).ConfigureAwait(false);
                }
                catch (Exception failure) when (NbdChannel.IsGone(failure))
                {
                    Abort();
                }

                try
                {
                    await request.Completion.ConfigureAwait(false);
                }
                catch (DiskException) when (cancellation.IsCancellationRequested)
                {
                    throw new OperationCanceledException(cancellation);
                }
            }

            extents?.AddRange(request.Extents);
            if (request.Error != NbdError.None)
            {
                throw Translate(request.Error, command);
            }
        }
        finally
        {
            if (request is not null)
            {
                lock (_lock)
                {
                    _idle.Push(request);
                }
            }

            _places.Release();
        }
    }

    private async ValueTask SendAsync(NbdClientRequest request, NbdCommandFlags flags, IoVector source)
    {
        await _sending.WaitAsync().ConfigureAwait(false);
        try
        {
            if (source.Length > 0 && Session.Style == NbdHeaderStyle.Extended)
            {
                flags |= NbdCommandFlags.PayloadLen;
            }

            WriteHeader(request.Command, flags, request.Cookie, request.Offset, request.Length);
            var length = RequestLength;
            if (source.Length is > 0 and <= Joined)
            {
                source.CopyTo(_message.AsSpan(length));
                await _receiver.Channel.SendAsync(_message.AsMemory(0, length + (int)source.Length), CancellationToken.None).ConfigureAwait(false);
                return;
            }

            await _receiver.Channel.SendAsync(_message.AsMemory(0, length), CancellationToken.None).ConfigureAwait(false);
            foreach (var piece in source)
            {
                await _receiver.Channel.SendAsync(piece, CancellationToken.None).ConfigureAwait(false);
            }
        }
        finally
        {
            _sending.Release();
        }
    }

    private void WriteHeader(NbdCommand command, NbdCommandFlags flags, ulong cookie, long offset, long length)
    {
        var extended = Session.Style == NbdHeaderStyle.Extended;
        var target = _message.AsSpan();
        BinaryPrimitives.WriteUInt32BigEndian(target, extended ? NbdProtocol.ExtendedRequestMagic : NbdProtocol.RequestMagic);
        BinaryPrimitives.WriteUInt16BigEndian(target[4..], (ushort)flags);
        BinaryPrimitives.WriteUInt16BigEndian(target[6..], (ushort)command);
        BinaryPrimitives.WriteUInt64BigEndian(target[8..], cookie);
        BinaryPrimitives.WriteInt64BigEndian(target[16..], offset);
        if (extended)
        {
            BinaryPrimitives.WriteInt64BigEndian(target[24..], length);
        }
        else
        {
            BinaryPrimitives.WriteUInt32BigEndian(target[24..], (uint)length);
        }
    }

    /// <summary>Receives on a thread of its own, which waits in the host: a payload that comes in many parts costs no wake-up through the pool for each.</summary>
    private Task Start()
    {
        var ended = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        new Thread(() =>
        {
            ReceiveAsync().GetAwaiter().GetResult();
            ended.SetResult();
        })
        { IsBackground = true, Name = "lodge-nbd" }.Start();
        return ended.Task;
    }

    private async Task ReceiveAsync()
    {
        DiskException gone;
        try
        {
            while (await ReplyAsync().ConfigureAwait(false))
            {
            }

            gone = new DiskException(DiskError.Connection, $"{_name}: the server ended the connection");
        }
        catch (NbdProtocolException failure)
        {
            gone = new DiskException(DiskError.Connection, $"{_name}: the server broke the protocol: {failure.Message}", failure);
        }
        catch (Exception failure) when (NbdChannel.IsGone(failure))
        {
            gone = new DiskException(DiskError.Connection, $"{_name}: the connection is lost: {failure.Message}", failure);
        }

        _receiver.Channel.Abort();
        List<NbdClientRequest> failed = [];
        lock (_lock)
        {
            Volatile.Write(ref _gone, gone);
            foreach (ref var request in _underWay.AsSpan())
            {
                if (request is not null)
                {
                    failed.Add(request);
                    request = null;
                }
            }
        }

        foreach (var request in failed)
        {
            request.Fail(Again(gone));
        }

        Lost?.Invoke();
    }

    private async ValueTask<bool> ReplyAsync()
    {
        if (!await _receiver.FillAsync(4, CancellationToken.None).ConfigureAwait(false))
        {
            return false;
        }

        var magic = BinaryPrimitives.ReadUInt32BigEndian(_receiver.Peek(4));
        if (magic == NbdProtocol.SimpleReplyMagic && Session.Style != NbdHeaderStyle.Extended)
        {
            await ExpectAsync(NbdProtocol.SimpleReplyLength).ConfigureAwait(false);
            await SimpleAsync().ConfigureAwait(false);
            return true;
        }

        var (known, length) = Session.Style switch
        {
            NbdHeaderStyle.Structured => (NbdProtocol.StructuredReplyMagic, NbdProtocol.StructuredReplyLength),
            NbdHeaderStyle.Extended => (NbdProtocol.ExtendedReplyMagic, NbdProtocol.ExtendedReplyLength),
            _ => (NbdProtocol.SimpleReplyMagic, NbdProtocol.SimpleReplyLength),
        };
        if (magic != known)
        {
            throw new NbdProtocolException("not a reply");
        }

        await ExpectAsync(length).ConfigureAwait(false);
        await ChunkAsync(length).ConfigureAwait(false);
        return true;
    }

    private async ValueTask SimpleAsync()
    {
        var request = Find(BinaryPrimitives.ReadUInt64BigEndian(_receiver.Peek(16)[8..]));
        var error = (NbdError)BinaryPrimitives.ReadUInt32BigEndian(_receiver.Peek(8)[4..]);
        _receiver.Advance(NbdProtocol.SimpleReplyLength);
        request.Error = error;
        if (error == NbdError.None && request.Command == NbdCommand.Read)
        {
            if (Session.Style != NbdHeaderStyle.Simple)
            {
                throw new NbdProtocolException("a simple reply to a read");
            }

            await FillAsync(request.Deliver(request.Offset, request.Length)).ConfigureAwait(false);
        }

        Finish(request);
    }

    private async ValueTask ChunkAsync(int headerLength)
    {
        var (flags, type, request, length) = ChunkHeader(headerLength);
        switch (type)
        {
            case NbdReplyType.None when length == 0 && (flags & NbdReplyFlags.Done) != 0:
                break;
            case NbdReplyType.OffsetData when length > 8:
                var offset = await Number64Async().ConfigureAwait(false);
                await FillAsync(request.Deliver(offset, length - 8)).ConfigureAwait(false);
                break;
            case NbdReplyType.OffsetHole when length == 12:
                var start = await Number64Async().ConfigureAwait(false);
                request.Deliver(start, await Number32Async().ConfigureAwait(false)).Clear();
                break;
            case NbdReplyType.BlockStatus or NbdReplyType.BlockStatusExt when request.Command == NbdCommand.BlockStatus && length <= MaximumStatusReply:
                await ExtentsAsync(request, type == NbdReplyType.BlockStatusExt, length).ConfigureAwait(false);
                break;
            case >= (NbdReplyType)0x8000 when length is >= 6 and <= NbdProtocol.MaximumString + 64:
                var error = (NbdError)await Number32Async().ConfigureAwait(false);
                await _receiver.SkipAsync(length - 4, CancellationToken.None).ConfigureAwait(false);
                request.Error = request.Error != NbdError.None ? request.Error : error != NbdError.None ? error : NbdError.Inval;
                break;
            default:
                throw new NbdProtocolException("a chunk of an unexpected kind or length");
        }

        if ((flags & NbdReplyFlags.Done) != 0)
        {
            Finish(request);
        }
    }

    private (NbdReplyFlags Flags, NbdReplyType Type, NbdClientRequest Request, long Length) ChunkHeader(int headerLength)
    {
        var header = _receiver.Peek(headerLength);
        var flags = (NbdReplyFlags)BinaryPrimitives.ReadUInt16BigEndian(header[4..]);
        var type = (NbdReplyType)BinaryPrimitives.ReadUInt16BigEndian(header[6..]);
        var request = Find(BinaryPrimitives.ReadUInt64BigEndian(header[8..]));
        long length;
        if (headerLength == NbdProtocol.ExtendedReplyLength)
        {
            length = BinaryPrimitives.ReadInt64BigEndian(header[24..]);
            if (BinaryPrimitives.ReadInt64BigEndian(header[16..]) != request.Offset)
            {
                throw new NbdProtocolException("a chunk of another offset than its request");
            }
        }
        else
        {
            length = BinaryPrimitives.ReadUInt32BigEndian(header[16..]);
        }

        _receiver.Advance(headerLength);
        return (flags, type, request, length is >= 0 and <= uint.MaxValue ? length : throw new NbdProtocolException("a chunk is too long"));
    }

    private async ValueTask ExtentsAsync(NbdClientRequest request, bool extended, long length)
    {
        var prefix = extended ? 8 : 4;
        var descriptor = extended ? 16 : 8;
        if (extended != (Session.Style == NbdHeaderStyle.Extended) || length < prefix + descriptor || (length - prefix) % descriptor != 0)
        {
            throw new NbdProtocolException("a block status of a wrong length");
        }

        await ExpectAsync(prefix + descriptor).ConfigureAwait(false);
        First();
        await _receiver.SkipAsync(length - prefix - descriptor, CancellationToken.None).ConfigureAwait(false);

        void First()
        {
            var data = _receiver.Peek(prefix + descriptor);
            var context = BinaryPrimitives.ReadUInt32BigEndian(data);
            var count = extended ? BinaryPrimitives.ReadInt64BigEndian(data[8..]) : BinaryPrimitives.ReadUInt32BigEndian(data[4..]);
            var flags = extended ? BinaryPrimitives.ReadUInt64BigEndian(data[16..]) : BinaryPrimitives.ReadUInt32BigEndian(data[8..]);
            _receiver.Advance(prefix + descriptor);
            if (count <= 0 || !Session.Contexts.ContainsKey(context) || request.Extents.Exists(extent => extent.Context == context))
            {
                throw new NbdProtocolException("a block status of no length, or of a context that was not chosen");
            }

            request.Extents.Add((context, count, flags));
        }
    }

    private async ValueTask FillAsync(IoVector memory)
    {
        foreach (var piece in memory)
        {
            await _receiver.ReadAsync(piece, CancellationToken.None).ConfigureAwait(false);
        }
    }

    private NbdClientRequest Find(ulong cookie)
    {
        var slot = (uint)cookie;
        if (slot < MaximumRequests && Volatile.Read(ref _underWay[slot]) is { } request && request.Cookie == cookie)
        {
            return request;
        }

        throw new NbdProtocolException("a reply to no request");
    }

    private void Finish(NbdClientRequest request)
    {
        lock (_lock)
        {
            _underWay[request.Slot] = null;
        }

        try
        {
            request.Finish();
        }
        catch (NbdProtocolException failure)
        {
            request.Fail(new DiskException(DiskError.Connection, $"{_name}: the server broke the protocol: {failure.Message}", failure));
            throw;
        }
    }

    private async ValueTask ExpectAsync(int count)
    {
        if (!await _receiver.FillAsync(count, CancellationToken.None).ConfigureAwait(false))
        {
            throw new NbdProtocolException("the connection ended inside a message");
        }
    }

    private async ValueTask<long> Number64Async()
    {
        await ExpectAsync(8).ConfigureAwait(false);
        var number = BinaryPrimitives.ReadInt64BigEndian(_receiver.Peek(8));
        _receiver.Advance(8);
        return number;
    }

    private async ValueTask<uint> Number32Async()
    {
        await ExpectAsync(4).ConfigureAwait(false);
        var number = BinaryPrimitives.ReadUInt32BigEndian(_receiver.Peek(4));
        _receiver.Advance(4);
        return number;
    }

    /// <summary>The same failure for one more request: an exception's trace belongs to one throw.</summary>
    private static DiskException Again(DiskException gone) => new(gone.Error, gone.Message, gone.InnerException);

    private DiskException Translate(NbdError error, NbdCommand command)
    {
        var (kind, text) = error switch
        {
            NbdError.Perm => (command is NbdCommand.Write or NbdCommand.WriteZeroes or NbdCommand.Trim ? DiskError.ReadOnly : DiskError.Denied, "the server does not permit it"),
            NbdError.NoSpc => (DiskError.NoSpace, "the server has no room left"),
            NbdError.NotSup => (DiskError.Unsupported, "the server does not support it"),
            NbdError.Shutdown => (DiskError.Connection, "the server is stopping"),
            NbdError.Inval => (DiskError.InputOutput, "the server finds the request invalid"),
            _ => (DiskError.InputOutput, $"the server met an error ({(uint)error})"),
        };
        return new DiskException(kind, $"{_name}: {command}: {text}");
    }
}
