using System.Text;

namespace Lodge.Cli.Run;

/// <summary>
/// Looks through a kernel's console output for the line that says why it panicked. Bounded whatever the guest prints. A message that many lines
/// follow does not count: the kernel went on, so some program showed it.
/// </summary>
internal sealed class PanicWatch
{
    private const int MaxLine = 256, MaxFollowing = 300;
    private static readonly byte[] Sign = "Kernel panic - not syncing: "u8.ToArray();
    private readonly byte[] _line = new byte[MaxLine];
    private int _length, _following;
    private volatile string? _reason;

    /// <summary>The reason of the panic, or null.</summary>
    public string? Reason => _reason;

    /// <summary>Takes the next bytes of output.</summary>
    public void Observe(ReadOnlySpan<byte> data)
    {
        foreach (byte b in data)
        {
            if (b == '\n')
            {
                int at = _line.AsSpan(0, _length).IndexOf(Sign);
                if (at >= 0)
                {
                    string text = Encoding.UTF8.GetString(_line.AsSpan((at + Sign.Length).._length));
                    _reason ??= new string([.. text.Where(c => !char.IsControl(c))]);
                    _following = 0;
                }
                else if (++_following > MaxFollowing)
                {
                    (_reason, _following) = (null, 0);
                }
                _length = 0;
            }
            else if (_length < MaxLine)
            {
                _line[_length++] = b;
            }
        }
    }
}
