using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Devices.Virtio.Balloon;
using Lodge.Machine.Devices.Virtio.Block;
using Lodge.Machine.Devices.Virtio.Console;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Devices.Virtio.Scsi;
using Lodge.Machine.Devices.Virtio.Vsock;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network.Links;
using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>
/// Random ring memory and registers. An exception on the worker ends the process, a hang fails the wait, growth fails the last check. Some 10^5 cases
/// in a normal run; LODGE_FUZZ_CASES is the number for each device, LODGE_FUZZ_SECONDS lengthens it.
/// </summary>
public sealed class VirtioFuzzTests : IDisposable
{
    private static readonly long _casesPerDevice = long.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out long cases) ? cases : 40_000;
    private readonly TimerService _timers = new(new MachineClock());

    public void Dispose() => _timers.Dispose();

    [Theory]
    [InlineData("rng")]
    [InlineData("console")]
    [InlineData("balloon")]
    [InlineData("block")]
    [InlineData("scsi")]
    [InlineData("vsock")]
    [InlineData("network")]
    public void NothingThatAGuestDoesHarms(string kind)
    {
        int seconds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_SECONDS"), out int value) ? value : 0;
        long end = Environment.TickCount64 + (seconds * 1000L);
        int seed = seconds == 0 ? 1 : Environment.TickCount;
        long before = GC.GetTotalMemory(forceFullCollection: true);
        for (long done = 0; done < _casesPerDevice || Environment.TickCount64 < end; done += 2000)
        {
            Session(kind, seed++, 2000);
        }
        long growth = 0;
        for (int i = 0; i < 120 && (growth = GC.GetTotalMemory(forceFullCollection: true) - before) >= 64 << 20; i++)
        {
            Thread.Sleep(500); // tests beside this one have memory too, for a while
        }
        Assert.True(growth < 64 << 20, $"{growth} bytes more");
    }

    private VirtioDevice CreateDevice(string kind, GuestMemory memory, Random random) => kind switch
    {
        "rng" => new VirtioRng(memory, new VirtioRngConfiguration()),
        "vsock" => new VirtioVsock(memory, new VirtioVsockConfiguration(new FickleVsockHost(random.Next()))),
        "balloon" => new VirtioBalloon(memory, _timers, new VirtioBalloonConfiguration()),
        "block" => new VirtioBlock(memory, new VirtioBlockConfiguration(new Harness.TestDisk(1 << 20)
        {
            Asynchronous = random.Next(2) == 0,
            Fail = (_, _) => Random.Shared.Next(20) == 0 ? (DiskError)Random.Shared.Next(14) : null,
        })
        { Queues = random.Next(1, 5) }),
        "network" => new VirtioNetwork(memory, new VirtioNetworkConfiguration(MemoryLink.CreatePair().First, new(2)) { QueuePairs = random.Next(1, 4) }),
        "scsi" => new VirtioScsi(memory, new VirtioScsiConfiguration(
            [new(new Harness.TestDisk(1 << 20) { Asynchronous = random.Next(2) == 0 }), new(new Harness.TestDisk(1 << 20), CdRom: true)])
        { Queues = random.Next(1, 4) }),
        _ => new VirtioConsole(memory, new VirtioConsoleConfiguration(
            [new("", true, new FickleBackend(random.Next())), new("a", false, new FickleBackend(random.Next())), new("b", true, null)])),
    };

    private void Session(string kind, int seed, int cases)
    {
        var random = new Random(seed);
        using var machine = new VirtioMachine(memory => CreateDevice(kind, memory, random), 2 << 20);
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        ulong rings = 0x1_0000;
        byte[]? saved = null;
        for (int i = 0; i < cases; i++)
        {
            switch (random.Next(20))
            {
                case 0:
                    SetUp(machine, driver, random, rings);
                    break;
                case 1:
                    machine.Config(random.Next(1024), Odd(random), random.Next(4) == 0 ? 0 : 3, 1 << random.Next(3));
                    break;
                case 2 or 17:
                    // The BAR back to where the driver thinks it is.
                    machine.Config(PciRegisters.Command, 6, width: 2);
                    machine.Config(0x20, (uint)driver.Bar);
                    machine.Config(0x24, (uint)(driver.Bar >> 32));
                    break;
                case 3 or 4:
                    {
                        byte[] data = new byte[1 << random.Next(4)];
                        random.NextBytes(data);
                        machine.Bus.WriteMemory(driver.Bar + (ulong)random.Next(0x8000), data);
                        machine.Bus.ReadMemory(driver.Bar + (ulong)random.Next(0x8000), data);
                        break;
                    }
                case 5 or 6:
                    {
                        CommonRegister[] registers = Enum.GetValues<CommonRegister>();
                        CommonRegister register = registers[random.Next(registers.Length)];
                        driver.Set(register, 1 << random.Next(3), Odd(random));
                        driver.Get(register, 1 << random.Next(3));
                        break;
                    }
                case 7 when random.Next(4) == 0:
                    machine.Function.Stop();
                    saved = machine.Save();
                    machine.Function.Start();
                    break;
                case 7 when saved is not null && random.Next(3) == 0:
                    machine.Function.Stop();
                    if (random.Next(2) == 0)
                    {
                        saved[random.Next(saved.Length)] ^= (byte)(1 << random.Next(8));
                    }
                    try
                    {
                        machine.Restore(saved);
                    }
                    catch (SavedStateException)
                    {
                    }
                    machine.Function.Start();
                    break;
                case 8 when kind == "console":
                    ((VirtioConsole)machine.Device).Ports[random.Next(3)].Receive(new byte[random.Next(3000)]);
                    break;
                case 8 when kind == "balloon":
                    ((VirtioBalloon)machine.Device).RequestStatistics();
                    break;
                case 8 when kind == "vsock":
                    {
                        // Packets that mean something where rings' buffers often lie.
                        byte[] packet = new byte[VsockPacket.Length];
                        for (ulong at = (ulong)random.Next(0x20_0000) & ~15UL; at < 0x1F_0000; at += (ulong)random.Next(3, 64) * 16)
                        {
                            new VsockPacket
                            {
                                SourceCid = random.Next(16) == 0 ? Odd(random) : 3,
                                DestinationCid = random.Next(16) == 0 ? Odd(random) : 2,
                                SourcePort = (uint)random.Next(4),
                                DestinationPort = (uint)random.Next(4),
                                DataLength = random.Next(16) == 0 ? Odd(random) : (uint)random.Next(64),
                                Type = (ushort)(random.Next(16) == 0 ? random.Next(4) : 1),
                                Operation = (VsockOperation)random.Next(9),
                                Flags = (uint)random.Next(4),
                                BufferSize = random.Next(4) == 0 ? Odd(random) : 4096,
                                Forwarded = random.Next(4) == 0 ? Odd(random) : (uint)random.Next(4096),
                            }.Write(packet);
                            if (at < rings || at >= rings + 0x8000)
                            {
                                machine.Memory.TryWrite(at, packet);
                            }
                        }
                        break;
                    }
                case 8 when kind == "block":
                    {
                        // Headers that mean something where rings' buffers often lie.
                        byte[] header = new byte[16];
                        BinaryPrimitives.WriteUInt32LittleEndian(header, random.Next(8) == 0 ? Odd(random) : (uint)random.Next(14));
                        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8), random.Next(8) == 0 ? Odd(random) : (ulong)random.Next(2100));
                        for (ulong at = (ulong)random.Next(0x20_0000) & ~15UL; at < 0x1F_0000; at += (ulong)random.Next(1, 64) * 16)
                        {
                            if (at < rings || at >= rings + 0x8000)
                            {
                                machine.Memory.TryWrite(at, header);
                            }
                        }
                        break;
                    }
                case 8 when kind == "scsi":
                    ((VirtioScsi)machine.Device).ChangeMedium(1, null);
                    break;
                case 9 when kind != "rng":
                    driver.DeviceConfig(random.Next(16), BitConverter.GetBytes(Odd(random)));
                    break;
                case >= 10 and < 16:
                    ScribbleRing(machine, random, rings + ((ulong)random.Next(machine.Device.Queues.Count) * 0x1000));
                    driver.Notify(random.Next(machine.Device.Queues.Count + 1));
                    break;
                default:
                    driver.Notify(random.Next(machine.Device.Queues.Count));
                    break;
            }
        }
        var stop = new Thread(machine.Function.Stop);
        stop.Start();
        Assert.True(stop.Join(30_000), $"seed {seed} does not stop");
    }

    /// <summary>A driver that starts well.</summary>
    private static void SetUp(VirtioMachine machine, VirtioGuestDriver driver, Random random, ulong rings)
    {
        driver.Set(CommonRegister.DeviceStatus, 1, 0);
        driver.Set(CommonRegister.DeviceStatus, 1, 3);
        ulong features = machine.Device.OfferedFeatures & ~((ulong)random.Next(4) << 28);
        driver.Set(CommonRegister.DriverFeatureSelect, 4, 0);
        driver.Set(CommonRegister.DriverFeature, 4, (uint)features);
        driver.Set(CommonRegister.DriverFeatureSelect, 4, 1);
        driver.Set(CommonRegister.DriverFeature, 4, (uint)(features >> 32));
        driver.Set(CommonRegister.DeviceStatus, 1, 11);
        for (int queue = 0; queue < machine.Device.Queues.Count; queue++)
        {
            ulong at = rings + ((ulong)queue * 0x1000);
            driver.Set(CommonRegister.QueueSelect, 2, (uint)queue);
            driver.Set(CommonRegister.QueueSize, 2, 16);
            driver.Set64(CommonRegister.QueueDescLow, at);
            driver.Set64(CommonRegister.QueueDriverLow, at + 0x400);
            driver.Set64(CommonRegister.QueueDeviceLow, random.Next(8) == 0 ? at : at + 0x800);
            driver.Set(CommonRegister.QueueEnable, 2, 1);
            machine.Memory.TryWrite(at + 0x402, (ushort)0);
        }
        driver.Set(CommonRegister.DeviceStatus, 1, 15);
    }

    private static void ScribbleRing(VirtioMachine machine, Random random, ulong at)
    {
        Span<byte> descriptor = stackalloc byte[16];
        for (int slot = random.Next(4); slot >= 0; slot--)
        {
            ulong address = random.Next(12) == 0 ? Odd(random) : (ulong)random.Next(0x20_0000);
            BinaryPrimitives.WriteUInt64LittleEndian(descriptor, address);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], random.Next(12) == 0 ? Odd(random) : (uint)random.Next(300) & ~1U);
            BinaryPrimitives.WriteUInt16LittleEndian(descriptor[12..], (ushort)(random.Next(8) == 0 ? random.Next(8) : random.Next(4)));
            BinaryPrimitives.WriteUInt16LittleEndian(descriptor[14..], (ushort)(random.Next(16) == 0 ? Odd(random) : (uint)random.Next(16)));
            machine.Memory.TryWrite(at + (ulong)(random.Next(16) * 16), descriptor);
        }
        machine.Memory.TryRead(at + 0x402, out ushort index);
        machine.Memory.TryWrite(at + 0x404 + (ulong)(index % 16 * 2), (ushort)(random.Next(32) == 0 ? Odd(random) : (uint)random.Next(16)));
        machine.Memory.TryWrite(at + 0x402, (ushort)(random.Next(64) == 0 ? Odd(random) : index + 1U));
    }

    private static uint Odd(Random random) => random.Next(6) switch
    {
        0 => 0,
        1 => uint.MaxValue,
        2 => 1U << random.Next(32),
        3 => (uint)random.Next(256),
        4 => (1U << random.Next(32)) - 1,
        _ => (uint)random.NextInt64(),
    };

    /// <summary>A host side that takes what it likes and asks again from another thread.</summary>
    private sealed class FickleBackend(int seed) : ICharacterBackend
    {
        private readonly Random _random = new(seed);
        private ICharacterReceiver? _receiver;

        public void Connect(ICharacterReceiver receiver) => _receiver = receiver;

        public int Write(ReadOnlySpan<byte> data)
        {
            int taken;
            lock (_random)
            {
                taken = _random.Next(3) == 0 ? _random.Next(data.Length + 1) : data.Length;
            }
            if (taken < data.Length)
            {
                ThreadPool.UnsafeQueueUserWorkItem(static receiver => receiver!.OutputReady(), _receiver, preferLocal: false);
            }
            return taken;
        }

        public void InputReady() => _receiver!.Receive("again"u8);
    }
}
