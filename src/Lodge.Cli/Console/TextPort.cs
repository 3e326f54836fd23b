using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>Gives a fixed text to a character device of the guest, once, and then closes the host side; what the guest writes is dropped.</summary>
internal sealed class TextPort(byte[] text) : ICharacterBackend
{
    private readonly SemaphoreSlim _ready = new(0);
    private ICharacterReceiver? _receiver;

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        receiver.SetConnected(true);
        new Thread(Give) { IsBackground = true, Name = "text port" }.Start();
    }

    public int Write(ReadOnlySpan<byte> data) => data.Length;

    public void InputReady() => _ready.Release();

    private void Give()
    {
        ReadOnlySpan<byte> left = text;
        while (!left.IsEmpty)
        {
            int accepted = _receiver!.Receive(left);
            left = left[accepted..];
            if (!left.IsEmpty && accepted == 0)
            {
                _ready.Wait();
            }
        }
        _receiver!.SetConnected(false);
    }
}
