namespace Lodge.Machine.Debugging;

/// <summary>What a <see cref="PacketReader"/> found.</summary>
internal enum PacketKind
{
    /// <summary>A packet with the right checksum.</summary>
    Packet,

    /// <summary>A packet that is damaged or too long: to be asked for again.</summary>
    Damaged,

    /// <summary><c>+</c></summary>
    Acknowledged,

    /// <summary><c>-</c></summary>
    Refused,

    /// <summary>Byte 3, not in a packet: Ctrl-C.</summary>
    Interrupt,
}

/// <summary>
/// Takes the byte stream of a gdb remote serial protocol client apart (gdb manual, appendix E.1 "Overview"): <c>$data#checksum</c>, acknowledgements
/// and interrupts. Bounded: of a packet longer than <see cref="MaximumLength"/> nothing is kept.
/// </summary>
internal sealed class PacketReader
{
    /// <summary>Most bytes of a packet's data, told to the client as PacketSize.</summary>
    public const int MaximumLength = 0x4000;

    private enum Place
    {
        Outside,
        Data,
        Escaped,
        Checksum1,
        Checksum2,
    }

    private readonly byte[] _data = new byte[MaximumLength];
    private Place _place;
    private int _length;
    private bool _tooLong;
    private byte _sum;
    private int _expected;

    /// <summary>The data of the last packet, without escapes; valid until the next byte is given.</summary>
    public ReadOnlySpan<byte> Data => _data.AsSpan(0, _length);

    /// <summary>Takes the next byte; not null when it completes something.</summary>
    public PacketKind? Take(byte b)
    {
        switch (_place)
        {
            case Place.Outside:
                switch (b)
                {
                    case (byte)'$':
                        Begin();
                        return null;
                    case (byte)'+':
                        return PacketKind.Acknowledged;
                    case (byte)'-':
                        return PacketKind.Refused;
                    case 3:
                        return PacketKind.Interrupt;
                    default:
                        return null; // noise between packets is ignored, says the manual
                }
            case Place.Data:
                switch (b)
                {
                    case (byte)'#':
                        _place = Place.Checksum1;
                        return null;
                    case (byte)'$':
                        Begin(); // the end of the packet before was lost
                        return null;
                    case (byte)'}':
                        _sum += b;
                        _place = Place.Escaped;
                        return null;
                    default:
                        Add(b, b);
                        return null;
                }
            case Place.Escaped:
                Add((byte)(b ^ 0x20), b);
                _place = Place.Data;
                return null;
            case Place.Checksum1:
                _expected = HexText.Digit(b) is var high and >= 0 ? high << 4 : -1;
                _place = Place.Checksum2;
                return null;
            default:
                _place = Place.Outside;
                int low = HexText.Digit(b);
                return !_tooLong && _expected >= 0 && low >= 0 && (_expected | low) == _sum ? PacketKind.Packet : PacketKind.Damaged;
        }
    }

    private void Begin()
    {
        _place = Place.Data;
        _length = 0;
        _sum = 0;
        _tooLong = false;
    }

    private void Add(byte value, byte wire)
    {
        _sum += wire;
        if (_length < MaximumLength)
        {
            _data[_length++] = value;
        }
        else
        {
            _tooLong = true;
        }
    }

    /// <summary>Makes a packet of data: escapes, frame and checksum.</summary>
    public static byte[] Frame(ReadOnlySpan<byte> data)
    {
        List<byte> packet = new(data.Length + 4) { (byte)'$' };
        byte sum = 0;
        foreach (byte b in data)
        {
            // '*' would mean a repetition in what a server sends.
            if (b is (byte)'#' or (byte)'$' or (byte)'}' or (byte)'*')
            {
                packet.Add((byte)'}');
                packet.Add((byte)(b ^ 0x20));
                sum += (byte)('}' + (b ^ 0x20));
            }
            else
            {
                packet.Add(b);
                sum += b;
            }
        }
        packet.Add((byte)'#');
        packet.Add(HexText.Character(sum >> 4));
        packet.Add(HexText.Character(sum & 15));
        return [.. packet];
    }
}
