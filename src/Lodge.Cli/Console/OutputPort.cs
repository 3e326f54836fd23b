using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>Takes output; false when it will take no more.</summary>
internal delegate bool OutputSink(ReadOnlySpan<byte> data);

/// <summary>
/// Takes what the guest writes on one character device to a file descriptor of this process, through a bounded buffer and a thread of its own.
/// With an end mark, the bytes after which nothing more comes are recognised in the stream and not written.
/// </summary>
internal sealed class OutputPort : ICharacterBackend, IDisposable
{
    private const int Capacity = 1 << 18;
    private readonly Lock _gate = new();
    private readonly SemaphoreSlim _filled = new(0);
    private readonly byte[] _ring = new byte[Capacity];
    private readonly byte[]? _endMark;
    private readonly OutputSink _sink;
    private readonly ManualResetEventSlim _ended = new();
    private readonly Thread _thread;
    private ICharacterReceiver? _receiver;
    private int _start;
    private int _count;
    private int _matched;
    private bool _refused;
    private bool _closed;

    /// <summary>Creates a port.</summary>
    /// <param name="sink">Takes bytes, on the port's thread; false when it will take no more.</param>
    /// <param name="endMark">
    /// Bytes that end the stream, or null. Its first byte must not occur in it again, so that a mismatch can only restart at the current byte.
    /// </param>
    public OutputPort(OutputSink sink, byte[]? endMark = null)
    {
        _sink = sink;
        _endMark = endMark;
        _thread = new Thread(Drain) { IsBackground = true, Name = "output" };
        _thread.Start();
    }

    /// <summary>Set when the end mark has come and everything before it was written, or the sink takes no more.</summary>
    public WaitHandle Ended => _ended.WaitHandle;

    /// <summary>Called once when the sink takes no more.</summary>
    public Action? SinkClosed { get; set; }

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        receiver.SetConnected(true);
    }

    public int Write(ReadOnlySpan<byte> data)
    {
        int accepted;
        lock (_gate)
        {
            accepted = Math.Min(data.Length, Capacity - _count);
            int end = (_start + _count) % Capacity;
            int first = Math.Min(accepted, Capacity - end);
            data[..first].CopyTo(_ring.AsSpan(end));
            data[first..accepted].CopyTo(_ring);
            _count += accepted;
            _refused |= accepted < data.Length;
        }
        if (accepted != 0)
        {
            _filled.Release();
        }
        return accepted;
    }

    public void InputReady()
    {
    }

    /// <summary>Writes what is buffered and ends the thread.</summary>
    public void Dispose()
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
        _thread.Join(TimeSpan.FromSeconds(2)); // a reader that has stopped must not hold up the end
    }

    private void Drain()
    {
        byte[] piece = new byte[1 << 16];
        bool open = true;
        while (true)
        {
            _filled.Wait();
            while (true)
            {
                int n;
                bool resume;
                lock (_gate)
                {
                    n = Math.Min(Math.Min(_count, piece.Length), Capacity - _start);
                    _ring.AsSpan(_start, n).CopyTo(piece);
                    _start = (_start + n) % Capacity;
                    _count -= n;
                    resume = _refused && n != 0;
                    _refused &= !resume;
                    if (n == 0 && _closed)
                    {
                        if (open && _matched != 0)
                        {
                            _sink(_endMark.AsSpan(0, _matched));
                        }
                        return;
                    }
                }
                if (n == 0)
                {
                    break;
                }
                if (resume)
                {
                    _receiver?.OutputReady();
                }
                if (open && !Pass(piece.AsSpan(0, n)))
                {
                    open = false;
                    _ended.Set();
                    SinkClosed?.Invoke();
                }
            }
        }
    }

    /// <summary>Writes bytes up to the end mark, holding back what may be its beginning.</summary>
    private bool Pass(ReadOnlySpan<byte> data)
    {
        if (_endMark is null)
        {
            return _sink(data);
        }
        if (_ended.IsSet)
        {
            return true; // after the mark comes nothing that belongs to the stream
        }
        while (!data.IsEmpty)
        {
            if (_matched == 0)
            {
                int at = data.IndexOf(_endMark[0]);
                if (at < 0)
                {
                    return _sink(data);
                }
                if (at != 0 && !_sink(data[..at]))
                {
                    return false;
                }
                _matched = 1;
                data = data[(at + 1)..];
            }
            else if (data[0] == _endMark[_matched])
            {
                data = data[1..];
                if (++_matched == _endMark.Length)
                {
                    _matched = 0;
                    _ended.Set();
                    return true;
                }
            }
            else
            {
                int held = _matched;
                _matched = 0;
                if (!_sink(_endMark.AsSpan(0, held)))
                {
                    return false;
                }
            }
        }
        return true;
    }
}
