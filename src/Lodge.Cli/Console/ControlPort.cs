using System.Text;
using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>
/// The channel on which the default system's init tells that it waits for what it is to run and how that ended: lines of text, <c>waiting</c> and <c>exit N</c>. The guest
/// is untrusted: lines are short, anything else is ignored.
/// </summary>
/// <param name="exited">Told the status, once.</param>
/// <param name="waiting">Called when the guest waits, once.</param>
internal sealed class ControlPort(Action<int> exited, Action? waiting = null) : ICharacterBackend
{
    private const int MaxLine = 64;
    private readonly byte[] _line = new byte[MaxLine];
    private ICharacterReceiver? _receiver;
    private int _length;
    private bool _told, _waited;

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
            if (line == "waiting" && !_waited)
            {
                _waited = true;
                waiting?.Invoke();
            }
            else if (line.StartsWith("exit ", StringComparison.Ordinal) && byte.TryParse(line.AsSpan(5), out byte status))
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
