using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Encryption;

public sealed class LuksTests
{
    private const string Secret = "correct horse";
    private const int Size = 3 << 20;

    public static TheoryData<string> Variants => new(
        "",
        "cipher-alg=aes-128,hash-alg=sha1",
        "cipher-alg=aes-192,hash-alg=sha512",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain",
        "cipher-alg=aes-256,cipher-mode=ecb",
        "ivgen-alg=plain,hash-alg=sha384");

    [Theory]
    [MemberData(nameof(Variants))]
    public async Task QemuReadsWhatLodgeMadeAndWrote(string variant)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var path = folder["disk.luks"];
        await CreateAsync(path, variant);
        byte[] content;
        await using (var image = await OpenAsync(path))
        {
            Assert.Equal(Size, image.Length);
            content = await FillAsync(image);
        }

        await File.WriteAllBytesAsync(folder["plain.raw"], content);
        QemuImg.Run("compare", "--object", "secret,id=s,data=" + Secret, "--image-opts", "driver=raw,file.filename=" + folder["plain.raw"], "driver=luks,key-secret=s,file.filename=" + path);
    }

    [Theory]
    [InlineData("")]
    [InlineData("cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1")]
    [InlineData("cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain")]
    public async Task LodgeReadsAndWritesWhatQemuMade(string variant)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var path = folder["disk.luks"];
        var content = new byte[Size];
        new Random(3).NextBytes(content);
        await File.WriteAllBytesAsync(folder["plain.raw"], content);
        string[] arguments =
        [
            "convert", "--object", "secret,id=s,data=" + Secret, "-f", "raw", "-O", "luks",
            "-o", "key-secret=s,iter-time=10" + (variant == "" ? "" : ",") + variant, folder["plain.raw"], path,
        ];

        // On a busy host qemu-img's calibration of key derivation now and then fails with "Unable to get accurate CPU usage".
        var (status, output) = (1, "accurate CPU usage");
        for (var attempt = 0; attempt < 10 && status != 0 && output.Contains("accurate CPU usage"); attempt++)
        {
            File.Delete(path);
            (status, output) = QemuImg.RunProgram("qemu-img", arguments);
        }

        Assert.True(status == 0, output);
        await using (var image = await OpenAsync(path))
        {
            Assert.Equal(content, await image.ReadBytesAsync(0, Size));
            var facts = image.Describe().FormatSpecific.ToDictionary();
            Assert.Equal(variant.Contains("cbc") ? "cbc" : variant.Contains("ecb") ? "ecb" : "xts", facts["cipher-mode"]);
            content = await FillAsync(image, content);
        }

        await File.WriteAllBytesAsync(folder["plain.raw"], content);
        QemuImg.Run("compare", "--object", "secret,id=s,data=" + Secret, "--image-opts", "driver=raw,file.filename=" + folder["plain.raw"], "driver=luks,key-secret=s,file.filename=" + path);
    }

    [Fact]
    public async Task CryptsetupOpensWhatLodgeMade()
    {
        QemuImg.RequireProgram("cryptsetup", "cryptsetup-bin");
        using var folder = new TemporaryFolder();
        await CreateAsync(folder["disk.luks"], "");
        var (status, dump) = QemuImg.RunProgram("cryptsetup", "luksDump", folder["disk.luks"]);
        Assert.True(status == 0, dump);
        Assert.Contains("xts-plain64", dump);
        await File.WriteAllTextAsync(folder["key"], Secret);
        (status, var output) = QemuImg.RunProgram("cryptsetup", "open", "--test-passphrase", "--type", "luks1", "--key-file", folder["key"], folder["disk.luks"]);
        Assert.True(status == 0, output);
        await File.WriteAllTextAsync(folder["key"], "wrong");
        (status, _) = QemuImg.RunProgram("cryptsetup", "open", "--test-passphrase", "--type", "luks1", "--key-file", folder["key"], folder["disk.luks"]);
        Assert.NotEqual(0, status);
    }

    [Fact]
    public async Task KeysThatFillNoWholeSectorWork()
    {
        // qemu-img stops with an assertion at this variant, whose stripes end inside of a sector.
        using var folder = new TemporaryFolder();
        await CreateAsync(folder["disk.luks"], "cipher-alg=aes-192,cipher-mode=cbc");
        byte[] content;
        await using (var image = await OpenAsync(folder["disk.luks"]))
        {
            content = await FillAsync(image);
        }

        await using var again = await OpenAsync(folder["disk.luks"]);
        Assert.Equal(content, await again.ReadBytesAsync(0, Size));
    }

    [Fact]
    public async Task AWrongOrMissingPassphraseIsSaid()
    {
        using var folder = new TemporaryFolder();
        await CreateAsync(folder["disk.luks"], "");
        Assert.Equal(DiskError.Secret, (await Assert.ThrowsAsync<DiskException>(async () => await OpenAsync(folder["disk.luks"], "wrong"))).Error);
        Assert.Equal(DiskError.Secret, (await Assert.ThrowsAsync<DiskException>(async () => await OpenAsync(folder["disk.luks"], null))).Error);
        await using var facts = await ImageOpener.OpenAsync(folder["disk.luks"], new ImageOpenOptions { ReadOnly = true, OpenBacking = false });
        Assert.Equal("luks", facts.FormatName);
        Assert.True(facts.Describe().Encrypted);
        Assert.Equal(DiskError.Secret, (await Assert.ThrowsAsync<DiskException>(async () => await facts.ReadBytesAsync(0, 512))).Error);
    }

    [Fact]
    public async Task WhatAResizeAddsReadsAsZeroes()
    {
        var files = new MemoryFiles();
        var image = await CreateInMemoryAsync(files, 10_000);
        Assert.Equal(10_240, image.Length);
        await ((IResize)image).ResizeAsync(50_000);
        Assert.Equal(50_176, image.Length);
        Assert.False((await image.ReadBytesAsync(10_240, 50_000)).AsSpan().ContainsAnyExcept((byte)0));
        await ((IResize)image).ResizeAsync(512);
        Assert.Equal(512, image.Length);
    }

    [Fact]
    public async Task RandomOperationsAtOnceEqualAnArray()
    {
        var files = new MemoryFiles();
        var image = await CreateInMemoryAsync(files, 300_000);
        await image.WriteAsync(0, new byte[image.Length]);
        var model = new DiskModel(image, new Random(5));
        for (var step = 0; step < 300; step++)
        {
            await model.StepAsync(5000);
        }

        await model.CompareAsync();

        // Writers of bytes side by side in the same sectors lose nothing of each other.
        await Task.WhenAll(Enumerable.Range(0, 8).Select(worker => Task.Run(async () =>
        {
            for (var at = worker; at < 4096; at += 8)
            {
                await image.WriteAsync(at, new[] { (byte)worker });
            }
        })));
        var bytes = await image.ReadBytesAsync(0, 4096);
        Assert.All(Enumerable.Range(0, 4096), at => Assert.Equal(at % 8, bytes[at]));
    }

    [Fact]
    public async Task NothingFlushedIsLostWhenThePowerGoes()
    {
        for (var seed = 0; seed < 100; seed++)
        {
            try
            {
                var files = new MemoryFiles();
                var image = await CreateInMemoryAsync(files, 20_000);
                await image.WriteAsync(0, new byte[image.Length]);
                await image.FlushAsync();
                var model = new DiskModel(image, new Random(seed));
                for (var step = 0; step < 12; step++)
                {
                    await model.StepAsync(3000);
                }

                files.Files["disk"] = files["disk"].AfterPowerCut(new Random(seed));
                await using var survivor = await files.OpenAsync("disk", "luks", secret: Secret);
                await model.CompareFlushedAsync(survivor);
            }
            catch (Exception failure)
            {
                Assert.Fail($"seed {seed}: {failure}");
            }
        }
    }

    [Fact]
    public async Task DamagedHeadersEndInADiskException()
    {
        var files = new MemoryFiles();
        await (await CreateInMemoryAsync(files, 4096)).DisposeAsync();
        var good = files["disk"].Content;
        var random = new Random(7);
        var opened = 0;
        var cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out var asked) ? asked : 300;
        for (var number = 0; number < cases; number++)
        {
            var bad = good.ToArray();
            for (var flips = random.Next(1, 5); flips > 0; flips--)
            {
                var at = random.Next(3) == 0 ? 104 + random.Next(8) : 208 + random.Next(48);
                at = random.Next(3) == 0 ? random.Next(LuksHeader.Size) : at;

                // The counts of rounds keep their size: larger ones are legal and only take time.
                if (at is (< 164 or > 167) and (< 212 or > 215))
                {
                    bad[at] ^= (byte)(1 << random.Next(8));
                }
            }

            if (random.Next(10) == 0)
            {
                bad = bad[..random.Next(bad.Length)];
            }

            files["disk"].Content = bad;
            try
            {
                await using var image = await files.OpenAsync("disk", "luks", secret: Secret);
                await image.ReadBytesAsync(0, 4096);
                opened++;
            }
            catch (DiskException)
            {
            }
        }

        Assert.InRange(opened, 1, cases - 1);
    }

    [Fact]
    public void AnAbsurdNumberOfRoundsIsRefused()
    {
        var header = new byte[LuksHeader.Size];
        LuksHeader.Magic.CopyTo(header);
        header[7] = 1;
        header[111] = 32;
        header.AsSpan(164, 4).Fill(0xFF);
        for (var slot = 0; slot < 8; slot++)
        {
            header[208 + (48 * slot) + 2] = 0xDE;
            header[208 + (48 * slot) + 3] = 0xAD;
        }

        var failure = Assert.Throws<DiskException>(() => LuksHeader.Parse(header, 1 << 20));
        Assert.Equal(DiskError.Corrupt, failure.Error);
        Assert.Contains("rounds", failure.Message);
    }

    [Fact]
    public void TheVectorsOfIeee1619Hold()
    {
        // IEEE 1619-2007, annex B, vectors 1, 2 and 10 (its data unit is 512 bytes long, as a sector).
        using (var zero = SectorCipher.Create("aes", "xts-plain64", new byte[32]))
        {
            var data = new byte[32];
            zero.Encrypt(data, 0);
            Assert.Equal("917CF69EBD68B2EC9B9FE9A3EADDA692CD43D2F59598ED858C02C2652FBF922E", Convert.ToHexString(data));
        }

        using (var second = SectorCipher.Create("aes", "xts-plain64", Convert.FromHexString(new string('1', 32) + new string('2', 32))))
        {
            var data = Enumerable.Repeat((byte)0x44, 32).ToArray();
            second.Encrypt(data, 0x3333333333);
            Assert.Equal("C454185E6A16936E39334038ACEF838BFB186FFF7480ADC4289382ECD6D394F0", Convert.ToHexString(data));
        }

        var key = Convert.FromHexString("27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592");
        using var tenth = SectorCipher.Create("aes", "xts-plain64", key);
        var unit = Enumerable.Range(0, 512).Select(value => (byte)value).ToArray();
        tenth.Encrypt(unit, 0xFF);
        Assert.StartsWith("1C3B3A102F770386E4836C99E370CF9BEA00803F5E482357A4AE12D414A3E63B", Convert.ToHexString(unit));
        tenth.Decrypt(unit, 0xFF);
        Assert.Equal(Enumerable.Range(0, 512).Select(value => (byte)value), unit);
    }

    [Theory]
    [InlineData(16)]
    [InlineData(24)]
    [InlineData(32)]
    public void InstructionsAndLibraryAgree(int keyLength)
    {
        if (!System.Runtime.Intrinsics.X86.Aes.IsSupported)
        {
            Assert.Skip("this processor has no AES instructions");
        }

        var random = new Random(keyLength);
        var key = new byte[keyLength];
        random.NextBytes(key);
        using var fast = new AesInstructionBlocks(key);
        using var library = new AesLibraryBlocks(key);
        for (var blocks = 1; blocks < 40; blocks++)
        {
            var data = new byte[16 * blocks];
            random.NextBytes(data);
            var (a, b) = (data.ToArray(), data.ToArray());
            fast.Encrypt(a);
            library.Encrypt(b);
            Assert.Equal(b, a);
            fast.Decrypt(a);
            library.Decrypt(b);
            Assert.Equal(data, a);
            Assert.Equal(data, b);
        }
    }

    private static async Task CreateAsync(string path, string variant)
    {
        var format = DiskFormats.Named("luks");
        var options = FormatOptions.Parse(format, (variant + ",iter-time=10").Split(',', StringSplitOptions.RemoveEmptyEntries).Select(pair => KeyValuePair.Create(pair.Split('=')[0], pair.Split('=')[1])));
        await using var file = Lodge.Storage.Files.HostFile.Create(path, new Lodge.Storage.Files.HostFileOptions(false));
        await format.CreateAsync(file, Size, options, new ImageContext(false, new MemoryFiles(), Secret));
    }

    private static async Task<IImage> OpenAsync(string path, string? secret = Secret) =>
        await ImageOpener.OpenAsync(path, new ImageOpenOptions { Format = "luks", Secret = secret });

    private static async Task<IImage> CreateInMemoryAsync(MemoryFiles files, long length)
    {
        var format = DiskFormats.Named("luks");
        var options = FormatOptions.Parse(format, [KeyValuePair.Create("iter-time", "1")]);
        await format.CreateAsync(files["disk"], length, options, new ImageContext(false, files, Secret));
        return await files.OpenAsync("disk", "luks", secret: Secret);
    }

    private static async Task<byte[]> FillAsync(IImage image, byte[]? before = null)
    {
        var content = before ?? new byte[image.Length];
        if (before is null)
        {
            await image.WriteAsync(0, content);
        }

        var random = new Random(11);
        for (var step = 0; step < 60; step++)
        {
            var part = new byte[random.Next(1, 20_000)];
            random.NextBytes(part);
            var at = random.Next(content.Length - part.Length);
            part.CopyTo(content, at);
            await image.WriteAsync(at, part);
        }

        await image.FlushAsync();
        return content;
    }
}
