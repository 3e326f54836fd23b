namespace Lodge.Network.Vsock;

/// <summary>The host's end of a stream that carries one message from the guest and nothing back. What is longer than <paramref name="limit"/> bytes is cut off.</summary>
/// <param name="limit">Most bytes that are kept.</param>
/// <param name="received">Told the message when the guest has closed the stream; on the device's worker, must not block or throw.</param>
public sealed class MessageStream(int limit, Action<ReadOnlyMemory<byte>> received) : IVsockStream
{
    private readonly byte[] _message = new byte[limit];
    private int _length;
    private uint _drained;
    private bool _ended;

    /// <inheritdoc/>
    public ReadOnlySpan<byte> Input => [];

    /// <inheritdoc/>
    public bool InputEnded => _ended;       // the answer to its end is ours: systemd waits for it

    /// <inheritdoc/>
    public int OutputCapacity => 64 << 10;

    /// <inheritdoc/>
    public uint OutputDrained => _drained;

    /// <inheritdoc/>
    public bool OutputEmpty => true;

    /// <inheritdoc/>
    public bool OutputFailed => false;

    /// <inheritdoc/>
    public void Connect(Action ready)
    {
    }

    /// <inheritdoc/>
    public void Established(uint hostPort)
    {
    }

    /// <inheritdoc/>
    public void Consume(int count)
    {
    }

    /// <inheritdoc/>
    public bool Write(ReadOnlySpan<byte> data)
    {
        ReadOnlySpan<byte> kept = data[..Math.Min(data.Length, _message.Length - _length)];
        kept.CopyTo(_message.AsSpan(_length));
        _length += kept.Length;
        _drained += (uint)data.Length;
        return true;
    }

    /// <inheritdoc/>
    public void EndOutput()
    {
        if (!_ended)
        {
            _ended = true;
            received(_message.AsMemory(0, _length));
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
