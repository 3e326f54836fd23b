namespace Lodge.Cli.Console;

/// <summary>
/// What a guest prints, kept in a file of bounded size: when it is full it becomes <c>FILE.1</c>, and the one before that goes. A full disk loses output, never the guest.
/// </summary>
/// <param name="path">The file; what is there already stays.</param>
/// <param name="limit">Bytes of one file.</param>
internal sealed class ConsoleLog(string path, long limit = 1 << 20) : IDisposable
{
    private readonly Lock _gate = new();
    private FileStream? _file;
    private bool _closed;

    /// <summary>Adds output.</summary>
    /// <returns>Always true.</returns>
    public bool Add(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            if (_closed)
            {
                return true;
            }
            try
            {
                if (_file is null)
                {
                    _file = new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete, 1);
                    File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
                }
                _file.Write(data);
                if (_file.Position >= limit)
                {
                    _file.Dispose();
                    _file = null;
                    File.Move(path, path + ".1", overwrite: true);
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                _file?.Dispose();
                _file = null;
            }
        }
        return true;
    }

    /// <summary>Closes the file; what comes later is dropped.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _closed = true;
            _file?.Dispose();
        }
    }
}
