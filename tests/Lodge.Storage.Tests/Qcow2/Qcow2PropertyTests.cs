using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Qcow2;

public sealed class Qcow2PropertyTests
{
    private const int Length = 5861 * 512;

    public static TheoryData<string> Options => Qcow2Cases.All;

    [Theory]
    [MemberData(nameof(Options))]
    public async Task RandomOperationsEqualAnArray(string options)
    {
        for (var seed = 0; seed < 2; seed++)
        {
            var files = new MemoryFiles();
            var image = await Qcow2Cases.CreateAsync(files, "disk", Length, options);
            var random = new Random(seed);
            var model = new DiskModel(image, random);
            for (var step = 0; step < 120; step++)
            {
                await model.StepAsync(discardZeroes: true);
                if (step % 10 == 0)
                {
                    await CompressAsync(image, model.Content, random);
                }
            }

            await model.CompareAsync();
            await image.DisposeAsync();
            await Qcow2Cases.CheckAsync(files, "disk", what: $"{options} seed {seed}");
            await using var again = await files.OpenAsync("disk", "qcow2", readOnly: true);
            await model.CompareAsync(again);
        }
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task RandomOperationsOverABackingChainEqualAnArray(string options)
    {
        if (options.Contains("preallocation"))
        {
            return;
        }

        for (var seed = 0; seed < 2; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var raw = new byte[Length - 700_000 - 300];
            random.NextBytes(raw);
            raw.AsSpan(100_000, 300_000).Clear();
            files["base"].Content = raw;
            var content = new byte[Length];
            raw.CopyTo(content, 0);
            await files.CreateAsync("middle", "qcow2", Length - 102_400, ("backing_file", "base"), ("backing_fmt", "raw"), ("cluster_size", "8k"));
            await using (var middle = await files.OpenAsync("middle", "qcow2"))
            {
                var below = new DiskModel(middle, random, content[..(Length - 102_400)]);
                for (var step = 0; step < 20; step++)
                {
                    await below.StepAsync();
                }

                below.Content.CopyTo(content, 0);
            }

            var image = await Qcow2Cases.CreateAsync(files, "top", Length, options + ",backing_file=middle,backing_fmt=qcow2");
            var model = new DiskModel(image, random, content);
            for (var step = 0; step < 100; step++)
            {
                await model.StepAsync();
            }

            await model.CompareAsync();
            await image.DisposeAsync();
            await Qcow2Cases.CheckAsync(files, "top", what: $"{options} seed {seed}");
            await using var again = await files.OpenAsync("top", "qcow2", readOnly: true);
            await model.CompareAsync(again);
        }
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task SnapshotsKeepWhatWas(string options)
    {
        if (options.Contains("refcount_bits=1") && !options.Contains("refcount_bits=16"))
        {
            return;
        }

        // Two bits of a refcount count to three: the disk and two snapshots.
        var most = options.Contains("refcount_bits=2") ? 2 : 4;
        for (var seed = 0; seed < 2; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var image = await Qcow2Cases.CreateAsync(files, "disk", Length, options);
            var model = new DiskModel(image, random);
            var kept = new Dictionary<string, byte[]>();
            for (var step = 0; step < 150; step++)
            {
                switch (random.Next(12))
                {
                    case 0 when kept.Count < most:
                        var name = $"s{step}";
                        await image.CreateSnapshotAsync(name);
                        kept[name] = model.Content.ToArray();
                        break;
                    case 1 when kept.Count > 0:
                        var chosen = kept.Keys.ElementAt(random.Next(kept.Count));
                        await image.ApplySnapshotAsync(chosen);
                        kept[chosen].CopyTo(model.Content, 0);
                        break;
                    case 2 when kept.Count > 0:
                        var gone = kept.Keys.ElementAt(random.Next(kept.Count));
                        await image.DeleteSnapshotAsync(gone);
                        kept.Remove(gone);
                        break;
                    case 3 when most > 2:
                        await CompressAsync(image, model.Content, random);
                        break;
                    default:
                        await model.StepAsync(discardZeroes: true);
                        break;
                }
            }

            await model.CompareAsync();
            await image.DisposeAsync();
            await Qcow2Cases.CheckAsync(files, "disk", what: $"{options} seed {seed}");
            foreach (var (name, content) in kept)
            {
                await using var snapshot = await new Qcow2Format().OpenAsync(files["disk"], new ImageContext(true, files, Snapshot: name));
                await Qcow2Cases.CompareAsync(snapshot, content, $"{options} seed {seed} snapshot {name}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task SizesChange(string options)
    {
        for (var seed = 0; seed < 2; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            await files.CreateAsync("base", "raw", 400_000);
            var raw = new byte[400_000];
            random.NextBytes(raw);
            files["base"].Content = raw;
            var backed = !options.Contains("preallocation") && seed > 0;
            var image = await Qcow2Cases.CreateAsync(files, "disk", 300_032, options + (backed ? ",backing_file=base,backing_fmt=raw" : ""));
            var content = backed ? raw[..300_032] : new byte[300_032];
            for (var step = 0; step < 12; step++)
            {
                var length = random.Next(1, 4000) * 512;
                await image.ResizeAsync(length);
                Array.Resize(ref content, length);
                Assert.Equal(length, image.Length);
                var model = new DiskModel(image, random, content);
                for (var inner = 0; inner < 5; inner++)
                {
                    await model.StepAsync();
                }

                content = model.Content;
                await Qcow2Cases.CompareAsync(image, content, $"{options} seed {seed} step {step}");
            }

            await image.DisposeAsync();
            await Qcow2Cases.CheckAsync(files, "disk", what: $"{options} seed {seed}");
        }
    }

    [Fact]
    public async Task ParallelWritersOfTheSameClustersLoseNothing()
    {
        foreach (var options in new[] { "cluster_size=64k", "cluster_size=64k,extended_l2=on", "cluster_size=4k" })
        {
            var files = new MemoryFiles();
            files["base"].Content = [.. Enumerable.Repeat((byte)7, 1 << 20)];
            await using var image = await Qcow2Cases.CreateAsync(files, "disk", 1 << 20, options + ",backing_file=base,backing_fmt=raw");
            var content = files["base"].Content;
            await Parallel.ForAsync(0, 2048, async (index, _) =>
            {
                // Each writes its own 512 bytes, all to few clusters at once.
                var at = index * 37 % 2048 * 512;
                var bytes = new byte[512];
                Array.Fill(bytes, (byte)index);
                await image.WriteAsync(at, bytes);
                bytes.CopyTo(content, at);
                if (index % 64 == 0)
                {
                    await image.FlushAsync();
                }

                var read = await image.ReadBytesAsync(at, 512);
                Assert.Equal(bytes, read);
            });
            await Qcow2Cases.CompareAsync(image, content, options);
        }
    }

    [Fact]
    public async Task ParallelDiscardsAndWritesKeepClustersApart()
    {
        var files = new MemoryFiles();
        var image = await Qcow2Cases.CreateAsync(files, "disk", 4 << 20, "cluster_size=4k");
        var content = new byte[4 << 20];
        await Parallel.ForAsync(0, 16, async (worker, _) =>
        {
            // Each works on its own part of the disk; host clusters go from one to another.
            var random = new Random(worker);
            for (var step = 0; step < 150; step++)
            {
                var at = (worker * (256 << 10)) + (random.Next(60) * 4096);
                if (random.Next(3) == 0)
                {
                    await image.DiscardAsync(at, 4 * 4096);
                    content.AsSpan(at, 4 * 4096).Clear();
                }
                else if (random.Next(40) == 0)
                {
                    await image.FlushAsync();
                }
                else
                {
                    var bytes = new byte[random.Next(1, 9000)];
                    random.NextBytes(bytes);
                    await image.WriteAsync(at, bytes);
                    bytes.CopyTo(content, at);
                }
            }
        });
        await Qcow2Cases.CompareAsync(image, content, "parallel");
        await image.DisposeAsync();
        await Qcow2Cases.CheckAsync(files, "disk");
    }

    private static async Task CompressAsync(Qcow2Image image, byte[] content, Random random)
    {
        var unit = image.CompressionUnit;
        var at = random.Next(content.Length / unit) * unit;
        var bytes = new byte[Math.Min(unit, content.Length - at)];
        for (var index = 0; index < bytes.Length; index++)
        {
            bytes[index] = (byte)(index / 50 * random.Next(2));
        }

        bytes.CopyTo(content, at);
        await image.WriteCompressedAsync(at, bytes);
    }
}
