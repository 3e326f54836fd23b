using Lodge.Management.Host;
using Lodge.Management.Machines;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Lodge.Management.Tests.Machines;

/// <summary>Clones of machines: their folders and disks, also when the command that makes them dies.</summary>
public sealed class MachineDiskCloneTests : IDisposable
{
    private const int Size = 1 << 20, Cluster = 64 << 10;

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-clone.").FullName;

    private MachineStore Store => new(Path.Combine(_folder, "machines"));

    private static MachineDefinition Definition => new() { Id = Guid.NewGuid(), Created = DateTimeOffset.Now, Directory = "/", Image = "debian:stable", Autostart = true };

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task ACopyIsAMachineOfItsOwn()
    {
        MachineFolder web = await MakeAsync("web");
        await WriteAsync(web, Cluster, 7);
        await File.WriteAllTextAsync(Path.Combine(web.Work, "mac0"), "52:54:00:00:00:01\n");
        MachineFolder db = Clone("web", "db", (source, clone) => MachineDiskClone.CopyAsync(source, clone));
        MachineDefinition first = web.ReadDefinition(out _)!, second = db.ReadDefinition(out _)!;
        Assert.NotEqual(first.Id, second.Id);
        Assert.Equal(first.Id, second.ClonedFrom);
        Assert.Equal((false, first.Image), (second.Autostart, second.Image));
        Assert.Empty(Directory.GetFileSystemEntries(db.Work));
        Assert.Equal(await ReadAsync(web), await ReadAsync(db));
        Assert.Equal([1, 7, 1], await BytesAsync(db, 0, Cluster, 2 * Cluster));
        await WriteAsync(db, 0, 8);
        await WriteAsync(web, 2 * Cluster, 9);
        Store.Remove("web");
        Assert.Equal([8, 7, 1], await BytesAsync(db, 0, Cluster, 2 * Cluster));
    }

    [Fact]
    public async Task ACopyHasNoSnapshotsAndAMachineWithSnapshotsIsNotLinked()
    {
        MachineFolder web = await MakeAsync("web");
        await WriteAsync(web, 0, 7);
        await using (IImage image = await OpenAsync(web))
        {
            await ((ISnapshots)image).CreateSnapshotAsync("before");
            await image.FlushAsync();
        }
        await WriteAsync(web, 0, 8);
        Assert.Contains("'web' has snapshots", (await Assert.ThrowsAsync<ManagementException>(() => MachineDiskClone.PlanLinkAsync(web, web))).Message);
        Assert.Contains("has snapshots", Assert.Throws<ManagementException>(() => Clone("web", "db", MachineDiskClone.LinkAsync)).Message);
        Assert.Equal(["web"], Store.List().Select(one => one.Name));
        MachineFolder db = Clone("web", "db", (source, clone) => MachineDiskClone.CopyAsync(source, clone));
        await using (IImage copy = await OpenAsync(db))
        {
            Assert.Empty(((ISnapshots)copy).Snapshots);
            CheckResult check = await ((ICheck)copy).CheckAsync(CheckRepair.None);
            Assert.Equal((0, 0), (check.Corruptions, check.Leaks));
        }
        await using (IImage image = await OpenAsync(web))
        {
            Assert.Single(((ISnapshots)image).Snapshots);
        }
        Assert.Equal([8, 1], await BytesAsync(db, 0, Cluster));
    }

    [Fact]
    public async Task LinkedClonesStandOnOneDisk()
    {
        MachineFolder web = await MakeAsync("web");
        await WriteAsync(web, Cluster, 7);
        MachineFolder db = Clone("web", "db", MachineDiskClone.LinkAsync);
        Assert.Single(Frozen(web));
        Assert.Equal(Frozen(web).Select(Path.GetFileName), Frozen(db).Select(Path.GetFileName));
        await WriteAsync(web, 0, 8);
        await WriteAsync(db, 2 * Cluster, 9);
        Assert.Equal([8, 7, 1], await BytesAsync(web, 0, Cluster, 2 * Cluster));
        Assert.Equal([1, 7, 9], await BytesAsync(db, 0, Cluster, 2 * Cluster));
        MachineFolder third = Clone("db", "third", MachineDiskClone.LinkAsync); // of a linked clone
        Store.Remove("web");
        Store.Remove("db");
        Assert.Equal([1, 7, 9], await BytesAsync(third, 0, Cluster, 2 * Cluster));
        MachineFolder copy = Clone("third", "copy", (source, clone) => MachineDiskClone.CopyAsync(source, clone));
        Store.Remove("third");
        Assert.Equal([1, 7, 9], await BytesAsync(copy, 0, Cluster, 2 * Cluster));
    }

    [Fact]
    public async Task ADiskThatHoldsNothingGetsNoFurtherLayer()
    {
        MachineFolder web = await MakeAsync("web");
        Clone("web", "one", MachineDiskClone.LinkAsync);
        Assert.Empty(Frozen(web));
        await WriteAsync(web, 0, 7);
        for (int i = 0; i < 40; i++)
        {
            Clone("web", $"many{i}", MachineDiskClone.LinkAsync);
        }
        Assert.Single(Frozen(web));
        MachineFolder last = Store.Get("many39");
        Assert.Equal([7, 1], await BytesAsync(last, 0, Cluster));
        Assert.Equal(1, (await BytesAsync(Store.Get("one"), 0))[0]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AfterEachStepOfALinkedCloneItsSourceIsUsable(bool startedBetween)
    {
        int steps = 0;
        for (int done = 0; done <= steps; done++)
        {
            MachineFolder web = await MakeAsync($"web{done}");
            await WriteAsync(web, Cluster, 7);
            // As Create makes it, by a process that dies.
            MachineFolder torn = new(Path.Combine(Store.Folder, $".new-{done}"));
            Directory.CreateDirectory(torn.Path);
            IReadOnlyList<DiskCloneStep> plan = await MachineDiskClone.PlanLinkAsync(web, torn);
            steps = plan.Count;
            foreach (DiskCloneStep step in plan.Take(done))
            {
                await step.Run();
            }
            Assert.Equal([1, 7, 1], await BytesAsync(web, 0, Cluster, 2 * Cluster));
            if (startedBetween)
            {
                MachineDiskClone.RemoveLeftovers(web); // as a start does
            }
            await WriteAsync(web, 0, 8);
            torn.TryChange(wait: false)!.Dispose();
            MachineFolder db = Clone(web.Name, $"db{done}", MachineDiskClone.LinkAsync);
            Assert.False(torn.Exists, "what the dead command left is still there");
            await WriteAsync(web, 2 * Cluster, 9);
            Assert.Equal([8, 7, 9], await BytesAsync(web, 0, Cluster, 2 * Cluster));
            Assert.Equal([8, 7, 1], await BytesAsync(db, 0, Cluster, 2 * Cluster));
            // Each layer that there is is one that is needed.
            IReadOnlyList<ChainLink> chain = await ImageChain.ListAsync(web.Disk, new ImageOpenOptions { Format = "qcow2", ReadOnly = true }, parents: true);
            Assert.Equal(chain.Count - 2, Frozen(web).Count);
            await using IImage image = await OpenAsync(web);
            Assert.Equal(0, (await ((ICheck)image).CheckAsync(CheckRepair.None)).Corruptions);
        }
        Assert.Equal(5, steps);
    }

    [Fact]
    public async Task WhatCannotBeClonedLeavesNothing()
    {
        MachineFolder web = await MakeAsync("web");
        await WriteAsync(web, 0, 7);
        using (SafeFileHandle running = web.TryRun()!)
        {
            Assert.Contains("runs; stop it first: lodge stop web", Assert.Throws<ManagementException>(() => Clone("web", "db", MachineDiskClone.LinkAsync)).Message);
        }
        Assert.Contains("is taken", Assert.Throws<ManagementException>(() => Clone("web", "web", MachineDiskClone.LinkAsync)).Message);
        Assert.Throws<ManagementException>(() => Clone("web", "db", (_, _) => throw new IOException("disk full")));
        Assert.Equal("machine 'db' cannot be made: disk full", Assert.Throws<DiskException>(() => Clone("web", "db", async (source, clone) =>
        {
            foreach (DiskCloneStep step in (await MachineDiskClone.PlanLinkAsync(source, clone)).SkipLast(2))
            {
                await step.Run();
            }
            Assert.NotEmpty(Frozen(source));
            throw new DiskException(DiskError.NoSpace, "disk full");
        })).Message);
        Assert.Empty(Frozen(web));
        await using (IImage used = await OpenAsync(web))
        {
            Assert.Equal(DiskError.InUse, Assert.Throws<DiskException>(() => Clone("web", "db", MachineDiskClone.LinkAsync)).Error);
            Assert.Equal(DiskError.InUse, Assert.Throws<DiskException>(() => Clone("web", "db", (source, clone) => MachineDiskClone.CopyAsync(source, clone))).Error);
        }
        Assert.Equal(["web"], Directory.GetDirectories(Store.Folder).Select(Path.GetFileName));
        Assert.Empty(Frozen(web));
        Assert.Equal([7, 1], await BytesAsync(web, 0, Cluster));
    }

    [Fact]
    public void ACopyOfAFileKeepsItsHoles()
    {
        string file = Path.Combine(_folder, "file"), copy = Path.Combine(_folder, "copy");
        using (FileStream stream = File.Create(file))
        {
            stream.SetLength(300L << 20);
            stream.Position = 200L << 20;
            stream.Write([1, 2, 3]);
        }
        CopyProgress progress = new();
        HostCopy.Copy(file, copy, progress);
        Assert.Equal(1, progress.Last);
        using FileStream read = File.OpenRead(copy);
        Assert.Equal(300L << 20, read.Length);
        read.Position = 200L << 20;
        byte[] bytes = new byte[4];
        read.ReadExactly(bytes);
        Assert.Equal([1, 2, 3, 0], bytes);
        Assert.Throws<IOException>(() => HostCopy.Copy(file, copy));
        Assert.True(File.Exists(copy));
    }

    private MachineFolder Clone(string name, string newName, Func<MachineFolder, MachineFolder, Task> disk) =>
        Store.Clone(name, newName, definition => definition, (source, clone) => disk(source, clone).GetAwaiter().GetResult());

    private async Task<MachineFolder> MakeAsync(string name)
    {
        MachineFolder machine = Store.Create(name, Definition);
        byte[] content = new byte[Size];
        Array.Fill(content, (byte)1);
        await File.WriteAllBytesAsync(Path.Combine(machine.Path, "base.raw"), content);
        await using NewImage made = await NewImage.CreateAsync(
            new NewImageOptions(machine.Disk, "qcow2", Size) { Options = FormatOptions.None.With("backing_file", "base.raw").With("backing_fmt", "raw") });
        await made.CompleteAsync();
        return machine;
    }

    private static IReadOnlyList<string> Frozen(MachineFolder machine) => Directory.GetFiles(machine.Path, "base-*");

    private static async Task<IImage> OpenAsync(MachineFolder machine) => await ImageOpener.OpenAsync(machine.Disk, new ImageOpenOptions { Format = "qcow2" });

    private static async Task WriteAsync(MachineFolder machine, long offset, byte value)
    {
        await using IImage image = await OpenAsync(machine);
        byte[] cluster = new byte[Cluster];
        Array.Fill(cluster, value);
        await image.WriteAsync(offset, cluster);
        await image.FlushAsync();
    }

    private static async Task<byte[]> ReadAsync(MachineFolder machine)
    {
        await using IImage image = await ImageOpener.OpenAsync(machine.Disk, new ImageOpenOptions { Format = "qcow2", ReadOnly = true });
        return await image.ReadBytesAsync(0, Size);
    }

    private static async Task<byte[]> BytesAsync(MachineFolder machine, params long[] offsets)
    {
        byte[] all = await ReadAsync(machine);
        return [.. offsets.Select(offset => all[offset])];
    }

    private sealed class CopyProgress : IProgress<double>
    {
        public double Last { get; private set; }

        public void Report(double value)
        {
            Assert.InRange(value, Last, 1);
            Last = value;
        }
    }
}
