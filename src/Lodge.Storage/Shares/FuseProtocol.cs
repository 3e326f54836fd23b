namespace Lodge.Storage.Shares;

/// <summary>Operation codes of the FUSE protocol (<c>enum fuse_opcode</c> of Linux's <c>include/uapi/linux/fuse.h</c>).</summary>
internal enum FuseOperation : uint
{
    Lookup = 1,
    Forget = 2,
    GetAttributes = 3,
    SetAttributes = 4,
    ReadLink = 5,
    SymbolicLink = 6,
    MakeNode = 8,
    MakeFolder = 9,
    Unlink = 10,
    RemoveFolder = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    StatFileSystem = 17,
    Release = 18,
    Synchronize = 20,
    SetExtendedAttribute = 21,
    GetExtendedAttribute = 22,
    ListExtendedAttributes = 23,
    RemoveExtendedAttribute = 24,
    Initialize = 26,
    OpenFolder = 27,
    ReadFolder = 28,
    ReleaseFolder = 29,
    SynchronizeFolder = 30,
    Create = 35,
    Interrupt = 36,
    Destroy = 38,
    BatchForget = 42,
    Allocate = 43,
    ReadFolderPlus = 44,
    Rename2 = 45,
    Seek = 46,
    CopyFileRange = 47,
    SynchronizeFileSystem = 50,
}

/// <summary>Capabilities that both sides tell in INIT (<c>FUSE_*</c> of the same header).</summary>
[Flags]
internal enum FuseFeatures : uint
{
    AsynchronousRead = 1 << 0,
    AtomicTruncate = 1 << 3,
    BigWrites = 1 << 5,
    AutomaticInvalidation = 1 << 12,
    ReadFolderPlus = 1 << 13,
    ReadFolderPlusAutomatic = 1 << 14,
    AsynchronousDirectIo = 1 << 15,
    ParallelFolderOperations = 1 << 18,
    MaximumPages = 1 << 22,
    CacheSymbolicLinks = 1 << 23,
    Submounts = 1 << 27,
    KillPrivileges2 = 1 << 28,
}

/// <summary>Sizes, flags and limits of the FUSE protocol (the same header), version 7.31 to 7.38.</summary>
internal static class FuseProtocol
{
    public const uint Major = 7;

    /// <summary>The newest minor version whose messages the server knows.</summary>
    public const uint Minor = 38;

    /// <summary>The first one with virtio-fs (Linux 5.4).</summary>
    public const uint OldestMinor = 31;

    public const int InHeaderLength = 40;
    public const int OutHeaderLength = 16;
    public const int AttributesLength = 88;
    public const int EntryLength = 40 + AttributesLength;
    public const int AttributeReplyLength = 16 + AttributesLength;
    public const int OpenReplyLength = 16;
    public const int InitReplyLength = 64;
    public const int StatReplyLength = 80;
    public const int DirentHeaderLength = 24;

    /// <summary>Most bytes of one READ or WRITE.</summary>
    public const int MaximumTransfer = 1 << 20;

    /// <summary>Longest name of a folder entry, in bytes.</summary>
    public const int MaximumName = 255;

    /// <summary>Longest path that a symbolic link holds, without its end.</summary>
    public const int MaximumLink = 4095;

    /// <summary>Longest value of an extended attribute, and of their list (Linux's limits).</summary>
    public const int MaximumAttributeValue = 65536;

    /// <summary>Most of a request that is not data of a WRITE: an extended attribute with its name and fixed part.</summary>
    public const int MaximumBody = MaximumAttributeValue + 512;

    /// <summary>Most bytes of a reply that is not data of a READ.</summary>
    public const int MaximumReply = MaximumAttributeValue;

    // fuse_setattr_in.valid
    public const uint SetMode = 1 << 0;
    public const uint SetUser = 1 << 1;
    public const uint SetGroup = 1 << 2;
    public const uint SetSize = 1 << 3;
    public const uint SetAccessTime = 1 << 4;
    public const uint SetModificationTime = 1 << 5;
    public const uint SetByHandle = 1 << 6;
    public const uint SetAccessTimeNow = 1 << 7;
    public const uint SetModificationTimeNow = 1 << 8;
    public const uint SetKillPrivileges = 1 << 11;

    public const uint GetByHandle = 1;
    public const uint OpenKillPrivileges = 1;
    public const uint OpenKeepCache = 1 << 1;
    public const uint WriteFromCache = 1;
    public const uint WriteKillPrivileges = 1 << 2;
    public const uint SynchronizeDataOnly = 1;
    public const uint AttributeSubmount = 1;

    /// <summary>Length of a folder record with a name of <paramref name="nameLength"/> bytes, rounded up to 8.</summary>
    public static int DirentLength(int nameLength) => (DirentHeaderLength + nameLength + 7) & ~7;
}

/// <summary>Error numbers of Linux on x86-64 (errno(3)).</summary>
internal static class ErrorNumber
{
    public const int NotPermitted = 1;
    public const int NoEntry = 2;
    public const int InputOutput = 5;
    public const int TooBig = 7;
    public const int BadHandle = 9;
    public const int NoMemory = 12;
    public const int AccessDenied = 13;
    public const int Exists = 17;
    public const int NotFolder = 20;
    public const int IsFolder = 21;
    public const int Invalid = 22;
    public const int TooManyOpen = 23;      // ENFILE
    public const int ReadOnlyFileSystem = 30;
    public const int Range = 34;
    public const int NameTooLong = 36;
    public const int NotImplemented = 38;   // ENOSYS
    public const int NoData = 61;
    public const int Protocol = 71;
    public const int Unsupported = 95;      // EOPNOTSUPP
    public const int Stale = 116;
}
