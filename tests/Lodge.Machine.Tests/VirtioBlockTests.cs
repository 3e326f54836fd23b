using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Block;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class VirtioBlockTests : IDisposable
{
    private readonly TestDisk _disk = new(4 << 20);
    private VirtioMachine _machine = null!;
    private VirtioGuestDriver _driver = null!;
    private GuestRing _ring = null!;
    private ulong _header;
    private ulong _status;

    public void Dispose()
    {
        _disk.Hold = false;
        _disk.Release();
        _machine?.Dispose();
    }

    private static VirtioMachine Create(TestDisk disk, Func<VirtioBlockConfiguration, VirtioBlockConfiguration>? change = null)
    {
        var configuration = new VirtioBlockConfiguration(disk) { Serial = "LODGE-0042" };
        return new VirtioMachine(memory => new VirtioBlock(memory, change?.Invoke(configuration) ?? configuration));
    }

    private void SetUp(ulong features = ulong.MaxValue, Func<VirtioBlockConfiguration, VirtioBlockConfiguration>? change = null, ushort size = 64)
    {
        _machine = Create(_disk, change);
        _machine.Function.Start();
        _driver = new VirtioGuestDriver(_machine);
        Connect(features, size);
    }

    private void Connect(ulong features = ulong.MaxValue, ushort size = 64)
    {
        Assert.True(_driver.Negotiate(features));
        _driver.EnableMsix();
        _ring = _driver.SetUpQueue(0, size, msix: true);
        _driver.DriverOk();
        _header = _driver.Allocate(4096);
        _status = _driver.Allocate(4096);
    }

    private void Header(uint type, ulong sector, int slot = 0)
    {
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
        _machine.Memory.TryWrite(_header + ((ulong)slot * 16), header);
        _machine.Memory.TryWrite(_status + (ulong)slot, (byte)0xEE);
    }

    private void Submit(uint type, ulong sector, int slot, params (ulong Address, uint Length, bool Write)[] data)
    {
        Header(type, sector, slot);
        _ring.Add([(_header + ((ulong)slot * 16), 16, false), .. data, (_status + (ulong)slot, 1, true)]);
    }

    private byte StatusOf(int slot) => _machine.Memory.TryRead(_status + (ulong)slot, out byte value) ? value : (byte)0xFF;

    private (byte Status, uint Length) Request(uint type, ulong sector, params (ulong Address, uint Length, bool Write)[] data)
    {
        Submit(type, sector, 0, data);
        (_, uint length) = _ring.TakeUsed();
        return (StatusOf(0), length);
    }

    private byte[] Ram(ulong address, int length)
    {
        byte[] bytes = new byte[length];
        Assert.True(_machine.Memory.TryRead(address, bytes));
        return bytes;
    }

    private static byte[] Pattern(int seed, int length)
    {
        byte[] bytes = new byte[length];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    [Theory]
    [InlineData(ulong.MaxValue, false)]
    [InlineData(ulong.MaxValue, true)]
    [InlineData(VirtioFeatures.Version1, false)]
    public void WritesAndReadsInPieces(ulong features, bool asynchronous)
    {
        _disk.Asynchronous = asynchronous;
        SetUp(features);
        ulong buffer = _driver.Allocate(65536);
        byte[] pattern = Pattern(1, 6144);
        _machine.Memory.TryWrite(buffer, pattern);
        Assert.Equal((0, 1u), Request(1, 10, (buffer, 1, false), (buffer + 1, 4096, false), (buffer + 4097, 2047, false)));
        Assert.Equal(pattern, _disk.Content.AsSpan(5120, 6144).ToArray());
        Assert.Equal((0, 6145u), Request(0, 10, (buffer + 8192, 512, true), (buffer + 30000, 5632, true)));
        Assert.Equal(pattern.AsSpan(0, 512).ToArray(), Ram(buffer + 8192, 512));
        Assert.Equal(pattern.AsSpan(512).ToArray(), Ram(buffer + 30000, 5632));
        Assert.Equal((0, 1u), Request(4, 0));
        Assert.Equal(1, _disk.Flushes);
    }

    [Fact]
    public void HeaderAndStatusMayLieInOneBufferWithData()
    {
        SetUp();
        ulong buffer = _driver.Allocate(8192);
        byte[] request = new byte[16 + 512];
        request[0] = 1;
        Pattern(3, 512).CopyTo(request, 16);
        _machine.Memory.TryWrite(buffer, request);
        _ring.Add((buffer, 528, false), (buffer + 4096, 1, true));
        Assert.Equal(1u, _ring.TakeUsed().Length);
        Assert.Equal(Pattern(3, 512), _disk.Content[..512]);
        _machine.Memory.TryWrite(buffer, new byte[16]);
        _ring.Add((buffer, 16, false), (buffer + 4096, 513, true));
        Assert.Equal(513u, _ring.TakeUsed().Length);
        Assert.Equal([.. Pattern(3, 512), 0], Ram(buffer + 4096, 513));
    }

    [Fact]
    public void ConfigurationTellsTheDisk()
    {
        _disk.RequestAlignment = 4096;
        SetUp(change: c => c with { Queues = 4 });
        byte[] config = _driver.DeviceConfig(0, 8);
        Assert.Equal(8192UL, BinaryPrimitives.ReadUInt64LittleEndian(config));
        Assert.Equal(512u, BinaryPrimitives.ReadUInt32LittleEndian(_driver.DeviceConfig(20, 4)));
        Assert.Equal(3, _driver.DeviceConfig(24, 1)[0]);
        Assert.Equal(4, BinaryPrimitives.ReadUInt16LittleEndian(_driver.DeviceConfig(34, 2)));
        Assert.Equal(8u, BinaryPrimitives.ReadUInt32LittleEndian(_driver.DeviceConfig(44, 4)));
        Assert.Equal(4u, _driver.Get(CommonRegister.NumQueues, 2));
        const ulong Expected = (1 << 1) | (1 << 2) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13) | (1 << 14);
        Assert.Equal(Expected, _machine.Device.OfferedFeatures & 0xFFFFFF);
    }

    [Fact]
    public void SerialNumber()
    {
        SetUp();
        ulong buffer = _driver.Allocate(64);
        Assert.Equal((0, 21u), Request(8, 0, (buffer, 20, true)));
        Assert.Equal("LODGE-0042", Encoding.ASCII.GetString(Ram(buffer, 20)).TrimEnd('\0'));
        Assert.Equal((0, 5u), Request(8, 0, (buffer, 4, true)));
    }

    [Fact]
    public void DiscardAndWriteZeroes()
    {
        SetUp();
        _disk.Content.AsSpan().Fill(0xAA);
        ulong ranges = _driver.Allocate(4096);
        byte[] two = new byte[32];
        BinaryPrimitives.WriteUInt64LittleEndian(two, 8);
        BinaryPrimitives.WriteUInt32LittleEndian(two.AsSpan(8), 8);
        BinaryPrimitives.WriteUInt64LittleEndian(two.AsSpan(16), 100);
        BinaryPrimitives.WriteUInt32LittleEndian(two.AsSpan(24), 2);
        _machine.Memory.TryWrite(ranges, two);
        Assert.Equal((0, 1u), Request(11, 0, (ranges, 32, false)));
        Assert.Equal(["d 4096 4096", "d 51200 1024"], _disk.Log);
        BinaryPrimitives.WriteUInt32LittleEndian(two.AsSpan(28), 1);
        _machine.Memory.TryWrite(ranges, two);
        Assert.Equal((2, 1u), Request(11, 0, (ranges, 32, false)));      // unmap means nothing for a discard
        _disk.Log.Clear();
        Assert.Equal((0, 1u), Request(13, 0, (ranges, 32, false)));
        Assert.Equal(["z 4096 4096", "z 51200 1024 unmap"], _disk.Log);
        _disk.Log.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(two, 8190);
        _machine.Memory.TryWrite(ranges, two);
        Assert.Equal((1, 1u), Request(13, 0, (ranges, 32, false)));
        BinaryPrimitives.WriteUInt64LittleEndian(two, ulong.MaxValue - 2);
        _machine.Memory.TryWrite(ranges, two);
        Assert.Equal((1, 1u), Request(11, 0, (ranges, 32, false)));
        Assert.Equal((1, 1u), Request(11, 0, (ranges, 24, false)));
        Assert.Equal((1, 1u), Request(11, 0));
        Assert.Equal((1, 1u), Request(11, 0, (ranges, 17 * 16, false)));
        Assert.Empty(_disk.Log);
    }

    [Fact]
    public void ReadOnlyDiskRefusesChanges()
    {
        SetUp(change: c => c with { ReadOnly = true });
        ulong buffer = _driver.Allocate(4096);
        Assert.NotEqual(0UL, _machine.Device.OfferedFeatures & (1 << 5));
        Assert.Equal((1, 1u), Request(1, 0, (buffer, 512, false)));
        Assert.Equal((2, 1u), Request(11, 0, (buffer, 16, false)));
        Assert.Equal((2, 1u), Request(13, 0, (buffer, 16, false)));
        Assert.Equal((0, 513u), Request(0, 0, (buffer, 512, true)));
        Assert.Equal(["r 0 512"], _disk.Log);
    }

    [Fact]
    public void WritesAreThroughUnlessTheDriverCanFlush()
    {
        SetUp(VirtioFeatures.Version1);
        ulong buffer = _driver.Allocate(4096);
        Request(1, 0, (buffer, 512, false));
        Assert.Equal(["w 0 512 fua"], _disk.Log);
        Connect();
        Request(1, 0, (buffer, 512, false));
        _driver.DeviceConfig(32, [0]);
        Request(1, 0, (buffer, 512, false));
        Assert.Equal(["w 0 512 fua", "w 0 512", "w 0 512 fua"], _disk.Log);
    }

    [Theory]
    [InlineData(0u, 8192UL, 512u)]
    [InlineData(0u, 8191UL, 1024u)]
    [InlineData(0u, ulong.MaxValue, 512u)]
    [InlineData(0u, 1UL << 55, 512u)]
    [InlineData(0u, 0UL, 511u)]
    [InlineData(0u, 0UL, 513u)]
    [InlineData(1u, 8192UL, 512u)]
    [InlineData(1u, (1UL << 54) - 1, 512u)]
    [InlineData(1u, 0UL, 100u)]
    public void RequestsThatAreNotWholeSectorsOfTheDiskFail(uint type, ulong sector, uint length)
    {
        SetUp();
        ulong buffer = _driver.Allocate(4096);
        Assert.Equal(1, Request(type, sector, (buffer, length, type == 0)).Status);
        Assert.Empty(_disk.Log);
        Assert.Equal(0, Request(0, 0, (buffer, 512, true)).Status);
    }

    [Fact]
    public void OddRequestsGetAStatusAndMalformedOnesLatch()
    {
        SetUp();
        ulong buffer = _driver.Allocate(4096);
        Assert.Equal((2, 513u), Request(99, 0, (buffer, 512, true)));
        Assert.Equal((1, 513u), Request(1, 0, (buffer, 512, false), (buffer, 512, true)));
        Assert.Equal(1, Request(0, 0, (buffer, 512, false), (buffer, 512, true)).Status);
        Assert.Equal((0, 1u), Request(0, 0));
        Assert.Equal(QueueViolation.None, _machine.Device.LastViolation);
        _ring.Add((_header, 15, false), (_status, 1, true));
        Wait.Until(() => _machine.Device.LastViolation == QueueViolation.BadRequest);
        Connect();
        Header(0, 0);
        _ring.Add((_header, 16, false));
        Wait.Until(() => _machine.Device.LastViolation == QueueViolation.BadRequest);
        Connect();
        Assert.Equal((0, 513u), Request(0, 0, (buffer, 512, true)));
    }

    [Fact]
    public void FailuresOfTheDiskAreTheRequestsOwn()
    {
        List<Exception> told = [];
        SetUp(change: c => c with { Failed = told.Add });
        _disk.Fail = (operation, offset) => (operation, offset) switch
        {
            ('r', 512) => DiskError.InputOutput,
            ('w', 512) => DiskError.NoSpace,
            ('z', _) => DiskError.Unsupported,
            ('f', _) => DiskError.InputOutput,
            _ => null,
        };
        ulong buffer = _driver.Allocate(4096);
        Assert.Equal(1, Request(0, 1, (buffer, 512, true)).Status);
        Assert.Equal(1, Request(0, 1, (buffer, 512, true)).Status);
        Assert.Equal(0, Request(0, 2, (buffer, 512, true)).Status);
        _disk.Asynchronous = true;
        Assert.Equal(1, Request(1, 1, (buffer, 512, false)).Status);
        Assert.Equal(1, Request(4, 0).Status);
        _machine.Memory.TryWrite(buffer, new byte[16] { 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0 });
        Assert.Equal(2, Request(13, 0, (buffer, 16, false)).Status);
        Assert.Equal(3, told.Count);     // each kind once
    }

    [Fact]
    public void ManyRequestsAreInFlightAndEndInAnyOrder()
    {
        _disk.Hold = true;
        SetUp();
        ulong buffer = _driver.Allocate(65536);
        for (int i = 0; i < 16; i++)
        {
            _disk.Content.AsSpan(i * 512, 512).Fill((byte)(i + 1));
            Submit(0, (ulong)i, i, (buffer + ((ulong)i * 512), 512, true));
        }
        Wait.Until(() => _disk.Held == 16);
        Assert.False(_ring.TryTakeUsed(out _, out _));
        int before = _machine.Messages.Count(0x41);
        _ring.ArmInterrupt();
        _disk.Release(1);       // the newest
        Assert.Equal((45u, 513u), _ring.TakeUsed());
        Wait.Until(() => _machine.Messages.Count(0x41) == before + 1);
        Assert.Equal(0, StatusOf(15));
        Assert.Equal(0xEE, StatusOf(0));
        _disk.Release();
        HashSet<uint> heads = [];
        for (int i = 0; i < 15; i++)
        {
            heads.Add(_ring.TakeUsed().Head);
        }
        Assert.Equal(15, heads.Count);
        for (int i = 0; i < 16; i++)
        {
            Assert.Equal((byte)(i + 1), Ram(buffer + ((ulong)i * 512), 1)[0]);
        }
        Assert.Equal(16, _disk.MostRunning);
    }

    [Fact]
    public void StopWaitsForRequestsInFlightAndTheirStateIsSaved()
    {
        _disk.Hold = true;
        SetUp();
        ulong buffer = _driver.Allocate(65536);
        for (int i = 0; i < 8; i++)
        {
            Submit(0, (ulong)i, i, (buffer + ((ulong)i * 512), 512, true));
        }
        Wait.Until(() => _disk.Held == 8);
        var stop = new Thread(_machine.Function.Stop);
        stop.Start();
        Assert.False(stop.Join(50));
        _disk.Hold = false;
        _disk.Release();
        Assert.True(stop.Join(30_000));
        Assert.Equal(8, _ring.UsedIndex);
        byte[] state = _machine.Save();
        byte[] ram = new byte[_machine.Memory.Size];
        _machine.Memory.TryRead(0, ram);
        using VirtioMachine second = Create(_disk);
        second.Memory.TryWrite(0, ram);
        second.Restore(state);
        Assert.Equal(state, second.Save());
        Assert.Throws<SavedStateException>(() => Create(_disk, c => c with { ReadOnly = true }).Restore(state));     // other features
    }

    [Fact]
    public void WhatCannotBeFinishedInTimeGoesOnWithoutAnError()
    {
        _disk.Hold = true;
        SetUp();
        ulong buffer = _driver.Allocate(4096);
        Submit(0, 0, 0, (buffer, 512, true));
        Wait.Until(() => _disk.Held == 1);
        Assert.False(_machine.Function.TryFinish(TimeSpan.FromMilliseconds(20)));
        _disk.Release();
        Assert.Equal((0u, 513u), _ring.TakeUsed());
        Assert.Equal(0, StatusOf(0));
        _disk.Hold = false;
        Submit(0, 1, 1, (buffer + 512, 512, true)); // it works on
        Assert.Equal(513u, _ring.TakeUsed().Length);
        Assert.True(_machine.Function.TryFinish(TimeSpan.Zero));
        Submit(0, 2, 2, (buffer + 1024, 512, true));
        Assert.False(_ring.TryTakeUsed(out _, out _));
        _machine.Function.Start();
        Assert.Equal(513u, _ring.TakeUsed().Length);
    }

    [Fact]
    public void ResetGivesUpRequestsInFlightBeforeItEnds()
    {
        _disk.Hold = true;
        SetUp();
        ulong buffer = _driver.Allocate(4096);
        Submit(0, 0, 0, (buffer, 512, true));
        Wait.Until(() => _disk.Held == 1);
        _driver.Reset();
        Assert.Equal(0, _disk.Held);
        _disk.Hold = false;
        _disk.Release();
        _disk.Content.AsSpan().Fill(7);
        Assert.Equal(0, Ram(buffer, 1)[0]);
        Connect();
        Assert.Equal((0, 513u), Request(0, 0, (buffer, 512, true)));
        Assert.Equal(7, Ram(buffer, 1)[0]);
    }

    [Fact]
    public void QueueResetWaitsForItsOwnRequests()
    {
        _disk.Hold = true;
        SetUp(change: c => c with { Queues = 2 });
        ulong buffer = _driver.Allocate(4096);
        Submit(0, 0, 0, (buffer, 512, true));
        Wait.Until(() => _disk.Held == 1);
        _driver.Set(CommonRegister.QueueSelect, 2, 0);
        _driver.Set(CommonRegister.QueueReset, 2, 1);
        Thread.Sleep(20);
        Assert.Equal(1u, _driver.Get(CommonRegister.QueueReset, 2));
        _disk.Hold = false;
        _disk.Release();
        Wait.Until(() => _driver.Get(CommonRegister.QueueReset, 2) == 0);
        _ring = _driver.SetUpQueue(0, 16);
        Assert.Equal((0, 513u), Request(0, 0, (buffer, 512, true)));
    }

    [Fact]
    public void EveryQueueServes()
    {
        _disk.Asynchronous = true;
        SetUp(change: c => c with { Queues = 3 });
        _driver.Reset();
        Assert.True(_driver.Negotiate(ulong.MaxValue));
        GuestRing[] rings = [_driver.SetUpQueue(0, 16), _driver.SetUpQueue(1, 16), _driver.SetUpQueue(2, 16)];
        _driver.DriverOk();
        ulong buffer = _driver.Allocate(4096);
        for (int i = 0; i < 60; i++)
        {
            _ring = rings[i % 3];
            _disk.Content[0] = (byte)i;
            Assert.Equal((0, 513u), Request(0, 0, (buffer, 512, true)));
            Assert.Equal((byte)i, Ram(buffer, 1)[0]);
        }
    }

    [Fact]
    public async Task ResizeIsToldToTheDriver()
    {
        SetUp();
        byte generation = (byte)_driver.Get(CommonRegister.ConfigGeneration, 1);
        int before = _machine.Messages.Count(0x40);
        await ((VirtioBlock)_machine.Device).ResizeAsync(8 << 20);
        Assert.Equal(16384UL, BinaryPrimitives.ReadUInt64LittleEndian(_driver.DeviceConfig(0, 8)));
        Assert.NotEqual(generation, (byte)_driver.Get(CommonRegister.ConfigGeneration, 1));
        Assert.Equal(before + 1, _machine.Messages.Count(0x40));
        ulong buffer = _driver.Allocate(4096);
        Assert.Equal((0, 513u), Request(0, 16383, (buffer, 512, true)));
    }

    /// <summary>Random requests, several at once, against a plain array.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void RandomRequestsKeepTheContent(int seed)
    {
        _disk.Asynchronous = seed == 2;
        SetUp();
        var random = new Random(seed);
        byte[] model = new byte[_disk.Length];
        ulong buffer = _driver.Allocate(1 << 20);
        for (int round = 0; round < 300; round++)
        {
            int count = random.Next(1, 9);
            var requests = new List<(bool Write, int Sector, int Sectors, ulong At)>();
            for (int i = 0; i < count; i++)
            {
                // Each in its own eighth of the disk, so that the order does not matter.
                int sector = (i * 1024) + random.Next(900), sectors = random.Next(1, 33);
                ulong at = buffer + ((ulong)i * 65536) + (ulong)(random.Next(16) * 4);
                bool write = random.Next(2) == 0;
                uint first = (uint)random.Next(1, sectors * 512);
                if (write)
                {
                    byte[] pattern = Pattern(random.Next(), sectors * 512);
                    _machine.Memory.TryWrite(at, pattern);
                    pattern.CopyTo(model, sector * 512);
                }
                Submit(write ? 1u : 0, (ulong)sector, i, (at, first, !write), (at + first, (uint)(sectors * 512) - first, !write));
                requests.Add((write, sector, sectors, at));
            }
            for (int i = 0; i < count; i++)
            {
                _ring.TakeUsed();
            }
            for (int i = 0; i < count; i++)
            {
                Assert.Equal(0, StatusOf(i));
                (bool write, int sector, int sectors, ulong at) = requests[i];
                if (!write)
                {
                    Assert.True(model.AsSpan(sector * 512, sectors * 512).SequenceEqual(Ram(at, sectors * 512)), $"seed {seed}, round {round}");
                }
            }
        }
        Assert.Equal(model, _disk.Content);
    }
}
