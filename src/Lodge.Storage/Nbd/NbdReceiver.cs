namespace Lodge.Storage.Nbd;

/// <summary>Receives through a buffer, so that several small messages take one system call, and large payloads go straight to their place.</summary>
internal sealed class NbdReceiver(NbdChannel channel)
{
    private const int Capacity = 64 * 1024;
    private const int SmallReceive = 1024; // after a large payload: little of the next one passes through the buffer
    private readonly byte[] _buffer = GC.AllocateUninitializedArray<byte>(Capacity, pinned: true);
    private int _start;
    private int _end;
    private bool _large;

    /// <summary>Bytes that have been received and not taken.</summary>
    public int Available => _end - _start;

    /// <summary>Where the bytes come from; a TLS channel takes the place of the plain one.</summary>
    public NbdChannel Channel { get; private set; } = channel;

    /// <summary>Goes on with another channel.</summary>
    /// <exception cref="NbdProtocolException">The peer sent more in plain text than it may: it must not pass as said under encryption.</exception>
    public void Replace(NbdChannel channel)
    {
        if (Available != 0)
        {
            throw new NbdProtocolException("plain bytes follow NBD_OPT_STARTTLS");
        }

        Channel = channel;
    }

    /// <summary>Waits until <paramref name="count"/> bytes (at most 4096) are there.</summary>
    /// <returns>False when the stream ended before the first of them.</returns>
    /// <exception cref="NbdProtocolException">The stream ended inside.</exception>
    public async ValueTask<bool> FillAsync(int count, CancellationToken cancellation)
    {
        while (Available < count)
        {
            if (_start == _end)
            {
                _start = _end = 0;
            }
            else if (_start + count > Capacity)
            {
                _buffer.AsSpan(_start, Available).CopyTo(_buffer);
                _end -= _start;
                _start = 0;
            }

            var room = Capacity - _end;
            var received = await Channel.ReceiveAsync(_buffer.AsMemory(_end, _large ? Math.Min(room, SmallReceive) : room), cancellation).ConfigureAwait(false);
            _large = false;
            if (received == 0)
            {
                return Available == 0 ? false : throw new NbdProtocolException("the connection ended inside a message");
            }

            _end += received;
        }

        return true;
    }

    /// <summary>The next bytes, which are there.</summary>
    public ReadOnlySpan<byte> Peek(int count) => _buffer.AsSpan(_start, count);

    /// <summary>Goes beyond bytes that are there.</summary>
    public void Advance(int count) => _start += count;

    /// <summary>Fills memory.</summary>
    /// <exception cref="NbdProtocolException">The stream ended before.</exception>
    public async ValueTask ReadAsync(Memory<byte> destination, CancellationToken cancellation)
    {
        var buffered = Math.Min(Available, destination.Length);
        _buffer.AsMemory(_start, buffered).CopyTo(destination);
        _start += buffered;
        _large = destination.Length >= Capacity / 2;
        for (destination = destination[buffered..]; destination.Length > 0;)
        {
            var received = await Channel.ReceiveAsync(destination, cancellation).ConfigureAwait(false);
            if (received == 0)
            {
                throw new NbdProtocolException("the connection ended inside a payload");
            }

            destination = destination[received..];
        }
    }

    /// <summary>Leaves bytes out.</summary>
    public async ValueTask SkipAsync(long count, CancellationToken cancellation)
    {
        while (count > 0)
        {
            if (!await FillAsync(1, cancellation).ConfigureAwait(false))
            {
                throw new NbdProtocolException("the connection ended inside a payload");
            }

            var part = (int)Math.Min(count, Available);
            Advance(part);
            count -= part;
        }
    }
}
