using System.Text;
using Lodge.Cli.Run;
using Lodge.Management.CloudInit;
using Xunit;

namespace Lodge.Cli.Tests;

public class CloudInitOptionTests
{
    [Fact]
    public void Files_are_named_and_a_comma_in_a_path_is_written_twice() => Assert.Equal(
        new CloudInitOption(false, "a,b.yaml", "m=1", "n"), CloudInitOption.Parse("user-data=a,,b.yaml,network-config=n,meta-data=m=1"));

    [Theory]
    [InlineData("off", true)]
    [InlineData("on", false)]
    public void A_seed_can_be_turned_off_and_on(string text, bool off) => Assert.Equal(new CloudInitOption(off), CloudInitOption.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("user-data")]
    [InlineData("user-data=")]
    [InlineData("vendor-data=f")]
    [InlineData("user-data=f,")]
    public void What_is_not_known_is_refused(string text) => Assert.Throws<FormatException>(() => CloudInitOption.Parse(text));

    [Fact]
    public void The_users_files_take_the_place_of_Lodges()
    {
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, "#cloud-config\n");
            CloudInitSeed seed = CloudInitOption.Seed(new CloudInitOption(false, UserData: path), "web", installService: true, []);
            Assert.Equal("#cloud-config\n", Encoding.UTF8.GetString(seed.UserData));
            Assert.Contains("\"local-hostname\":\"web\"", Encoding.UTF8.GetString(seed.MetaData));
            Assert.Equal(["meta-data", "user-data", "vendor-data"], seed.Files.Select(file => file.Name));
            seed = CloudInitOption.Seed(null, "web", installService: false, ["52:54:00:00:00:01"]);
            Assert.Equal(["meta-data", "user-data", "network-config"], seed.Files.Select(file => file.Name));
        }
        finally
        {
            File.Delete(path);
        }
        Assert.Contains(path, Assert.Throws<LodgeException>(() => CloudInitOption.Seed(new CloudInitOption(false, UserData: path), "web", false, [])).Message);
    }

    [Theory]
    [InlineData("run", "--cloud-init", "user-data=f")]
    [InlineData("run", "--cloud-init", "nonsense", "debian")]
    public void The_default_system_takes_no_seed(params string[] arguments) => Assert.Equal(ExitStatus.Usage, Program.Run(arguments, _ => throw new InvalidOperationException()));

    [Fact]
    public void The_option_reaches_the_run()
    {
        CloudInitOption? got = null;
        Assert.Equal(0, Program.Run(["run", "ubuntu", "--cloud-init", "off"], options =>
        {
            got = options.CloudInit;
            return 0;
        }));
        Assert.True(got!.Off);
    }

    [Fact]
    public void A_file_that_is_not_there_is_told_before_anything_is_built()
    {
        LodgeException e = Assert.Throws<LodgeException>(() => RunPlan.Create(new RunOptions { Image = "debian", CloudInit = new CloudInitOption(false, "/nosuch/file") }));
        Assert.Contains("/nosuch/file", e.Message);
    }
}
