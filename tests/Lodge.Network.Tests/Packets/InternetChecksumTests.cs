using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Packets;

public class InternetChecksumTests
{
    [Fact]
    public void The_sum_is_that_of_the_definition()
    {
        var random = new Random(1);
        byte[] bytes = new byte[70000];
        for (int i = 0; i < 2000; i++)
        {
            int length = i < 300 ? i : random.Next(i % 50 == 0 ? bytes.Length : 2000);
            int start = random.Next(32);
            length = Math.Min(length, bytes.Length - start);
            random.NextBytes(bytes.AsSpan(start, length));
            if (i % 7 == 0)
            {
                bytes.AsSpan(start, length).Fill(0xFF);
            }
            uint expected = Frames.NaiveSum(bytes.AsSpan(start, length));
            Assert.True(expected % 0xFFFF == InternetChecksum.Sum(bytes.AsSpan(start, length)) % 0xFFFF, $"length {length} start {start}");
        }
        byte[] huge = new byte[3 << 20];
        huge.AsSpan().Fill(0xFF);
        Assert.Equal(0u, InternetChecksum.Sum(huge) % 0xFFFF);
    }

    [Fact]
    public void The_example_of_RFC_1071() => Assert.Equal(0xDDF2u, InternetChecksum.Sum([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]));

    [Fact]
    public void An_update_is_as_good_as_computing_again()
    {
        var random = new Random(2);
        byte[] bytes = new byte[40];
        for (int i = 0; i < 5000; i++)
        {
            random.NextBytes(bytes);
            ushort before = InternetChecksum.Compute(bytes);
            int place = random.Next(20) * 2;
            ushort was = (ushort)((bytes[place] << 8) | bytes[place + 1]);
            ushort now = (ushort)(i % 5 == 0 ? 0 : i % 5 == 1 ? 0xFFFF : random.Next(65536));
            (bytes[place], bytes[place + 1]) = ((byte)(now >> 8), (byte)now);
            Assert.Equal(InternetChecksum.Compute(bytes), InternetChecksum.Update(before, was, now));
        }
    }

    [Theory]
    [InlineData(0, 59)]
    [InlineData(60, 0)]
    [InlineData(65535, 65535)]
    public void A_field_outside_of_the_frame_is_refused(int start, int offset) => Assert.False(InternetChecksum.TryComplete(new byte[60], start, offset));
}
