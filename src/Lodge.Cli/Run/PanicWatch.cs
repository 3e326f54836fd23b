using System.Text;

namespace Lodge.Cli.Run;

/// <summary>Looks through a kernel's console output for the line that says why it panicked. Bounded whatever the guest prints.</summary>
internal sealed class PanicWatch
{
    private const int MaxLine = 256;
    private static readonly byte[] Sign = "Kernel panic - not syncing: "u8.ToArray();
    private readonly byte[] _line = new byte[MaxLine];
    private int _length;
    private volatile string? _reason;

    /// <summary>The reason of the first panic seen, or null.</summary>
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
