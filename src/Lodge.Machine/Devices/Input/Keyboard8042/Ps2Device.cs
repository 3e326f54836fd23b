namespace Lodge.Machine.Devices.Input.Keyboard8042;

/// <summary>A device on a PS/2 port: takes command bytes and queues answers, at most 16. Guarded by the controller's lock.</summary>
internal abstract class Ps2Device
{
    /// <summary>Bytes that can wait for the controller.</summary>
    public const int QueueSize = 16;

    private readonly Queue<byte> _queue = new(QueueSize);

    /// <summary>Command whose parameter is awaited, 0 for none.</summary>
    public byte AwaitedFor { get; protected set; }

    /// <summary>Whether the device sends what its user does.</summary>
    public bool Enabled { get; protected set; }

    /// <summary>Whether a byte waits.</summary>
    public bool HasData => _queue.Count != 0;

    /// <summary>Room in the queue.</summary>
    protected int Room => QueueSize - _queue.Count;

    /// <summary>What waits, for the saved state.</summary>
    public byte[] Queued => _queue.ToArray();

    /// <summary>Takes the next byte.</summary>
    public byte Take() => _queue.Dequeue();

    /// <summary>Handles a byte from the host side.</summary>
    public void Command(byte value)
    {
        _queue.Clear(); // a command aborts whatever the device was sending
        byte awaited = AwaitedFor;
        AwaitedFor = 0;
        Handle(value, awaited);
    }

    /// <summary>Power-on state.</summary>
    public void PowerOn()
    {
        _queue.Clear();
        AwaitedFor = 0;
        Enabled = false;
        SetDefaults();
    }

    /// <summary>Carries out a command or, when <paramref name="awaited"/> is not 0, takes its parameter.</summary>
    protected abstract void Handle(byte value, byte awaited);

    /// <summary>Sets rates and modes to their defaults.</summary>
    protected abstract void SetDefaults();

    /// <summary>Queues an answer; beyond the queue's size bytes are lost.</summary>
    protected void Send(params ReadOnlySpan<byte> bytes)
    {
        foreach (byte value in bytes)
        {
            if (_queue.Count < QueueSize)
            {
                _queue.Enqueue(value);
            }
        }
    }

    /// <summary>Takes saved contents.</summary>
    protected void RestoreBase(byte[] queued, byte awaitedFor, bool enabled)
    {
        _queue.Clear();
        Send(queued);
        AwaitedFor = awaitedFor;
        Enabled = enabled;
    }
}
