using System.Buffers.Binary;

namespace Lodge.Storage.Nbd;

/// <summary>
/// The server's side of one transmission phase. One loop receives requests; they run inline where the client waits for each, and on the thread pool where more follow;
/// replies go out in the order in which requests complete, by whoever completes one while nobody is sending.
/// </summary>
internal sealed class NbdServerConnection(NbdReceiver receiver, NbdSession session, TimeSpan farewell, CancellationToken abort)
{
    private const int MaximumRequests = 128;
    private const long MaximumBytes = 2L * NbdProtocol.MaximumPayload;
    private const int BatchLength = 64 * 1024;
    private const int LargestBatched = 8 * 1024;

    private readonly Queue<NbdServerRequest> _replies = new();
    private readonly Stack<NbdServerRequest> _idle = new();
    private readonly byte[] _batch = GC.AllocateUninitializedArray<byte>(BatchLength, pinned: true);
    private bool _sending;
    private bool _broken;
    private int _requests;
    private long _bytes;
    private TaskCompletionSource? _room;

    /// <summary>What was agreed on.</summary>
    public NbdSession Session => session;

    /// <summary>Ends reads that nobody waits for any more.</summary>
    public CancellationToken Abort => abort;

    /// <summary>The file from which data may be sent.</summary>
    public NbdServedFile? File { get; } = NbdServedFile.Of(session.Export.Disk);

    /// <summary>Whether replies may be sent straight from a file.</summary>
    public bool CanSendFile => receiver.Channel.CanSendFile;

    /// <summary>Serves requests until the client disconnects or breaks the protocol, or <paramref name="stop"/>; requests under way are finished.</summary>
    public async Task RunAsync(CancellationToken stop)
    {
        try
        {
            while (await ReceiveAsync(stop).ConfigureAwait(false))
            {
            }
        }
        catch (Exception failure) when (NbdChannel.IsGone(failure))
        {
            // the client is gone or hostile, or the server stops: what was received is still answered
        }

        try
        {
            await IdleAsync().AsTask().WaitAsync(farewell, abort).ConfigureAwait(false);
        }
        catch (Exception failure) when (failure is TimeoutException or OperationCanceledException)
        {
            receiver.Channel.Abort(); // the client does not take its replies
            await IdleAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Takes a completed request whose reply is built.</summary>
    public void Complete(NbdServerRequest request)
    {
        lock (_replies)
        {
            _replies.Enqueue(request);
            if (_sending)
            {
                return;
            }

            _sending = true;
        }

        _ = SendAsync();
    }

    private async ValueTask<bool> ReceiveAsync(CancellationToken stop)
    {
        var extended = session.Style == NbdHeaderStyle.Extended;
        var length = extended ? NbdProtocol.ExtendedRequestLength : NbdProtocol.RequestLength;
        if (!await receiver.FillAsync(length, stop).ConfigureAwait(false))
        {
            return false;
        }

        var header = NbdRequestHeader.Parse(receiver.Peek(length), extended);
        receiver.Advance(length);
        if (header.Command == NbdCommand.Disconnect)
        {
            return false;
        }

        var payload = header.PayloadLength(extended);
        if (payload > NbdProtocol.MaximumPayload)
        {
            throw new NbdProtocolException("the payload is too long");
        }

        var memory = payload + header.Command switch
        {
            NbdCommand.Read => Math.Min(header.Length, NbdProtocol.MaximumPayload),
            NbdCommand.BlockStatus => session.Contexts.Count * NbdServerRequest.BlockStatusRoom,
            _ => 0,
        };
        await ReserveAsync(memory).ConfigureAwait(false);
        var request = Rent();
        request.Begin(header, memory);
        try
        {
            if (payload > 0)
            {
                await receiver.ReadAsync(request.RentPayload((int)payload), stop).ConfigureAwait(false);
            }
        }
        catch
        {
            Release(request);
            throw;
        }

        if (header.Command is NbdCommand.Read or NbdCommand.Write && receiver.Available == 0)
        {
            request.Execute();
        }
        else
        {
            ThreadPool.UnsafeQueueUserWorkItem(request, preferLocal: false);
        }

        return true;
    }

    /// <summary>Waits until one more request with so much memory may be under way.</summary>
    private async ValueTask ReserveAsync(long memory)
    {
        while (true)
        {
            Task room;
            lock (_idle)
            {
                if (_requests == 0 || (_requests < MaximumRequests && _bytes + memory <= MaximumBytes))
                {
                    _requests++;
                    _bytes += memory;
                    return;
                }

                room = (_room ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;
            }

            await room.ConfigureAwait(false);
        }
    }

    /// <summary>Waits until no request is under way.</summary>
    private async ValueTask IdleAsync()
    {
        while (true)
        {
            Task room;
            lock (_idle)
            {
                if (_requests == 0)
                {
                    return;
                }

                room = (_room ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;
            }

            await room.ConfigureAwait(false);
        }
    }

    private NbdServerRequest Rent()
    {
        lock (_idle)
        {
            return _idle.TryPop(out var request) ? request : new NbdServerRequest(this);
        }
    }

    private void Release(NbdServerRequest request)
    {
        TaskCompletionSource? room;
        var memory = request.End();
        lock (_idle)
        {
            _requests--;
            _bytes -= memory;
            _idle.Push(request);
            room = _room;
            _room = null;
        }

        room?.SetResult();
    }

    /// <summary>Sends replies while there are any. Short ones that wait together share a system call.</summary>
    private async Task SendAsync()
    {
        var batched = 0;
        while (true)
        {
            NbdServerRequest? request;
            lock (_replies)
            {
                if (!_replies.TryDequeue(out request) && batched == 0)
                {
                    _sending = false;
                    return;
                }
            }

            try
            {
                if (request is not null && request.TryCopy(_batch.AsSpan(batched), LargestBatched, out var copied))
                {
                    batched += copied;
                    Release(request);
                    continue;
                }

                if (batched > 0)
                {
                    var length = batched;
                    batched = 0;
                    if (!_broken)
                    {
                        await receiver.Channel.SendAsync(_batch.AsMemory(0, length), abort).ConfigureAwait(false);
                    }
                }

                if (request is not null && !_broken)
                {
                    await request.SendAsync(receiver.Channel).ConfigureAwait(false);
                }
            }
            catch (Exception)
            {
                _broken = true; // the stream's state is unknown: nothing more may be said
                receiver.Channel.Abort();
            }

            if (request is not null)
            {
                Release(request);
            }
        }
    }
}

/// <summary>A request as it came, with nothing checked but the magic.</summary>
internal readonly record struct NbdRequestHeader(NbdCommand Command, NbdCommandFlags Flags, ulong Cookie, ulong Offset, ulong RawLength)
{
    /// <summary>Length in bytes; more than a disk can have becomes <see cref="long.MaxValue"/>, which no range check passes.</summary>
    public long Length => RawLength > long.MaxValue ? long.MaxValue : (long)RawLength;

    /// <summary>Bytes that follow the header.</summary>
    public long PayloadLength(bool extended) => (extended ? (Flags & NbdCommandFlags.PayloadLen) != 0 : Command == NbdCommand.Write) ? Length : 0;

    /// <summary>Reads a header.</summary>
    /// <exception cref="NbdProtocolException">The magic is wrong.</exception>
    public static NbdRequestHeader Parse(ReadOnlySpan<byte> bytes, bool extended)
    {
        if (BinaryPrimitives.ReadUInt32BigEndian(bytes) != (extended ? NbdProtocol.ExtendedRequestMagic : NbdProtocol.RequestMagic))
        {
            throw new NbdProtocolException("not a request");
        }

        return new NbdRequestHeader(
            (NbdCommand)BinaryPrimitives.ReadUInt16BigEndian(bytes[6..]),
            (NbdCommandFlags)BinaryPrimitives.ReadUInt16BigEndian(bytes[4..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[16..]),
            extended ? BinaryPrimitives.ReadUInt64BigEndian(bytes[24..]) : BinaryPrimitives.ReadUInt32BigEndian(bytes[24..]));
    }
}
