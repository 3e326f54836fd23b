using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Scsi;

/// <summary>A CD or DVD drive (MMC-6) with an ISO image of 2048-byte blocks as its medium. Only for reading.</summary>
internal sealed class ScsiCdRom(IDisk? medium, string serial) : ScsiUnit(serial)
{
    private const int BlockSize = 2048;
    private const long LargestCd = 80L * 60 * 75 * BlockSize;       // 80 minutes; what is larger is a DVD
    private volatile IDisk? _medium = medium;
    private volatile bool _open;
    private volatile bool _locked;
    private int _mediaEvent;        // event code of GET EVENT STATUS that was not told yet

    /// <summary>Whether the tray is open.</summary>
    public bool Open
    {
        get => _open;
        set => _open = value;
    }

    /// <summary>Whether the guest prevents the removal of the medium.</summary>
    public bool Locked
    {
        get => _locked;
        set => _locked = value;
    }

    protected override byte DeviceType => 5;

    protected override string Product => "Lodge CD-ROM";

    protected override bool Removable => true;

    protected override ReadOnlySpan<byte> VitalPages => [];

    protected override ReadOnlySpan<byte> ModePages => [0x01, 0x2A];

    protected override byte ModeParameter => 0;

    /// <summary>Changes the medium, or takes it out (null). Reads in flight may still use the old one. Any thread.</summary>
    public void ChangeMedium(IDisk? medium)
    {
        _medium = medium;
        _open = false;
        Volatile.Write(ref _mediaEvent, medium is null ? 3 : 2);
        Attention = ScsiSense.MediumChanged;
    }

    protected override bool ExecuteOwn(ScsiRequest request)
    {
        byte[] cdb = request.Cdb;
        switch (request.Operation)
        {
            case ScsiOperation.StartStopUnit:
                StartStop(request);
                return true;
            case ScsiOperation.PreventAllowMediumRemoval:
                _locked = (cdb[4] & 1) != 0;
                request.Good();
                return true;
            case ScsiOperation.ModeSense6:
                ModeSense(request, false);
                return true;
            case ScsiOperation.ModeSense10:
                ModeSense(request, true);
                return true;
            case ScsiOperation.GetConfiguration:
                GetConfiguration(request);
                return true;
            case ScsiOperation.GetEventStatus:
                GetEventStatus(request);
                return true;
            case ScsiOperation.MechanismStatus:
                request.Reply([0, _open ? (byte)0x10 : (byte)0, 0, 0, 0, 0, 0, 0], BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(8)));
                return true;
            case ScsiOperation.TestUnitReady:
            case ScsiOperation.Read10:
            case ScsiOperation.Read12:
            case ScsiOperation.ReadCapacity10:
            case ScsiOperation.ReadToc:
            case ScsiOperation.ReadDiscInformation:
            case ScsiOperation.Seek10:
            case ScsiOperation.SynchronizeCache10:
                if (_open || _medium is not { } disk)
                {
                    request.Fail(_open ? ScsiSense.NoMediumTrayOpen : ScsiSense.NoMedium);
                    return true;
                }
                return ExecuteOnMedium(request, disk);
            default:
                request.Fail(ScsiSense.InvalidOperation);
                return true;
        }
    }

    protected override int WriteVitalPage(byte page, Span<byte> body) => -1;

    protected override int WriteModePage(byte page, Span<byte> destination, bool changeable)
    {
        destination[0] = page;
        if (page == 0x01)
        {
            destination[1] = 10;
            return 12;
        }
        destination[1] = 20;        // capabilities and mechanical status (MMC-3, 6.3.11)
        if (!changeable)
        {
            destination[2] = 0x0B;      // reads CD-R, CD-RW, DVD-ROM
            destination[4] = 0x70;      // mode 2 form 1 and 2, several sessions
            destination[6] = (byte)(0x29 | (_locked ? 2 : 0));      // tray, ejects, can be locked
            BinaryPrimitives.WriteUInt16BigEndian(destination[8..], 5632);      // kB/s
            BinaryPrimitives.WriteUInt16BigEndian(destination[12..], 2048);     // buffer, KiB
            BinaryPrimitives.WriteUInt16BigEndian(destination[14..], 5632);
        }
        return 22;
    }

    private static uint Blocks(IDisk disk) => (uint)Math.Min(disk.Length / BlockSize, uint.MaxValue);

    private bool ExecuteOnMedium(ScsiRequest request, IDisk disk)
    {
        byte[] cdb = request.Cdb;
        uint blocks = Blocks(disk);
        switch (request.Operation)
        {
            case ScsiOperation.Read10:
                return Read(request, disk, BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)));
            case ScsiOperation.Read12:
                return Read(request, disk, BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(6)));
            case ScsiOperation.ReadCapacity10:
                {
                    Span<byte> data = stackalloc byte[8];
                    BinaryPrimitives.WriteUInt32BigEndian(data, blocks == 0 ? 0 : blocks - 1);
                    BinaryPrimitives.WriteUInt32BigEndian(data[4..], BlockSize);
                    request.Reply(data, 8);
                    return true;
                }
            case ScsiOperation.ReadToc:
                ReadToc(request, blocks);
                return true;
            case ScsiOperation.ReadDiscInformation:
                {
                    Span<byte> data = stackalloc byte[34];
                    data.Clear();
                    data[1] = 32;
                    data[2] = 0x0E;     // disc and last session are complete
                    data[3] = data[4] = data[5] = data[6] = 1;      // first track, sessions, first and last track of the last session
                    data[7] = 0x20;     // unrestricted use
                    request.Reply(data, BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)));
                    return true;
                }
            default:
                request.Good();
                return true;
        }
    }

    private static bool Read(ScsiRequest request, IDisk disk, uint block, uint count)
    {
        uint blocks = Blocks(disk);
        if (block > blocks || count > blocks - block)
        {
            request.Fail(ScsiSense.LbaOutOfRange);
        }
        else if (count == 0)
        {
            request.Good();
        }
        else if (count > MaximumTransfer / BlockSize || !request.TryTransfer(disk, false, (long)block * BlockSize, count * BlockSize, false))
        {
            request.Fail(ScsiSense.InvalidField);
        }
        else
        {
            return false;
        }
        return true;
    }

    /// <summary>START STOP UNIT (MMC-6, 6.42): LoEj opens and closes the tray.</summary>
    private void StartStop(ScsiRequest request)
    {
        bool start = (request.Cdb[4] & 1) != 0, loadOrEject = (request.Cdb[4] & 2) != 0;
        if ((request.Cdb[4] & 0xF0) != 0 || !loadOrEject)
        {
            request.Good();         // power conditions, spinning up and down: nothing to do
            return;
        }
        if (!start && _locked)
        {
            request.Fail(ScsiSense.MediumRemovalPrevented);
            return;
        }
        if (_open == start)
        {
            _open = !start;
            Volatile.Write(ref _mediaEvent, start ? 2 : 3);
            if (start)
            {
                Attention = ScsiSense.MediumChanged;
            }
        }
        request.Good();
    }

    private void GetConfiguration(ScsiRequest request)
    {
        byte[] cdb = request.Cdb;
        int kind = cdb[1] & 3, first = BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(2));
        ushort profile = _open || _medium is not { } disk ? (ushort)0 : disk.Length > LargestCd ? (ushort)0x10 : (ushort)0x08;
        Span<byte> data = stackalloc byte[96];
        data.Clear();
        int length = 8;
        BinaryPrimitives.WriteUInt16BigEndian(data[6..], profile);
        Feature(data, 0x0000, [0x00, 0x10, profile == 0x10 ? (byte)1 : (byte)0, 0, 0x00, 0x08, profile == 0x08 ? (byte)1 : (byte)0, 0], 0, true);      // profiles
        Feature(data, 0x0001, [0, 0, 0, 8, 1, 0, 0, 0], 2, true);                       // core: ATAPI-like interface
        Feature(data, 0x0003, [0x29, 0, 0, 0], 0, true);                                // removable medium: tray, eject, lock
        Feature(data, 0x0010, [0, 0, 8, 0, 0, 1, 0, 0], 0, profile != 0);               // random readable: block size, blocking
        Feature(data, 0x001E, [0, 0, 0, 0], 2, profile == 0x08);                        // CD read
        Feature(data, 0x001F, [0, 0, 0, 0], 0, profile == 0x10);                        // DVD read
        BinaryPrimitives.WriteUInt32BigEndian(data, (uint)length - 4);
        request.Reply(data[..length], BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)));

        void Feature(Span<byte> into, ushort code, ReadOnlySpan<byte> body, int version, bool current)
        {
            // RT: all from the first, the current ones of these, or exactly that one.
            if (code < first || (kind == 1 && !current) || (kind == 2 && code != first))
            {
                return;
            }
            BinaryPrimitives.WriteUInt16BigEndian(into[length..], code);
            into[length + 2] = (byte)((version << 2) | (code < 4 ? 2 : 0) | (current ? 1 : 0));
            into[length + 3] = (byte)body.Length;
            body.CopyTo(into[(length + 4)..]);
            length += 4 + body.Length;
        }
    }

    private void GetEventStatus(ScsiRequest request)
    {
        byte[] cdb = request.Cdb;
        const byte Media = 1 << 4;
        if ((cdb[1] & 1) == 0)
        {
            request.Fail(ScsiSense.InvalidField);       // only polled
            return;
        }
        ushort allocation = BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7));
        if ((cdb[4] & Media) == 0)
        {
            request.Reply([0, 2, 0x80, Media], allocation);     // no event available
            return;
        }
        byte code = (byte)Interlocked.Exchange(ref _mediaEvent, 0);
        byte status = (byte)((_open ? 1 : 0) | (!_open && _medium is not null ? 2 : 0));
        request.Reply([0, 6, 4, Media, code, status, 0, 0], allocation);
    }

    /// <summary>READ TOC/PMA/ATIP (MMC-6, 6.25): one data track, one session.</summary>
    private static void ReadToc(ScsiRequest request, uint blocks)
    {
        byte[] cdb = request.Cdb;
        bool msf = (cdb[1] & 2) != 0;
        Span<byte> data = stackalloc byte[20];
        data.Clear();
        data[2] = data[3] = 1;          // first and last track or session
        int length = 4;
        int format = (cdb[2] & 0xF) != 0 ? cdb[2] & 0xF : cdb[9] >> 6;      // older drivers have it in the control byte
        byte from = cdb[6];
        switch (format)
        {
            case 0 when from <= 1 || from == 0xAA:
                if (from <= 1)
                {
                    Track(data[length..], 1, 0);
                    length += 8;
                }
                Track(data[length..], 0xAA, blocks);
                length += 8;
                break;
            case 1:
                Track(data[length..], 1, 0);
                length += 8;
                break;
            default:
                request.Fail(ScsiSense.InvalidField);
                return;
        }
        data[1] = (byte)(length - 2);
        request.Reply(data[..length], BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)));

        void Track(Span<byte> into, byte number, uint block)
        {
            into[1] = 0x14;             // ADR 1, data track
            into[2] = number;
            if (!msf)
            {
                BinaryPrimitives.WriteUInt32BigEndian(into[4..], block);
                return;
            }
            uint frame = Math.Min(block, 255 * 60 * 75) + 150;
            into[5] = (byte)Math.Min(frame / (60 * 75), 255);
            into[6] = (byte)(frame / 75 % 60);
            into[7] = (byte)(frame % 75);
        }
    }
}
