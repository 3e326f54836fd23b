using System.Diagnostics;
using System.Text;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Templates;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>What clones of stored images are told first.</summary>
public class CloneTextTests
{
    private static readonly Guid Id = Guid.Parse("0123456789abcdef0123456789abcdef");

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void It_is_a_script_without_an_empty_line(bool kept)
    {
        string text = Compose(kept);
        Assert.DoesNotContain("\n\n", text, StringComparison.Ordinal); // the command service would take the rest for the command
        Assert.EndsWith("\n", text, StringComparison.Ordinal);
        Assert.Equal("", Shell("-n", text));
        Assert.Equal(!kept, text.Contains("ssh-keygen", StringComparison.Ordinal));
        Assert.Contains("echo 0123456789abcdef0123456789abcdef >/etc/machine-id", text, StringComparison.Ordinal);
    }

    [Fact]
    public void It_unpacks_the_program_and_its_input_to_the_byte()
    {
        string folder = Directory.CreateTempSubdirectory("lodge-test-").FullName;
        try
        {
            // The two printf commands of the script, with their output kept.
            string[] formats = [.. Compose(true).Split('\n').Where(line => line.StartsWith("printf", StringComparison.Ordinal)).SelectMany(line => line.Split('\'')).Where(part => part.StartsWith('\\'))];
            Assert.Equal(3, formats.Length);
            Shell("-e", $"printf '{formats[0]}' >{folder}/program\nprintf '{formats[1]}' >{folder}/input\nprintf '{formats[2]}' >{folder}/seed\n");
            Assert.Equal(CloneProgram.File(), File.ReadAllBytes(Path.Combine(folder, "program")));
            Assert.Equal(CloneProgram.Input(DateTimeOffset.UnixEpoch.AddSeconds(1000), Seed, []), File.ReadAllBytes(Path.Combine(folder, "input")));
            Assert.Equal(Seed, File.ReadAllBytes(Path.Combine(folder, "seed")));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void A_login_alone_ends_the_service()
    {
        Assert.Equal("exit 0\n\n", Encoding.ASCII.GetString(CloneText.Login(anew: false, null)));
        string anew = Encoding.ASCII.GetString(CloneText.Login(anew: true, (100, 40)));
        Assert.StartsWith("stty columns 100 rows 40 </dev/hvc0\nsystemctl", anew, StringComparison.Ordinal);
        Assert.EndsWith("\nexit 0\n\n", anew, StringComparison.Ordinal);
    }

    private static byte[] Seed { get; } = [.. Enumerable.Range(0, CloneProgram.SeedLength).Select(i => (byte)(i * 8))];

    private static string Compose(bool kept) => Encoding.ASCII.GetString(CloneText.Compose("web", Id, DateTimeOffset.UnixEpoch.AddSeconds(1000), Seed, kept));

    private static string Shell(string option, string script)
    {
        using Process process = Process.Start(new ProcessStartInfo("/bin/sh", [option]) { RedirectStandardInput = true, RedirectStandardError = true })!;
        process.StandardInput.Write(script);
        process.StandardInput.Close();
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, error);
        return error;
    }
}
