using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>A character device of the guest as a stream of this process, with a bounded buffer in each direction. One reader and one writer at a time.</summary>
internal sealed class ChannelPort : Stream, ICharacterBackend
{
    private const int Capacity = 1 << 16;
    private readonly Lock _gate = new();
    private readonly SemaphoreSlim _filled = new(0), _room = new(0);
    private readonly byte[] _ring = new byte[Capacity];
    private ICharacterReceiver? _receiver;
    private int _start, _count;
    private bool _refused, _closed;

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        receiver.SetConnected(true);
    }

    int ICharacterBackend.Write(ReadOnlySpan<byte> data)
    {
        int accepted;
        lock (_gate)
        {
            if (_closed)
            {
                return data.Length;
            }
            accepted = Math.Min(data.Length, Capacity - _count);
            int end = (_start + _count) % Capacity;
            int first = Math.Min(accepted, Capacity - end);
            data[..first].CopyTo(_ring.AsSpan(end));
            data[first..accepted].CopyTo(_ring);
            _count += accepted;
            _refused |= accepted < data.Length;
        }
        if (accepted != 0 && _filled.CurrentCount == 0)
        {
            _filled.Release();
        }
        return accepted;
    }

    void ICharacterBackend.InputReady() => _room.Release();

    public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        while (true)
        {
            int count;
            bool resume;
            lock (_gate)
            {
                count = Math.Min(Math.Min(_count, buffer.Length), Capacity - _start);
                _ring.AsSpan(_start, count).CopyTo(buffer.Span);
                _start = (_start + count) % Capacity;
                _count -= count;
                resume = _refused && count != 0;
                _refused &= !resume;
                if (count == 0 && _closed)
                {
                    return 0;
                }
            }
            if (resume)
            {
                _receiver?.OutputReady();
            }
            if (count != 0 || buffer.IsEmpty)
            {
                return count;
            }
            await _filled.WaitAsync(cancellationToken).ConfigureAwait(false);
        }
    }

    public override async ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        while (!buffer.IsEmpty)
        {
            ObjectDisposedException.ThrowIf(_closed, this);
            int accepted = _receiver?.Receive(buffer.Span) ?? throw new IOException("the device is not there yet");
            buffer = buffer[accepted..];
            if (!buffer.IsEmpty && accepted == 0)
            {
                await _room.WaitAsync(cancellationToken).ConfigureAwait(false);
            }
        }
    }

    public override int Read(byte[] buffer, int offset, int count) => ReadAsync(buffer.AsMemory(offset, count)).AsTask().GetAwaiter().GetResult();

    public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) => ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

    public override void Write(byte[] buffer, int offset, int count) => WriteAsync(buffer.AsMemory(offset, count)).AsTask().GetAwaiter().GetResult();

    public override Task WriteAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) => WriteAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

    public override void Flush()
    {
    }

    public override Task FlushAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        lock (_gate)
        {
            if (_closed)
            {
                return;
            }
            _closed = true;
        }
        _filled.Release();
        _room.Release();
        _receiver?.SetConnected(false);
        base.Dispose(disposing);
    }
}
