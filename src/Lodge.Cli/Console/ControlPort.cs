using System.Text;
using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>
/// The channel on which the default system's init tells how the command ended: lines of text, <c>exit N</c>. The guest is untrusted: lines
/// are short, anything else is ignored.
/// </summary>
internal sealed class ControlPort(Action<int> exited) : ICharacterBackend
{
    private const int MaxLine = 64;
    private readonly byte[] _line = new byte[MaxLine];
    private ICharacterReceiver? _receiver;
    private int _length;
    private bool _told;

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        receiver.SetConnected(true);
    }

    /// <summary>Asks the default system to turn its power off.</summary>
    /// <returns>Whether it takes the word; it does not while it boots.</returns>
    public bool RequestEnd() => _receiver?.Receive("end\n"u8) == 4;

    public int Write(ReadOnlySpan<byte> data)
    {
        foreach (byte b in data)
        {
            if (b != '\n')
            {
                if (_length < MaxLine)
                {
                    _line[_length++] = b;
                }
                continue;
            }
            string line = Encoding.ASCII.GetString(_line, 0, _length);
            _length = 0;
            if (line.StartsWith("exit ", StringComparison.Ordinal) && byte.TryParse(line.AsSpan(5), out byte status))
            {
                if (!_told)
                {
                    _told = true;
                    exited(status);
                }
            }
        }
        return data.Length;
    }

    public void InputReady()
    {
    }
}
