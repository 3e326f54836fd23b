using System.Diagnostics;
using Lodge.Management.Host;
using Xunit;

namespace Lodge.Management.Tests.Host;

public sealed class HostServiceTests
{
    private static string? Environment(string name) => name switch { "HOME" => "/home/an \"odd\" 100% one", "XDG_DATA_HOME" => "/srv/$data", _ => null };

    [Fact]
    public void TheUnitStartsAndStopsMachines()
    {
        string text = new HostService(ofUser: false).Text(["/usr/bin/lodge"], _ => null);
        Assert.Contains("\nExecStart=/usr/bin/lodge start --autostart\n", text, StringComparison.Ordinal);
        Assert.Contains("\nExecStop=/usr/bin/lodge stop --all\n", text, StringComparison.Ordinal);
        Assert.Contains("\nRemainAfterExit=yes\n", text, StringComparison.Ordinal);
        Assert.Contains("\nWantedBy=multi-user.target\n", text, StringComparison.Ordinal);
        Assert.Contains("\nWantedBy=default.target\n", new HostService(ofUser: true).Text(["/usr/bin/lodge"], _ => null), StringComparison.Ordinal);
    }

    [Fact]
    public void WordsAreQuotedAsSystemdReadsThem()
    {
        string text = new HostService(ofUser: true).Text(["/opt/my lodge/dotnet", "/opt/my lodge/lodge.dll"], Environment);
        Assert.Contains("\nExecStart=\"/opt/my lodge/dotnet\" \"/opt/my lodge/lodge.dll\" start --autostart\n", text, StringComparison.Ordinal);
        Assert.Contains("\nEnvironment=\"HOME=/home/an \\\"odd\\\" 100%% one\"\n", text, StringComparison.Ordinal);
        Assert.Contains("\nEnvironment=\"XDG_DATA_HOME=/srv/$data\"\n", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task SystemdTakesTheUnit(bool ofUser)
    {
        if (!HostProgram.Exists("systemd-analyze"))
        {
            Assert.Skip("systemd-analyze is missing (package systemd)");
        }
        string folder = Directory.CreateTempSubdirectory("lodge-unit").FullName;
        try
        {
            // verify wants programs that are there.
            string unit = Path.Combine(folder, HostService.Unit), program = Path.Combine(folder, "a lodge");
            File.Copy("/bin/true", program);
            File.WriteAllText(unit, new HostService(ofUser).Text([program, "--word"], Environment));
            ProcessStartInfo start = new("systemd-analyze", ["verify", ofUser ? "--user" : "--system", "--man=no", unit]) { RedirectStandardError = true, RedirectStandardOutput = true };
            start.Environment["XDG_RUNTIME_DIR"] = folder;
            using Process process = Process.Start(start)!;
            Task<string> output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
            string text = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken) + await output;
            await process.WaitForExitAsync(TestContext.Current.CancellationToken);
            Assert.DoesNotContain(HostService.Unit, text, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
