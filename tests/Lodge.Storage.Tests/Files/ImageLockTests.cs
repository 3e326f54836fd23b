using System.Diagnostics;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Files;

/// <summary>Locks against real QEMU programs; with qcow2, because qemu-img itself lets others write to a raw image that it reads or writes.</summary>
public sealed class ImageLockTests
{
    [Fact]
    public async Task OneWriterOrManyReaders()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllBytesAsync(folder["disk"], new byte[4096]);
        await using (var first = Open(folder["disk"], readOnly: true))
        {
            await using var second = Open(folder["disk"], readOnly: true);
            Assert.Equal(DiskError.InUse, Assert.Throws<DiskException>(() => Open(folder["disk"], readOnly: false)).Error);
        }

        await using (var writer = Open(folder["disk"], readOnly: false))
        {
            Assert.Equal(DiskError.InUse, Assert.Throws<DiskException>(() => Open(folder["disk"], readOnly: false)).Error);
            Assert.Equal(DiskError.InUse, Assert.Throws<DiskException>(() => Open(folder["disk"], readOnly: true)).Error);
            await using var shared = HostFile.Open(folder["disk"], new HostFileOptions(true, ForceShare: true));
            await using var unlocked = HostFile.Open(folder["disk"], new HostFileOptions(false, Lock: false));
        }

        await using var after = Open(folder["disk"], readOnly: false);
    }

    [Fact]
    public async Task QemuSeesOurLocks()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", folder["disk"], "1M");
        await using (var writer = Open(folder["disk"], readOnly: false))
        {
            var (status, output) = QemuImg.RunProgram("qemu-img", "info", "-f", "qcow2", folder["disk"]);
            Assert.NotEqual(0, status);
            Assert.Contains("lock", output);
            (status, output) = QemuImg.RunProgram("qemu-img", "info", "-U", "-f", "qcow2", folder["disk"]);
            Assert.True(status == 0, output);
            (status, output) = QemuImg.RunProgram("qemu-io", "-f", "qcow2", "-c", "write 0 512", folder["disk"]);
            Assert.NotEqual(0, status);
            Assert.Contains("lock", output);
        }

        await using (var reader = Open(folder["disk"], readOnly: true))
        {
            QemuImg.Run("info", "-f", "qcow2", folder["disk"]);
            var (status, output) = QemuImg.RunProgram("qemu-io", "-f", "qcow2", "-c", "write 0 512", folder["disk"]);
            Assert.NotEqual(0, status);
            Assert.Contains("lock", output);
        }

        var (done, message) = QemuImg.RunProgram("qemu-io", "-f", "qcow2", "-c", "write 0 512", folder["disk"]);
        Assert.True(done == 0, message);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task WeSeeQemusLocks(bool qemuReadsOnly)
    {
        QemuImg.RequireProgram("qemu-io", "qemu-utils");
        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", folder["disk"], "1M");
        using (var qemu = Process.Start(new ProcessStartInfo("qemu-io", [.. qemuReadsOnly ? ["-r"] : Array.Empty<string>(), "-f", "qcow2", folder["disk"]])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        })!)
        {
            // It has opened the image when it answers a command.
            await qemu.StandardInput.WriteLineAsync("read 0 512");
            await qemu.StandardInput.FlushAsync();
            while (await qemu.StandardOutput.ReadLineAsync() is { } line && !line.Contains("512/512"))
            {
            }

            var failure = Assert.Throws<DiskException>(() => Open(folder["disk"], readOnly: false));
            Assert.Equal(DiskError.InUse, failure.Error);
            Assert.Contains($"qemu-io, process {qemu.Id}", failure.Message);
            if (qemuReadsOnly)
            {
                await using var reader = Open(folder["disk"], readOnly: true);
            }
            else
            {
                Assert.Equal(DiskError.InUse, Assert.Throws<DiskException>(() => Open(folder["disk"], readOnly: true)).Error);
            }

            await using (var shared = HostFile.Open(folder["disk"], new HostFileOptions(true, ForceShare: true)))
            {
                Assert.True(shared.Length > 65536);
            }

            qemu.StandardInput.Close();
            await qemu.WaitForExitAsync();
        }

        await using var after = Open(folder["disk"], readOnly: false);
    }

    private static HostFile Open(string path, bool readOnly) => HostFile.Open(path, new HostFileOptions(readOnly));
}
