using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Scsi;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class VirtioScsiTests : IDisposable
{
    private readonly TestDisk _disk = new(4 << 20);
    private readonly TestDisk _medium = new(1 << 20) { IsReadOnly = true };
    private VirtioMachine _machine = null!;
    private VirtioGuestDriver _driver = null!;
    private GuestRing _control = null!;
    private GuestRing _events = null!;
    private GuestRing _ring = null!;
    private ulong _request;
    private ulong _response;
    private ulong _in;

    public void Dispose()
    {
        _disk.Hold = false;
        _disk.Release();
        _machine?.Dispose();
    }

    private VirtioMachine Create(bool readOnly = false) => new(memory => new VirtioScsi(memory, new VirtioScsiConfiguration(
        [new ScsiTargetConfiguration(_disk) { Serial = "LODGE-0042", ReadOnly = readOnly }, new ScsiTargetConfiguration(_medium, CdRom: true)])));

    private VirtioScsi Device => (VirtioScsi)_machine.Device;

    private void SetUp(bool readOnly = false)
    {
        _machine = Create(readOnly);
        _machine.Function.Start();
        _driver = new VirtioGuestDriver(_machine);
        Connect();
        // The first command of each unit reports power-on.
        Assert.Equal((6, 0x2900), Sense(Run(0, [0])));
        Assert.Equal(0, Run(0, [0]).Status);
        Assert.Equal((6, 0x2900), Sense(Run(1, [0])));
        Assert.Equal(0, Run(1, [0]).Status);
    }

    private void Connect()
    {
        Assert.True(_driver.Negotiate(ulong.MaxValue));
        _driver.EnableMsix();
        _control = _driver.SetUpQueue(0, 16, msix: true);
        _events = _driver.SetUpQueue(1, 16, msix: true);
        _ring = _driver.SetUpQueue(2, 64, msix: true);
        _driver.DriverOk();
        _request = _driver.Allocate(4096);
        _response = _driver.Allocate(8192);
        _in = _driver.Allocate(65536);
    }

    private sealed record Result(byte Response, byte Status, uint Residual, byte[] Sense, byte[] Data);

    private static (int Key, int Code) Sense(Result result)
    {
        Assert.Equal((0, 2), (result.Response, result.Status));
        return (result.Sense[2] & 0xF, (result.Sense[12] << 8) | result.Sense[13]);
    }

    private void Submit(int target, byte[] cdb, int slot, (ulong Address, uint Length)? dataOut, (ulong Address, uint Length)? dataIn, byte lun = 0)
    {
        byte[] request = new byte[51];
        request[0] = 1;
        request[1] = (byte)target;
        request[2] = 0x40;
        request[3] = lun;
        request[8] = (byte)(slot + 1);
        cdb.CopyTo(request, 19);
        _machine.Memory.TryWrite(_request + ((ulong)slot * 64), request);
        List<(ulong, uint, bool)> chain = [(_request + ((ulong)slot * 64), 51, false)];
        if (dataOut is { } source)
        {
            chain.Add((source.Address, source.Length, false));
        }
        chain.Add((_response + ((ulong)slot * 128), 108, true));
        if (dataIn is { } sink)
        {
            chain.Add((sink.Address, sink.Length, true));
        }
        _ring.Add([.. chain]);
    }

    private Result Take(int slot, uint length)
    {
        byte[] response = Ram(_response + ((ulong)slot * 128), 108);
        uint senseLength = BinaryPrimitives.ReadUInt32LittleEndian(response);
        uint residual = BinaryPrimitives.ReadUInt32LittleEndian(response.AsSpan(4));
        return new Result(response[11], response[10], residual, response.AsSpan(12, (int)senseLength).ToArray(), length > 108 ? Ram(_in, (int)length - 108) : []);
    }

    private Result Run(int target, byte[] cdb, byte[]? dataOut = null, uint dataIn = 0, byte lun = 0)
    {
        if (dataOut is not null)
        {
            _machine.Memory.TryWrite(_in + 32768, dataOut);
        }
        Submit(target, cdb, 0, dataOut is null ? null : (_in + 32768, (uint)dataOut.Length), dataIn == 0 ? null : (_in, dataIn), lun);
        (_, uint length) = _ring.TakeUsed();
        return Take(0, length);
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

    private byte Manage(uint function, int target, ulong identifier, bool wait = true)
    {
        byte[] request = new byte[24];
        request[4] = (byte)function;
        request[8] = 1;
        request[9] = (byte)target;
        request[16] = (byte)identifier;
        ulong at = _request + 3072;
        _machine.Memory.TryWrite(at, request);
        _machine.Memory.TryWrite(at + 64, (byte)0xEE);
        _control.Add((at, 24, false), (at + 64, 1, true));
        if (wait)
        {
            _control.TakeUsed();
        }
        return Ram(at + 64, 1)[0];
    }

    [Fact]
    public void InquiryTellsWhoItIs()
    {
        SetUp();
        Result disk = Run(0, [0x12, 0, 0, 0, 96, 0], dataIn: 96);
        Assert.Equal((36, 60u), (disk.Data.Length, disk.Residual));
        Assert.Equal((0, 0), (disk.Data[0], disk.Data[1]));
        Assert.Equal("LODGE   Lodge SCSI Disk", Encoding.ASCII.GetString(disk.Data, 8, 23));
        Assert.Equal((5, 0x80), (Run(1, [0x12, 0, 0, 0, 36, 0], dataIn: 36).Data[0], Run(1, [0x12, 0, 0, 0, 36, 0], dataIn: 36).Data[1]));
        Assert.Equal([0, 0, 0, 6, 0, 0x80, 0x83, 0xB0, 0xB1, 0xB2], Run(0, [0x12, 1, 0, 0, 96, 0], dataIn: 96).Data);
        Assert.Equal("LODGE-0042", Encoding.ASCII.GetString(Run(0, [0x12, 1, 0x80, 0, 96, 0], dataIn: 96).Data, 4, 10));
        byte[] identification = Run(0, [0x12, 1, 0x83, 0, 96, 0], dataIn: 96).Data;
        Assert.Equal((16, 0x30), (identification.Length, identification[8] & 0xF0));
        byte[] limits = Run(0, [0x12, 1, 0xB0, 0, 96, 0], dataIn: 96).Data;
        Assert.Equal((64, 255u), (limits.Length, BinaryPrimitives.ReadUInt32BigEndian(limits.AsSpan(24))));
        Assert.Equal(0xE0, Run(0, [0x12, 1, 0xB2, 0, 96, 0], dataIn: 96).Data[5]);
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x12, 1, 0x99, 0, 96, 0], dataIn: 96)));
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x12, 0, 1, 0, 96, 0], dataIn: 96)));
        Assert.Equal([0, 0, 0, 8, 0, 0, 0, 0], Run(0, [0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], dataIn: 16).Data[..8]);
        Assert.Equal(4, Run(0, [0x12, 0, 0, 0, 4, 0], dataIn: 96).Data.Length);
        Assert.Equal((5, 0x2000), Sense(Run(0, [0xEE])));
    }

    [Fact]
    public void AddressesThatAreNotThereAreBadTargets()
    {
        SetUp();
        Assert.Equal(3, Run(2, [0]).Response);
        Assert.Equal(3, Run(255, [0]).Response);
        Assert.Equal(3, Run(0, [0], lun: 1).Response);
        Assert.Equal(3, Manage(5, 9, 0));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ReadsAndWritesInEveryForm(bool asynchronous)
    {
        _disk.Asynchronous = asynchronous;
        SetUp();
        byte[] data = Pattern(1, 1024);
        Assert.Equal((0, 0u), (Run(0, [0x0A, 0, 0, 2, 2, 0], data).Status, Run(0, [0x0A, 0, 0, 2, 2, 0], data).Residual));
        Assert.Equal(data, Run(0, [0x08, 0, 0, 2, 2, 0], dataIn: 1024).Data);
        Assert.Equal(0, Run(0, [0x2A, 8, 0, 0, 0, 10, 0, 0, 2, 0], data).Status);
        Assert.Equal(data, Run(0, [0x28, 0, 0, 0, 0, 10, 0, 0, 2, 0], dataIn: 1024).Data);
        Assert.Equal(0, Run(0, [0xAA, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0], data).Status);
        Assert.Equal(data, Run(0, [0xA8, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0], dataIn: 1024).Data);
        Assert.Equal(0, Run(0, [0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 2, 0, 0], data).Status);
        Result wide = Run(0, [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 2, 0, 0], dataIn: 2048);
        Assert.Equal((1024, 1024u), (wide.Data.Length, wide.Residual));
        Assert.Equal(0, Run(0, [0x35]).Status);
        Assert.Equal(["w 1024 1024", "w 1024 1024", "r 1024 1024", "w 5120 1024 fua", "r 5120 1024", "w 10240 1024", "r 10240 1024", "w 15360 1024", "r 15360 1024", "f 0 0"], _disk.Log);
    }

    [Fact]
    public void TransfersThatMakeNoSenseAreRefused()
    {
        SetUp();
        Assert.Equal((5, 0x2100), Sense(Run(0, [0x28, 0, 0, 0, 0x20, 0, 0, 0, 1, 0], dataIn: 512)));
        Assert.Equal((5, 0x2100), Sense(Run(0, [0x88, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1, 0, 0], dataIn: 512)));
        Assert.Equal((5, 0x2100), Sense(Run(0, [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], dataIn: 512)));
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], dataIn: 512)));      // the buffer is too small
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x2A, 0, 0, 0, 0, 0, 0, 0, 2, 0], new byte[512])));
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], dataIn: 512)));
        Assert.Equal(0, Run(0, [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).Status);
        Assert.Empty(_disk.Log);
    }

    [Fact]
    public void CapacityModesAndTheWriteCache()
    {
        _disk.RequestAlignment = 4096;
        SetUp();
        Assert.Equal([0, 0, 0x1F, 0xFF, 0, 0, 2, 0], Run(0, [0x25], dataIn: 8).Data);
        byte[] capacity = Run(0, [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], dataIn: 32).Data;
        Assert.Equal((8191UL, 3, 0x80), (BinaryPrimitives.ReadUInt64BigEndian(capacity), capacity[13], capacity[14]));
        byte[] modes = Run(0, [0x1A, 0, 8, 0, 255, 0], dataIn: 255).Data;
        Assert.Equal((24, 23, 4), (modes.Length, modes[0], modes[6]));
        byte[] select = [0, 0, 0, 0, .. modes[4..]];
        select[6] = 0;
        Assert.Equal(0, Run(0, [0x15, 0x10, 0, 0, 24, 0], select).Status);
        Assert.Equal(0, Run(0, [0x1A, 0, 8, 0, 255, 0], dataIn: 255).Data[6]);
        Assert.Equal(0, Run(0, [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], new byte[512]).Status);
        Assert.Equal(["f 0 0", "w 0 512 fua"], _disk.Log);
        Assert.Equal((5, 0x1A00), Sense(Run(0, [0x15, 0x10, 0, 0, 10, 0], select[..10])));
        Assert.Equal((5, 0x2600), Sense(Run(0, [0x15, 0x10, 0, 0, 8, 0], [0, 0, 0, 0, 0x3E, 2, 0, 0])));
        Assert.Equal((5, 0x3900), Sense(Run(0, [0x1A, 0, 0xC8, 0, 255, 0], dataIn: 255)));
        Assert.Equal(44 + 8, Run(0, [0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 255, 0], dataIn: 255).Data.Length);
    }

    [Fact]
    public void UnmapAndWriteSame()
    {
        SetUp();
        byte[] list = new byte[40];
        list[3] = 32;
        list[15] = 8;
        list[19] = 8;
        BinaryPrimitives.WriteUInt64BigEndian(list.AsSpan(24), 8191);
        list[35] = 1;
        Assert.Equal(0, Run(0, [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], list).Status);
        Assert.Equal(["d 4096 4096", "d 4193792 512"], _disk.Log);
        list[35] = 2;
        Assert.Equal((5, 0x2100), Sense(Run(0, [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], list)));
        list[3] = 33;
        Assert.Equal((5, 0x1A00), Sense(Run(0, [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], list)));
        Assert.Equal((5, 0x1A00), Sense(Run(0, [0x42, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], [1, 2, 3])));
        _disk.Log.Clear();
        Assert.Equal(0, Run(0, [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0], new byte[512]).Status);
        Assert.Equal(0, Run(0, [0x93, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0]).Status);
        byte[] pattern = Pattern(2, 512);
        Assert.Equal(0, Run(0, [0x41, 0, 0, 0, 0, 1, 0, 0x10, 0, 0], pattern).Status);
        Assert.Equal(["z 512 2048 unmap", "z 512 2048", "w 512 1048576", "w 1049088 1048576"], _disk.Log);
        Assert.Equal(pattern, _disk.Content.AsSpan(4096 * 512, 512).ToArray());
        Assert.Equal(0, _disk.Content[4097 * 512]);
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], new byte[512])));
        Assert.Equal((5, 0x2400), Sense(Run(0, [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0], new byte[100])));
    }

    [Fact]
    public void ReadOnlyAndFailingDisks()
    {
        SetUp(readOnly: true);
        Assert.Equal((7, 0x2700), Sense(Run(0, [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], new byte[512])));
        Assert.Equal((7, 0x2700), Sense(Run(0, [0x93, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0])));
        Assert.Equal(0x90, Run(0, [0x1A, 0, 8, 0, 255, 0], dataIn: 255).Data[2]);
        _disk.Fail = (_, offset) => offset == 512 ? DiskError.InputOutput : null;
        Assert.Equal((3, 0x1100), Sense(Run(0, [0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0], dataIn: 512)));
        Assert.Equal(0, Run(0, [0x28, 0, 0, 0, 0, 2, 0, 0, 1, 0], dataIn: 512).Status);
    }

    [Fact]
    public void TaskManagementWaitsForTheCommands()
    {
        SetUp();
        _disk.Hold = true;
        for (int i = 1; i <= 4; i++)
        {
            Submit(0, [0x28, 0, 0, 0, 0, (byte)i, 0, 0, 1, 0], i, null, (_in + ((ulong)i * 512), 512));
        }
        Wait.Until(() => _disk.Held == 4);
        Assert.Equal(10, Manage(6, 0, 3));      // queries: it is there
        Assert.Equal(0, Manage(6, 0, 77));
        Assert.Equal(10, Manage(7, 0, 0));
        Assert.Equal(0, Manage(0, 0, 77));      // nothing to abort
        Assert.Equal(11, Manage(99, 0, 0));
        Assert.Equal(0, Manage(1, 1, 0));       // the other target has none
        Assert.Equal(0xEE, Manage(5, 0, 0, wait: false));
        Thread.Sleep(20);
        Assert.False(_control.TryTakeUsed(out _, out _));
        _disk.Hold = false;
        _disk.Release();
        for (int i = 0; i < 4; i++)
        {
            _ring.TakeUsed();
        }
        _control.TakeUsed();
        Assert.Equal(0, Ram(_request + 3072 + 64, 1)[0]);
        Assert.Equal((6, 0x2900), Sense(Run(0, [0])));      // after a reset of the unit
    }

    [Fact]
    public async Task EventsTellOfChanges()
    {
        SetUp();
        ulong buffers = _driver.Allocate(4096);
        await Device.ResizeAsync(0, 8 << 20);       // told when there is a buffer
        _events.Add((buffers, 16, true));
        Assert.Equal(16u, _events.TakeUsed().Length);
        Assert.Equal([3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x2A, 9, 0, 0], Ram(buffers, 16));
        Assert.Equal((6, 0x2A09), Sense(Run(0, [0])));
        Assert.Equal([0, 0, 0x3F, 0xFF], Run(0, [0x25], dataIn: 8).Data[..4]);
        int target = Device.Attach(new ScsiTargetConfiguration(new TestDisk(1 << 20)) { Serial = "new" });
        Assert.Equal(2, target);
        _events.Add((buffers, 16, true));
        _events.TakeUsed();
        Assert.Equal([1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Ram(buffers, 16));
        Assert.Equal((6, 0x2900), Sense(Run(2, [0])));
        Assert.True(Device.Detach(2));
        Assert.False(Device.Detach(2));
        Assert.Equal(3, Run(2, [0]).Response);
        for (int i = 0; i < 100; i++)
        {
            Device.ChangeMedium(1, i % 2 == 0 ? null : _medium);
        }
        for (int i = 0; i < 64; i++)
        {
            _events.Add((buffers, 16, true));
            _events.TakeUsed();
            Assert.Equal(i == 0 ? 0x80 : 0, Ram(buffers, 4)[3]);        // some were lost
        }
    }

    [Fact]
    public void CdRomHasItsCommands()
    {
        new Random(4).NextBytes(_medium.Content);
        SetUp();
        Assert.Equal([0, 0, 1, 0xFF, 0, 0, 8, 0], Run(1, [0x25], dataIn: 8).Data);
        Assert.Equal(_medium.Content.AsSpan(4096, 4096).ToArray(), Run(1, [0x28, 0, 0, 0, 0, 2, 0, 0, 2, 0], dataIn: 4096).Data);
        Assert.Equal((5, 0x2100), Sense(Run(1, [0x28, 0, 0, 0, 2, 0, 0, 0, 1, 0], dataIn: 2048)));
        Assert.Equal((5, 0x2000), Sense(Run(1, [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], new byte[2048])));
        Assert.Equal([0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 2, 0], Run(1, [0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0], dataIn: 255).Data);
        Assert.Equal([0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 8, 62], Run(1, [0x43, 2, 0, 0, 0, 0, 0xAA, 0, 255, 0], dataIn: 255).Data);
        Assert.Equal((5, 0x2400), Sense(Run(1, [0x43, 0, 2, 0, 0, 0, 0, 0, 255, 0], dataIn: 255)));
        byte[] configuration = Run(1, [0x46, 0, 0, 0, 0, 0, 0, 0, 255, 0], dataIn: 255).Data;
        Assert.Equal((configuration.Length - 4, 8), (configuration[3], configuration[7]));
        Assert.Equal([0, 0, 0, 12, 0, 0, 0, 8, 0, 3, 3, 4], Run(1, [0x46, 2, 0, 3, 0, 0, 0, 0, 255, 0], dataIn: 255).Data[..12]);
        Assert.Equal([0, 6, 4, 16, 0, 2, 0, 0], Run(1, [0x4A, 1, 0, 0, 16, 0, 0, 0, 8, 0], dataIn: 8).Data);
        Assert.Equal((5, 0x2400), Sense(Run(1, [0x4A, 0, 0, 0, 16, 0, 0, 0, 8, 0], dataIn: 8)));
        Assert.Equal(34, Run(1, [0x51, 0, 0, 0, 0, 0, 0, 0, 255, 0], dataIn: 255).Data.Length);
        Assert.Equal(30, Run(1, [0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 255, 0], dataIn: 255).Data.Length);
        // Locked, it does not open; unlocked it does, and reads fail until it is closed.
        Assert.Equal(0, Run(1, [0x1E, 0, 0, 0, 1, 0]).Status);
        Assert.Equal((5, 0x5302), Sense(Run(1, [0x1B, 0, 0, 0, 2, 0])));
        Assert.Equal(0, Run(1, [0x1E, 0, 0, 0, 0, 0]).Status);
        Assert.Equal(0, Run(1, [0x1B, 0, 0, 0, 2, 0]).Status);
        Assert.Equal((2, 0x3A02), Sense(Run(1, [0])));
        Assert.Equal([0, 0x10], Run(1, [0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], dataIn: 8).Data[..2]);
        Assert.Equal([0, 6, 4, 16, 3, 1, 0, 0], Run(1, [0x4A, 1, 0, 0, 16, 0, 0, 0, 8, 0], dataIn: 8).Data);
        Assert.Equal(0, Run(1, [0x1B, 0, 0, 0, 3, 0]).Status);
        Assert.Equal((6, 0x2800), Sense(Run(1, [0])));
        Assert.Equal(0, Run(1, [0]).Status);
        Assert.True(Device.ChangeMedium(1, null));
        Assert.Equal((6, 0x2800), Sense(Run(1, [0])));
        Assert.Equal((2, 0x3A00), Sense(Run(1, [0])));
        Assert.False(Device.ChangeMedium(0, null));
    }

    [Fact]
    public void MalformedRequestsLatch()
    {
        SetUp();
        _ring.Add((_request, 50, false), (_response, 108, true));
        Wait.Until(() => _machine.Device.LastViolation == QueueViolation.BadRequest);
        Connect();
        _ring.Add((_request, 51, false), (_response, 107, true));
        Wait.Until(() => _machine.Device.LastViolation == QueueViolation.BadRequest);
        Connect();
        _control.Add((_request, 3, false), (_response, 1, true));
        Wait.Until(() => _machine.Device.LastViolation == QueueViolation.BadRequest);
        Connect();
        Device.ChangeMedium(1, null);
        _events.Add((_request, 15, true));
        Wait.Until(() => _machine.Device.LastViolation == QueueViolation.BadRequest);
        Connect();
        Assert.Equal((6, 0x2900), Sense(Run(0, [0])));
    }

    [Fact]
    public void StopWaitsForCommandsAndTheStateIsSaved()
    {
        SetUp();
        Run(1, [0x1B, 0, 0, 0, 2, 0]);      // opens the tray
        _disk.Hold = true;
        for (int i = 1; i <= 4; i++)
        {
            Submit(0, [0x28, 0, 0, 0, 0, (byte)i, 0, 0, 1, 0], i, null, (_in + ((ulong)i * 512), 512));
        }
        Wait.Until(() => _disk.Held == 4);
        Manage(1, 0, 0, wait: false);
        Device.ChangeMedium(1, null);
        var stop = new Thread(_machine.Function.Stop);
        stop.Start();
        Assert.False(stop.Join(50));
        _disk.Hold = false;
        _disk.Release();
        Assert.True(stop.Join(30_000));
        byte[] state = _machine.Save();
        byte[] ram = Ram(0, (int)_machine.Memory.Size);
        using VirtioMachine second = Create();
        second.Memory.TryWrite(0, ram);
        second.Restore(state);
        Assert.Equal(state, second.Save());
        using var other = new VirtioMachine(memory => new VirtioScsi(memory, new VirtioScsiConfiguration([new ScsiTargetConfiguration(_disk)])));
        other.Memory.TryWrite(0, ram);
        Assert.Throws<SavedStateException>(() => other.Restore(state));
    }

    [Fact]
    public void ResetGivesUpCommandsInFlightBeforeItEnds()
    {
        SetUp();
        _disk.Hold = true;
        Submit(0, [0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0], 1, null, (_in, 512));
        Wait.Until(() => _disk.Held == 1);
        _driver.Reset();
        Assert.Equal(0, _disk.Held);
        _disk.Hold = false;
        Connect();
        Assert.Equal((6, 0x2900), Sense(Run(0, [0])));
        Assert.Equal(512, Run(0, [0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0], dataIn: 512).Data.Length);
    }

    /// <summary>Random CDBs with random buffers: each gets a status, none does harm.</summary>
    [Fact]
    public void AnyCdbGetsAStatus()
    {
        int seconds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_SECONDS"), out int value) ? value : 0;
        long end = Environment.TickCount64 + (seconds * 1000L);
        SetUp();
        byte[] known = [0, 3, 8, 0xA, 0x12, 0x15, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2A, 0x2B, 0x2F, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4A, 0x51, 0x55, 0x5A, 0x88, 0x8A, 0x8F, 0x91, 0x93, 0x9E, 0xA0, 0xA8, 0xAA, 0xBD];
        var random = new Random(seconds == 0 ? 1 : Environment.TickCount);
        _disk.Fail = (_, _) => Random.Shared.Next(20) == 0 ? (DiskError)Random.Shared.Next(14) : null;
        for (int i = 0; i < 20_000 || Environment.TickCount64 < end; i++)
        {
            _disk.Asynchronous = random.Next(4) == 0;
            byte[] cdb = new byte[random.Next(1, 33)];
            for (int at = 0; at < cdb.Length; at++)
            {
                cdb[at] = random.Next(2) == 0 ? (byte)0 : random.Next(3) == 0 ? (byte)random.Next(256) : (byte)random.Next(8);
            }
            cdb[0] = random.Next(10) == 0 ? (byte)random.Next(256) : known[random.Next(known.Length)];
            byte[]? dataOut = random.Next(2) == 0 ? null : Pattern(i, random.Next(1, 2000));
            if (dataOut is not null && random.Next(2) == 0)
            {
                Array.Clear(dataOut, 0, Math.Min(8, dataOut.Length));
                dataOut[Math.Min(3, dataOut.Length - 1)] = (byte)(random.Next(4) * 16);
            }
            Result result = Run(random.Next(2), cdb, dataOut, (uint)(random.Next(2) == 0 ? 0 : random.Next(1, 8000)));
            Assert.True(result.Response == 0 && result.Status is 0 or 2, $"CDB {Convert.ToHexString(cdb)}");
            if (_disk.Log.Count > 1000)
            {
                _disk.Log.Clear();
            }
        }
        Assert.Equal(QueueViolation.None, _machine.Device.LastViolation);
    }
}
