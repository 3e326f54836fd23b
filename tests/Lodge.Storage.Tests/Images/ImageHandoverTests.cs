using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Lodge.Storage.Tests.Images;

/// <summary>An image whose files one process opens and another uses; here both are this one.</summary>
public sealed partial class ImageHandoverTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-handover.").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string At(string name) => Path.Combine(_folder, name);

    private static FormatOptions Backing(string path, string format) => FormatOptions.None.With("backing_file", path).With("backing_fmt", format);

    private static async Task MakeAsync(string path, string format, FormatOptions options)
    {
        await using var made = await NewImage.CreateAsync(new NewImageOptions(path, format, 1 << 20) { Options = options });
        await made.CompleteAsync();
    }

    private static async Task WriteAsync(IDisk disk, byte value)
    {
        await disk.WriteAsync(4096, new IoVector(new byte[] { value, value, value, value }.Concat(new byte[508]).ToArray()));
        await disk.FlushAsync();
    }

    private static async Task<byte> ReadAsync(IDisk disk)
    {
        var bytes = new byte[512];
        await disk.ReadAsync(4096, new IoVector(bytes));
        return bytes[0];
    }

    [Theory]
    [InlineData(CacheMode.WriteBack)]
    [InlineData(CacheMode.Unsafe)]
    [InlineData(CacheMode.WriteThrough)]
    public async Task AChainIsReadAndWrittenThroughWhatWasHandedOver(CacheMode cache)
    {
        await MakeAsync(At("base.raw"), "raw", FormatOptions.None);
        await using (var disk = await ImageOpener.OpenAsync(At("base.raw"), new ImageOpenOptions { Format = "raw" }))
        {
            await WriteAsync(disk, 7);
        }

        await MakeAsync(At("middle.qcow2"), "qcow2", Backing("base.raw", "raw"));
        await MakeAsync(At("top.qcow2"), "qcow2", Backing("middle.qcow2", "qcow2"));
        var options = new ImageOpenOptions { Format = "qcow2", Cache = cache };
        var handover = await ImageHandover.OpenAsync(At("top.qcow2"), options);
        Assert.Equal(["qcow2", "qcow2", "raw"], handover.Images.Select(image => image.Format));
        List<SafeFileHandle> files = [.. handover.Handles.Select(Duplicate)];
        handover.Taken();
        handover.Dispose();
        await using (var image = await HandedFiles.OpenAsync(handover.Images, files, options))
        {
            Assert.Equal(7, await ReadAsync(image));
            await WriteAsync(image, 9);
            Assert.Equal(9, await ReadAsync(image));

            // The lock came with the files.
            var used = await Assert.ThrowsAsync<DiskException>(async () => await ImageOpener.OpenAsync(At("top.qcow2"), options));
            Assert.Equal(DiskError.InUse, used.Error);
        }

        await using var again = await ImageOpener.OpenAsync(At("top.qcow2"), options);
        Assert.Equal(9, await ReadAsync(again));
    }

    [Fact]
    public async Task ExtentsComeAlongWithTheirDescriptor()
    {
        await MakeAsync(At("disk.vmdk"), "vmdk", FormatOptions.None.With("subformat", "monolithicFlat"));
        var options = new ImageOpenOptions { Format = "vmdk" };
        using var handover = await ImageHandover.OpenAsync(At("disk.vmdk"), options);
        Assert.Equal(2, handover.Handles.Count);
        List<SafeFileHandle> files = [.. handover.Handles.Select(Duplicate)];
        handover.Taken();
        await using (var image = await HandedFiles.OpenAsync(handover.Images, files, options))
        {
            await WriteAsync(image, 3);
        }

        handover.Dispose();
        await using var again = await ImageOpener.OpenAsync(At("disk.vmdk"), options);
        Assert.Equal(3, await ReadAsync(again));
    }

    [Fact]
    public async Task PolicyHoldsWhereFilesAreHandedOver()
    {
        Directory.CreateDirectory(At("own"));
        await MakeAsync(At("secret.raw"), "raw", FormatOptions.None);
        await MakeAsync(At("own/base.raw"), "raw", FormatOptions.None);
        var options = new ImageOpenOptions { Format = "qcow2" };
        await MakeAsync(At("own/top.qcow2"), "qcow2", Backing("base.raw", "raw"));
        File.Delete(At("own/base.raw"));
        File.CreateSymbolicLink(At("own/base.raw"), At("secret.raw"));
        var denied = await Assert.ThrowsAsync<DiskException>(async () => await ImageHandover.OpenAsync(At("own/top.qcow2"), options));
        Assert.Equal(DiskError.Denied, denied.Error);
        using var allowed = await ImageHandover.OpenAsync(At("own/top.qcow2"), options with { AllowedFolders = [_folder] });
        Assert.Equal(2, allowed.Handles.Count);
    }

    /// <summary>Who takes files looks at the image itself: what it names and was not handed over is not opened, whatever the message with the files says.</summary>
    [Fact]
    public async Task WhatWasNotHandedOverIsNotOpened()
    {
        await MakeAsync(At("base.raw"), "raw", FormatOptions.None);
        await MakeAsync(At("top.qcow2"), "qcow2", Backing("base.raw", "raw"));
        var options = new ImageOpenOptions { Format = "qcow2", ReadOnly = true };
        using var handover = await ImageHandover.OpenAsync(At("top.qcow2"), options);
        var images = handover.Images;
        foreach (var (told, count) in new (IReadOnlyList<HandedImage>, int)[]
        {
            ([images[0]], 1),                                               // no parent
            ([images[0] with { Backing = "other.raw" }, images[1]], 2),     // of another name
            ([images[0], images[1] with { Format = "qcow2" }], 2),          // of another format
            ([images[0], images[1]], 1),                                    // a file is missing
            ([images[0] with { Parts = ["x"] }, images[1]], 2),
            ([images[0] with { Format = "raw" }], 1),
            ([], 1),
        })
        {
            await Assert.ThrowsAsync<DiskException>(async () => await HandedFiles.OpenAsync(told, [.. handover.Handles.Take(count).Select(Duplicate)], options));
        }

        var more = await Assert.ThrowsAsync<DiskException>(async () => await HandedFiles.OpenAsync(images, [.. handover.Handles.Select(Duplicate), Duplicate(handover.Handles[0])], options));
        Assert.Contains("do not belong to", more.Message, StringComparison.Ordinal);
        using var pipe = new System.IO.Pipes.AnonymousPipeServerStream();
        await Assert.ThrowsAsync<DiskException>(async () => await HandedFiles.OpenAsync(
            [new HandedImage("pipe", "raw", [], null)], [new SafeFileHandle(Dup((int)pipe.SafePipeHandle.DangerousGetHandle()), true)], new ImageOpenOptions { Format = "raw" }));
    }

    /// <summary>As the receiver of a message gets it: another descriptor of the same open file.</summary>
    private static SafeFileHandle Duplicate(SafeFileHandle file) => new(Dup((int)file.DangerousGetHandle()), ownsHandle: true);

    [System.Runtime.InteropServices.LibraryImport("libc", EntryPoint = "dup")]
    private static partial int Dup(int descriptor);
}
