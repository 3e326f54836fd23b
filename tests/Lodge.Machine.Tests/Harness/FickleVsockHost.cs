using Lodge.Network.Vsock;

namespace Lodge.Machine.Tests;

/// <summary>A host whose programs come, talk, take and go at random.</summary>
internal sealed class FickleVsockHost(int seed) : IVsockHost
{
    private readonly Random _random = new(seed);
    private Action _wake = static () => { };

    public void Connect(Action wake) => _wake = wake;

    public IVsockStream? Open(uint port)
    {
        if (_random.Next(4) == 0)
        {
            _wake();
        }
        return _random.Next(4) == 0 ? null : new Stream(_random.Next());
    }

    public IVsockStream? Accept(out uint guestPort)
    {
        guestPort = (uint)_random.Next(4);
        return _random.Next(4) == 0 ? new Stream(_random.Next()) : null;
    }

    public void Dispose()
    {
    }

    private sealed class Stream(int seed) : IVsockStream
    {
        private readonly Random _random = new(seed);
        private readonly byte[] _data = new byte[5000];
        private Action _ready = static () => { };
        private int _length = seed & 4095;
        private uint _drained;
        private uint _held;

        public ReadOnlySpan<byte> Input => _data.AsSpan(0, _length);

        public bool InputEnded => _length == 0 && (seed & 1) != 0;

        public int OutputCapacity => 4096;

        public uint OutputDrained => _drained;

        public bool OutputEmpty => _held == 0;

        public bool OutputFailed => (seed & 31) == 7 && _drained > 100;

        public void Connect(Action ready)
        {
            _ready = ready;
            ready();
        }

        public void Established(uint hostPort) => _ready();

        public void Consume(int count) => _length = count == _length && (seed & 1) == 0 ? _random.Next(5000) : _length - count;

        public bool Write(ReadOnlySpan<byte> data)
        {
            if (_held + data.Length > OutputCapacity)
            {
                return false;
            }
            _held += (uint)data.Length;
            uint gone = (uint)_random.Next((int)_held + 1);
            _held -= gone;
            _drained += gone;
            _ready();
            return true;
        }

        public void EndOutput()
        {
            _drained += _held;
            _held = 0;
            _ready();
        }

        public void Dispose()
        {
        }
    }
}
