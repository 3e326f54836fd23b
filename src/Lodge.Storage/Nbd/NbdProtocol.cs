namespace Lodge.Storage.Nbd;

/// <summary>
/// Magic numbers and limits of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md, "The newstyle negotiation", "Transmission", "Values"; extended headers:
/// branch extension-ext-header; resize: branch extension-resize). All integers on the wire are big-endian.
/// </summary>
internal static class NbdProtocol
{
    /// <summary>First 64 bits from the server: <c>NBDMAGIC</c>.</summary>
    public const ulong InitPasswd = 0x4e42444d41474943;

    /// <summary>Second 64 bits from a newstyle server, and before each option: <c>IHAVEOPT</c>.</summary>
    public const ulong OptionMagic = 0x49484156454F5054;

    /// <summary>Before each reply to an option.</summary>
    public const ulong OptionReplyMagic = 0x3e889045565a9;

    /// <summary>NBD_REQUEST_MAGIC.</summary>
    public const uint RequestMagic = 0x25609513;

    /// <summary>NBD_EXTENDED_REQUEST_MAGIC.</summary>
    public const uint ExtendedRequestMagic = 0x21e41c71;

    /// <summary>NBD_SIMPLE_REPLY_MAGIC.</summary>
    public const uint SimpleReplyMagic = 0x67446698;

    /// <summary>NBD_STRUCTURED_REPLY_MAGIC.</summary>
    public const uint StructuredReplyMagic = 0x668e33ef;

    /// <summary>NBD_EXTENDED_REPLY_MAGIC.</summary>
    public const uint ExtendedReplyMagic = 0x6e8a278c;

    /// <summary>Bytes of an option's header.</summary>
    public const int OptionHeaderLength = 16;

    /// <summary>Bytes of the header of an option's reply.</summary>
    public const int OptionReplyHeaderLength = 20;

    /// <summary>Bytes of a compact request.</summary>
    public const int RequestLength = 28;

    /// <summary>Bytes of an extended request.</summary>
    public const int ExtendedRequestLength = 32;

    /// <summary>Bytes of a simple reply's header.</summary>
    public const int SimpleReplyLength = 16;

    /// <summary>Bytes of a structured reply chunk's header.</summary>
    public const int StructuredReplyLength = 20;

    /// <summary>Bytes of an extended reply chunk's header.</summary>
    public const int ExtendedReplyLength = 32;

    /// <summary>Longest string, in bytes.</summary>
    public const int MaximumString = 4096;

    /// <summary>Largest payload in bytes that this implementation sends or takes, and that every peer must take.</summary>
    public const int MaximumPayload = 1 << 25;

    /// <summary>Port that IANA assigned.</summary>
    public const int Port = 10809;

    /// <summary>The metadata context of allocation.</summary>
    public const string BaseAllocation = "base:allocation";

    /// <summary>What precedes the name of a dirty bitmap in its metadata context.</summary>
    public const string QemuDirtyBitmap = "qemu:dirty-bitmap:";

    /// <summary>The metadata context that tells which layer of a chain holds a range.</summary>
    public const string QemuAllocationDepth = "qemu:allocation-depth";
}

/// <summary>Handshake flags (NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_NO_ZEROES) and, with the same bits, client flags (NBD_FLAG_C_...).</summary>
[Flags]
internal enum NbdHandshakeFlags : uint
{
    FixedNewstyle = 1 << 0,
    NoZeroes = 1 << 1,
}

/// <summary>Transmission flags (NBD_FLAG_...).</summary>
[Flags]
internal enum NbdTransmissionFlags : ushort
{
    HasFlags = 1 << 0,
    ReadOnly = 1 << 1,
    SendFlush = 1 << 2,
    SendFua = 1 << 3,
    Rotational = 1 << 4,
    SendTrim = 1 << 5,
    SendWriteZeroes = 1 << 6,
    SendDf = 1 << 7,
    CanMultiConn = 1 << 8,
    SendResize = 1 << 9,
    SendCache = 1 << 10,
    SendFastZero = 1 << 11,
    BlockStatusPayload = 1 << 12,
}

/// <summary>Options (NBD_OPT_...).</summary>
internal enum NbdOption : uint
{
    ExportName = 1,
    Abort = 2,
    List = 3,
    StartTls = 5,
    Info = 6,
    Go = 7,
    StructuredReply = 8,
    ListMetaContext = 9,
    SetMetaContext = 10,
    ExtendedHeaders = 11,
}

/// <summary>Replies to options (NBD_REP_...); bit 31 marks errors.</summary>
internal enum NbdOptionReply : uint
{
    Ack = 1,
    Server = 2,
    Info = 3,
    MetaContext = 4,
    ErrorUnsupported = 0x80000001,
    ErrorPolicy = 0x80000002,
    ErrorInvalid = 0x80000003,
    ErrorPlatform = 0x80000004,
    ErrorTlsRequired = 0x80000005,
    ErrorUnknown = 0x80000006,
    ErrorShutdown = 0x80000007,
    ErrorBlockSizeRequired = 0x80000008,
    ErrorTooBig = 0x80000009,
    ErrorExtendedHeadersRequired = 0x8000000a,
}

/// <summary>Information types (NBD_INFO_...).</summary>
internal enum NbdInfo : ushort
{
    Export = 0,
    Name = 1,
    Description = 2,
    BlockSize = 3,
}

/// <summary>Requests (NBD_CMD_...).</summary>
internal enum NbdCommand : ushort
{
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    Cache = 5,
    WriteZeroes = 6,
    BlockStatus = 7,
    Resize = 8,
}

/// <summary>Command flags (NBD_CMD_FLAG_...).</summary>
[Flags]
internal enum NbdCommandFlags : ushort
{
    None = 0,
    Fua = 1 << 0,
    NoHole = 1 << 1,
    Df = 1 << 2,
    ReqOne = 1 << 3,
    FastZero = 1 << 4,
    PayloadLen = 1 << 5,
}

/// <summary>Structured reply types (NBD_REPLY_TYPE_...); bit 15 marks errors.</summary>
internal enum NbdReplyType : ushort
{
    None = 0,
    OffsetData = 1,
    OffsetHole = 2,
    BlockStatus = 5,
    BlockStatusExt = 6,
    Error = 0x8001,
    ErrorOffset = 0x8002,
}

/// <summary>Structured reply flags (NBD_REPLY_FLAG_...).</summary>
[Flags]
internal enum NbdReplyFlags : ushort
{
    None = 0,
    Done = 1 << 0,
}

/// <summary>Error values (NBD_E...).</summary>
internal enum NbdError : uint
{
    None = 0,
    Perm = 1,
    Io = 5,
    NoMem = 12,
    Inval = 22,
    NoSpc = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

/// <summary>Flags of an extent in <c>base:allocation</c> (NBD_STATE_...).</summary>
[Flags]
internal enum NbdState : uint
{
    None = 0,
    Hole = 1 << 0,
    Zero = 1 << 1,
}

/// <summary>How requests and replies look in the transmission phase.</summary>
internal enum NbdHeaderStyle
{
    /// <summary>Compact requests, simple replies.</summary>
    Simple,

    /// <summary>Compact requests, structured replies.</summary>
    Structured,

    /// <summary>Extended requests and replies.</summary>
    Extended,
}

/// <summary>The peer broke the protocol; the connection ends.</summary>
internal sealed class NbdProtocolException(string message) : Exception(message);
