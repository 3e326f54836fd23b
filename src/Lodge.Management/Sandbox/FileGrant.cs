namespace Lodge.Management.Sandbox;

/// <summary>What a confined process may do with a file, or with all that is in a folder.</summary>
[Flags]
public enum FileAccesses
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Read files, list folders.</summary>
    Read = 1,

    /// <summary>Start programs, and map libraries: reading is part of it.</summary>
    Execute = 2,

    /// <summary>Write and truncate files that are there.</summary>
    Write = 4,

    /// <summary>Make and remove files, folders and sockets, and rename within what is granted. No links and no devices.</summary>
    Change = 8,

    /// <summary>Make symbolic links and named pipes: shared folders.</summary>
    MakeSpecial = 16,

    /// <summary>ioctl(2) on devices.</summary>
    DeviceControl = 32,

    /// <summary>List folders, without reading files.</summary>
    List = 64,

    /// <summary>Make sockets and remove files.</summary>
    MakeSocket = 128,
}

/// <summary>A place that a confined process may use.</summary>
/// <param name="Path">File or folder; one that is not there is left out.</param>
/// <param name="Access">How.</param>
public readonly record struct FileGrant(string Path, FileAccesses Access);
