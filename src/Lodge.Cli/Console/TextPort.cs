using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>Gives a text to a character device of the guest, once, and then, as a rule, closes the host side; what the guest writes is dropped.</summary>
/// <param name="text">Makes the text when it is given.</param>
/// <param name="atOnce">Whether it is given as soon as the device is there, and not at <see cref="Give"/>.</param>
/// <param name="closes">Whether the host side is closed behind it; who knows the text's length need not be told.</param>
internal sealed class TextPort(Func<byte[]> text, bool atOnce = false, bool closes = true) : ICharacterBackend
{
    private readonly SemaphoreSlim _ready = new(0);
    private ICharacterReceiver? _receiver;
    private int _given;

    /// <summary>Called when a program in the guest has opened the device. Must return at once.</summary>
    public Action? Opened { get; init; }

    public void GuestOpened(bool open)
    {
        if (open)
        {
            Opened?.Invoke();
        }
    }

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        receiver.SetConnected(true);
        if (atOnce)
        {
            new Thread(Give) { IsBackground = true, Name = "text port" }.Start(); // the device is being made still
        }
    }

    public int Write(ReadOnlySpan<byte> data) => data.Length;

    public void InputReady() => _ready.Release();

    /// <summary>Gives the text, from a thread of its own where the device does not take it at once. Nothing happens the second time.</summary>
    public void Give()
    {
        if (Interlocked.Exchange(ref _given, 1) != 0)
        {
            return;
        }
        byte[] all = text();
        int accepted = _receiver!.Receive(all);
        if (accepted == all.Length)
        {
            Close();
        }
        else
        {
            new Thread(() => GiveRest(all.AsSpan(accepted))) { IsBackground = true, Name = "text port" }.Start();
        }
    }

    private void GiveRest(ReadOnlySpan<byte> left)
    {
        while (!left.IsEmpty)
        {
            int accepted = _receiver!.Receive(left);
            left = left[accepted..];
            if (!left.IsEmpty && accepted == 0)
            {
                _ready.Wait();
            }
        }
        Close();
    }

    private void Close()
    {
        if (closes)
        {
            _receiver!.SetConnected(false);
        }
    }
}
