using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Lodge.Management.GuestAgent;

/// <summary>
/// One question and its answer at a time over a byte stream to the guest agent (QEMU Guest Agent Protocol Reference): a line of JSON each. The peer is the
/// guest and may send anything: answers have a largest size, a depth and a time. After an answer that failed to come or to be understood the stream may hold anything, so the next
/// question is preceded by <c>guest-sync-delimited</c>, whose answer follows a byte that JSON cannot have.
/// </summary>
/// <param name="stream">The channel; both directions.</param>
internal sealed class GuestAgentChannel(Stream stream) : IDisposable
{
    /// <summary>Begins the answer of a synchronization, and before a question clears what an agent holds of an unfinished one.</summary>
    private const byte Sentinel = 0xFF;

    private const int SmallestBuffer = 4096;
    private const int LargestKeptBuffer = 1 << 16;
    private const int LongestQuote = 300;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private byte[] _buffer = new byte[SmallestBuffer];
    private int _start, _end;
    private bool _synchronized;
    private long _lastId = Random.Shared.NextInt64(1, int.MaxValue);

    /// <summary>Asks and waits for the answer.</summary>
    /// <param name="request">The question.</param>
    /// <param name="requestType">How it is written.</param>
    /// <param name="replyType">How the answer is read.</param>
    /// <param name="limit">Largest answer in bytes.</param>
    /// <param name="time">How long it may take.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="GuestAgentException">There was no good answer.</exception>
    public Task<TReply?> AskAsync<TArguments, TReply>(
        GuestAgentRequest<TArguments> request,
        JsonTypeInfo<GuestAgentRequest<TArguments>> requestType,
        JsonTypeInfo<GuestAgentReply<TReply>> replyType,
        int limit,
        TimeSpan time,
        CancellationToken cancellation) =>
        InTurnAsync(
            async stop =>
            {
                if (!_synchronized)
                {
                    await MeetAsync(stop).ConfigureAwait(false);
                }
                _synchronized = false;
                await SendAsync(request, requestType, sentinel: false, stop).ConfigureAwait(false);
                GuestAgentReply<TReply> reply = Parse(await LineAsync(limit, stop).ConfigureAwait(false), replyType, request.Execute);
                _synchronized = true;
                return reply.Error is null ? reply.Return : throw Refused(request.Execute, reply.Error);
            },
            () => $"the guest agent did not answer {request.Execute} within {time.TotalSeconds:0.#} s",
            time,
            cancellation);

    /// <summary>Brings both sides to the same place of the stream: succeeds when there is an agent.</summary>
    /// <exception cref="GuestAgentException">There is none.</exception>
    public Task SynchronizeAsync(TimeSpan time, CancellationToken cancellation) =>
        InTurnAsync(
            async stop =>
            {
                await MeetAsync(stop).ConfigureAwait(false);
                return true;
            },
            () => $"no guest agent answered within {time.TotalSeconds:0.#} s",
            time,
            cancellation);

    /// <inheritdoc/>
    public void Dispose()
    {
        stream.Dispose();
        _turn.Dispose();
    }

    private async Task<T> InTurnAsync<T>(Func<CancellationToken, Task<T>> action, Func<string> late, TimeSpan time, CancellationToken cancellation)
    {
        using CancellationTokenSource timer = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        timer.CancelAfter(time);
        try
        {
            await _turn.WaitAsync(timer.Token).ConfigureAwait(false);
            try
            {
                return await action(timer.Token).ConfigureAwait(false);
            }
            finally
            {
                Shrink();
                _turn.Release();
            }
        }
        catch (OperationCanceledException e) when (!cancellation.IsCancellationRequested)
        {
            throw new GuestAgentException(GuestAgentFailure.NoAnswer, late(), e);
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            throw new GuestAgentException(GuestAgentFailure.Closed, $"the guest agent's channel is closed: {e.Message}", e);
        }
    }

    private async Task MeetAsync(CancellationToken stop)
    {
        _synchronized = false;
        GuestSyncArguments id = new(++_lastId);
        await SendAsync(new GuestAgentRequest<GuestSyncArguments>("guest-sync-delimited", id), GuestAgentJson.Default.GuestAgentRequestGuestSyncArguments, sentinel: true, stop).ConfigureAwait(false);
        // Answers to questions that were given up come first, and of earlier synchronizations.
        while (true)
        {
            await SkipToSentinelAsync(stop).ConfigureAwait(false);
            try
            {
                ReadOnlyMemory<byte> line = await LineAsync(GuestAgentClient.SmallAnswer, stop).ConfigureAwait(false);
                line = line[(line.Span.LastIndexOf(Sentinel) + 1)..]; // behind an unfinished answer
                if (Parse(line, GuestAgentJson.Default.GuestAgentReplyNullableInt64, "guest-sync-delimited").Return == id.Id)
                {
                    _synchronized = true;
                    return;
                }
            }
            catch (GuestAgentException e) when (e.Failure == GuestAgentFailure.Malformed)
            {
                // Not the answer: it may still come, until the time is over.
            }
        }
    }

    private async Task SendAsync<T>(T message, JsonTypeInfo<T> type, bool sentinel, CancellationToken stop)
    {
        byte[] text = JsonSerializer.SerializeToUtf8Bytes(message, type);
        byte[] line = new byte[text.Length + (sentinel ? 2 : 1)];
        line[0] = Sentinel;
        text.CopyTo(line, line.Length - text.Length - 1);
        line[^1] = (byte)'\n';
        await stream.WriteAsync(line, stop).ConfigureAwait(false);
        await stream.FlushAsync(stop).ConfigureAwait(false);
    }

    /// <summary>The next line without its end; valid until the next call.</summary>
    private async Task<ReadOnlyMemory<byte>> LineAsync(int limit, CancellationToken stop)
    {
        for (int searched = 0; ;)
        {
            int at = _buffer.AsSpan(_start + searched, _end - _start - searched).IndexOf((byte)'\n');
            if (at >= 0 && searched + at <= limit)
            {
                ReadOnlyMemory<byte> line = _buffer.AsMemory(_start, searched + at);
                _start += searched + at + 1;
                return line;
            }
            searched = at >= 0 ? searched : _end - _start;
            if (at >= 0 || searched > limit)
            {
                _start = _end = 0;
                throw new GuestAgentException(GuestAgentFailure.Malformed, $"the guest agent's answer is larger than {limit} bytes");
            }
            await FillAsync(stop).ConfigureAwait(false);
        }
    }

    private async Task SkipToSentinelAsync(CancellationToken stop)
    {
        while (true)
        {
            int at = _buffer.AsSpan(_start, _end - _start).IndexOf(Sentinel);
            if (at >= 0)
            {
                _start += at + 1;
                return;
            }
            _start = _end = 0;
            await FillAsync(stop).ConfigureAwait(false);
        }
    }

    /// <summary>Reads more behind what is there. The buffer grows with what came, not with what was announced.</summary>
    private async Task FillAsync(CancellationToken stop)
    {
        if (_start != 0)
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            (_start, _end) = (0, _end - _start);
        }
        if (_end == _buffer.Length)
        {
            Array.Resize(ref _buffer, _buffer.Length * 2);
        }
        int count = await stream.ReadAsync(_buffer.AsMemory(_end), stop).ConfigureAwait(false);
        if (count == 0)
        {
            throw new GuestAgentException(GuestAgentFailure.Closed, "the guest agent's channel is closed");
        }
        _end += count;
    }

    private void Shrink()
    {
        if (_start == _end)
        {
            (_start, _end) = (0, 0);
            _buffer = _buffer.Length > LargestKeptBuffer ? new byte[SmallestBuffer] : _buffer;
        }
    }

    private static GuestAgentReply<T> Parse<T>(ReadOnlyMemory<byte> line, JsonTypeInfo<GuestAgentReply<T>> type, string command)
    {
        try
        {
            return JsonSerializer.Deserialize(line.Span, type) ?? throw new JsonException();
        }
        catch (Exception e) when (e is JsonException or FormatException or InvalidOperationException)
        {
            throw new GuestAgentException(GuestAgentFailure.Malformed, $"the guest agent's answer to {command} is not understood", e);
        }
    }

    private static GuestAgentException Refused(string command, GuestAgentError error)
    {
        bool missing = error.Class == "CommandNotFound" || error.Desc?.Contains("has been disabled", StringComparison.Ordinal) == true;
        string words = new([.. (error.Desc ?? "").Take(LongestQuote).Where(c => c is >= ' ' and <= '~')]);
        return new GuestAgentException(missing ? GuestAgentFailure.Unsupported : GuestAgentFailure.Refused, $"the guest agent refuses {command}: {words}");
    }
}
