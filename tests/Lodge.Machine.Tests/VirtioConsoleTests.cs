using System.Buffers.Binary;
using System.Text;
using Lodge.Machine.Devices.Virtio.Console;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>Host side that takes only as much as it is allowed to.</summary>
internal sealed class MeteredBackend : ICharacterBackend
{
    private readonly List<byte> _taken = [];
    private int _credit = int.MaxValue;

    public ICharacterReceiver Receiver { get; private set; } = null!;

    public int InputReadyCalls;

    public int Credit
    {
        set
        {
            lock (_taken)
            {
                _credit = value;
            }
            Receiver.OutputReady();
        }
    }

    public byte[] Taken
    {
        get
        {
            lock (_taken)
            {
                return [.. _taken];
            }
        }
    }

    public void Connect(ICharacterReceiver receiver) => Receiver = receiver;

    public int Write(ReadOnlySpan<byte> data)
    {
        lock (_taken)
        {
            int count = Math.Min(_credit, data.Length);
            _credit -= count;
            _taken.AddRange(data[..count]);
            return count;
        }
    }

    public void InputReady() => Interlocked.Increment(ref InputReadyCalls);
}

public class VirtioConsoleTests
{
    private readonly MeteredBackend _terminal = new();
    private readonly MeteredBackend _channel = new();

    private VirtioMachine Create() => new(memory => new VirtioConsole(memory, new VirtioConsoleConfiguration(
        [new("", true, _terminal), new("org.lodge.exec.0", false, _channel)], Columns: 132, Rows: 43)));

    private sealed record Control(uint Id, ConsoleEvent Event, ushort Value, byte[] Body);

    /// <summary>A guest that has set all queues up, with receive buffers in the control queue.</summary>
    private sealed class Guest
    {
        private readonly VirtioMachine _machine;
        private readonly ulong _controlBuffer;

        public Guest(VirtioMachine machine)
        {
            _machine = machine;
            machine.Function.Start();
            Driver = new VirtioGuestDriver(machine);
            Assert.True(Driver.Negotiate(ulong.MaxValue));
            Driver.EnableMsix();
            Rings = [.. Enumerable.Range(0, 6).Select(index => Driver.SetUpQueue(index, 32, msix: true))];
            Driver.DriverOk();
            _controlBuffer = Driver.Allocate(32 * 128);
        }

        public VirtioGuestDriver Driver { get; }

        public GuestRing[] Rings { get; }

        public void Send(uint id, ConsoleEvent what, ushort value)
        {
            byte[] message = new byte[8];
            BinaryPrimitives.WriteUInt32LittleEndian(message, id);
            BinaryPrimitives.WriteUInt16LittleEndian(message.AsSpan(4), (ushort)what);
            BinaryPrimitives.WriteUInt16LittleEndian(message.AsSpan(6), value);
            ulong at = Driver.Allocate(8);
            _machine.Memory.TryWrite(at, message);
            Rings[3].Add((at, 8, false));
            Rings[3].TakeUsed();
        }

        public Control Receive()
        {
            Rings[2].Add((_controlBuffer, 128, true));
            (_, uint length) = Rings[2].TakeUsed();
            byte[] data = new byte[length];
            _machine.Memory.TryRead(_controlBuffer, data);
            return new Control(
                BinaryPrimitives.ReadUInt32LittleEndian(data),
                (ConsoleEvent)BinaryPrimitives.ReadUInt16LittleEndian(data.AsSpan(4)),
                BinaryPrimitives.ReadUInt16LittleEndian(data.AsSpan(6)),
                data[8..]);
        }

        /// <summary>The whole hand-shake of a Linux guest.</summary>
        public void BringUp()
        {
            Send(uint.MaxValue, ConsoleEvent.DeviceReady, 1);
            Assert.Equal((0u, ConsoleEvent.DeviceAdd), (Receive() is var a ? a.Id : 0, a.Event));
            Assert.Equal((1u, ConsoleEvent.DeviceAdd), (Receive() is var b ? b.Id : 0, b.Event));
            Send(0, ConsoleEvent.PortReady, 1);
            Assert.Equal(ConsoleEvent.ConsolePort, Receive().Event);
            Control resize = Receive();
            Assert.Equal(ConsoleEvent.Resize, resize.Event);
            Assert.Equal([43, 0, 132, 0], resize.Body);
            Assert.Equal(ConsoleEvent.PortOpen, Receive().Event);
            Send(1, ConsoleEvent.PortReady, 1);
            Control open = Receive();
            Assert.Equal((1u, ConsoleEvent.PortOpen, (ushort)1), (open.Id, open.Event, open.Value));
            Control name = Receive();
            Assert.Equal((1u, ConsoleEvent.PortName), (name.Id, name.Event));
            Assert.Equal("org.lodge.exec.0", Encoding.UTF8.GetString(name.Body));
        }

        public ulong Put(byte[] data)
        {
            ulong at = Driver.Allocate((ulong)data.Length);
            _machine.Memory.TryWrite(at, data);
            return at;
        }
    }

    [Fact]
    public void PortsAreAnnouncedAndCarryData()
    {
        using VirtioMachine machine = Create();
        var guest = new Guest(machine);
        guest.BringUp();
        byte[] text = "hello\n"u8.ToArray();
        guest.Rings[1].Add((guest.Put(text), 3, false), (guest.Put(text[3..]), 3, false));
        guest.Rings[1].TakeUsed();
        Assert.Equal(text, _terminal.Taken);

        // The channel's input waits until the guest opens the port.
        Assert.Equal(4, _channel.Receiver.Receive("ping"u8));
        ulong buffer = guest.Driver.Allocate(64);
        guest.Rings[4].Add((buffer, 64, true));
        guest.Send(1, ConsoleEvent.PortOpen, 1);
        Assert.Equal(4u, guest.Rings[4].TakeUsed().Length);
        Wait.Until(() => machine.Messages.Count(0x45) > 0);
        byte[] got = new byte[4];
        machine.Memory.TryRead(buffer, got);
        Assert.Equal("ping"u8.ToArray(), got);
    }

    [Fact]
    public void OutputWaitsForTheHostSideWithoutBuffering()
    {
        using VirtioMachine machine = Create();
        var guest = new Guest(machine);
        byte[] data = new byte[10_000];
        new Random(1).NextBytes(data);
        _terminal.Credit = 4500;
        guest.Rings[1].Add((guest.Put(data), (uint)data.Length, false));
        guest.Rings[1].Add((guest.Put([1, 2, 3]), 3, false));
        Wait.Until(() => _terminal.Taken.Length == 4500);
        Assert.Equal(0, guest.Rings[1].UsedIndex);
        _terminal.Credit = 100;
        Wait.Until(() => _terminal.Taken.Length == 4600);
        _terminal.Credit = int.MaxValue;
        Wait.Until(() => guest.Rings[1].UsedIndex == 2);
        Assert.Equal([.. data, 1, 2, 3], _terminal.Taken);
    }

    [Fact]
    public void InputIsRefusedWhenFullAndAskedForAgain()
    {
        using VirtioMachine machine = Create();
        var guest = new Guest(machine);
        byte[] data = new byte[10_000];
        new Random(2).NextBytes(data);
        int accepted = _terminal.Receiver.Receive(data);
        Assert.Equal(ConsolePort.InputCapacity, accepted);
        Assert.Equal(0, _terminal.Receiver.Receive(data));
        List<byte> got = [];
        ulong buffer = guest.Driver.Allocate(4096);
        while (got.Count < data.Length)
        {
            guest.Rings[0].Add((buffer, 1000, true));
            byte[] part = new byte[guest.Rings[0].TakeUsed().Length];
            machine.Memory.TryRead(buffer, part);
            got.AddRange(part);
            if (accepted < data.Length)
            {
                Wait.Until(() => Volatile.Read(ref _terminal.InputReadyCalls) > 0);
                accepted += _terminal.Receiver.Receive(data.AsSpan(accepted));
            }
        }
        Assert.Equal(data, got);
    }

    [Fact]
    public void SavedWhileOutputIsHeldLosesAndRepeatsNothing()
    {
        byte[] data = new byte[9000];
        new Random(3).NextBytes(data);
        using VirtioMachine first = Create();
        var guest = new Guest(first);
        guest.BringUp();
        _terminal.Credit = 5000;
        guest.Rings[1].Add((guest.Put(data), 9000, false));
        Wait.Until(() => _terminal.Taken.Length == 5000);
        Assert.Equal(3, _channel.Receiver.Receive("abc"u8));
        first.Function.Stop();
        byte[] state = first.Save();
        byte[] ram = new byte[first.Memory.Size];
        first.Memory.TryRead(0, ram);
        byte[] before = _terminal.Taken;

        var other = new VirtioConsoleTests();
        using VirtioMachine second = other.Create();
        second.Memory.TryWrite(0, ram);
        second.Restore(state);
        second.Function.Start();
        Wait.Until(() => second.Memory.TryRead(guest.Rings[1].Used + 2, out ushort used) && used == 1);
        Assert.Equal(data, before.Concat(other._terminal.Taken).ToArray());
        Assert.Equal(3, ((VirtioConsole)second.Device).Ports[1].InputCount);
    }

    [Fact]
    public void EmergencyWriteWorksBeforeTheDriver()
    {
        using VirtioMachine machine = Create();
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        foreach (byte letter in "oops"u8)
        {
            driver.DeviceConfig(8, [letter, 0, 0, 0]);
        }
        Wait.Until(() => _terminal.Taken.Length == 4);
        Assert.Equal("oops"u8.ToArray(), _terminal.Taken);
    }

    [Fact]
    public void ResizeReachesConfigurationAndControlQueue()
    {
        using VirtioMachine machine = Create();
        var guest = new Guest(machine);
        guest.BringUp();
        uint generation = guest.Driver.Get(CommonRegister.ConfigGeneration, 1);
        _terminal.Receiver.Resize(100, 30);
        Assert.Equal([100, 0, 30, 0], guest.Driver.DeviceConfig(0, 4));
        Assert.NotEqual(generation, guest.Driver.Get(CommonRegister.ConfigGeneration, 1));
        Assert.True(machine.Messages.Count(0x40) > 0);
        Assert.Equal([30, 0, 100, 0], guest.Receive().Body);
    }

    [Fact]
    public void MalformedControlMessagesAreIgnored()
    {
        using VirtioMachine machine = Create();
        var guest = new Guest(machine);
        guest.Send(77, ConsoleEvent.PortReady, 1);
        guest.Send(0, (ConsoleEvent)999, 1);
        guest.Rings[3].Add((guest.Put([1, 2]), 2, false));
        guest.Rings[3].TakeUsed();
        guest.BringUp();
    }

    [Fact]
    public void HugeOutputChainDoesNotHoldUpStopOrReset()
    {
        using VirtioMachine machine = Create();
        var guest = new Guest(machine);
        // 31 descriptors of almost all RAM each.
        var buffers = Enumerable.Repeat((0x1000UL, 3u << 20, false), 31).ToArray();
        _terminal.Credit = 1 << 20;
        guest.Rings[1].Add(buffers);
        Wait.Until(() => _terminal.Taken.Length > 0);
        machine.Function.Stop();
        machine.Function.Start();
        guest.Driver.Reset();
        Assert.Equal(VirtioStatus.None, guest.Driver.Status);
        Assert.Equal(0, machine.Device.Queues[1].InFlight);
    }
}
