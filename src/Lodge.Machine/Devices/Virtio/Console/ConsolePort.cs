using Lodge.Machine.Virtio;

namespace Lodge.Machine.Devices.Virtio.Console;

/// <summary>
/// A port of a console device. Input waits in a buffer of fixed size until the guest has a place for it; output is not buffered at all: a chain stays with
/// the device until the host side took its last byte.
/// </summary>
public sealed class ConsolePort : ICharacterReceiver
{
    /// <summary>Bytes of input held for the guest.</summary>
    public const int InputCapacity = 4096;

    private readonly Action _wake;
    private readonly Action<ConsolePort> _resized;
    private readonly Lock _gate = new();
    private readonly byte[] _input = new byte[InputCapacity];
    private int _start;
    private int _count;
    private bool _refused;      // the host side waits for InputReady
    private int _pending;
    private bool _connected = true;
    private bool _closing;      // closed by the host side, to be told when the guest has all input
    private volatile bool _blocked;
    private int _size;          // columns in the high half, rows in the low

    internal ConsolePort(int index, ConsolePortConfiguration configuration, ushort columns, ushort rows, Action wake, Action<ConsolePort> resized)
    {
        Index = index;
        Name = configuration.Name;
        IsConsole = configuration.IsConsole;
        Backend = configuration.Backend;
        _wake = wake;
        _resized = resized;
        SetSize(columns, rows);
    }

    /// <summary>Number of the port.</summary>
    public int Index { get; }

    /// <summary>Name by which the guest finds it.</summary>
    public string Name { get; }

    /// <summary>Whether it is a terminal.</summary>
    public bool IsConsole { get; }

    /// <summary>Whether a program in the guest has the port open.</summary>
    public bool GuestOpen { get; private set; }

    /// <summary>Raised on the device's worker when the guest opens or closes the port.</summary>
    public event Action<bool>? GuestOpenChanged;

    internal ICharacterBackend? Backend { get; }

    internal bool Ready { get; set; }

    /// <summary>What the guest was last told of the host side, see <see cref="ConsolePortState"/>.</summary>
    internal byte Told { get; set; }

    /// <summary>Output being handed to the host side; worker only.</summary>
    internal DescriptorChain? Output { get; set; }

    /// <summary>Bytes of the next chain that were handed over before the state was saved.</summary>
    internal uint OutputOffset { get; set; }

    /// <summary>Whether the host side takes no output until it says so. Set before each write, so that its word is not lost.</summary>
    internal bool Blocked
    {
        get => _blocked;
        set => _blocked = value;
    }

    /// <summary>What the guest is told: after the host side has closed, the port stays open until the guest has all input, so that none is lost.</summary>
    internal bool Connected
    {
        get
        {
            lock (_gate)
            {
                return _connected || _count != 0;
            }
        }
    }

    internal ushort Columns => (ushort)(Volatile.Read(ref _size) >> 16);

    internal ushort Rows => (ushort)Volatile.Read(ref _size);

    internal PendingMessages Pending => (PendingMessages)Volatile.Read(ref _pending);

    internal int InputCount
    {
        get
        {
            lock (_gate)
            {
                return _count;
            }
        }
    }

    /// <inheritdoc/>
    public int Receive(ReadOnlySpan<byte> data)
    {
        int accepted;
        lock (_gate)
        {
            accepted = Math.Min(data.Length, InputCapacity - _count);
            for (int i = 0; i < accepted; i++)
            {
                _input[(_start + _count + i) % InputCapacity] = data[i];
            }
            _count += accepted;
            _refused |= accepted < data.Length;
        }
        if (accepted != 0)
        {
            _wake();
        }
        return accepted;
    }

    /// <inheritdoc/>
    public void OutputReady()
    {
        _blocked = false;
        _wake();
    }

    /// <inheritdoc/>
    public void Resize(int columns, int rows)
    {
        SetSize((ushort)Math.Clamp(columns, 0, ushort.MaxValue), (ushort)Math.Clamp(rows, 0, ushort.MaxValue));
        _resized(this);
    }

    /// <inheritdoc/>
    public void SetConnected(bool connected)
    {
        bool tell;
        lock (_gate)
        {
            _connected = connected;
            _closing = !connected && _count != 0;
            tell = !_closing;
        }
        if (tell && Ready)
        {
            Request(PendingMessages.Open);
        }
    }

    internal void Request(PendingMessages messages)
    {
        Interlocked.Or(ref _pending, (int)messages);
        _wake();
    }

    internal void Sent(PendingMessages message) => Interlocked.And(ref _pending, ~(int)message);

    internal void SetGuestOpen(bool open)
    {
        if (GuestOpen != open)
        {
            GuestOpen = open;
            GuestOpenChanged?.Invoke(open);
            Backend?.GuestOpened(open);
        }
    }

    /// <summary>Moves input to a chain; returns how many bytes are left.</summary>
    internal int Fill(DescriptorChain chain)
    {
        lock (_gate)
        {
            while (_count != 0)
            {
                int step = chain.Write(_input.AsSpan(_start, Math.Min(_count, InputCapacity - _start)));
                if (step == 0)
                {
                    break;
                }
                _start = (_start + step) % InputCapacity;
                _count -= step;
            }
            return _count;
        }
    }

    /// <summary>Whether the guest has all input of a host side that closed before; asked once.</summary>
    internal bool TakeClosing()
    {
        lock (_gate)
        {
            bool tell = _closing && _count == 0;
            _closing &= !tell;
            return tell;
        }
    }

    /// <summary>Whether the host side was refused and there is room now; asked once.</summary>
    internal bool TakeRefused()
    {
        lock (_gate)
        {
            bool tell = _refused && _count < InputCapacity;
            if (tell)
            {
                _refused = false;
            }
            return tell;
        }
    }

    /// <summary>Forgets what the driver has set. Input stays: it was meant for whoever drives the port next.</summary>
    internal void Reset()
    {
        Ready = false;
        Told = 0;
        Output = null;
        OutputOffset = 0;
        Interlocked.Exchange(ref _pending, 0);
        SetGuestOpen(false);
    }

    internal ConsolePortState Save()
    {
        lock (_gate)
        {
            byte[] input = new byte[_count];
            for (int i = 0; i < _count; i++)
            {
                input[i] = _input[(_start + i) % InputCapacity];
            }
            return new ConsolePortState(
                Ready, GuestOpen, (byte)Pending, Columns, Rows, input, Output is { } output ? output.ReadableLength - output.Unread : OutputOffset, Told);
        }
    }

    internal void Restore(ConsolePortState state)
    {
        Ready = state.Ready;
        SetGuestOpen(state.GuestOpen);
        SetSize(state.Columns, state.Rows);
        OutputOffset = state.OutputOffset;
        Told = state.Told;
        lock (_gate)
        {
            _start = 0;
            _count = state.Input.Length;
            state.Input.CopyTo(_input, 0);
            _closing = !_connected && _count != 0;
        }
        // The host side may differ from what the guest was told: then say whether it is there.
        bool differs = state.Ready && Told != (Connected ? 2 : 1);
        Interlocked.Exchange(ref _pending, state.Pending | (differs ? (int)PendingMessages.Open : 0));
    }

    private void SetSize(ushort columns, ushort rows) => Volatile.Write(ref _size, (columns << 16) | rows);
}
