using System.Globalization;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Vmdk;

/// <summary>Damaged and malicious images end in a clear error.</summary>
public class VmdkHostileTests
{
    [Fact]
    public async Task Damaged_images_end_in_an_error_or_in_content()
    {
        var cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), NumberStyles.None, CultureInfo.InvariantCulture, out var more) ? more : 1500;
        List<MemoryFiles> valid = [];
        foreach (var subformat in (string[])["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized", "monolithicFlat"])
        {
            var files = new MemoryFiles();
            await files.CreateAsync("disk.vmdk", "vmdk", 2 << 20, ("subformat", subformat));
            await using var image = await files.OpenAsync("disk.vmdk", "vmdk");
            await image.WriteAsync(0, Enumerable.Repeat((byte)7, 4 * 65536).ToArray());
            await image.WriteAsync(1 << 20, Enumerable.Repeat((byte)8, 65536).ToArray());
            valid.Add(files);
        }

        for (var seed = 0; seed < cases; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            foreach (var (name, file) in valid[seed % valid.Count].Files)
            {
                files[name].Content = Damage(random, file.Content);
            }

            try
            {
                await TryAllAsync(files, random);
            }
            catch (DiskException)
            {
                // As it should be.
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}: {e}");
            }
        }
    }

    [Theory]
    [InlineData("RW 999999999999999999999 FLAT \"a\" 0")]
    [InlineData("RW 8 FLAT \"a\" 99999999999999")]
    [InlineData("RW 8 FLAT \"a")]
    [InlineData("RW x FLAT \"a\" 0")]
    [InlineData("RW 8 FLAT \"missing\" 0")]
    [InlineData("RW 8 SESPARSE \"a\"")]
    [InlineData("NOACCESS 8 FLAT \"a\" 0")]
    [InlineData("RW 8 SPARSE \"a\"")]
    [InlineData("")]
    public async Task A_bad_extent_line_is_refused(string line)
    {
        var files = new MemoryFiles();
        files["a"].Content = new byte[512];
        files["disk.vmdk"].Content = Encoding.UTF8.GetBytes($"# Disk DescriptorFile\nversion=1\n{line}\n");
        await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("disk.vmdk", "vmdk"));
    }

    [Fact]
    public async Task A_descriptor_of_many_extents_is_refused()
    {
        var files = new MemoryFiles();
        files["disk.vmdk"].Content = Encoding.UTF8.GetBytes("# Disk DescriptorFile\n" + string.Concat(Enumerable.Repeat("RW 1 ZERO\n", 5000)));
        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("disk.vmdk", "vmdk"))).Error);
    }

    [Fact]
    public async Task A_header_that_promises_more_than_the_file_has_is_refused()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("disk.vmdk", "vmdk", 2 << 20);
        var bytes = files["disk.vmdk"].Content;
        BitConverter.TryWriteBytes(bytes.AsSpan(12), 1L << 40); // capacity
        files["disk.vmdk"].Content = bytes;
        var refused = await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("disk.vmdk", "vmdk"));
        Assert.Equal(DiskError.Corrupt, refused.Error);
    }

    private static byte[] Damage(Random random, byte[] bytes)
    {
        // Mostly in the structures, which are at the beginning and the end.
        for (var times = random.Next(1, 6); times > 0; times--)
        {
            var at = random.Next(4) switch
            {
                0 => random.Next(Math.Min(bytes.Length, 90)),
                1 => random.Next(Math.Min(bytes.Length, 512 * 60)),
                2 => bytes.Length - 1 - random.Next(Math.Min(bytes.Length, 3072)),
                _ => random.Next(bytes.Length),
            };
            switch (random.Next(4))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    random.NextBytes(bytes.AsSpan(at, Math.Min(8, bytes.Length - at)));
                    break;
                default:
                    bytes.AsSpan(at, Math.Min(4, bytes.Length - at)).Fill(0xFF);
                    break;
            }
        }

        return random.Next(10) == 0 ? bytes[..random.Next(bytes.Length)] : bytes;
    }

    private static async Task TryAllAsync(MemoryFiles files, Random random)
    {
        var format = DiskFormats.Named("vmdk");
        var image = await format.OpenAsync(files["disk.vmdk"], new ImageContext(random.Next(2) == 0, files));
        _ = image.Describe();
        await TryAsync(async () => await ((ICheck)image).CheckAsync(CheckRepair.None));
        for (var request = 0; request < 6; request++)
        {
            var offset = random.NextInt64(image.Length + 1);
            var length = (int)Math.Min(image.Length - offset, random.Next(200_000));
            await TryAsync(async () => await image.ReadBytesAsync(offset, length));
            await TryAsync(async () => await image.WriteAsync(offset, new byte[length]));
            await TryAsync(async () => await image.ZeroAsync(offset, length));
            await TryAsync(async () => await image.StatusAsync(offset, length));
        }

        await TryAsync(async () => await image.FlushAsync());
        await TryAsync(async () => await ((ICheck)image).CheckAsync(image.IsReadOnly ? CheckRepair.None : CheckRepair.All));
        await TryAsync(async () => await image.DisposeAsync());
    }

    private static async Task TryAsync(Func<Task> work)
    {
        try
        {
            await work();
        }
        catch (DiskException)
        {
            // As it should be.
        }
    }
}
