using Lodge.Management.Images;
using Xunit;

namespace Lodge.Management.Tests;

public sealed class ImageStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-store-").FullName;

    private ImageStore Store => new(Path.Combine(_folder, "images"));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task AnImageIsAddedListedFoundAndRemoved()
    {
        StoredImage added = await AddAsync("debian", "bookworm", "one");
        Assert.Equal("one", File.ReadAllText(added.DiskPath));
        Assert.Equal(["debian:bookworm"], Names());
        Assert.NotNull(Store.Find(new ImageName("debian", "bookworm")));
        Store.Remove(new ImageName("debian", "bookworm"));
        Assert.Empty(Names());
        Assert.Empty(Directory.GetFileSystemEntries(Store.Folder));
    }

    [Fact]
    public async Task AnImageOfTheSameNameReplacesTheOldOneWhole()
    {
        await AddAsync("debian", "bookworm", "one");
        StoredImage second = await AddAsync("debian", "bookworm", "two");
        Assert.Equal("two", File.ReadAllText(second.DiskPath));
        Assert.Equal(["debian"], Directory.GetFileSystemEntries(Store.Folder).Select(Path.GetFileName));
    }

    [Fact]
    public async Task AFailureLeavesNothingAndTheOldImage()
    {
        await AddAsync("debian", "bookworm", "one");
        await Assert.ThrowsAsync<ManagementException>(() => Store.AddAsync(new ImageName("debian", "bookworm"), folder =>
        {
            File.WriteAllText(Path.Combine(folder, "disk.raw"), "half");
            throw new IOException("no space left");
        }));
        Assert.Equal("one", File.ReadAllText(Store.Find(new ImageName("debian", "bookworm"))!.DiskPath));
        Assert.Equal(["debian"], Directory.GetFileSystemEntries(Store.Folder).Select(Path.GetFileName));
    }

    [Fact]
    public async Task WhatADeadCommandLeftIsRemovedByTheNext()
    {
        string left = Path.Combine(Store.Folder, ".new-1-dead");
        Directory.CreateDirectory(left);
        File.WriteAllText(Path.Combine(left, ".lock"), "");
        await AddAsync("debian", "bookworm", "one");
        Assert.False(Directory.Exists(left));
    }

    [Fact]
    public async Task WhatALivingCommandMakesIsLeftAlone()
    {
        await Store.AddAsync(new ImageName("a", "b"), async folder =>
        {
            await AddAsync("debian", "bookworm", "one");
            Assert.True(Directory.Exists(folder));
            File.WriteAllText(Path.Combine(folder, "disk.raw"), "other");
            return Manifest("a", "b");
        });
        Assert.Equal(["a:b", "debian:bookworm"], Names());
    }

    [Fact]
    public async Task AManifestThatNamesFilesElsewhereIsNoImage()
    {
        StoredImage image = await AddAsync("debian", "bookworm", "one");
        string manifest = Path.Combine(image.Folder, "image.json");
        File.WriteAllText(manifest, File.ReadAllText(manifest).Replace("disk.raw", "../../../secret"));
        Assert.Empty(Store.List(out IReadOnlyList<string> damaged));
        Assert.Equal([image.Folder], damaged);
    }

    [Theory]
    [InlineData("debian", "debian", DebianBuilder.DefaultSuite)]
    [InlineData("debian:trixie", "debian", "trixie")]
    [InlineData("web", "web", "latest")]
    public void NamesAreRead(string text, string name, string tag) => Assert.Equal(new ImageName(name, tag), ImageName.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("a/b")]
    [InlineData("..")]
    [InlineData("a:")]
    [InlineData("a:.b")]
    public void OtherTextsAreNoNames(string text) => Assert.Throws<ManagementException>(() => ImageName.Parse(text));

    private static ImageManifest Manifest(string name, string tag) => new() { Name = name, Tag = tag, Disk = "disk.raw", Format = "raw" };

    private IEnumerable<string> Names() => Store.List(out _).Select(image => image.Name.ToString());

    private Task<StoredImage> AddAsync(string name, string tag, string contents) => Store.AddAsync(new ImageName(name, tag), folder =>
    {
        File.WriteAllText(Path.Combine(folder, "disk.raw"), contents);
        return Task.FromResult(Manifest(name, tag));
    });
}
