using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.FileSystem;
using Lodge.Machine.Virtio;
using Lodge.Storage.Shares;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class VirtioFileSystemTests : IDisposable
{
    private const uint Lookup = 1, Forget = 2, Open = 14, Read = 15, Write = 16, Initialize = 26, Destroy = 38;
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-virtiofs.").FullName;
    private readonly FuseServer _server;
    private readonly VirtioMachine _machine;
    private VirtioGuestDriver _driver = null!;
    private GuestRing _priority = null!;
    private GuestRing _ring = null!;
    private ulong _request;
    private ulong _reply;

    public VirtioFileSystemTests()
    {
        File.WriteAllText(Path.Combine(_folder, "file"), "content");
        _server = new FuseServer(_folder, new ShareOptions());
        _machine = new VirtioMachine(memory => new VirtioFileSystem(memory, new VirtioFileSystemConfiguration("share0", _server) { Queues = 2 }));
    }

    public void Dispose()
    {
        _machine.Dispose();
        _server.Dispose();
        System.Diagnostics.Process.Start("rm", ["-rf", _folder])!.WaitForExit();       // names need not be UTF-8
    }

    private void Connect(ulong features = ulong.MaxValue)
    {
        _machine.Function.Start();
        _driver = new VirtioGuestDriver(_machine);
        SetUp(features);
    }

    private void SetUp(ulong features = ulong.MaxValue)
    {
        Assert.True(_driver.Negotiate(features));
        _driver.EnableMsix();
        _priority = _driver.SetUpQueue(0, 16, msix: true);
        _ring = _driver.SetUpQueue(1, 64, msix: true);
        _driver.DriverOk();
        _request = _driver.Allocate(8192);
        _reply = _driver.Allocate(8192);
    }

    private byte[] Message(uint operation, ulong node, params byte[] body)
    {
        byte[] message = new byte[40 + body.Length];
        BinaryPrimitives.WriteInt32LittleEndian(message, message.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(message.AsSpan(4), operation);
        BinaryPrimitives.WriteUInt64LittleEndian(message.AsSpan(8), 77);
        BinaryPrimitives.WriteUInt64LittleEndian(message.AsSpan(16), node);
        body.CopyTo(message, 40);
        return message;
    }

    private (int Error, byte[] Reply) Call(uint operation, ulong node, params byte[] body)
    {
        byte[] message = Message(operation, node, body);
        Assert.True(_machine.Memory.TryWrite(_request, message));
        // As Linux does it: header, rest, header of the reply, rest.
        _ring.Add((_request, 40, false), (_request + 40, (uint)body.Length, false), (_reply, 16, true), (_reply + 16, 4096, true));
        (_, uint length) = _ring.TakeUsed();
        byte[] reply = new byte[length];
        Assert.True(_machine.Memory.TryRead(_reply, reply));
        Assert.Equal((int)length, BinaryPrimitives.ReadInt32LittleEndian(reply));
        Assert.Equal(77ul, BinaryPrimitives.ReadUInt64LittleEndian(reply.AsSpan(8)));
        return (-BinaryPrimitives.ReadInt32LittleEndian(reply.AsSpan(4)), reply[16..]);
    }

    private ulong OpenFile()
    {
        Assert.Equal(0, Call(Initialize, 0, [.. BitConverter.GetBytes(7), .. BitConverter.GetBytes(36), .. new byte[8]]).Error);
        (int error, byte[] entry) = Call(Lookup, 1, "file\0"u8.ToArray());
        Assert.Equal(0, error);
        (error, byte[] opened) = Call(Open, BitConverter.ToUInt64(entry), [2, .. new byte[7]]);
        Assert.Equal(0, error);
        return BitConverter.ToUInt64(opened);
    }

    private static byte[] Transfer(ulong handle, ulong offset, uint size) => [.. BitConverter.GetBytes(handle), .. BitConverter.GetBytes(offset), .. BitConverter.GetBytes(size), .. new byte[20]];

    [Fact]
    public void The_configuration_tells_tag_and_queues()
    {
        Connect();
        byte[] configuration = _driver.DeviceConfig(0, 40);
        Assert.Equal("share0", Encoding.ASCII.GetString(configuration, 0, 36).TrimEnd('\0'));
        Assert.Equal(2, BitConverter.ToInt32(configuration, 36));
        Assert.Equal(0x105Au, _machine.Config(0) >> 16);
        Assert.Throws<ArgumentException>(() => new VirtioFileSystem(_machine.Memory, new VirtioFileSystemConfiguration("", _server)));
        Assert.Throws<ArgumentException>(() => new VirtioFileSystem(_machine.Memory, new VirtioFileSystemConfiguration(new string('x', 37), _server)));
    }

    [Theory]
    [InlineData(ulong.MaxValue)]
    [InlineData(VirtioFeatures.Version1)]
    public void Data_goes_to_and_from_guest_memory_and_is_reported_as_written(ulong features)
    {
        Connect(features);
        ulong handle = OpenFile();
        List<(ulong Address, ulong Length)> written = [];
        _machine.Memory.AnyWritten += (address, length) =>
        {
            lock (written)
            {
                written.Add((address, length));
            }
        };
        (int error, byte[] data) = Call(Read, 2, Transfer(handle, 0, 100));
        Assert.Equal((0, "content"), (error, Encoding.ASCII.GetString(data)));
        lock (written)
        {
            Assert.Contains(written, w => w.Address <= _reply + 16 && w.Address + w.Length >= _reply + 16 + 7);      // else old translated code would go on running there
        }
        (error, byte[] count) = Call(Write, 2, [.. Transfer(handle, 3, 4), .. "RIVE"u8]);
        Assert.Equal((0, 4), (error, BitConverter.ToInt32(count)));
        Assert.Equal("conRIVE", File.ReadAllText(Path.Combine(_folder, "file")));
    }

    [Fact]
    public void Forgetting_needs_no_reply_and_goes_before_the_others()
    {
        Connect();
        OpenFile();
        Assert.Equal(2, _server.NodeCount);
        _machine.Memory.TryWrite(_request, Message(Forget, 2, BitConverter.GetBytes(1ul)));
        _priority.Add((_request, 48, false));
        Assert.Equal(0u, _priority.TakeUsed().Length);
        Assert.Equal(1, _server.NodeCount);
        // Nothing that waits for the host is served there.
        _machine.Memory.TryWrite(_request, Message(Lookup, 1, "file\0"u8.ToArray()));
        _priority.Add((_request, 45, false), (_reply, 4096, true));
        Assert.Equal(16u, _priority.TakeUsed().Length);
        Assert.Equal(1, _server.NodeCount);
    }

    [Fact]
    public void Many_requests_are_in_flight()
    {
        Connect();
        ulong handle = OpenFile();
        byte[] message = Message(Read, 2, Transfer(handle, 0, 7));
        for (int round = 0; round < 30; round++)
        {
            for (uint i = 0; i < 16; i++)
            {
                _machine.Memory.TryWrite(_request + (i * 128), message);
                _ring.Add((_request + (i * 128), (uint)message.Length, false), (_reply + (i * 128), 128, true));
            }
            for (uint i = 0; i < 16; i++)
            {
                Assert.Equal(23u, _ring.TakeUsed().Length);
            }
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(39)]
    public void Malformed_requests_come_back_empty(uint length)
    {
        Connect();
        _ring.Add((_request, Math.Max(length, 1), false), (_reply, 100, true));
        Assert.Equal(0u, _ring.TakeUsed().Length);
        _ring.Add((_reply, 100, true));
        Assert.Equal(0u, _ring.TakeUsed().Length);
        _ring.Add((_request, 4096, false));
        Assert.Equal(0u, _ring.TakeUsed().Length);
        Assert.Equal(VirtioStatus.None, _driver.Status & VirtioStatus.DeviceNeedsReset);
    }

    [Fact]
    public void A_reset_ends_the_session()
    {
        Connect();
        ulong handle = OpenFile();
        Assert.Equal((2, 1), (_server.NodeCount, _server.OpenCount));
        for (int i = 0; i < 8; i++)
        {
            _machine.Memory.TryWrite(_request, Message(Read, 2, Transfer(handle, 0, 7)));
            _ring.Add((_request, 80, false), (_reply, 128, true));
        }
        _driver.Reset();
        Assert.Equal((1, 0, false), (_server.NodeCount, _server.OpenCount, _server.InSession));
        SetUp();
        OpenFile();
    }

    [Fact]
    public void A_machine_with_a_mounted_share_is_not_saved()
    {
        Connect();
        OpenFile();
        _machine.Function.Stop();
        SavedStateException refused = Assert.Throws<SavedStateException>(() => _machine.Save());
        Assert.Contains("share0", refused.Message, StringComparison.Ordinal);
        _machine.Function.Start();
        Assert.Equal(0, Call(Destroy, 0).Error);
        _machine.Function.Stop();
        byte[] state = _machine.Save();
        _machine.Restore(state);
        _machine.Function.Start();
        OpenFile();
    }

    [Fact]
    public void Random_chains_harm_nothing()
    {
        int seed = Environment.TickCount;
        Random random = new(seed);
        Connect();
        OpenFile();
        byte[] noise = new byte[4096];
        for (int i = 0; i < 3_000 && (_driver.Status & VirtioStatus.DeviceNeedsReset) == 0; i++)
        {
            random.NextBytes(noise);
            BinaryPrimitives.WriteUInt32LittleEndian(noise.AsSpan(4), (uint)random.Next(50));       // without SYNCFS, which waits for everybody's writes
            BinaryPrimitives.WriteUInt64LittleEndian(noise.AsSpan(16), (ulong)random.Next(4));
            _machine.Memory.TryWrite(_request, noise);
            GuestRing ring = random.Next(4) == 0 ? _priority : _ring;
            ring.Add((_request, (uint)random.Next(1, 200), false), (_request + 200, (uint)random.Next(1, 3000), false), (_reply, (uint)random.Next(1, 64), true), (_reply + 64, (uint)random.Next(1, 4000), true));
            uint length = ring.TakeUsed().Length;
            Assert.True(length <= 4064, $"seed {seed}, case {i}");
        }
    }
}
