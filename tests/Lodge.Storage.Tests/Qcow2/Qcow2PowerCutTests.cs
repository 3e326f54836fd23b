using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Qcow2;

/// <summary>Cuts the power at any moment: no corruption, no flushed data lost.</summary>
public sealed class Qcow2PowerCutTests
{
    private const int Length = 782 * 512;

    private static int Seeds => int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out var cases) ? Math.Max(1, cases / 20) : 6;

    public static TheoryData<string> Options => Qcow2Cases.All;

    [Theory]
    [MemberData(nameof(Options))]
    public async Task APowerCutLeavesNoCorruptionAndLosesNothingFlushed(string options)
    {
        var cases = 0;
        for (var seed = 0; seed < Seeds; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            await using var image = await Qcow2Cases.CreateAsync(files, "disk", Length, options);
            await files["disk"].FlushAsync();
            var model = new DiskModel(image, random);
            for (var step = 0; step < 40; step++)
            {
                await model.StepAsync(30_000);
                cases++;
                await SurviveAsync(files["disk"], model, random, options, $"{options} seed {seed} step {step}");
            }
        }

        Assert.True(cases >= 40 * Seeds);
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task AFailureAtAnyWriteLeavesNoCorruption(string options)
    {
        for (var seed = 0; seed < 3 * Seeds; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var image = await Qcow2Cases.CreateAsync(files, "disk", Length, options);
            await files["disk"].FlushAsync();
            var model = new DiskModel(image, random);
            for (var step = 0; step < 10; step++)
            {
                await model.StepAsync(30_000);
            }

            // From here on the host is full: in the middle of operations and commits.
            files["disk"].FailAfter = random.Next(0, 25);
            try
            {
                for (var step = 0; step < 30; step++)
                {
                    await model.StepAsync(30_000);
                }

                await image.FlushAsync();
            }
            catch (DiskException failure) when (failure.Error == DiskError.NoSpace)
            {
            }

            await SurviveAsync(files["disk"], model, random, options, $"{options} seed {seed} full");

            // There is room again: the same image goes on.
            files["disk"].FailAfter = -1;
            await image.WriteAsync(0, new byte[5000]);
            await image.FlushAsync();
            await image.DisposeAsync();
            await Qcow2Cases.CheckAsync(files, "disk", leaksAllowed: true, $"{options} seed {seed} after");
        }
    }

    [Fact]
    public async Task APowerCutInASnapshotOperationLeavesTheOldOrTheNew()
    {
        for (var seed = 0; seed < 10 * Seeds; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var image = await Qcow2Cases.CreateAsync(files, "disk", Length, Qcow2Cases.Options[seed % 3 == 0 ? 1 : seed % 3 == 1 ? 0 : 6]);
            var model = new DiskModel(image, random);
            var full = false;
            var kept = new Dictionary<string, byte[]>();
            for (var step = 0; step < 12; step++)
            {
                for (var inner = 0; inner < 3; inner++)
                {
                    await model.StepAsync(30_000);
                }

                await image.FlushAsync();
                var content = model.Content.ToArray();
                var states = new List<byte[]> { content };

                // The operation fails at a random write; a file that lost any choice of what was not flushed is the old image or the new one.
                files["disk"].FailAfter = random.Next(8) == 0 ? -1 : random.Next(0, 12);
                try
                {
                    if (kept.Count == 0 || random.Next(3) == 0)
                    {
                        await image.CreateSnapshotAsync($"s{step}");
                        kept[$"s{step}"] = content;
                    }
                    else
                    {
                        var chosen = kept.Keys.First();
                        states.Add(kept[chosen]);
                        if (random.Next(2) == 0)
                        {
                            await image.ApplySnapshotAsync(chosen);
                            kept[chosen].CopyTo(model.Content, 0);
                        }
                        else
                        {
                            await image.DeleteSnapshotAsync(chosen);
                            kept.Remove(chosen);
                        }
                    }
                }
                catch (DiskException failure) when (failure.Error == DiskError.NoSpace)
                {
                    full = true;
                }

                files["disk"].FailAfter = -1;
                var survivor = new MemoryFiles();
                survivor.Files["disk"] = files["disk"].AfterPowerCut(random);
                await Qcow2Cases.CheckAsync(survivor, "disk", leaksAllowed: true, $"seed {seed} step {step}");
                if (random.Next(40) == 0)
                {
                    Qcow2Cases.CheckByQemu(survivor["disk"].Content, leaksAllowed: true, $"seed {seed} step {step}");
                }

                await using var again = await survivor.OpenAsync("disk", "qcow2", readOnly: true);
                var read = await again.ReadBytesAsync(0, Length);
                Assert.True(states.Exists(state => state.AsSpan().SequenceEqual(read)), $"seed {seed} step {step}: neither the old nor the new content");
                await model.CompareAsync();
                if (full)
                {
                    // A header of which it is not known whether it was written is taken from the file again.
                    await image.DisposeAsync();
                    image = (Qcow2Image)await files.OpenAsync("disk", "qcow2");
                    model = new DiskModel(image, random, model.Content);
                    full = false;
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task AGrownOverlayNeverShowsMoreOfItsParent(string options)
    {
        if (options.Contains("preallocation"))
        {
            return;
        }

        var grown = 0;
        for (var seed = 0; seed < 40; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            await files.CreateAsync("parent", "qcow2", Length);
            await using (var parent = await files.OpenAsync("parent", "qcow2"))
            {
                await parent.WriteAsync(0, Enumerable.Repeat((byte)0xAA, Length).ToArray());
            }

            var before = random.Next(1, 300) * 512;
            await using var image = await Qcow2Cases.CreateAsync(files, "disk", before, options + ",backing_file=parent,backing_fmt=qcow2");
            await files["disk"].FlushAsync();
            files["disk"].FailAfter = options.Contains("0.10") ? seed * 8 : seed;
            try
            {
                await image.SetLengthAsync(Length);
            }
            catch (DiskException failure) when (failure.Error == DiskError.NoSpace)
            {
            }

            files["disk"].FailAfter = -1;
            files.Files["disk"] = files["disk"].AfterPowerCut(random);
            if (options.Contains("lazy"))
            {
                await using var repaired = await files.OpenAsync("disk", "qcow2");
            }

            await Qcow2Cases.CheckAsync(files, "disk", leaksAllowed: true, $"{options} seed {seed}");
            await using var again = await files.OpenAsync("disk", "qcow2", readOnly: true);
            Assert.True(again.Length == before || again.Length == Length);
            grown += again.Length == Length ? 1 : 0;
            var read = await again.ReadBytesAsync(0, (int)again.Length);
            Assert.False(read.AsSpan(0, before).ContainsAnyExcept((byte)0xAA), $"{options} seed {seed}: the content has changed");
            Assert.False(read.AsSpan(before).ContainsAnyExcept((byte)0), $"{options} seed {seed}: what was added shows the parent");
        }

        Assert.InRange(grown, 1, 39);
    }

    private static async Task SurviveAsync(MemoryFile file, DiskModel model, Random random, string options, string what)
    {
        var survivor = new MemoryFiles();
        survivor.Files["disk"] = file.AfterPowerCut(random);
        if (options.Contains("lazy"))
        {
            // Marked dirty: opening it for writing rebuilds the refcounts.
            await using var repaired = await survivor.OpenAsync("disk", "qcow2");
        }

        await Qcow2Cases.CheckAsync(survivor, "disk", leaksAllowed: true, what);
        if (random.Next(40) == 0)
        {
            Qcow2Cases.CheckByQemu(survivor["disk"].Content, leaksAllowed: true, what);
        }

        await using var again = await survivor.OpenAsync("disk", "qcow2", readOnly: true);
        await model.CompareFlushedAsync(again);
    }
}
