using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.FirmwareConfiguration;

/// <summary>
/// fw_cfg: blobs that firmware and test kernels read by ports or by DMA. A source of facts only; nothing here can be written, so a DMA write
/// is answered with an error. DMA reaches RAM only and moves at most what one range of RAM holds.
/// </summary>
public sealed class FirmwareConfiguration : IDevice, IIoHandler
{
    private const int ChunkSize = 1 << 16;
    private const int DescriptorLength = 16;
    private static readonly byte[] s_zeros = new byte[ChunkSize];

    private readonly Lock _gate = new();
    private readonly GuestMemory _memory;
    private readonly Dictionary<ushort, ReadOnlyMemory<byte>> _items;
    private ushort _key;
    private uint _offset;
    private ulong _dmaAddress;

    /// <summary>Creates the device. Contents added later are not seen.</summary>
    public FirmwareConfiguration(FirmwareConfigurationContents contents, GuestMemory memory)
    {
        _items = contents.Build();
        _memory = memory;
        Claims = [new RegionClaim(Name, RegionSpace.Port, PortMap.FirmwareConfiguration, FirmwareConfigurationRegister.Length, this)];
    }

    /// <inheritdoc/>
    public string Name => "fw-cfg";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    private ReadOnlyMemory<byte> Selected => _items.GetValueOrDefault(_key);

    /// <inheritdoc/>
    public IoResult Read(ulong offset, Span<byte> data)
    {
        lock (_gate)
        {
            if (offset >= FirmwareConfigurationRegister.DmaAddress)
            {
                Span<byte> signature = stackalloc byte[8];
                BinaryPrimitives.WriteUInt64BigEndian(signature, FirmwareConfigurationVersion.DmaSignature);
                int at = (int)offset - FirmwareConfigurationRegister.DmaAddress;
                if (at + data.Length > signature.Length)
                {
                    return IoResult.Invalid;
                }
                signature.Slice(at, data.Length).CopyTo(data);
                return IoResult.Done;
            }
            if (offset != FirmwareConfigurationRegister.Data || data.Length != 1)
            {
                return IoResult.Invalid;
            }
            ReadOnlySpan<byte> item = Selected.Span;
            data[0] = _offset < (uint)item.Length ? item[(int)_offset++] : (byte)0;
            return IoResult.Done;
        }
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            switch ((int)offset, data.Length)
            {
                case (FirmwareConfigurationRegister.Selector, 2):
                    Select(BinaryPrimitives.ReadUInt16LittleEndian(data));
                    return IoResult.Done;
                case (FirmwareConfigurationRegister.DmaAddress, 4):
                    _dmaAddress = (ulong)BinaryPrimitives.ReadUInt32BigEndian(data) << 32;
                    return IoResult.Done;
                case (FirmwareConfigurationRegister.DmaAddress + 4, 4):
                    _dmaAddress |= BinaryPrimitives.ReadUInt32BigEndian(data);
                    break;
                case (FirmwareConfigurationRegister.DmaAddress, 8):
                    _dmaAddress = BinaryPrimitives.ReadUInt64BigEndian(data);
                    break;
                default:
                    return IoResult.Invalid; // the data register takes no writes any more, as the specification says
            }
            ulong address = _dmaAddress;
            _dmaAddress = 0;
            Transfer(address);
            return IoResult.Done;
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
    }

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_gate)
        {
            Select(0);
            _dmaAddress = 0;
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new FirmwareConfigurationState { Key = _key, Offset = _offset, DmaAddress = _dmaAddress });
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        FirmwareConfigurationState state = reader.Nested(1, new FirmwareConfigurationState());
        lock (_gate)
        {
            (_key, _offset, _dmaAddress) = (state.Key, state.Offset, state.DmaAddress);
        }
    }

    private void Select(ushort key)
    {
        _key = (ushort)(key & ~0x4000); // bit 14 only said that writes would follow
        _offset = 0;
    }

    /// <summary>One DMA operation: control, length and address, all big endian, at <paramref name="descriptor"/>.</summary>
    private void Transfer(ulong descriptor)
    {
        Span<byte> fields = stackalloc byte[DescriptorLength];
        if (!_memory.TryRead(descriptor, fields))
        {
            return; // there is nowhere to report an error
        }
        uint control = BinaryPrimitives.ReadUInt32BigEndian(fields);
        uint length = BinaryPrimitives.ReadUInt32BigEndian(fields[4..]);
        ulong address = BinaryPrimitives.ReadUInt64BigEndian(fields[8..]);
        var operation = (DmaControl)control;
        if ((operation & DmaControl.Select) != 0)
        {
            Select((ushort)(control >> 16));
        }
        bool done = true;
        if ((operation & DmaControl.Read) != 0)
        {
            done = CopyOut(address, length);
        }
        else if ((operation & DmaControl.Write) != 0)
        {
            done = false;
        }
        else if ((operation & DmaControl.Skip) != 0)
        {
            Advance(length);
        }
        Span<byte> result = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(result, done ? 0 : (uint)DmaControl.Error);
        _memory.TryWrite(descriptor, result);
    }

    private bool CopyOut(ulong address, uint length)
    {
        if (length != 0 && !_memory.TryGetOffset(address, length, out _))
        {
            return false;
        }
        ReadOnlySpan<byte> item = Selected.Span;
        ReadOnlySpan<byte> rest = _offset < (uint)item.Length ? item[(int)_offset..] : [];
        rest = rest[..(int)Math.Min(length, (uint)rest.Length)];
        _memory.TryWrite(address, rest);
        ulong end = address + length;
        for (ulong at = address + (ulong)rest.Length; at < end; at += ChunkSize)
        {
            _memory.TryWrite(at, s_zeros.AsSpan(0, (int)Math.Min(ChunkSize, end - at))); // beyond its end a blob reads as zeros
        }
        Advance(length);
        return true;
    }

    private void Advance(uint length) => _offset = (uint)Math.Min((ulong)_offset + length, uint.MaxValue);
}
