using System.Buffers.Binary;
using System.Numerics;
using System.Security.Cryptography;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>The data structures of the Identify command (NVM Express 1.4, 5.15.2), 4 KiB each.</summary>
internal sealed class NvmeIdentify(NvmeConfiguration configuration, bool readOnly)
{
    /// <summary>The only namespace.</summary>
    public const uint NamespaceId = 1;

    private const string Model = "Lodge NVMe Disk", Firmware = "1.0";
    private readonly byte[] _uuid = Uuid(configuration.Serial);

    /// <summary>Base 2 logarithm of the block size.</summary>
    public int BlockShift { get; } = BitOperations.Log2((uint)configuration.BlockSize);

    /// <summary>Whether Dataset Management deallocates.</summary>
    public bool CanDeallocate { get; } = !readOnly && configuration.Discard && configuration.Disk is IDiscard;

    /// <summary>Whether Write Zeroes is offered: only where the disk has a better way than to write zeroes.</summary>
    public bool CanWriteZeroes { get; } = !readOnly && configuration.Disk is IWriteZeroes;

    /// <summary>CNS 01h: identify controller (figure 247).</summary>
    public void Controller(Span<byte> data)
    {
        data.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(data, NvmeController.Vendor);              // VID
        BinaryPrimitives.WriteUInt16LittleEndian(data[2..], NvmeController.Vendor);         // SSVID
        Text(data.Slice(4, 20), configuration.Serial);                                      // SN
        Text(data.Slice(24, 40), Model);                                                    // MN
        Text(data.Slice(64, 8), Firmware);                                                  // FR
        data[77] = NvmeRegisters.MaximumTransferExponent;                                   // MDTS
        BinaryPrimitives.WriteUInt32LittleEndian(data[80..], NvmeRegisters.Version14);      // VER
        BinaryPrimitives.WriteUInt32LittleEndian(data[92..], 1 << 8);                       // OAES: namespace attribute notices
        data[111] = 1;                                                                      // CNTRLTYPE: I/O controller
        BinaryPrimitives.WriteUInt16LittleEndian(data[256..], 1 << 8);                      // OACS: Doorbell Buffer Config
        data[258] = 3;                                                                      // ACL
        data[259] = NvmeRegisters.MaximumEventRequests - 1;                                 // AERL
        data[260] = 3;                                                                      // FRMW: one slot, read-only
        data[261] = (1 << 1) | (1 << 2);                                                    // LPA: commands supported log, extended data
        BinaryPrimitives.WriteUInt16LittleEndian(data[266..], 343);                         // WCTEMP, Kelvin
        BinaryPrimitives.WriteUInt16LittleEndian(data[268..], 353);                         // CCTEMP, Kelvin
        data[512] = 0x66;                                                                   // SQES: 64 bytes
        data[513] = 0x44;                                                                   // CQES: 16 bytes
        BinaryPrimitives.WriteUInt32LittleEndian(data[516..], 1);                           // NN
        BinaryPrimitives.WriteUInt16LittleEndian(data[520..], (ushort)((CanDeallocate ? 1 << 2 : 0) | (CanWriteZeroes ? 1 << 3 : 0)));     // ONCS
        data[525] = 1 | (3 << 1);                                                           // VWC: present, flush of all namespaces
        Encoding.ASCII.GetBytes($"nqn.2014-08.org.nvmexpress:uuid:{new Guid(_uuid, bigEndian: true)}").CopyTo(data[768..]);        // SUBNQN
        BinaryPrimitives.WriteUInt16LittleEndian(data[2048..], 500);                        // PSD0: MP, in 0.01 W
    }

    /// <summary>CNS 00h: identify namespace (figure 245).</summary>
    public void Namespace(Span<byte> data, ulong blocks)
    {
        data.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(data, blocks);             // NSZE
        BinaryPrimitives.WriteUInt64LittleEndian(data[8..], blocks);        // NCAP
        BinaryPrimitives.WriteUInt64LittleEndian(data[16..], blocks);       // NUSE
        data[24] = 1 << 4;                                                  // NSFEAT: NPWG to NOWS are valid
        int physical = Math.Clamp((int)BitOperations.RoundUpToPowerOf2((uint)Math.Clamp(configuration.Disk.RequestAlignment, 1, 4096)), configuration.BlockSize, 4096);
        ushort granularity = (ushort)((physical >> BlockShift) - 1);
        BinaryPrimitives.WriteUInt16LittleEndian(data[64..], granularity);  // NPWG
        BinaryPrimitives.WriteUInt16LittleEndian(data[66..], granularity);  // NPWA
        ushort unit = configuration.Disk is IDiscard discard ? (ushort)Math.Clamp((discard.DiscardGranularity >> BlockShift) - 1, 0, ushort.MaxValue) : granularity;
        BinaryPrimitives.WriteUInt16LittleEndian(data[68..], unit);         // NPDG
        BinaryPrimitives.WriteUInt16LittleEndian(data[70..], unit);         // NPDA
        data[99] = readOnly ? (byte)1 : (byte)0;                            // NSATTR: write protected
        _uuid.CopyTo(data[104..]);                                          // NGUID
        data[130] = (byte)BlockShift;                                       // LBAF0: LBADS
    }

    /// <summary>CNS 02h: active namespaces above <paramref name="after"/>.</summary>
    public static void ActiveNamespaces(Span<byte> data, uint after)
    {
        data.Clear();
        if (after < NamespaceId)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(data, NamespaceId);
        }
    }

    /// <summary>CNS 03h: namespace identification descriptors (figure 246): a UUID.</summary>
    public void NamespaceIdentifiers(Span<byte> data)
    {
        data.Clear();
        data[0] = 3;        // NIDT: UUID
        data[1] = 16;       // NIDL
        _uuid.CopyTo(data[4..]);
    }

    /// <summary>The firmware slot log (figure 198).</summary>
    public static void FirmwareSlots(Span<byte> data)
    {
        data.Clear();
        data[0] = 1;        // AFI
        Text(data.Slice(8, 8), Firmware);
    }

    /// <summary>The commands supported and effects log (figure 201).</summary>
    public void CommandsSupported(Span<byte> data)
    {
        const uint Supported = 1, ChangesBlocks = 2;
        data.Clear();
        foreach (NvmeAdminOpcode opcode in Enum.GetValues<NvmeAdminOpcode>())
        {
            BinaryPrimitives.WriteUInt32LittleEndian(data[((int)opcode * 4)..], Supported);
        }
        Span<byte> io = data[1024..];
        BinaryPrimitives.WriteUInt32LittleEndian(io[((int)NvmeOpcode.Flush * 4)..], Supported);
        BinaryPrimitives.WriteUInt32LittleEndian(io[((int)NvmeOpcode.Read * 4)..], Supported);
        if (!readOnly)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(io[((int)NvmeOpcode.Write * 4)..], Supported | ChangesBlocks);
        }
        if (CanWriteZeroes)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(io[((int)NvmeOpcode.WriteZeroes * 4)..], Supported | ChangesBlocks);
        }
        if (CanDeallocate)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(io[((int)NvmeOpcode.DatasetManagement * 4)..], Supported | ChangesBlocks);
        }
    }

    /// <summary>ASCII, padded with spaces; what does not fit or is not printable goes.</summary>
    private static void Text(Span<byte> data, string text)
    {
        data.Fill((byte)' ');
        for (int i = 0; i < Math.Min(text.Length, data.Length); i++)
        {
            data[i] = text[i] is >= ' ' and < '\x7f' ? (byte)text[i] : (byte)'?';
        }
    }

    /// <summary>A UUID (RFC 9562, version 8) that is always the same for a serial number, as a guest may look for its disks by it.</summary>
    private static byte[] Uuid(string serial)
    {
        byte[] hash = SHA256.HashData(Encoding.UTF8.GetBytes("lodge nvme " + serial))[..16];
        hash[6] = (byte)((hash[6] & 0x0F) | 0x80);
        hash[8] = (byte)((hash[8] & 0x3F) | 0x80);
        return hash;
    }
}
