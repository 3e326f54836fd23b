namespace Lodge.Storage.Disks;

/// <summary>What kind of failure a disk request met.</summary>
public enum DiskError
{
    /// <summary>The medium failed (EIO).</summary>
    InputOutput,

    /// <summary>The request reaches beyond the disk.</summary>
    OutOfRange,

    /// <summary>The disk is opened for reading only.</summary>
    ReadOnly,

    /// <summary>The host has no room left (ENOSPC, EDQUOT, EFBIG).</summary>
    NoSpace,

    /// <summary>Another process holds the image.</summary>
    InUse,

    /// <summary>The image's structures contradict themselves or the format's specification.</summary>
    Corrupt,

    /// <summary>The image is not of the expected format.</summary>
    WrongFormat,

    /// <summary>A feature that this disk or format does not have.</summary>
    Unsupported,

    /// <summary>An option with a wrong value.</summary>
    InvalidOption,

    /// <summary>A file is missing.</summary>
    NotFound,

    /// <summary>The host or the policy for backing files forbids it.</summary>
    Denied,

    /// <summary>A file that should be made exists.</summary>
    Exists,

    /// <summary>A passphrase or key is missing or wrong.</summary>
    Secret,

    /// <summary>The peer of a network disk is gone or broke the protocol.</summary>
    Connection,
}

/// <summary>A disk request or an image operation that failed; the message is one line that names the file or value and, where it helps, what to do.</summary>
/// <remarks>Names and texts in it may be a hostile image's: control characters, which would begin another line or command the terminal, show as <c>?</c>.</remarks>
public sealed class DiskException(DiskError error, string message, Exception? inner = null) : Exception(OneLine(message), inner)
{
    /// <summary>The kind of failure.</summary>
    public DiskError Error { get; } = error;

    private static string OneLine(string text) =>
        text.AsSpan().ContainsAnyInRange('\0', '\x1f') || text.AsSpan().ContainsAnyInRange('\x7f', '\x9f') ? string.Concat(text.Select(letter => char.IsControl(letter) ? '?' : letter)) : text;
}
