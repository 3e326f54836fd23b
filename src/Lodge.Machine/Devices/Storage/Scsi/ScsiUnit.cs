using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace Lodge.Machine.Devices.Storage.Scsi;

/// <summary>
/// A logical unit, the only one (LUN 0) of its target: what all kinds have in common (SPC-4). Commands are executed on the transport's worker; the state that
/// the host's side changes is a few words, each written at once.
/// </summary>
/// <param name="serial">Serial number; the unit's identifier is derived from it.</param>
internal abstract class ScsiUnit(string serial)
{
    /// <summary>Bytes of a transfer at most.</summary>
    public const uint MaximumTransfer = 64 << 20;

    private readonly byte[] _serial = Encoding.ASCII.GetBytes(serial);
    private int _attention = (int)ScsiSense.PowerOnOrReset;

    /// <summary>Pending unit attention; <see cref="ScsiSense.None"/>: there is none.</summary>
    public ScsiSense Attention
    {
        get => (ScsiSense)Volatile.Read(ref _attention);
        set => Volatile.Write(ref _attention, (int)value);
    }

    /// <summary>Peripheral device type: 0 disk, 5 CD-ROM.</summary>
    protected abstract byte DeviceType { get; }

    /// <summary>Product name, at most 16 characters.</summary>
    protected abstract string Product { get; }

    /// <summary>Whether the medium can be taken out.</summary>
    protected abstract bool Removable { get; }

    /// <summary>Vital product data pages beside 00h, 80h and 83h, ascending.</summary>
    protected abstract ReadOnlySpan<byte> VitalPages { get; }

    /// <summary>Executes a command: true when it has its result, false when it goes to the disk.</summary>
    public bool Execute(ScsiRequest request)
    {
        byte operation = request.Operation;
        bool informs = operation is ScsiOperation.Inquiry or ScsiOperation.ReportLuns or ScsiOperation.RequestSense or ScsiOperation.GetEventStatus;
        if (!informs && Interlocked.Exchange(ref _attention, 0) is not 0 and var attention)
        {
            request.Fail((ScsiSense)attention);
            return true;
        }
        switch (operation)
        {
            case ScsiOperation.Inquiry:
                Inquire(request);
                return true;
            case ScsiOperation.ReportLuns:
                {
                    Span<byte> list = stackalloc byte[16];
                    list.Clear();
                    list[3] = 8;        // one LUN, 0
                    request.Reply(list, BinaryPrimitives.ReadUInt32BigEndian(request.Cdb.AsSpan(6)));
                    return true;
                }
            case ScsiOperation.RequestSense:
                {
                    Span<byte> sense = stackalloc byte[18];
                    sense.Clear();
                    int pending = Interlocked.Exchange(ref _attention, 0);
                    sense[0] = 0x70;
                    sense[2] = (byte)(pending >> 16);
                    sense[7] = 10;
                    sense[12] = (byte)(pending >> 8);
                    sense[13] = (byte)pending;
                    request.Reply(sense, request.Cdb[4]);
                    return true;
                }
            default:
                return ExecuteOwn(request);
        }
    }

    /// <summary>Executes a command of the unit's own kind; as <see cref="Execute"/>.</summary>
    protected abstract bool ExecuteOwn(ScsiRequest request);

    /// <summary>Writes a vital product data page from its fifth byte on and returns its length without the first four, or -1 when there is none.</summary>
    protected abstract int WriteVitalPage(byte page, Span<byte> body);

    /// <summary>Writes a mode page with its two header bytes; 0 when there is none. With <paramref name="changeable"/> its mask of changeable bits.</summary>
    protected abstract int WriteModePage(byte page, Span<byte> destination, bool changeable);

    /// <summary>Mode pages there are, ascending.</summary>
    protected abstract ReadOnlySpan<byte> ModePages { get; }

    /// <summary>Device-specific parameter of the mode parameter header.</summary>
    protected abstract byte ModeParameter { get; }

    /// <summary>MODE SENSE (6) and (10) without block descriptors (SPC-4, 6.11).</summary>
    protected void ModeSense(ScsiRequest request, bool ten)
    {
        byte[] cdb = request.Cdb;
        int control = cdb[2] >> 6, header = ten ? 8 : 4;
        byte page = (byte)(cdb[2] & 0x3F);
        if (control == 3)
        {
            request.Fail(ScsiSense.SavingNotSupported);
            return;
        }
        if (cdb[3] is not (0 or 0xFF))
        {
            request.Fail(ScsiSense.InvalidField);
            return;
        }
        Span<byte> data = stackalloc byte[256];
        data.Clear();
        int length = header;
        foreach (byte known in ModePages)
        {
            if (page == 0x3F || page == known)
            {
                length += WriteModePage(known, data[length..], control == 1);
            }
        }
        if (length == header)
        {
            request.Fail(ScsiSense.InvalidField);
            return;
        }
        if (ten)
        {
            BinaryPrimitives.WriteUInt16BigEndian(data, (ushort)(length - 2));
            data[3] = ModeParameter;
        }
        else
        {
            data[0] = (byte)(length - 1);
            data[2] = ModeParameter;
        }
        request.Reply(data[..length], ten ? BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)) : cdb[4]);
    }

    /// <summary>Text of a fixed width, padded with spaces.</summary>
    protected static void Text(Span<byte> destination, string text)
    {
        destination.Fill((byte)' ');
        Encoding.ASCII.GetBytes(text.AsSpan(0, Math.Min(text.Length, destination.Length)), destination);
    }

    private void Inquire(ScsiRequest request)
    {
        byte[] cdb = request.Cdb;
        ushort allocation = BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(3));
        Span<byte> data = stackalloc byte[128];
        data.Clear();
        data[0] = DeviceType;
        if ((cdb[1] & 1) != 0)
        {
            int length = cdb[2] switch
            {
                0x00 => WriteVitalList(data[4..]),
                0x80 => Copy(_serial, data[4..]),
                0x83 => WriteIdentification(data[4..]),
                byte page when VitalPages.Contains(page) => WriteVitalPage(page, data[4..]),
                _ => -1,
            };
            if (length < 0)
            {
                request.Fail(ScsiSense.InvalidField);
                return;
            }
            data[1] = cdb[2];
            BinaryPrimitives.WriteUInt16BigEndian(data[2..], (ushort)length);
            request.Reply(data[..(length + 4)], allocation);
            return;
        }
        if (cdb[2] != 0)
        {
            request.Fail(ScsiSense.InvalidField);
            return;
        }
        data[1] = Removable ? (byte)0x80 : (byte)0;
        data[2] = 6;            // SPC-4
        data[3] = 0x12;         // hierarchical LUNs, response data format 2
        data[4] = 31;           // additional length
        data[7] = 2;            // command queuing
        Text(data.Slice(8, 8), "LODGE");
        Text(data.Slice(16, 16), Product);
        Text(data.Slice(32, 4), "1.0");
        request.Reply(data[..36], allocation);
    }

    private int WriteVitalList(Span<byte> body)
    {
        body[0] = 0x00;
        body[1] = 0x80;
        body[2] = 0x83;
        VitalPages.CopyTo(body[3..]);
        return 3 + VitalPages.Length;
    }

    private static int Copy(byte[] source, Span<byte> body)
    {
        int length = Math.Min(source.Length, 64);
        source.AsSpan(0, length).CopyTo(body);
        return length;
    }

    /// <summary>Device identification (SPC-4, 7.8.6): an NAA identifier of the locally assigned kind, always the same for a serial number.</summary>
    private int WriteIdentification(Span<byte> body)
    {
        body[0] = 1;        // binary
        body[1] = 3;        // NAA, of the logical unit
        body[3] = 8;
        byte[] hash = SHA256.HashData([.. "lodge scsi "u8, .. _serial]);
        hash.AsSpan(0, 8).CopyTo(body[4..]);
        body[4] = (byte)((body[4] & 0x0F) | 0x30);
        return 12;
    }
}
