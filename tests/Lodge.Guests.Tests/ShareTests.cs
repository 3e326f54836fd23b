using System.Security.Cryptography;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary><c>lodge run --share</c> in the default system.</summary>
[Collection("guests")]
public sealed class ShareTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-share.").FullName;

    public void Dispose() => LodgeProcess.Script("rm -rf \"$1\"", _folder);

    [Fact]
    public void A_file_system_exerciser_passes_and_the_host_sees_the_same_bytes()
    {
        string work = Directory.CreateDirectory(Path.Combine(_folder, "work")).FullName, script = Directory.CreateDirectory(Path.Combine(_folder, "script")).FullName;
        File.Copy(Path.Combine(AppContext.BaseDirectory, "exerciser.sh"), Path.Combine(script, "exerciser.sh"));
        (int status, string output, string error) = LodgeProcess.Run([
            "run", "--cpus", "2", "--net", "none", "--share", $"{work}:/work", "--share", $"{script}:/script:ro", "--",
            "sh", "/script/exerciser.sh", "/work", Environment.IsPrivilegedProcess ? "root" : "user"]);
        Assert.True(status == 0, $"status {status}: {output}{error}");
        string random = Convert.ToHexStringLower(MD5.HashData(File.ReadAllBytes(Path.Combine(work, "random"))));
        Assert.Matches($"^[0-9]+ passed, 0 failed, random {random}\n$", output);
        Assert.Equal("/etc/passwd", new FileInfo(Path.Combine(work, "out")).LinkTarget);
    }

    [Fact]
    public void Changes_of_either_side_are_seen_by_the_other()
    {
        File.WriteAllText(Path.Combine(_folder, "data"), "old");
        // The guest asks, and this side changes what the guest has cached, which it believes for a second.
        using FileSystemWatcher watcher = new(_folder, "ready");
        watcher.Created += (_, _) =>
        {
            File.WriteAllText(Path.Combine(_folder, "data"), "newer");
            File.WriteAllText(Path.Combine(_folder, "go"), "");
        };
        watcher.EnableRaisingEvents = true;
        (int status, string output, string error) = LodgeProcess.Run([
            "run", "--net", "none", "--share", $"{_folder}:/srv/host", "--", "sh", "-c",
            "cd /srv/host; cat data; : >ready; until [ -e go ]; do sleep 0.1; done; sleep 1.1; cat data; echo back >answer"]);
        Assert.Equal((0, "oldnewer"), (status, output));
        Assert.Equal("back\n", File.ReadAllText(Path.Combine(_folder, "answer")));
        Assert.DoesNotContain("cannot", error, StringComparison.Ordinal);
    }

    [Fact]
    public void Programs_run_from_a_share_that_is_written_to()
    {
        // Code that comes by DMA into pages that held other code: each copy must run as what it is now.
        (int status, string output, string error) = LodgeProcess.Run([
            "run", "--net", "none", "--share", $"{_folder}:/work", "--", "sh", "-c", """
                cp /bin/busybox /work/one
                for i in 1 2 3 4 5 6; do
                    cp /work/one /work/busybox && echo 3 >/proc/sys/vm/drop_caches && /work/busybox echo run $i && rm /work/busybox || exit 1
                done
                """]);
        Assert.Equal((0, "run 1\nrun 2\nrun 3\nrun 4\nrun 5\nrun 6\n"), (status, output));
        Assert.DoesNotContain("cannot", error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_read_only_share_stays_as_it_is()
    {
        File.WriteAllText(Path.Combine(_folder, "kept"), "kept");
        (int status, string output, _) = LodgeProcess.Run([
            "run", "--net", "none", "--share", $"{_folder}:/work:ro", "--", "sh", "-c",
            "mount -o remount,rw /work; cat /work/kept; echo no >/work/kept; rm /work/kept; touch /work/new; chmod 777 /work; mount -t virtiofs share0 /mnt && touch /mnt/new"]);
        Assert.Equal((1, "kept"), (status, output));
        Assert.Equal([Path.Combine(_folder, "kept")], Directory.GetFileSystemEntries(_folder));
        Assert.Equal("kept", File.ReadAllText(Path.Combine(_folder, "kept")));
    }

    [Theory]
    [InlineData("/no/such/folder:/work", 1, "folder '/no/such/folder' does not exist")]
    [InlineData("/etc/passwd:/work", 1, "'/etc/passwd' is not a folder")]
    [InlineData("/proc:/work", 1, "cannot be shared")]
    [InlineData("/tmp", 2, "HOST:GUEST")]
    [InlineData("/tmp:work", 2, "absolute path")]
    [InlineData("/tmp:/work,owner=me", 2, "1000:1000")]
    public void What_cannot_be_shared_is_told_in_a_line(string option, int expected, string told)
    {
        (int status, string output, string error) = LodgeProcess.Run(["run", "--net", "none", "--share", option, "--", "true"]);
        Assert.Equal((expected, ""), (status, output));
        Assert.Contains(told, error, StringComparison.Ordinal);
    }
}
