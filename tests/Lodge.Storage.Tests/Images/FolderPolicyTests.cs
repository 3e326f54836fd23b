using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Images;

/// <summary>Which files an image may name: "own" is the image's folder, "other" one beside it.</summary>
public sealed class FolderPolicyTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public FolderPolicyTests()
    {
        Directory.CreateDirectory(_folder["own/sub"]);
        Directory.CreateDirectory(_folder["other"]);
        foreach (var name in new[] { "own/top", "own/base", "own/sub/deep", "other/secret" })
        {
            File.WriteAllText(_folder[name], name);
        }

        File.CreateSymbolicLink(_folder["own/inside"], "sub/deep");
        File.CreateSymbolicLink(_folder["own/outside"], "../other/secret");
        File.CreateSymbolicLink(_folder["own/absolute"], _folder["other/secret"]);
        File.CreateSymbolicLink(_folder["own/away"], "../other");
        File.CreateSymbolicLink(_folder["own/magic"], "/proc/self/root/etc/passwd");
        File.CreateSymbolicLink(_folder["linked"], "own");
    }

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("base")]
    [InlineData("./sub/../base")]
    [InlineData("file:base")]
    [InlineData("sub/deep")]
    [InlineData("inside")]
    [InlineData("ABSOLUTE/own/base")]
    [InlineData("ABSOLUTE/linked/base")]
    public async Task WhatLiesInTheOwnFolderIsOpened(string name)
    {
        await using var file = await Files().OpenPartAsync(Expand(name), false);
        Assert.True(file.Length > 0);
        await using var parent = await Files().OpenBackingAsync(Expand(name), "raw");
        Assert.True(parent.IsReadOnly);
    }

    [Theory]
    [InlineData("../other/secret")]
    [InlineData("sub/../../other/secret")]
    [InlineData("outside")]
    [InlineData("absolute")]
    [InlineData("away/secret")]
    [InlineData("away/missing")]
    [InlineData("magic")]
    [InlineData("/etc/passwd")]
    [InlineData("/proc/self/exe")]
    [InlineData("ABSOLUTE/other/secret")]
    [InlineData("nbd://localhost/disk")]
    public async Task WhatLiesOutsideIsDenied(string name)
    {
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await Files().OpenBackingAsync(Expand(name), "raw"));
        Assert.Equal(DiskError.Denied, failure.Error);
        failure = await Assert.ThrowsAsync<DiskException>(async () => await Files().OpenPartAsync(Expand(name), false));
        Assert.Equal(name.Contains("://") ? DiskError.Unsupported : DiskError.Denied, failure.Error);
    }

    [Theory]
    [InlineData("../other/secret")]
    [InlineData("outside")]
    [InlineData("absolute")]
    [InlineData("away/secret")]
    [InlineData("ABSOLUTE/other/secret")]
    public async Task PermissionForAFolderOpensIt(string name)
    {
        await using (var allowed = await Files(_folder["other"]).OpenPartAsync(Expand(name), false))
        {
            Assert.Equal("other/secret".Length, allowed.Length);
        }

        await using var all = await Files("/").OpenPartAsync(Expand(name), false);
        await Assert.ThrowsAsync<DiskException>(async () => await Files(_folder["oth"]).OpenPartAsync(Expand(name), false));
    }

    [Fact]
    public async Task PolicyHoldsOnHostsWithoutOpenAt2()
    {
        // Other tests that run meanwhile go the same way; for them nothing differs either.
        HostSystemCalls.LacksOpenAt2 = true;
        try
        {
            foreach (var name in new[] { "base", "inside", "sub/deep", "ABSOLUTE/linked/base" })
            {
                await WhatLiesInTheOwnFolderIsOpened(name);
            }

            foreach (var name in new[] { "../other/secret", "outside", "absolute", "away/secret", "magic", "/etc/passwd" })
            {
                await WhatLiesOutsideIsDenied(name);
                if (name.Contains("secret"))
                {
                    await PermissionForAFolderOpensIt(name);
                }
            }

            await PartsAreMadeOnlyInTheOwnFolder();
        }
        finally
        {
            HostSystemCalls.LacksOpenAt2 = false;
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("a\0b")]
    [InlineData("json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}")]
    [InlineData("missing")]
    [InlineData("sub")]
    [InlineData(".")]
    public async Task OddNamesAreErrors(string name) => await Assert.ThrowsAsync<DiskException>(async () => await Files().OpenBackingAsync(name, "raw"));

    [Fact]
    public async Task AParentWithoutFormatIsDeniedUnlessGuessingIsAllowed()
    {
        Assert.Equal(DiskError.Denied, (await Assert.ThrowsAsync<DiskException>(async () => await Files().OpenBackingAsync("base", null))).Error);
        var options = new ImageOpenOptions { ProbeBacking = true };
        await using var parent = await new FolderFiles(_folder["own/top"], options, 0).OpenBackingAsync("base", null);
        Assert.Equal(8, parent.Length);
    }

    [Fact]
    public async Task PartsAreMadeOnlyInTheOwnFolder()
    {
        await using (var part = await Files(_folder["other"]).CreatePartAsync("new"))
        {
            Assert.True(File.Exists(_folder["own/new"]));
        }

        Assert.Equal(DiskError.Exists, (await Assert.ThrowsAsync<DiskException>(async () => await Files().CreatePartAsync("new"))).Error);
        foreach (var name in new[] { "../new", "../other/new", "away/new" })
        {
            Assert.Equal(DiskError.Denied, (await Assert.ThrowsAsync<DiskException>(async () => await Files(_folder["other"]).CreatePartAsync(name))).Error);
        }

        Assert.Equal(["secret"], Directory.GetFiles(_folder["other"]).Select(Path.GetFileName));
    }

    [Fact]
    public async Task AddressesGoToWhoKnowsTheirScheme()
    {
        DiskAddresses.Register("test-memory", (address, options, _) => ValueTask.FromResult<IStorageFile>(new MemoryFile(address) { Content = new byte[512] }));
        await using (var image = await ImageOpener.OpenAsync("test-memory://x/disk", new ImageOpenOptions { Format = "raw" }))
        {
            Assert.Equal(512, image.Length);
        }

        await using (var parent = await Files("test-memory://x").OpenBackingAsync("test-memory://x/disk", "raw"))
        {
            Assert.Equal(512, parent.Length);
        }

        Assert.Equal(DiskError.Denied, (await Assert.ThrowsAsync<DiskException>(async () => await Files("test-memory://y").OpenBackingAsync("test-memory://x/disk", "raw"))).Error);
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await ImageOpener.OpenAsync("gopher://x/disk", new ImageOpenOptions { Format = "raw" }));
        Assert.Equal(DiskError.Unsupported, failure.Error);
        Assert.Contains("test-memory://", failure.Message);
    }

    private FolderFiles Files(params string[] allowed) => new(_folder["own/top"], new ImageOpenOptions { AllowedFolders = allowed }, 0);

    private string Expand(string name) => name.Replace("ABSOLUTE", _folder.Path);
}
