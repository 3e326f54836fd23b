using System.Text;
using Lodge.Machine.Debugging;
using Xunit;

namespace Lodge.Machine.Tests.Debugging;

public class PacketReaderTests
{
    private static List<string> Feed(PacketReader reader, ReadOnlySpan<byte> bytes)
    {
        List<string> found = [];
        foreach (byte b in bytes)
        {
            if (reader.Take(b) is { } kind)
            {
                found.Add(kind == PacketKind.Packet ? Encoding.Latin1.GetString(reader.Data) : kind.ToString());
            }
        }
        return found;
    }

    [Fact]
    public void Packets_acknowledgements_and_interrupts_are_told_apart() =>
        Assert.Equal(["Acknowledged", "g", "Refused", "Interrupt", "qC"], Feed(new PacketReader(), "+$g#67-\x3 noise $qC#B4"u8));

    [Theory]
    [InlineData("$g#68")]
    [InlineData("$g#6x")]
    [InlineData("$g#x7")]
    public void A_wrong_checksum_is_seen_and_what_follows_is_read(string packet) =>
        Assert.Equal(["Damaged", "g"], Feed(new PacketReader(), Encoding.ASCII.GetBytes(packet + "$g#67")));

    [Fact]
    public void A_packet_without_end_gives_way_to_the_next() => Assert.Equal(["g"], Feed(new PacketReader(), "$m1000,$g#67"u8));

    [Fact]
    public void Every_byte_passes_through_frame_and_reader()
    {
        byte[] data = [.. Enumerable.Range(0, 256).Select(i => (byte)i)];
        byte[] packet = PacketReader.Frame(data);
        Assert.DoesNotContain((byte)'*', packet.AsSpan(1).ToArray());
        var reader = new PacketReader();
        Assert.Single(Feed(reader, packet));
        Assert.Equal(data, reader.Data.ToArray());
    }

    [Fact]
    public void A_packet_may_be_as_long_as_told_and_not_longer()
    {
        var reader = new PacketReader();
        Assert.Equal(PacketReader.MaximumLength, Assert.Single(Feed(reader, PacketReader.Frame(Enumerable.Repeat((byte)'a', PacketReader.MaximumLength).ToArray()))).Length);
        Assert.Equal(["Damaged"], Feed(reader, PacketReader.Frame(Enumerable.Repeat((byte)'a', PacketReader.MaximumLength + 1).ToArray())));
        Assert.Equal(["g"], Feed(reader, "$g#67"u8));
    }

    [Fact]
    public void Random_bytes_do_no_harm()
    {
        var random = new Random(1);
        var reader = new PacketReader();
        byte[] alphabet = [.. "$#}+-*0123456789abcdefgz"u8, 3, 0, 255];
        for (int i = 0; i < 200_000; i++)
        {
            reader.Take(alphabet[random.Next(alphabet.Length)]);
        }
        Feed(reader, "#00"u8);
        Assert.Contains("g", Feed(reader, "$g#67"u8));
    }
}
