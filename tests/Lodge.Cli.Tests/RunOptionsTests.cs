using System.Net;
using System.Net.Sockets;
using Lodge.Cli.Run;
using Lodge.Engine.Processor;
using Xunit;

namespace Lodge.Cli.Tests;

public class RunOptionsTests
{
    [Theory]
    [InlineData("512M", 512UL << 20)]
    [InlineData("2G", 2UL << 30)]
    [InlineData("2g", 2UL << 30)]
    [InlineData("2GiB", 2UL << 30)]
    [InlineData("256", 256UL << 20)]
    [InlineData("65536K", 64UL << 20)]
    [InlineData("1T", 1UL << 40)]
    public void Sizes_are_powers_of_1024(string text, ulong bytes) => Assert.Equal(bytes, RunOptions.ParseMemory(text));

    [Theory]
    [InlineData("")]
    [InlineData("M")]
    [InlineData("-1G")]
    [InlineData("1.5G")]
    [InlineData("2X")]
    [InlineData("1M")]
    [InlineData("2T")]
    [InlineData("99999999999999999999T")]
    [InlineData("18446744073709551615K")]
    [InlineData("65537K")]
    public void Other_sizes_are_refused_with_the_text(string text) =>
        Assert.Contains($"'{text}'", Assert.Throws<FormatException>(() => RunOptions.ParseMemory(text)).Message, StringComparison.Ordinal);

    [Fact]
    public void Addresses_of_the_debugger()
    {
        Assert.Equal(new IPEndPoint(IPAddress.Loopback, 1234), RunOptions.ParseGdb(":1234"));
        Assert.Equal(new IPEndPoint(IPAddress.Loopback, 1234), RunOptions.ParseGdb("1234"));
        Assert.Equal(new IPEndPoint(IPAddress.Loopback, 1234), RunOptions.ParseGdb("tcp::1234"));
        Assert.Equal(new IPEndPoint(IPAddress.Any, 9), RunOptions.ParseGdb("0.0.0.0:9"));
        Assert.Equal(new IPEndPoint(IPAddress.IPv6Loopback, 9), RunOptions.ParseGdb("[::1]:9"));
        Assert.Equal(new UnixDomainSocketEndPoint("./gdb.socket"), RunOptions.ParseGdb("./gdb.socket"));
        Assert.Equal(new UnixDomainSocketEndPoint("/tmp/x"), RunOptions.ParseGdb("unix:/tmp/x"));
        Assert.Throws<FormatException>(() => RunOptions.ParseGdb("/" + new string('x', 107)));
        Assert.Throws<FormatException>(() => RunOptions.ParseGdb("nowhere:1"));
        Assert.Throws<FormatException>(() => RunOptions.ParseGdb(":70000"));
        Assert.Throws<FormatException>(() => RunOptions.ParseGdb(""));
    }

    [Theory]
    [InlineData("30", 30)]
    [InlineData("1.5", 1.5)]
    [InlineData("30s", 30)]
    [InlineData("5m", 300)]
    [InlineData("1h", 3600)]
    public void Times(string text, double seconds) => Assert.Equal(TimeSpan.FromSeconds(seconds), RunOptions.ParseTimeout(text));

    [Theory]
    [InlineData("0")]
    [InlineData("")]
    [InlineData("m")]
    [InlineData("-5")]
    [InlineData("1000h")]
    [InlineData("abc")]
    public void Other_times_are_refused(string text) => Assert.Throws<FormatException>(() => RunOptions.ParseTimeout(text));

    [Fact]
    public void A_full_command_line_becomes_options()
    {
        RunOptions? seen = null;
        int status = Program.Run(
            ["run", "--memory", "1G", "--cpus=4", "--cpu", "x86-64-v2", "--engine", "translate", "--name", "box", "--gdb", ":1", "--debug-exit=0x501", "--timeout", "2m", "--trace", "--verbose", "--append", "--odd value", "--", "sh", "-c", "echo --", "--"],
            o => { seen = o; return 42; });
        Assert.Equal(42, status);
        Assert.NotNull(seen);
        Assert.Equal(1UL << 30, seen.Memory);
        Assert.Equal(4, seen.Processors);
        Assert.Equal(CpuModelName.V2, seen.Cpu);
        Assert.Equal("translate", seen.Engine);
        Assert.Equal("box", seen.Name);
        Assert.Equal((ushort)0x501, seen.DebugExitPort);
        Assert.Equal(TimeSpan.FromMinutes(2), seen.Timeout);
        Assert.True(seen.Trace && seen.Verbose);
        Assert.Equal("--odd value", seen.Append);
        Assert.Equal(["sh", "-c", "echo --", "--"], seen.Command);
    }

    [Theory]
    [InlineData("v4", CpuModelName.V4)]
    [InlineData("x86-64", CpuModelName.V1)]
    [InlineData("HOST", CpuModelName.Host)]
    [InlineData("haswell", CpuModelName.Haswell)]
    [InlineData("Skylake-Server", CpuModelName.SkylakeServer)]
    [InlineData("EPYC-Milan", CpuModelName.EpycMilan)]
    public void Cpu_models(string text, CpuModelName name) => Assert.Equal(name, RunOptions.ParseCpu(text));

    [Fact]
    public void An_unknown_cpu_model_is_told_the_known_ones()
    {
        string message = Assert.Throws<FormatException>(() => RunOptions.ParseCpu("pentium")).Message;
        Assert.Contains("Haswell", message);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void Processors_on_request()
    {
        RunOptions? seen = null;
        Program.Run(["run", "--hyperv", "--nested", "--pmu"], o => { seen = o; return 0; });
        Assert.True(seen!.Processor is { HyperV: true, Nested: true, PerformanceMonitoring: true });
    }

    [Fact]
    public void Defaults()
    {
        RunOptions? seen = null;
        Program.Run(["run"], o => { seen = o; return 0; });
        Assert.Equal(new RunOptions(), seen! with { Command = new RunOptions().Command });
        Program.Run(["run", "--debug-exit", "--cpus", "2"], o => { seen = o; return 0; });
        Assert.Equal((ushort)0xF4, seen.DebugExitPort);
        Assert.Equal(2, seen.Processors);
    }

    [Theory]
    [InlineData("run", "--memory", "x")]
    [InlineData("run", "--cpus", "0")]
    [InlineData("run", "--cpus", "256")]
    [InlineData("run", "--cpu", "v9")]
    [InlineData("run", "--engine", "xen")]
    [InlineData("run", "--name", "a b")]
    [InlineData("run", "--unknown")]
    [InlineData("run", "--debug-exit=65536")]
    [InlineData("run", "--")]
    [InlineData("run", "--kernel", "k", "--", "ls")]
    [InlineData("run", "--initrd", "i", "--", "ls")]
    [InlineData("fly")]
    public void Wrong_usage_has_its_own_status(params string[] arguments) => Assert.Equal(ExitStatus.Usage, Program.Run(arguments, _ => 0));
}
