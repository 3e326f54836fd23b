using Xunit;
using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Tests.Harness;

/// <summary>An interrupt line that remembers its level and how often it rose.</summary>
public sealed class RecordingLine : IInterruptLine
{
    private readonly Lock _gate = new();
    private bool _level;
    private int _rises;

    public bool Level { get { lock (_gate) { return _level; } } }

    public int Rises { get { lock (_gate) { return _rises; } } }

    public void Set(bool asserted)
    {
        lock (_gate)
        {
            _rises += asserted && !_level ? 1 : 0;
            _level = asserted;
        }
    }
}

/// <summary>Local APICs that remember the messages they got (the last thousand).</summary>
public sealed class RecordingMessages : IMessageInterruptTarget
{
    private readonly Lock _gate = new();
    private readonly Queue<(ulong Address, uint Data)> _messages = [];

    public void SignalMessage(ulong address, uint data)
    {
        lock (_gate)
        {
            _messages.Enqueue((address, data));
            if (_messages.Count > 1000)
            {
                _messages.Dequeue();
            }
        }
    }

    /// <summary>Takes everything received so far.</summary>
    public List<(ulong Address, uint Data)> Take()
    {
        lock (_gate)
        {
            List<(ulong, uint)> all = [.. _messages];
            _messages.Clear();
            return all;
        }
    }
}

/// <summary>A bus and a clock that moves only by hand, for one or several devices.</summary>
public sealed class DeviceFixture : IDisposable
{
    public MachineClock Clock { get; } = new();

    public TimerService Timers { get; }

    public MachineBus Bus { get; } = new();

    public DeviceFixture() => Timers = new TimerService(Clock);

    public T Attach<T>(T device) where T : IDevice
    {
        Bus.Attach(device);
        return device;
    }

    /// <summary>Moves machine time on. The clock stands still otherwise, so that host timers never expire by themselves.</summary>
    public void Advance(long nanoseconds) => Clock.Set(Clock.Now + nanoseconds);

    public byte In(ushort port)
    {
        Span<byte> data = stackalloc byte[1];
        Bus.ReadPort(port, data);
        return data[0];
    }

    public void Out(ushort port, int value) => Bus.WritePort(port, [(byte)value]);

    public uint Read32(ulong address)
    {
        Span<byte> data = stackalloc byte[4];
        Bus.ReadMemory(address, data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    public ulong Read64(ulong address)
    {
        Span<byte> data = stackalloc byte[8];
        Bus.ReadMemory(address, data);
        return BinaryPrimitives.ReadUInt64LittleEndian(data);
    }

    public void Write32(ulong address, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Bus.WriteMemory(address, data);
    }

    public void Write64(ulong address, ulong value)
    {
        Span<byte> data = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(data, value);
        Bus.WriteMemory(address, data);
    }

    public static byte[] Save(IDevice device)
    {
        var writer = new StateWriter();
        device.Save(writer);
        return writer.ToArray();
    }

    /// <summary>Restores <paramref name="to"/> from <paramref name="from"/> and checks that it saves the same again.</summary>
    public static void Copy(IDevice from, IDevice to)
    {
        byte[] saved = Save(from);
        to.Restore(new StateReader(saved));
        Assert.Equal(saved, Save(to));
    }

    public void Dispose() => Timers.Dispose();
}

/// <summary>Random accesses to everything that devices claim, with machine time running.</summary>
public static class DeviceFuzz
{
    /// <summary>
    /// Makes 200,000 accesses, or as many as fit into LODGE_FUZZ_SECONDS, then stops the devices and checks that what they save restores.
    /// </summary>
    public static void Run(DeviceFixture fixture, int seed, IReadOnlyList<IDevice> devices, Action<Random>? between = null)
    {
        var random = new Random(seed);
        RegionClaim[] claims = [.. devices.SelectMany(device => device.Claims)];
        bool timed = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_SECONDS"), out int seconds);
        long end = Environment.TickCount64 + (seconds * 1000L);
        foreach (IDevice device in devices)
        {
            device.Reset();
            device.Start();
        }
        fixture.Clock.Start();
        fixture.Timers.ClockChanged();
        Span<byte> data = stackalloc byte[8];
        for (int i = 0; timed ? (i & 0xFFF) != 0 || Environment.TickCount64 < end : i < 200_000; i++)
        {
            RegionClaim claim = claims[random.Next(claims.Length)];
            ulong address = claim.Base + (ulong)random.NextInt64((long)claim.Length);
            int length = claim.Space == RegionSpace.Port ? 1 << random.Next(3) : 1 << random.Next(4);
            if (length > 1 && random.Next(8) != 0)
            {
                address &= ~(ulong)(length - 1);
            }
            Span<byte> part = data[..length];
            random.NextBytes(part);
            if (random.Next(4) == 0)
            {
                part.Fill(random.Next(2) == 0 ? (byte)0 : (byte)0xFF);
            }
            bool write = random.Next(2) == 0;
            if (claim.Space == RegionSpace.Port)
            {
                if (write)
                {
                    fixture.Bus.WritePort((ushort)address, part);
                }
                else
                {
                    fixture.Bus.ReadPort((ushort)address, part);
                }
            }
            else if (write)
            {
                fixture.Bus.WriteMemory(address, part);
            }
            else
            {
                fixture.Bus.ReadMemory(address, part);
            }
            between?.Invoke(random);
            if (i % 50_000 == 49_999)
            {
                Restart(fixture, devices);
            }
        }
        Restart(fixture, devices);
        foreach (IDevice device in devices)
        {
            device.Stop();
        }
    }

    private static void Restart(DeviceFixture fixture, IReadOnlyList<IDevice> devices)
    {
        fixture.Clock.Stop();
        foreach (IDevice device in devices)
        {
            device.Stop();
        }
        foreach (IDevice device in devices)
        {
            byte[] saved = DeviceFixture.Save(device);
            device.Restore(new StateReader(saved));
            Assert.Equal(saved, DeviceFixture.Save(device));
        }
        fixture.Clock.Start();
        foreach (IDevice device in devices)
        {
            device.Start();
        }
    }
}
