using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Tests.Kill;

/// <summary>A verb of <c>lodge image</c> that is killed, and what must hold of its files afterwards.</summary>
/// <param name="Name">How it is called in tables.</param>
/// <param name="Arguments">What follows <c>lodge image</c>; names are relative to the folder of the run.</param>
public sealed record KillCommand(string Name, string Arguments)
{
    private const int Length = 12 << 20;

    /// <summary>Makes the files.</summary>
    public required Func<KillFolder, Task> Prepare { get; init; }

    /// <summary>Looks at them after the kill, and after the command was run again where <see cref="Again"/> says that it can be.</summary>
    public required Func<KillFolder, bool, Task> Verify { get; init; }

    /// <summary>Whether the same command, run again, must do its work.</summary>
    public bool Again { get; init; } = true;

    public static IReadOnlyList<KillCommand> All { get; } =
    [
        Convert("qcow2", "-O qcow2 source target"),
        Convert("qcow2", "-c -O qcow2 -o compression_type=zstd source target"),
        Convert("qcow2", "-O qcow2 -o lazy_refcounts=on,cluster_size=4k source target"),
        Convert("raw", "-O raw source target"),
        Convert("vmdk", "-O vmdk source target"),
        Convert("vmdk", "-O vmdk -o subformat=streamOptimized source target"),
        Convert("vmdk", "-O vmdk -o subformat=twoGbMaxExtentSparse source target", replaces: false),
        Convert("vhdx", "-O vhdx source target"),
        Convert("vpc", "-O vpc -o force_size=on source target"),
        Convert("vdi", "-O vdi source target"),
        Convert("raw", "-O raw source target", "dd", "-f qcow2 -O raw bs=64k if=source of=target"),
        new("create", "create -f qcow2 -o preallocation=metadata target 1G")
        {
            Prepare = _ => Task.CompletedTask,
            Verify = async (folder, done) =>
            {
                folder.RequireOnly("target");
                if (done || File.Exists(folder["target"]))
                {
                    folder.Check("target", leaks: false);
                    await using var image = await folder.OpenAsync("target", "qcow2");
                    folder.Require(image.Length == 1 << 30, "the new image has another size");
                }
            },
        },
        new("snapshot -c", "snapshot -c two disk") { Prepare = PrepareSnapshotAsync, Verify = VerifySnapshotAsync },
        new("snapshot -a", "snapshot -a one disk") { Prepare = PrepareSnapshotAsync, Verify = VerifySnapshotAsync },
        new("snapshot -d", "snapshot -d one disk") { Prepare = PrepareSnapshotAsync, Verify = VerifySnapshotAsync, Again = false },
        Resize("qcow2", "resize disk 5G"),
        Resize("qcow2", "resize --shrink disk 6M"),
        Resize("vhdx", "resize disk 5G"),
        Resize("vpc", "resize disk 1G"),
        Resize("vdi", "resize disk 500M"),
        new("commit", "commit disk")
        {
            Prepare = PrepareChainAsync,
            Verify = async (folder, done) =>
            {
                await folder.RequireContentAsync("disk", "qcow2", folder.Contents[0]);
                folder.Check("disk");
                folder.Check("base");
                if (done)
                {
                    await folder.RequireContentAsync("base", "qcow2", folder.Contents[0]);
                }
            },
        },
        Rebase("rebase -b other -F qcow2 disk"),
        Rebase("rebase -b '' disk"),
        new("check -r leaks", "check -r leaks disk") { Prepare = folder => PrepareDamageAsync(folder, true), Verify = (folder, done) => VerifyCheckAsync(folder, done, true) },
        new("check -r all", "check -r all disk") { Prepare = folder => PrepareDamageAsync(folder, false), Verify = (folder, done) => VerifyCheckAsync(folder, done, false) },
        new("amend", "amend -o refcount_bits=64 disk") { Prepare = PrepareSnapshotAsync, Verify = VerifyAmendAsync },
        new("amend -o compat", "amend -o compat=0.10 disk") { Prepare = async folder => folder.Contents.Add(await folder.MakeAsync("disk", "qcow2", Length, "cluster_size=4k")), Verify = VerifyAmendAsync },
    ];

    private static KillCommand Convert(string format, string arguments, string verb = "convert", string? other = null, bool replaces = true) => new($"{verb} {other ?? arguments}", $"{verb} {other ?? "-f qcow2 " + arguments}")
    {
        Prepare = async folder =>
        {
            folder.Contents.Add(await folder.MakeAsync("source", "qcow2", Length));
            if (replaces && folder.Random.Next(2) == 0)
            {
                folder.Contents.Add(await folder.MakeAsync("target", format, Length / 2, format == "vpc" ? "force_size=on" : ""));
            }
        },
        Verify = async (folder, done) =>
        {
            await folder.RequireContentAsync("source", "qcow2", folder.Contents[0]);
            folder.Check("source", leaks: false);
            if (replaces)
            {
                folder.RequireOnly("source", "target");
            }

            folder.Require(!done || File.Exists(folder["target"]), "there is no target");
            folder.Require(folder.Contents.Count == 1 || File.Exists(folder["target"]), "the target that was there is gone");
            if (File.Exists(folder["target"]))
            {
                await folder.RequireContentAsync("target", format, done ? [folder.Contents[0]] : [.. folder.Contents]);
                folder.CheckOurs("target", format);
            }
        },
    };

    private static KillCommand Resize(string format, string arguments) => new($"{arguments} ({format})", arguments.Replace("resize", $"resize -f {format}"))
    {
        Prepare = async folder => folder.Contents.Add(await folder.MakeAsync("disk", format, Length, format == "vpc" ? "force_size=on" : "")),
        Verify = async (folder, done) =>
        {
            folder.RequireOnly("disk");
            folder.CheckOurs("disk", format);
            if (format == "vhdx")
            {
                // Whoever opens it for writing carries out what is in its log; qemu-img check only says that there is something.
                await (await folder.OpenAsync("disk", format, readOnly: false)).DisposeAsync();
            }

            if (format is "qcow2" or "vhdx")
            {
                folder.Check("disk", format: format);
            }

            await using var image = await folder.OpenAsync("disk", format);
            var kept = (int)Math.Min(image.Length, arguments.Contains("shrink") ? 6 << 20 : Length);
            folder.Require((await image.ReadBytesAsync(0, kept)).AsSpan().SequenceEqual(folder.Contents[0].AsSpan(0, kept)), "the content has changed");
            folder.Require(done ? image.Length != Length : image.Length >= kept, $"the disk has {image.Length} bytes");
            if (image.Length > Length)
            {
                folder.Require(!(await image.ReadBytesAsync(Length, 8 << 20)).AsSpan().ContainsAnyExcept((byte)0), "what was added is not zero");
            }
        },
    };

    private static KillCommand Rebase(string arguments) => new(arguments, arguments)
    {
        Prepare = PrepareChainAsync,
        Verify = async (folder, done) =>
        {
            await folder.RequireContentAsync("disk", "qcow2", folder.Contents[0]);
            folder.Check("disk");
            await folder.RequireContentAsync("base", "qcow2", folder.Contents[1]);
            await using var image = await folder.OpenAsync("disk", "qcow2");
            folder.Require(!done || image.Describe().BackingName == (arguments.Contains("other") ? "other" : null), "the parent is the former");
        },
    };

    private static async Task PrepareChainAsync(KillFolder folder)
    {
        var below = await folder.MakeAsync("base", "qcow2", Length);
        await folder.MakeAsync("other", "qcow2", Length);
        await folder.CreateAsync("disk", "qcow2", Length, "backing_file=base,backing_fmt=qcow2,cluster_size=16k");
        await using var image = await folder.OpenAsync("disk", "qcow2", readOnly: false);
        folder.Contents.Add(await folder.FillAsync(image, below.ToArray()));
        folder.Contents.Add(below);
    }

    private static async Task PrepareSnapshotAsync(KillFolder folder)
    {
        await folder.CreateAsync("disk", "qcow2", Length, "cluster_size=4k");
        await using var image = await folder.OpenAsync("disk", "qcow2", readOnly: false);
        var old = await folder.FillAsync(image, new byte[Length]);
        await ((ISnapshots)image).CreateSnapshotAsync("one");
        folder.Contents.Add(await folder.FillAsync(image, old.ToArray()));
        folder.Contents.Add(old);
    }

    private static async Task VerifySnapshotAsync(KillFolder folder, bool done)
    {
        folder.RequireOnly("disk");
        folder.Check("disk");
        await folder.RequireContentAsync("disk", "qcow2", [.. folder.Contents]);
        string[] names;
        await using (var image = await folder.OpenAsync("disk", "qcow2"))
        {
            names = [.. ((ISnapshots)image).Snapshots.Select(snapshot => snapshot.Name)];
        }

        foreach (var name in names)
        {
            await using var snapshot = await folder.OpenAsync("disk", "qcow2", snapshot: name);
            folder.Require((await snapshot.ReadBytesAsync(0, Length)).AsSpan().SequenceEqual(folder.Contents[name == "one" ? 1 : 0]), $"the snapshot {name} has another content");
        }

        folder.Repair();
    }

    private static async Task VerifyAmendAsync(KillFolder folder, bool done)
    {
        await VerifySnapshotAsync(folder, done);
        await folder.RequireContentAsync("disk", "qcow2", folder.Contents[0]);
    }

    /// <summary>An image whose refcounts say more than is used, or less.</summary>
    private static async Task PrepareDamageAsync(KillFolder folder, bool leaks)
    {
        folder.Contents.Add(await folder.MakeAsync("disk", "qcow2", Length, "cluster_size=4k"));
        var bytes = await File.ReadAllBytesAsync(folder["disk"]);
        var table = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(48));
        var used = bytes.Length / 4096;
        if (leaks)
        {
            Array.Resize(ref bytes, bytes.Length + (200 * 4096));
        }

        // Blocks of counts of two bytes, 2048 in each.
        for (var cluster = leaks ? used : 20; cluster < bytes.Length / 4096; cluster++)
        {
            var place = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(table + (cluster / 2048 * 8)));
            if (place != 0 && (leaks || cluster % 3 == 0))
            {
                BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(place + (cluster % 2048 * 2)), (ushort)(leaks ? 1 : 0));
            }
        }

        await File.WriteAllBytesAsync(folder["disk"], bytes);
    }

    private static async Task VerifyCheckAsync(KillFolder folder, bool done, bool leaks)
    {
        folder.RequireOnly("disk");
        await folder.RequireContentAsync("disk", "qcow2", folder.Contents[0]);
        if (leaks || done)
        {
            folder.Check("disk", leaks: !done);
        }
    }
}
