using System.Buffers.Binary;

namespace Lodge.Machine.Devices.Virtio.Vsock;

/// <summary>Operations of a packet (virtio 1.2, 5.10.6).</summary>
internal enum VsockOperation : ushort
{
    /// <summary>VIRTIO_VSOCK_OP_INVALID</summary>
    Invalid = 0,

    /// <summary>VIRTIO_VSOCK_OP_REQUEST: asks for a stream.</summary>
    Request = 1,

    /// <summary>VIRTIO_VSOCK_OP_RESPONSE: grants it.</summary>
    Response = 2,

    /// <summary>VIRTIO_VSOCK_OP_RST: refuses or drops it.</summary>
    Reset = 3,

    /// <summary>VIRTIO_VSOCK_OP_SHUTDOWN: no more in one or both directions.</summary>
    Shutdown = 4,

    /// <summary>VIRTIO_VSOCK_OP_RW: data.</summary>
    Data = 5,

    /// <summary>VIRTIO_VSOCK_OP_CREDIT_UPDATE: tells how much may be sent.</summary>
    CreditUpdate = 6,

    /// <summary>VIRTIO_VSOCK_OP_CREDIT_REQUEST: asks for a credit update.</summary>
    CreditRequest = 7,
}

/// <summary>struct virtio_vsock_hdr (virtio 1.2, 5.10.6), little endian.</summary>
internal struct VsockPacket
{
    /// <summary>Bytes of the header.</summary>
    public const int Length = 44;

    /// <summary>The host's context identifier.</summary>
    public const ulong HostCid = 2;

    /// <summary>VIRTIO_VSOCK_TYPE_STREAM</summary>
    public const ushort TypeStream = 1;

    /// <summary>VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender takes no more.</summary>
    public const uint ShutdownReceive = 1;

    /// <summary>VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender sends no more.</summary>
    public const uint ShutdownSend = 2;

    /// <summary>src_cid</summary>
    public ulong SourceCid;

    /// <summary>dst_cid</summary>
    public ulong DestinationCid;

    /// <summary>src_port</summary>
    public uint SourcePort;

    /// <summary>dst_port</summary>
    public uint DestinationPort;

    /// <summary>len: bytes of data behind the header.</summary>
    public uint DataLength;

    /// <summary>type</summary>
    public ushort Type;

    /// <summary>op</summary>
    public VsockOperation Operation;

    /// <summary>flags</summary>
    public uint Flags;

    /// <summary>buf_alloc: bytes that the sender can hold.</summary>
    public uint BufferSize;

    /// <summary>fwd_cnt: bytes that have left the sender's buffer, modulo 2^32.</summary>
    public uint Forwarded;

    /// <summary>Reads <see cref="Length"/> bytes.</summary>
    public static VsockPacket Read(ReadOnlySpan<byte> bytes) => new()
    {
        SourceCid = BinaryPrimitives.ReadUInt64LittleEndian(bytes),
        DestinationCid = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]),
        SourcePort = BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]),
        DestinationPort = BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]),
        DataLength = BinaryPrimitives.ReadUInt32LittleEndian(bytes[24..]),
        Type = BinaryPrimitives.ReadUInt16LittleEndian(bytes[28..]),
        Operation = (VsockOperation)BinaryPrimitives.ReadUInt16LittleEndian(bytes[30..]),
        Flags = BinaryPrimitives.ReadUInt32LittleEndian(bytes[32..]),
        BufferSize = BinaryPrimitives.ReadUInt32LittleEndian(bytes[36..]),
        Forwarded = BinaryPrimitives.ReadUInt32LittleEndian(bytes[40..]),
    };

    /// <summary>Writes <see cref="Length"/> bytes.</summary>
    public readonly void Write(Span<byte> bytes)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, SourceCid);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], DestinationCid);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[16..], SourcePort);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[20..], DestinationPort);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[24..], DataLength);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[28..], Type);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[30..], (ushort)Operation);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[32..], Flags);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[36..], BufferSize);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[40..], Forwarded);
    }
}
