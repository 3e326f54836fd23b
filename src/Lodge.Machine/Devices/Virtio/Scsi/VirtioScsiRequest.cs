using System.Buffers.Binary;
using Lodge.Machine.Devices.Storage.Scsi;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Scsi;

/// <summary>A command in a request queue (virtio 1.2, 5.6.6.1). Used again after it is completed.</summary>
internal sealed class VirtioScsiRequest : ScsiRequest
{
    private readonly byte[] _response = new byte[VirtioScsiRequests.ResponseHeader + VirtioScsiRequests.MaximumSenseSize];
    private Memory<byte>[] _pieces = new Memory<byte>[4];
    private uint _out;      // offset of data-out in the readable part
    private uint _in;       // offset of data-in in the writable part
    private uint _filled;

    /// <summary>Queue that the chain came from.</summary>
    public VirtQueue Queue { get; private set; } = null!;

    /// <summary>The driver's buffers.</summary>
    public DescriptorChain Chain { get; private set; } = null!;

    /// <summary>Target, or -1 when the address is none that the device could have.</summary>
    public int Target { get; private set; }

    /// <summary>Tag that task management names it by.</summary>
    public ulong Identifier { get; private set; }

    /// <inheritdoc/>
    public override uint InLength => Chain.WritableLength - _in;

    /// <inheritdoc/>
    public override uint OutLength => Chain.ReadableLength - _out;

    /// <summary>Target of an address (5.6.6.1): byte 0 is 1, byte 1 the target, then LUN 0 in either form; else -1.</summary>
    public static int TargetOf(ReadOnlySpan<byte> lun) => lun[0] == 1 && (lun[2] & 0xBF) == 0 && lun[3] == 0 ? lun[1] : -1;

    /// <summary>Reads the header; false when the chain has no room for header and response.</summary>
    public bool TryBegin(VirtQueue queue, DescriptorChain chain, int cdbSize, int senseSize)
    {
        Clear();
        (Queue, Chain) = (queue, chain);
        (_out, _in) = ((uint)(VirtioScsiRequests.RequestHeader + cdbSize), (uint)(VirtioScsiRequests.ResponseHeader + senseSize));
        _filled = 0;
        Span<byte> header = stackalloc byte[VirtioScsiRequests.RequestHeader];
        if (chain.ReadableLength < _out || chain.WritableLength < _in || chain.Read(header) != header.Length || chain.Read(Cdb.AsSpan(0, cdbSize)) != cdbSize)
        {
            return false;
        }
        Target = TargetOf(header);
        Identifier = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        return true;
    }

    /// <summary>Writes the response and returns the chain.</summary>
    public void Finish(byte response)
    {
        Span<byte> data = _response.AsSpan(0, (int)_in);
        data.Clear();
        if (response == VirtioScsiRequests.ResponseOk)
        {
            ReadOnlySpan<byte> sense = Sense[..Math.Min(Sense.Length, data.Length - VirtioScsiRequests.ResponseHeader)];
            uint expected = Math.Max(InLength, OutLength);
            BinaryPrimitives.WriteUInt32LittleEndian(data, (uint)sense.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(data[4..], expected - Math.Min(expected, Transferred));
            data[10] = Status;
            sense.CopyTo(data[VirtioScsiRequests.ResponseHeader..]);
        }
        data[11] = response;
        Chain.Write(data);
        Chain.Filled(_filled);
        VirtQueue queue = Queue;
        DescriptorChain chain = Chain;
        End();
        queue.Complete(chain);
    }

    /// <summary>Forgets the driver's buffers.</summary>
    public void End()
    {
        Clear();
        (Queue, Chain) = (null!, null!);
        Array.Clear(_pieces);
    }

    /// <inheritdoc/>
    protected override void CopyIn(ReadOnlySpan<byte> data)
    {
        if (data.Length != 0 && TryLendIn((uint)data.Length, out IoVector vector))
        {
            vector.CopyFrom(data);
            _filled = (uint)data.Length;
        }
    }

    /// <inheritdoc/>
    protected override int CopyOut(Span<byte> data) => Chain.Read(data);

    /// <inheritdoc/>
    protected override bool TryLendIn(uint length, out IoVector vector) => Chain.TryLendWritable(_in, length, ref _pieces, out vector);

    /// <inheritdoc/>
    protected override bool TryLendOut(uint length, out IoVector vector) => Chain.TryLendReadable(_out, length, ref _pieces, out vector);

    /// <inheritdoc/>
    protected override void Filled(uint length) => _filled = length;
}
