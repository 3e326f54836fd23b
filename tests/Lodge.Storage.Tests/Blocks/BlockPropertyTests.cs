using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Blocks;

/// <summary>Random operations, power cuts and full disks on images of blocks.</summary>
public sealed class BlockPropertyTests
{
    private static int Cases => int.TryParse(Environment.GetEnvironmentVariable("LODGE_POWER_CUTS"), out var cases) ? cases : 10;

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task RandomOperationsMatchAPlainArray(string format, string options, bool parent)
    {
        for (var seed = 0; seed < 2; seed++)
        {
            var random = new Random(seed);
            var (files, content) = await BlockCases.CreateAsync(format, options, parent, random);
            for (var round = 0; round < 3; round++)
            {
                await using (var image = await files.OpenAsync("image", format))
                {
                    var model = new DiskModel(image, random, content);
                    for (var step = 0; step < 60; step++)
                    {
                        await model.StepAsync(discardZeroes: !parent);
                    }

                    await model.CompareAsync();
                    await BlockCases.CheckAsync(image, $"seed {seed}");
                }

                await using var again = await files.OpenAsync("image", format, readOnly: true);
                Assert.True(BlockCases.Same(content, await again.ReadBytesAsync(0, content.Length)), $"seed {seed}: another content after opening again");
                await BlockCases.CheckAsync(again, $"seed {seed}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task ParallelRequestsMatchAPlainArray(string format, string options, bool parent)
    {
        var (files, content) = await BlockCases.CreateAsync(format, options, parent, new Random(1));
        await using (var image = await files.OpenAsync("image", format))
        {
            // Each worker has its own bytes of every sector, so that all meet in sectors and blocks.
            const int Workers = 4;
            await Task.WhenAll(Enumerable.Range(0, Workers).Select(worker => Task.Run(async () =>
            {
                var random = new Random(worker);
                for (var step = 0; step < 400; step++)
                {
                    var at = (random.Next(content.Length / 512) * 512) + (worker * (512 / Workers));
                    var bytes = new byte[512 / Workers];
                    random.NextBytes(bytes);
                    await image.WriteAsync(at, bytes);
                    bytes.CopyTo(content, at);
                    if (step % 50 == 0)
                    {
                        await image.FlushAsync();
                    }
                }
            })));
            Assert.True(BlockCases.Same(content, await image.ReadBytesAsync(0, content.Length)));
        }

        await using var again = await files.OpenAsync("image", format, readOnly: true);
        Assert.True(BlockCases.Same(content, await again.ReadBytesAsync(0, content.Length)));
        await BlockCases.CheckAsync(again, format);
    }

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task PowerCutsLoseNothingFlushed(string format, string options, bool parent)
    {
        for (var seed = 0; seed < Cases; seed++)
        {
            var random = new Random(seed);
            var (files, content) = await BlockCases.CreateAsync(format, options, parent, random);
            var file = files["image"];

            // The power may go at any change of the file, also in the middle of a flush.
            for (var round = 0; round < 2; round++)
            {
                var image = await BlockCases.OpenAsync(files, file, format);
                var model = new DiskModel(image, random, content);
                file.FailAfter = random.Next(1, 80);
                try
                {
                    for (var step = 0; step < 40; step++)
                    {
                        await model.StepAsync(100_000);
                    }
                }
                catch (DiskException failure) when (failure.Error == DiskError.NoSpace)
                {
                }

                file = file.AfterPowerCut(random);
                try
                {
                    await using (var readOnly = await BlockCases.OpenAsync(files, file, format, readOnly: true))
                    {
                        await model.CompareFlushedAsync(readOnly);
                        await BlockCases.CheckAsync(readOnly, "check", leaks: false);
                    }

                    await using var survivor = await BlockCases.OpenAsync(files, file, format);
                    await model.CompareFlushedAsync(survivor);
                    content = await survivor.ReadBytesAsync(0, content.Length);
                }
                catch (Exception failure)
                {
                    Assert.Fail($"seed {seed}, round {round}: {failure.Message}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task AFullHostLosesNothingFlushed(string format, string options, bool parent)
    {
        for (var seed = 0; seed < 8; seed++)
        {
            var random = new Random(seed);
            var (files, content) = await BlockCases.CreateAsync(format, options, parent, random);
            var file = files["image"];
            var image = await files.OpenAsync("image", format);
            var model = new DiskModel(image, random, content);
            file.FailAfter = random.Next(1, 80);
            for (var step = 0; step < 60; step++)
            {
                try
                {
                    await model.StepAsync(100_000);
                }
                catch (DiskException failure) when (failure.Error == DiskError.NoSpace)
                {
                    break;
                }
            }

            await model.CompareFlushedAsync(image);
            file.FailAfter = -1;
            var before = await image.ReadBytesAsync(0, content.Length);
            await image.DisposeAsync();
            await using var again = await files.OpenAsync("image", format);
            Assert.True(BlockCases.Same(before, await again.ReadBytesAsync(0, content.Length)), $"seed {seed}");
            await BlockCases.CheckAsync(again, $"seed {seed}", leaks: false);
        }
    }

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task ResizingKeepsTheContentAndAddsZeroes(string format, string options, bool parent)
    {
        for (var seed = 0; seed < 8; seed++)
        {
            var random = new Random(seed);
            var (files, content) = await BlockCases.CreateAsync(format, options, parent, random);
            for (var round = 0; round < 4; round++)
            {
                await using (var image = await files.OpenAsync("image", format))
                {
                    var size = random.Next(0, 5 << 20) / 512 * 512;
                    await image.SetLengthAsync(size);
                    var kept = Math.Min(content.Length, size);
                    Array.Resize(ref content, size);
                    Assert.Equal(size, image.Length);
                    Assert.True(BlockCases.Same(content, await image.ReadBytesAsync(0, size)), $"seed {seed}, round {round}: {kept} bytes kept");
                    if (size > 0)
                    {
                        var model = new DiskModel(image, random, content);
                        for (var step = 0; step < 6; step++)
                        {
                            await model.StepAsync();
                        }
                    }

                    await BlockCases.CheckAsync(image, $"seed {seed}, round {round}", leaks: false);
                }

                await using var again = await files.OpenAsync("image", format, readOnly: true);
                Assert.True(BlockCases.Same(content, await again.ReadBytesAsync(0, content.Length)), $"seed {seed}, round {round}: opened again");
            }
        }
    }

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task PowerCutsWhileResizingKeepTheContent(string format, string options, bool parent)
    {
        for (var seed = 0; seed < Cases; seed++)
        {
            var random = new Random(seed);
            var (files, content) = await BlockCases.CreateAsync(format, options, parent, random);
            var file = files["image"];
            var image = await files.OpenAsync("image", format);
            var model = new DiskModel(image, random, content);
            for (var step = 0; step < 6; step++)
            {
                await model.StepAsync(500_000);
            }

            await image.FlushAsync();
            var size = random.Next(content.Length / 512, 9_000) * 512;
            file.FailAfter = random.Next(0, 12);
            try
            {
                await image.SetLengthAsync(size);
                await image.FlushAsync();
            }
            catch (DiskException failure) when (failure.Error == DiskError.NoSpace)
            {
            }

            try
            {
                await using var survivor = await BlockCases.OpenAsync(files, file.AfterPowerCut(random), format);
                Assert.True(survivor.Length == size || survivor.Length == content.Length);
                Assert.True(BlockCases.Same(content, await survivor.ReadBytesAsync(0, content.Length)), "another content");
                await BlockCases.CheckAsync(survivor, "check", leaks: false);
            }
            catch (Exception failure)
            {
                Assert.Fail($"seed {seed}: {failure.Message}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(BlockCases.All), MemberType = typeof(BlockCases))]
    public async Task DamagedImagesEndInAClearError(string format, string options, bool parent)
    {
        var cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out var wanted) ? wanted : 100;
        var (files, content) = await BlockCases.CreateAsync(format, options, parent, new Random(0));
        await using (var image = await files.OpenAsync("image", format))
        {
            var model = new DiskModel(image, new Random(0), content);
            for (var step = 0; step < 20; step++)
            {
                await model.StepAsync(50_000);
            }
        }

        var valid = files["image"].Content;
        var opened = 0;
        for (var seed = 0; seed < cases; seed++)
        {
            var random = new Random(seed);
            var bytes = valid.ToArray();
            for (var flips = random.Next(1, 6); flips > 0; flips--)
            {
                var at = random.Next(5) switch
                {
                    0 => random.Next(bytes.Length),
                    1 => bytes.Length - 1 - random.Next(512),
                    2 => Math.Min(random.Next(1 << 18), bytes.Length - 1),
                    3 when format == "vhdx" => Math.Min(((random.Next(4) + 1) << 20) + random.Next(2) * 65536 + random.Next(300), bytes.Length - 1),
                    _ => random.Next(4096),
                };
                bytes[at] = random.Next(3) switch { 0 => 0xFF, 1 => 0, _ => (byte)random.Next(256) };
            }

            if (random.Next(8) == 0)
            {
                bytes = bytes[..random.Next(bytes.Length)];
            }

            Damage.Mend(format, bytes);
            try
            {
                await using var image = await BlockCases.OpenAsync(files, new MemoryFile { Content = bytes }, format, checking: random.Next(2) == 0);
                opened++;
                var buffer = new byte[100_000];
                for (var read = 0; read < 8 && image.Length > 0; read++)
                {
                    var at = random.NextInt64(image.Length);
                    var length = (int)Math.Min(buffer.Length, image.Length - at);
                    await image.ReadAsync(at, buffer.AsMemory(0, length));
                    await image.WriteAsync(at, buffer.AsMemory(0, length));
                    await image.GetStatusAsync(at, image.Length - at);
                }

                if (image is ICheck check)
                {
                    await check.CheckAsync(random.Next(2) == 0 ? CheckRepair.None : CheckRepair.All);
                }
            }
            catch (DiskException)
            {
            }
            catch (Exception failure)
            {
                Assert.Fail($"seed {seed}: {failure}");
            }
        }

        Assert.True(opened > 0, "no damaged image could be opened: the test shows nothing");
    }
}
