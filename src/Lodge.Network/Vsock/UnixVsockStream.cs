using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace Lodge.Network.Vsock;

/// <summary>A stream over a connected Unix socket: one receive and one send in flight at most, each with a buffer of fixed size.</summary>
public sealed class UnixVsockStream : IVsockStream
{
    private const int InputCapacity = 64 << 10;
    private const int OutputBytes = 128 << 10;

    private readonly Lock _gate = new();
    private readonly Socket _socket;
    private readonly bool _acknowledge;
    private readonly byte[] _input = new byte[InputCapacity];
    private readonly byte[] _output = new byte[OutputBytes];     // a ring
    private Action _ready = static () => { };
    private int _inputStart, _inputEnd;
    private bool _receiving, _inputEnded;
    private int _outputStart, _outputCount;
    private uint _drained;
    private bool _sending, _ending, _failed, _disposed;

    /// <summary>Takes over a connected socket.</summary>
    /// <param name="socket">The socket; owned.</param>
    /// <param name="acknowledge">The host asked for the stream with a line and is told "OK PORT" when the guest has taken it.</param>
    public UnixVsockStream(Socket socket, bool acknowledge)
    {
        _socket = socket;
        _acknowledge = acknowledge;
    }

    /// <inheritdoc/>
    public int OutputCapacity => OutputBytes;

    /// <inheritdoc/>
    public void Connect(Action ready)
    {
        lock (_gate)
        {
            _ready = ready;
            if (!_acknowledge)
            {
                Receive();
            }
        }
    }

    /// <inheritdoc/>
    public void Established(uint hostPort)
    {
        lock (_gate)
        {
            byte[] line = Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"OK {hostPort}\n"));
            Append(line);
            _drained -= (uint)line.Length;      // not the guest's
            Receive();
        }
    }

    /// <inheritdoc/>
    public ReadOnlySpan<byte> Input
    {
        get
        {
            lock (_gate)
            {
                return _input.AsSpan(_inputStart, _inputEnd - _inputStart);
            }
        }
    }

    /// <inheritdoc/>
    public void Consume(int count)
    {
        lock (_gate)
        {
            _inputStart += Math.Min(count, _inputEnd - _inputStart);
            if (_inputStart == _inputEnd)
            {
                Receive();
            }
        }
    }

    /// <inheritdoc/>
    public bool InputEnded
    {
        get
        {
            lock (_gate)
            {
                return _inputEnded;
            }
        }
    }

    /// <inheritdoc/>
    public uint OutputDrained
    {
        get
        {
            lock (_gate)
            {
                return _drained;
            }
        }
    }

    /// <inheritdoc/>
    public bool OutputEmpty
    {
        get
        {
            lock (_gate)
            {
                return _outputCount == 0;
            }
        }
    }

    /// <inheritdoc/>
    public bool OutputFailed
    {
        get
        {
            lock (_gate)
            {
                return _failed;
            }
        }
    }

    /// <inheritdoc/>
    public bool Write(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            if (_failed)
            {
                _drained += (uint)data.Length;
                return true;
            }
            if (data.Length > OutputBytes - _outputCount)
            {
                return false;
            }
            Append(data);
            return true;
        }
    }

    /// <inheritdoc/>
    public void EndOutput()
    {
        lock (_gate)
        {
            _ending = true;
            if (!_sending)
            {
                Shutdown();
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
            _ready = static () => { };
        }
        _socket.Dispose();
    }

    /// <summary>Lock held.</summary>
    private void Append(ReadOnlySpan<byte> data)
    {
        int end = (_outputStart + _outputCount) % OutputBytes;
        int first = Math.Min(data.Length, OutputBytes - end);
        data[..first].CopyTo(_output.AsSpan(end));
        data[first..].CopyTo(_output);
        _outputCount += data.Length;
        if (!_sending && !_disposed && data.Length != 0)
        {
            _sending = true;
            _ = SendAsync();
        }
    }

    /// <summary>Lock held.</summary>
    private void Shutdown()
    {
        try
        {
            if (!_disposed)
            {
                _socket.Shutdown(SocketShutdown.Send);
            }
        }
        catch (SocketException)
        {
            _failed = true;
        }
    }

    /// <summary>Begins to receive if the buffer is free. Lock held.</summary>
    private void Receive()
    {
        if (!_receiving && !_inputEnded && !_disposed)
        {
            _receiving = true;
            _ = ReceiveAsync();
        }
    }

    private async Task ReceiveAsync()
    {
        await Task.CompletedTask.ConfigureAwait(ConfigureAwaitOptions.ForceYielding);   // not under the caller's lock
        int count = 0;
        try
        {
            count = await _socket.ReceiveAsync(_input.AsMemory(), SocketFlags.None).ConfigureAwait(false);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // The end of the stream, too.
        }
        Action ready;
        lock (_gate)
        {
            _receiving = false;
            _inputStart = 0;
            _inputEnd = count;
            _inputEnded = count == 0;
            ready = _ready;
        }
        ready();
    }

    private async Task SendAsync()
    {
        await Task.CompletedTask.ConfigureAwait(ConfigureAwaitOptions.ForceYielding);
        while (true)
        {
            int start, length;
            lock (_gate)
            {
                if (_outputCount == 0 || _failed || _disposed)
                {
                    _sending = false;
                    if (_ending)
                    {
                        Shutdown();
                    }
                    return;
                }
                start = _outputStart;
                length = Math.Min(_outputCount, OutputBytes - start);
            }
            int sent = -1;
            try
            {
                sent = await _socket.SendAsync(_output.AsMemory(start, length), SocketFlags.None).ConfigureAwait(false);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // The other end has gone.
            }
            Action ready;
            lock (_gate)
            {
                if (sent < 0)
                {
                    _failed = true;
                    _drained += (uint)_outputCount;
                    _outputCount = 0;
                }
                else
                {
                    _outputStart = (_outputStart + sent) % OutputBytes;
                    _outputCount -= sent;
                    _drained += (uint)sent;
                }
                ready = _ready;
            }
            ready();
        }
    }
}
