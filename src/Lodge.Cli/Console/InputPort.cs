using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>
/// Gives standard input to a character device of the guest, from a thread of its own. The end of the input closes the host side of the device
/// once the guest has taken everything before it.
/// </summary>
internal sealed class InputPort : ICharacterBackend
{
    /// <summary>Ctrl-], which leaves the console in raw mode.</summary>
    public const byte EscapeCharacter = 0x1D;

    private readonly SemaphoreSlim _ready = new(0);
    private readonly OutputPort? _outputPort;
    private readonly int _fd;
    private readonly ManualResetEventSlim _released = new(true);
    private readonly Lock _gate = new();
    private ICharacterReceiver? _receiver;
    private List<byte>? _held;

    /// <summary>Creates the input side; what the guest writes goes to <paramref name="output"/> or is dropped.</summary>
    public InputPort(int fd, OutputPort? output)
    {
        _fd = fd;
        _outputPort = output;
    }

    /// <summary>Called when the user leaves with Ctrl-] (only when set; then the byte does not reach the guest).</summary>
    public Action? Escape { get; set; }

    /// <summary>Whether the end of input closes the device's host side (a console stays open).</summary>
    public bool CloseAtEnd { get; set; } = true;

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        _outputPort?.Connect(receiver);
        receiver.SetConnected(true);
    }

    public int Write(ReadOnlySpan<byte> data) => _outputPort?.Write(data) ?? data.Length;

    public void InputReady() => _ready.Release();

    /// <summary>Passes the terminal's size on.</summary>
    public void Resize(int columns, int rows) => _receiver?.Resize(columns, rows);

    /// <summary>Keeps the input back until <see cref="Release"/>: what is typed meanwhile waits here (the escape works), other input is not read.</summary>
    public void Hold()
    {
        _held = [];
        _released.Reset();
    }

    /// <summary>Lets the input through. Any thread.</summary>
    public void Release()
    {
        lock (_gate)
        {
            if (_held is { Count: not 0 } held)
            {
                Give(held.ToArray()); // fits: nothing else was given
            }
            _held = null;
        }
        _released.Set();
    }

    /// <summary>Begins to read.</summary>
    public void Start() => new Thread(Pump) { IsBackground = true, Name = "input" }.Start();

    private void Pump()
    {
        byte[] buffer = new byte[1 << 15];
        if (Escape is null)
        {
            _released.Wait();
        }
        while (true)
        {
            int n = HostFile.Read(_fd, buffer);
            if (n == 0)
            {
                break;
            }
            ReadOnlySpan<byte> data = buffer.AsSpan(0, n);
            bool leave = false;
            if (Escape is not null && data.IndexOf(EscapeCharacter) is >= 0 and int at)
            {
                data = data[..at];
                leave = true;
            }
            if (!TryHold(data))
            {
                Give(data);
            }
            if (leave)
            {
                Escape!();
                return;
            }
        }
        _released.Wait();
        if (CloseAtEnd)
        {
            _receiver?.SetConnected(false);
        }
    }

    private bool TryHold(ReadOnlySpan<byte> data)
    {
        const int most = 4096;
        lock (_gate)
        {
            if (_held is null)
            {
                return false;
            }
            _held.AddRange(data[..Math.Min(data.Length, most - _held.Count)]);
            return true;
        }
    }

    private void Give(ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            int accepted = _receiver?.Receive(data) ?? 0;
            data = data[accepted..];
            if (!data.IsEmpty && accepted == 0)
            {
                _ready.Wait();
            }
        }
    }
}
