using Lodge.Engine.Kvm.Probing;
using Xunit;

namespace Lodge.Engine.Kvm.Tests.Probing;

public sealed class ProbeCacheTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-probe-").FullName;

    private string File => Path.Combine(_folder, "cache", "verdict");

    private static readonly ProbeReport s_report = new(
        [new("xsave", "tasks", ProbeOutcome.Failed, "no\tsuch\nthing"), new("int3", "", ProbeOutcome.Passed, ""), new("movbe", "", ProbeOutcome.NotOffered, "")],
        DateTimeOffset.FromUnixTimeMilliseconds(1_700_000_000_123), TimeSpan.FromMilliseconds(12));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_verdict_is_kept()
    {
        var cache = new ProbeCache(File, "host");
        Assert.Null(cache.Read());
        cache.Write(s_report);
        ProbeReport read = Assert.IsType<ProbeReport>(new ProbeCache(File, "host").Read());
        Assert.Equal((s_report.Time, s_report.Duration), (read.Time, read.Duration));
        Assert.Equal([s_report.Results[0] with { Detail = "no such thing" }, s_report.Results[1], s_report.Results[2]], read.Results);
        Assert.Single(Directory.GetFiles(Path.GetDirectoryName(File)!)); // nothing is left beside it
    }

    [Fact]
    public void Another_host_is_probed_again()
    {
        new ProbeCache(File, "host").Write(s_report);
        Assert.Null(new ProbeCache(File, "host with another kernel").Read());
    }

    [Fact]
    public void A_damaged_file_is_as_if_there_were_none()
    {
        var cache = new ProbeCache(File, "host");
        cache.Write(s_report);
        byte[] good = System.IO.File.ReadAllBytes(File);
        for (int i = 0; i < good.Length; i++)
        {
            byte[] bad = [.. good];
            bad[i] ^= 0x11;
            System.IO.File.WriteAllBytes(File, bad);
            Assert.Null(cache.Read());
            System.IO.File.WriteAllBytes(File, good[..i]);
            Assert.Null(cache.Read());
        }
        System.IO.File.WriteAllBytes(File, new byte[1 << 20]);
        Assert.Null(cache.Read());
        cache.Write(s_report);
        Assert.NotNull(cache.Read());
    }

    [Fact]
    public void The_digest_is_FNV_1a_of_the_bytes_and_their_number()
    {
        ProbeDigest nothing = new();
        Assert.Equal("cbf29ce484222325", nothing.ToString());
        ProbeDigest one = new(), two = new();
        one.Add([(byte)'a']);
        two.Add([(byte)'a', 0]);
        ulong a = 0xAF63_DC4C_8601_EC8C; // FNV-1a of "a", by the draft's appendix C
        Assert.Equal(((a ^ 1) * 0x100_0000_01B3).ToString("x16"), one.ToString());
        Assert.NotEqual(one.ToString(), two.ToString());
    }

    [Fact]
    public void A_folder_that_cannot_be_written_does_not_matter()
    {
        System.IO.File.WriteAllText(Path.Combine(_folder, "cache"), "a file where a folder should be");
        var cache = new ProbeCache(File, "host");
        cache.Write(s_report);
        Assert.Null(cache.Read());
    }
}
