using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Qcow2;

/// <summary>Images that lie: they end in a clear error, never in a crash, a hang, unbounded memory or written metadata.</summary>
public sealed class Qcow2HostileTests
{
    private const int Length = 1200 * 512;

    private static int Cases => int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out var cases) ? cases : 100;

    public static TheoryData<string> Options => ["cluster_size=4k", "compat=0.10,cluster_size=512", "cluster_size=16k,extended_l2=on,compression_type=zstd", "cluster_size=1k,refcount_bits=1"];

    [Theory]
    [MemberData(nameof(Options))]
    public async Task DamagedImagesEndInADiskException(string options)
    {
        var valid = await ValidAsync(options);
        for (var seed = 0; seed < Cases; seed++)
        {
            var random = new Random(seed);
            var bytes = Damage(valid, random);
            try
            {
                await UseAsync(bytes, random);
            }
            catch (DiskException failure)
            {
                Assert.DoesNotContain('\n', failure.Message);
            }
            catch (Exception failure)
            {
                Assert.Fail($"{options} seed {seed}: {failure}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task ARepairedImageIsFreeOfErrors(string options)
    {
        var valid = await ValidAsync(options);
        var repaired = 0;
        var unrepaired = 0;
        for (var seed = 0; seed < Cases; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            files["disk"].Content = Damage(valid, random);
            try
            {
                await using var image = (Qcow2Image)await new Qcow2Format().OpenAsync(files["disk"], new ImageContext(false, files, Checking: true));
                var found = await image.CheckAsync(CheckRepair.All);
                repaired += found.Corruptions > 0 && found.CorruptionsFixed == found.Corruptions ? 1 : 0;
                unrepaired += found.CorruptionsFixed < found.Corruptions ? 1 : 0;
                if (found.CorruptionsFixed < found.Corruptions)
                {
                    continue;
                }
            }
            catch (DiskException)
            {
                continue;
            }

            await Qcow2Cases.CheckAsync(files, "disk", what: $"{options} seed {seed}");
            if (seed % 25 == 0)
            {
                Qcow2Cases.CheckByQemu(files["disk"].Content, leaksAllowed: false, $"{options} seed {seed}");
            }

            try
            {
                await using var image = await files.OpenAsync("disk", "qcow2");
                var model = new DiskModel(image, random, await image.ReadBytesAsync(0, (int)Math.Min(image.Length, Length)));
                for (var step = 0; step < 15 && image.Length >= Length; step++)
                {
                    await model.StepAsync();
                }
            }
            catch (DiskException failure) when (failure.Message.Contains("decompressed") || failure.Error is DiskError.Unsupported or DiskError.NoSpace)
            {
                // Damaged compressed data stays damaged.
            }

            await using var after = (Qcow2Image)await new Qcow2Format().OpenAsync(files["disk"], new ImageContext(true, files, Checking: true));
            var left = await after.CheckAsync(CheckRepair.None);

            // Two entries of one disk that named one cluster share it after the repair; when one goes, the other does not learn that it is alone.
            Assert.True(left.Messages.All(line => line.Contains("OFLAG_COPIED") || line.StartsWith("Leaked")), $"{options} seed {seed}: {string.Join("; ", left.Messages)}");
        }

        Assert.True(unrepaired <= Cases / 100, $"{unrepaired} of {Cases} damaged images could not be repaired");
        Assert.True(repaired >= Cases / 50, $"only {repaired} of {Cases} damaged images needed repair");
    }

    [Fact]
    public async Task RandomHeadersEndInADiskException()
    {
        for (var seed = 0; seed < Cases * 10; seed++)
        {
            var random = new Random(seed);
            var bytes = new byte[random.Next(0, 8192)];
            random.NextBytes(bytes);
            if (bytes.Length >= 112)
            {
                BinaryPrimitives.WriteUInt32BigEndian(bytes, Qcow2Header.Magic);
                BinaryPrimitives.WriteInt32BigEndian(bytes.AsSpan(4), random.Next(1, 4));
                foreach (var at in new[] { 16, 20, 32, 36, 56, 60, 96, 100 })
                {
                    BinaryPrimitives.WriteInt32BigEndian(bytes.AsSpan(at), random.Next(2) == 0 ? random.Next(0, 30) : random.Next());
                }

                foreach (var at in new[] { 8, 24, 40, 48, 64, 72, 80, 88 })
                {
                    BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(at), random.Next(3) == 0 ? random.NextInt64() : random.Next(0, 16) * 512);
                }
            }

            try
            {
                await UseAsync(bytes, random);
            }
            catch (DiskException)
            {
            }
            catch (Exception failure)
            {
                Assert.Fail($"seed {seed}: {failure}");
            }
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task DataIsNeverWrittenOverMetadata(int target)
    {
        var files = new MemoryFiles();
        await using (var image = await Qcow2Cases.CreateAsync(files, "disk", Length, "cluster_size=4k"))
        {
            await image.WriteAsync(0, new byte[4096]);
        }

        var bytes = files["disk"].Content;
        var l1 = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(40));
        var table = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(48));
        var l2 = (int)(BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(l1)) & Qcow2Geometry.OffsetMask);
        // The first is a place far beyond the end of the file.
        var victim = target switch { 0 => 1 << 29, 1 => l1, 2 => table, _ => l2 };

        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(l2), (ulong)(uint)victim | Qcow2Geometry.Copied);
        files["disk"].Content = bytes;
        await using (var image = await files.OpenAsync("disk", "qcow2"))
        {
            var failure = await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(0, new byte[512]));
            Assert.Equal(DiskError.Corrupt, failure.Error);
            failure = await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(8192, new byte[512]));
            Assert.Equal(DiskError.Corrupt, failure.Error);
        }

        // It is marked: another program that opens it for writing is told.
        await Assert.ThrowsAsync<DiskException>(async () => await files.OpenAsync("disk", "qcow2"));
        await using var readable = await files.OpenAsync("disk", "qcow2", readOnly: true);
        Assert.Contains(KeyValuePair.Create("corrupt", "true"), readable.Describe().FormatSpecific);
    }

    [Fact]
    public async Task AnUnknownFeatureIsCalledByItsName()
    {
        var files = new MemoryFiles();
        await (await Qcow2Cases.CreateAsync(files, "disk", Length, "cluster_size=4k")).DisposeAsync();
        var bytes = files["disk"].Content;
        bytes[72] = 0x80;
        var names = bytes.AsSpan().IndexOf("dirty bit"u8);
        bytes[names - 1] = 63;
        "quantum\nleap"u8.CopyTo(bytes.AsSpan(names));
        bytes[names + 12] = 0;
        files["disk"].Content = bytes;
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await files.OpenAsync("disk", "qcow2"));
        Assert.Equal(DiskError.Unsupported, failure.Error);
        Assert.Contains("quantumleap", failure.Message);
    }

    [Fact]
    public async Task ATableThatTheFileIsTooShortForTakesNoMemory()
    {
        var files = new MemoryFiles();
        await (await Qcow2Cases.CreateAsync(files, "disk", Length, "cluster_size=64k")).DisposeAsync();
        var bytes = files["disk"].Content;
        BinaryPrimitives.WriteInt32BigEndian(bytes.AsSpan(36), 4 << 20);
        files["disk"].Content = bytes;
        var before = GC.GetAllocatedBytesForCurrentThread();
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await files.OpenAsync("disk", "qcow2"));
        Assert.Equal(DiskError.Corrupt, failure.Error);
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 8 << 20);
    }

    private static async Task UseAsync(byte[] bytes, Random random)
    {
        var files = new MemoryFiles();
        files["disk"].Content = bytes;
        var checking = random.Next(2) == 0;
        await using var image = (Qcow2Image)await new Qcow2Format().OpenAsync(files["disk"], new ImageContext(random.Next(4) == 0, files, Checking: checking));
        _ = image.Describe();
        for (var step = 0; step < 20 && image.Length > 0; step++)
        {
            var offset = step == 0 ? 0 : random.NextInt64(image.Length);
            var length = (int)Math.Min(image.Length - offset, random.Next(1, 50_000));
            try
            {
                switch (random.Next(8))
                {
                    case < 3:
                        await image.ReadBytesAsync(offset, length);
                        break;
                    case 3:
                        await image.GetStatusAsync(offset, length);
                        break;
                    case 4 when image.Snapshots.Count > 0:
                        var name = image.Snapshots[random.Next(image.Snapshots.Count)].Id;
                        await (random.Next(2) == 0 ? image.ApplySnapshotAsync(name) : image.DeleteSnapshotAsync(name));
                        break;
                    case 5:
                        await image.ZeroAsync(offset, length);
                        break;
                    case 6:
                        await image.FlushAsync();
                        break;
                    default:
                        await image.WriteAsync(offset, new byte[length]);
                        break;
                }
            }
            catch (DiskException)
            {
            }
        }

        await image.CheckAsync(CheckRepair.None);
    }

    private static byte[] Damage(byte[] valid, Random random)
    {
        var bytes = valid.ToArray();
        for (var count = random.Next(1, 6); count > 0; count--)
        {
            // Metadata is what is not random data: words with few bits set, the header above all.
            var at = random.Next(3) == 0 ? random.Next(Math.Min(512, bytes.Length)) : random.Next(bytes.Length);
            switch (random.Next(4))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    // A word of another place: entries that name what others name.
                    valid.AsSpan(random.Next(bytes.Length / 8) * 8, 8).CopyTo(bytes.AsSpan(at & ~7));
                    break;
                default:
                    BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(Math.Min(at & ~7, bytes.Length - 8)), (random.NextInt64(bytes.Length) & ~511) | (random.Next(2) == 0 ? 0 : long.MinValue));
                    break;
            }
        }

        return random.Next(20) == 0 ? bytes[..random.Next(bytes.Length)] : bytes;
    }

    private static async Task<byte[]> ValidAsync(string options)
    {
        var files = new MemoryFiles();
        await using (var image = await Qcow2Cases.CreateAsync(files, "disk", Length, options))
        {
            for (var at = 0; at + image.CompressionUnit <= Length; at += 5 * image.CompressionUnit)
            {
                await image.WriteCompressedAsync(at, new byte[image.CompressionUnit]);
            }

            await image.WriteAsync(20_000, new byte[3000]);
            if (!options.Contains("refcount_bits=1"))
            {
                await image.CreateSnapshotAsync("one");
            }

            await image.WriteAsync(30_000, new byte[70_000]);
            await image.ZeroAsync(40_000, 20_000);
        }

        return files["disk"].Content;
    }
}
