using System.Diagnostics;
using Lodge.Network.Capture;
using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Capture;

public sealed class CaptureTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-capture-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    private static string[] Tshark(string path, params string[] fields)
    {
        if (!(Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Any(folder => File.Exists(Path.Combine(folder, "tshark"))))
        {
            Assert.Skip("needs the package tshark");
        }
        var start = new ProcessStartInfo("tshark", ["-r", path, "-T", "fields", .. fields.SelectMany(field => new[] { "-e", field })]) { RedirectStandardOutput = true, RedirectStandardError = true };
        using var process = Process.Start(start)!;
        var errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, errors.Result);
        Assert.DoesNotContain("cut short", errors.Result);
        return output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }

    private string Write(string name)
    {
        string path = Path.Combine(_folder, name);
        var inner = new QueueLink();
        using var link = new CapturedLink(inner, CaptureFile.Create(path), "web/eth0", Frames.GuestMac);
        Assert.True(link.TrySend(Frames.Out("10.0.0.5", "10.0.0.1", 17, Frames.Udp("10.0.0.5", "10.0.0.1", 1000, 53, [1, 2, 3])), default));
        inner.Incoming.Enqueue((Frames.In("10.0.0.1", "10.0.0.5", 6, Frames.Tcp("10.0.0.1", "10.0.0.5", 80, 2000, TcpFlags.Ack, new byte[60000])), default));
        Assert.True(link.TryReceive(new byte[66000], out _) > 60000);
        inner.Room = 0;
        Assert.False(link.TrySend(Frames.Arp(Frames.Guest, "10.0.0.5", "10.0.0.1"), default));
        return path;
    }

    [Fact]
    public void A_pcapng_file_opens_in_tshark_with_directions_and_the_name()
    {
        string[] lines = Tshark(Write("a.pcapng"), "frame.len", "frame.interface_name", "frame.packet_flags_direction", "udp.dstport", "tcp.srcport", "udp.checksum.status");
        Assert.Equal(2, lines.Length);
        Assert.Equal(["45", "web/eth0", "0x00000002", "53", "", "0"], Normal(lines[0]));
        Assert.Equal(["60054", "web/eth0", "0x00000001", "", "80", ""], Normal(lines[1]));

        static string[] Normal(string line)
        {
            string[] fields = line.Split('\t');
            fields[2] = $"0x{Convert.ToInt32(fields[2], fields[2].StartsWith("0x", StringComparison.Ordinal) ? 16 : 10):x8}";
            fields[5] = fields[5].Length == 0 ? "" : "0"; // not checked by default in some versions
            return fields;
        }
    }

    [Fact]
    public void A_pcap_file_opens_in_tshark()
    {
        string path = Write("a.pcap");
        Assert.Equal(["45\t53\t", "60054\t\t80"], Tshark(path, "frame.len", "udp.dstport", "tcp.srcport"));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
        Assert.InRange((DateTimeOffset.UtcNow - DateTimeOffset.FromUnixTimeSeconds(BitConverter.ToUInt32(File.ReadAllBytes(path), 24))).TotalHours, -1, 1);
    }

    [Fact]
    public void A_long_frame_is_cut_at_the_snap_length()
    {
        string path = Path.Combine(_folder, "cut.pcapng");
        using (var file = CaptureFile.Create(path, snapLength: 99))
        {
            int number = file.AddInterface("eth0");
            file.Add(number, CaptureDirection.Outbound, new byte[1000]);
        }
        Assert.Equal(["1000\t99"], Tshark(path, "frame.len", "frame.cap_len"));
    }

    [Fact]
    public void A_slow_disk_costs_frames_and_bounded_memory_and_nothing_waits()
    {
        var stream = new SlowStream();
        using var file = new CaptureFile(stream, "slow", CaptureFormat.Pcapng, 2000, null, null);
        int number = file.AddInterface("eth0");
        byte[] frame = new byte[1500];
        for (int i = 0; i < 10_000; i++)
        {
            file.Add(number, CaptureDirection.Inbound, frame);
        }
        Assert.Equal(10_000, file.Frames + file.Drops);
        Assert.InRange(file.Frames, 1, (CaptureFile.MaximumMemory + (256 << 10)) / 1500);
        stream.Gate.Set();
        file.Dispose();
        Assert.InRange(stream.Length, file.Frames * 1500, long.MaxValue);
    }

    [Fact]
    public void A_full_disk_ends_the_capture_with_one_line()
    {
        var lines = new List<string>();
        using (var file = CaptureFile.Create("/dev/full", lines.Add))
        {
            int number = file.AddInterface("eth0");
            for (int i = 0; i < 10_000; i++)
            {
                file.Add(number, CaptureDirection.Inbound, new byte[1500]);
            }
        }
        string line = Assert.Single(lines);
        Assert.StartsWith("the capture into '/dev/full' ended after 0 bytes: No space left", line);
        Assert.DoesNotContain('\n', line);
    }

    [Fact]
    public void A_file_that_cannot_be_made_is_said_in_one_line()
    {
        var error = Assert.Throws<NetworkException>(() => CaptureFile.Create("/nonexistent/a.pcap"));
        Assert.StartsWith("the capture file '/nonexistent/a.pcap' cannot be created: ", error.Message);
        Assert.DoesNotContain('\n', error.Message);
    }

    private sealed class SlowStream : MemoryStream
    {
        private long _length;

        public ManualResetEventSlim Gate { get; } = new();

        public override long Length => _length;

        public override void Write(byte[] buffer, int offset, int count)
        {
            Gate.Wait();
            _length += count;
        }
    }
}
