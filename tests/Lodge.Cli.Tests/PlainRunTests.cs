using System.Collections;
using System.Reflection;
using System.Text;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Run;
using Lodge.Cli.Templates;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>Command lines of <c>lodge run</c> that are understood without the parser, and what else a clone's short way does by itself.</summary>
public class PlainRunTests
{
    [Theory]
    [InlineData()]
    [InlineData("--", "uname", "-a")]
    [InlineData("debian")]
    [InlineData("debian:trixie", "--", "true")]
    public void The_short_way_and_the_parser_agree(params string[] words)
    {
        RunOptions plain = Options(["run", .. words]), parsed = Options(["run", "--engine", "auto", .. words]);
        foreach (PropertyInfo property in typeof(RunOptions).GetProperties(BindingFlags.Public | BindingFlags.Instance))
        {
            object? one = property.GetValue(plain), other = property.GetValue(parsed);
            if (one is IEnumerable and not string)
            {
                Assert.Equal(((IEnumerable)one).Cast<object>(), ((IEnumerable)other!).Cast<object>());
            }
            else
            {
                Assert.Equal(one, other);
            }
        }
    }

    [Fact]
    public void A_command_is_needed_behind_the_dashes() => Assert.Equal(ExitStatus.Usage, Program.Run(["run", "--"], _ => 0));

    [Fact]
    public void No_template_is_an_option()
    {
        Assert.True(Options(["run"]).Template);
        Assert.False(Options(["run", "--no-template", "--", "ls"]).Template);
    }

    [Fact]
    public void The_clones_program_is_an_executable_and_its_input_is_laid_out_for_it()
    {
        byte[] file = CloneProgram.File();
        Assert.Equal([0x7F, (byte)'E', (byte)'L', (byte)'F'], file[..4]);
        Assert.Equal("/dev/urandom\0", Encoding.ASCII.GetString(file[^13..]));
        byte[] seed = [.. Enumerable.Range(1, CloneProgram.SeedLength).Select(i => (byte)i)];
        byte[] input = CloneProgram.Input(DateTimeOffset.FromUnixTimeSeconds(1_700_000_000).AddMilliseconds(250), seed, "echo"u8);
        Assert.Equal(4, BitConverter.ToInt64(input, 0));
        Assert.Equal((1_700_000_000, 250_000_000), (BitConverter.ToInt64(input, 8), BitConverter.ToInt64(input, 16)));
        Assert.Equal((256, 32), (BitConverter.ToInt32(input, 24), BitConverter.ToInt32(input, 28)));
        Assert.Equal(seed, input[32..64]);
        Assert.Equal("echo", Encoding.ASCII.GetString(input[64..]));
    }

    /// <summary>The program itself, on this host: it copies the text, tells that it waits, and ends well; what it may not do here (setting the clock) it does not insist on.</summary>
    [Fact]
    public void The_clones_program_copies_the_text()
    {
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, CloneProgram.File());
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserExecute);
            byte[] text = [.. Enumerable.Range(0, 10_000).Select(i => (byte)i)];
            using MemoryStream output = new();
            // As nobody and without capabilities, so that this host keeps its clock.
            (int status, string error) = HostProgram.Run("sh", ["-c", "exec 3>&2; exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs --reuid=65534 --regid=65534 --clear-groups /bin/sh -c 'exec \"$0\"' \"$0\"", Shared(path)], null, s => s.CopyTo(output), CloneProgram.Input(DateTimeOffset.UnixEpoch, new byte[32], text));
            Assert.SkipWhen(status == 127 || error.Contains("setpriv", StringComparison.Ordinal), "needs setpriv and root");
            Assert.Equal(0, status);
            Assert.Equal(text, output.ToArray());
            Assert.Contains("waiting", error, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Theory]
    [InlineData("12h", 12)]
    [InlineData("30d", 720)]
    public void Ages_of_templates(string text, int hours) => Assert.Equal(TimeSpan.FromHours(hours), TemplateCommand.Age(text));

    [Theory]
    [InlineData("")]
    [InlineData("d")]
    [InlineData("5")]
    [InlineData("-1d")]
    [InlineData("99999999d")]
    public void Other_ages_are_refused(string text) => Assert.Throws<FormatException>(() => TemplateCommand.Age(text));

    private static string Shared(string path)
    {
        File.SetUnixFileMode(path, (UnixFileMode)0x1ED); // 0755
        return path;
    }

    private static RunOptions Options(string[] arguments)
    {
        RunOptions? options = null;
        Assert.Equal(0, Program.Run(arguments, o =>
        {
            options = o;
            return 0;
        }));
        return options!;
    }
}
