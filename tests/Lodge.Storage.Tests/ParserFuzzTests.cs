using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Formats.Vhdx;
using Lodge.Storage.Formats.Vmdk;
using Lodge.Storage.Nbd;
using Lodge.Storage.Ovf;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests;

/// <summary>
/// The small parsers, each on its own: damaged and made-up input ends in a <see cref="DiskException"/> of one line or in a result. LODGE_FUZZ_CASES sets the cases
/// of each. Whole images are damaged by the tests of their formats.
/// </summary>
public sealed class ParserFuzzTests
{
    private const string Descriptor = """
        # Disk DescriptorFile
        version=1
        encoding="UTF-8"
        CID=fffffffe
        parentCID=12345678
        parentFileNameHint="base.vmdk"
        createType="twoGbMaxExtentSparse"
        RW 4192256 SPARSE "disk-s001.vmdk"
        RW 63 FLAT "disk-flat.vmdk" 128
        RDONLY 4096 ZERO
        ddb.adapterType = "lsilogic"
        ddb.geometry.cylinders = "16383"

        """;

    private const string Envelope = """
        <?xml version="1.0"?>
        <Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
          <References><File ovf:id="f1" ovf:href="a.vmdk" ovf:size="100"/><File ovf:id="f2" ovf:href="b.vhd"/></References>
          <DiskSection><Info>d</Info>
            <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="3" ovf:capacityAllocationUnits="byte * 2^30" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
            <Disk ovf:diskId="d2" ovf:capacity="9"/>
          </DiskSection>
          <VirtualSystem ovf:id="vm"><Name>vm</Name><VirtualHardwareSection>
            <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
            <Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits></Item>
          </VirtualHardwareSection></VirtualSystem>
        </Envelope>
        """;

    private const string Manifest = """
        SHA256(a.ovf)= 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        SHA1(disk (1).vmdk)= 0123456789abcdef0123456789abcdef01234567

        """;

    private static readonly int Cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), NumberStyles.None, CultureInfo.InvariantCulture, out var cases) ? cases : 2000;

    [Fact]
    public async Task LuksHeaders()
    {
        var files = new MemoryFiles();
        var format = DiskFormats.Named("luks");
        await format.CreateAsync(files["disk"], 1 << 16, FormatOptions.Parse(format, [KeyValuePair.Create("iter-time", "1")]), new ImageContext(false, files, "secret"));
        await RunAsync(files["disk"].Content[..4096], bytes => LuksHeader.Parse(bytes, 1 << 21), LuksHeader.Size);
    }

    [Fact]
    public Task VmdkDescriptors() => RunAsync(
        Encoding.UTF8.GetBytes(Descriptor),
        bytes =>
        {
            var descriptor = VmdkDescriptor.Parse(bytes, "disk.vmdk");
            _ = (descriptor.ContentId, descriptor.ParentName, descriptor.CreateType, descriptor.Extents.Count, VmdkDescriptor.Begins(bytes), VmdkDescriptor.FindDigits(bytes, "CID"u8));
        });

    [Fact]
    public Task OvfDescriptors() => RunAsync(Encoding.UTF8.GetBytes(Envelope), bytes => OvfDescriptor.Parse(bytes, "m.ovf"));

    [Fact]
    public Task OvfManifests() => RunAsync(Encoding.UTF8.GetBytes(Manifest), bytes => OvfManifest.Parse(bytes, "m.mf"));

    [Fact]
    public Task NbdAddresses() => RunAsync(
        "nbds://user@[::1]:10809/export%20name?tls-certificates=/c&tls-username=u&x-reconnect=5"u8.ToArray(),
        bytes => NbdAddress.Parse(Encoding.UTF8.GetString(bytes)));

    [Fact]
    public Task SnapshotTables() => RunAsync(
        SnapshotTable.Write([.. Enumerable.Range(1, 3).Select(number => new SnapshotEntry { Id = $"{number}", Name = $"snapshot {number}", L1Offset = number << 16, L1Size = 4, DiskSize = 1 << 20, FurtherData = new byte[number * 8] })]),
        bytes => SnapshotTable.Parse(bytes, 3, 65536, "disk", out _));

    [Fact]
    public async Task VhdxLogs()
    {
        var replayed = 0;
        for (var seed = 0; seed < Cases; seed++)
        {
            var random = new Random(seed);
            var id = new Guid(seed, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
            var log = MakeLog(random, id);
            var bytes = new byte[(1 << 16) + log.Length];
            log.CopyTo(bytes, 1 << 16);
            var header = new VhdxHeader { LogGuid = id, LogOffset = 1 << 16, LogLength = (uint)log.Length };
            var file = new MemoryFile { Content = bytes };
            try
            {
                if (await VhdxLog.ReadAsync(file, header, default) is { } content)
                {
                    await using var seen = new VhdxReplayedFile(file, content);
                    var buffer = new byte[Math.Min(seen.Length, 1 << 18)];
                    await seen.ReadAsync(0, buffer);
                    if (content.FileLength < 1 << 20)
                    {
                        // What is seen without writing is what replaying makes of the file.
                        await VhdxLog.ReplayAsync(file, content, default);
                        var made = await file.ReadBytesAsync(0, buffer.Length);
                        Assert.True(buffer.AsSpan().SequenceEqual(made), $"seed {seed}: replayed in memory and in the file differ");
                        replayed++;
                    }
                }
            }
            catch (DiskException failure)
            {
                Assert.DoesNotContain('\n', failure.Message);
            }
            catch (Exception failure) when (failure is not Xunit.Sdk.IAssertionException)
            {
                Assert.Fail($"seed {seed}: {failure}");
            }
        }

        Assert.InRange(replayed, Cases / 20, Cases - (Cases / 20));
    }

    /// <summary>A log of sixteen sectors: entries in a row, or anywhere, with a few errors, and sums that are right all the same.</summary>
    private static byte[] MakeLog(Random random, Guid id)
    {
        const int Sector = 4096;
        const int Sectors = 16;
        var log = new byte[Sectors * Sector];
        var at = random.Next(Sectors);
        var tail = at;
        var sequence = (ulong)random.Next(1, 5);
        for (var left = random.Next(1, 5); left > 0; left--)
        {
            var data = random.Next(3);
            var zeroes = random.Next(3);
            var entry = new byte[(1 + data) * Sector];
            "loge"u8.CopyTo(entry);
            Put32(entry, 8, entry.Length);
            Put32(entry, 12, random.Next(4) == 0 ? random.Next(Sectors) * Sector : tail * Sector);
            Put64(entry, 16, (long)sequence);
            Put32(entry, 24, data + zeroes);
            id.TryWriteBytes(entry.AsSpan(32));
            Put64(entry, 48, random.Next(1 << 17));
            Put64(entry, 56, random.Next(8) == 0 ? random.NextInt64() : random.Next(1 << 17, 1 << 18));
            for (var index = 0; index < data + zeroes; index++)
            {
                var descriptor = 64 + (index * 32);
                (index < data ? "desc"u8 : "zero"u8).CopyTo(entry.AsSpan(descriptor));
                Put64(entry, descriptor + 8, index < data ? random.NextInt64() : random.Next(8) * Sector);
                Put64(entry, descriptor + 16, random.Next(16) * Sector);
                Put64(entry, descriptor + 24, (long)sequence);
            }

            for (var index = 0; index < data; index++)
            {
                var sector = entry.AsSpan((1 + index) * Sector, Sector);
                random.NextBytes(sector[..64]);
                "data"u8.CopyTo(sector);
                BinaryPrimitives.WriteUInt32LittleEndian(sector[4..], (uint)(sequence >> 32));
                BinaryPrimitives.WriteUInt32LittleEndian(sector[(Sector - 4)..], (uint)sequence);
            }

            if (random.Next(3) == 0)
            {
                entry[random.Next(random.Next(2) == 0 ? 192 : entry.Length)] = (byte)(random.Next(2) == 0 ? 0xff : random.Next(256));
            }

            if (random.Next(20) != 0)
            {
                VhdxChecksum.Put(entry, 4);
            }

            for (var index = 0; index < entry.Length / Sector; index++)
            {
                entry.AsSpan(index * Sector, Sector).CopyTo(log.AsSpan((at + index) % Sectors * Sector));
            }

            at = random.Next(12) == 0 ? random.Next(Sectors) : (at + (entry.Length / Sector)) % Sectors;
            sequence += random.Next(12) == 0 ? 0u : 1;
        }

        return log;

        static void Put32(byte[] bytes, int offset, int value) => BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(offset), value);
        static void Put64(byte[] bytes, int offset, long value) => BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(offset), value);
    }

    /// <summary>Parses <paramref name="valid"/>, which must succeed, then damaged copies of it; some of them must fail.</summary>
    private static Task RunAsync(byte[] valid, Action<byte[]> parse, int interesting = int.MaxValue)
    {
        parse(valid);
        var refused = 0;
        for (var seed = 0; seed < Cases; seed++)
        {
            var bytes = Damage(valid, new Random(seed), Math.Min(interesting, valid.Length));
            try
            {
                parse(bytes);
            }
            catch (DiskException failure)
            {
                Assert.DoesNotContain('\n', failure.Message);
                refused++;
            }
            catch (Exception failure)
            {
                Assert.Fail($"seed {seed}: {failure}");
            }
        }

        Assert.InRange(refused, 1, Cases - 1);
        return Task.CompletedTask;
    }

    private static byte[] Damage(byte[] valid, Random random, int interesting)
    {
        var bytes = valid.ToList();
        for (var times = random.Next(1, 6); times > 0; times--)
        {
            var at = random.Next(Math.Min(interesting, bytes.Count));
            var length = random.Next(1, 9);
            switch (random.Next(6))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    for (var index = at; index < Math.Min(bytes.Count, at + length); index++)
                    {
                        bytes[index] = 0xff;
                    }

                    break;
                case 3:
                    // A piece of elsewhere: numbers and names that stand where others are awaited.
                    var from = random.Next(Math.Max(1, valid.Length - 40));
                    bytes.InsertRange(at, valid.AsSpan(from, Math.Min(random.Next(1, 40), valid.Length - from)).ToArray());
                    break;
                case 4 when bytes.Count > length:
                    bytes.RemoveRange(Math.Min(at, bytes.Count - length), length);
                    break;
                default:
                    var digits = Encoding.ASCII.GetBytes(random.Next(2) == 0 ? random.NextInt64().ToString(CultureInfo.InvariantCulture) : "-99999999999999999999");
                    bytes.InsertRange(at, digits);
                    break;
            }
        }

        return random.Next(10) == 0 ? [.. bytes[..random.Next(bytes.Count)]] : [.. bytes];
    }
}
