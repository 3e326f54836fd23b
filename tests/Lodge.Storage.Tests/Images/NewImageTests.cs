using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Images;

public sealed class NewImageTests
{
    [Fact]
    public async Task AnImageHasItsNameWhenItIsComplete()
    {
        using var folder = new TemporaryFolder();
        await using (var made = await NewImage.CreateAsync(new NewImageOptions(folder["new"], "raw", 4096)))
        {
            Assert.False(File.Exists(folder["new"]));
            var image = await made.OpenAsync();
            Assert.Contains("/new", image.File.Name);
            await image.WriteAsync(0, new byte[] { 1 });
            await made.CompleteAsync();
        }

        Assert.Equal([folder["new"]], Directory.GetFileSystemEntries(folder.Path));
        Assert.Equal(1, (await File.ReadAllBytesAsync(folder["new"]))[0]);
        Assert.Equal(4096, new FileInfo(folder["new"]).Length);
    }

    [Fact]
    public async Task AFailureLeavesNothingBehindAndTheOldImageAsItWas()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder["old"], "precious");
        File.SetUnixFileMode(folder["old"], UnixFileMode.UserRead | UnixFileMode.UserWrite);
        foreach (var name in new[] { "new", "old" })
        {
            // Luks without a passphrase fails after its file was made.
            await Assert.ThrowsAsync<DiskException>(async () => await NewImage.CreateAsync(new NewImageOptions(folder[name], "luks", 4096)));
            await using var abandoned = await NewImage.CreateAsync(new NewImageOptions(folder[name], "raw", 4096));
            await (await abandoned.OpenAsync()).WriteAsync(0, new byte[100]);
        }

        Assert.Equal([folder["old"]], Directory.GetFileSystemEntries(folder.Path));
        Assert.Equal("precious", await File.ReadAllTextAsync(folder["old"]));
        Assert.Equal(DiskError.Exists, (await Assert.ThrowsAsync<DiskException>(async () => await NewImage.CreateAsync(new NewImageOptions(folder["old"], "raw", 4096) { Replace = false }))).Error);

        File.CreateSymbolicLink(folder["link"], "old");
        await using (var made = await NewImage.CreateAsync(new NewImageOptions(folder["link"], "raw", 512)))
        {
            await made.CompleteAsync();
        }

        Assert.Equal(512, new FileInfo(folder["old"]).Length);
        Assert.Equal("old", new FileInfo(folder["link"]).LinkTarget);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(folder["old"]));
        Assert.Equal(2, Directory.GetFileSystemEntries(folder.Path).Length);
    }

    [Fact]
    public async Task AnImageInUseIsNotReplaced()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder["old"], "precious");
        await using var reader = HostFile.Open(folder["old"], new HostFileOptions(true));
        Assert.Equal(DiskError.InUse, (await Assert.ThrowsAsync<DiskException>(async () => await NewImage.CreateAsync(new NewImageOptions(folder["old"], "raw", 4096)))).Error);
        Assert.Equal("precious", await File.ReadAllTextAsync(folder["old"]));
    }

    [Theory]
    [InlineData("off", 0, 65536)]
    [InlineData("falloc", 1 << 20, 2 << 20)]
    [InlineData("full", 1 << 20, 2 << 20)]
    public async Task PreallocationTakesTheRoom(string preallocation, long least, long most)
    {
        using var folder = new TemporaryFolder();
        var options = FormatOptions.Parse(DiskFormats.Named("raw"), [KeyValuePair.Create("preallocation", preallocation)]);
        await using (var made = await NewImage.CreateAsync(new NewImageOptions(folder["new"], "raw", 1 << 20) { Options = options }))
        {
            await made.CompleteAsync();
        }

        await using var file = HostFile.Open(folder["new"], new HostFileOptions(true));
        Assert.InRange(file.AllocatedLength, least, most);
        Assert.Equal(1 << 20, file.Length);
    }

    [Fact]
    public async Task ChainsThatLoopEnd()
    {
        QemuImg.Require();
        if (DiskFormats.All.All(format => format.Name != "qcow2"))
        {
            Assert.Skip("loops need a format with parents");
        }

        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", folder["a"], "1M");
        QemuImg.Run("create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", folder["b"]);
        QemuImg.Run("rebase", "-u", "-b", "b", "-F", "qcow2", folder["a"]);
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await ImageOpener.OpenAsync(folder["a"], new ImageOpenOptions { Format = "qcow2", ReadOnly = true }));
        Assert.Equal(DiskError.Corrupt, failure.Error);
        Assert.Contains("loop", failure.Message);
    }
}
