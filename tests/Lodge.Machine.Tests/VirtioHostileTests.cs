using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Machine.Devices.Virtio.Console;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>What has gone wrong in device models elsewhere; each must end in a latched queue and a device that can be stopped and reset.</summary>
public class VirtioHostileTests
{
    private const ushort Next = 1, Write = 2, Indirect = 4;
    private const VirtioStatus Running = VirtioStatus.Acknowledge | VirtioStatus.Driver | VirtioStatus.FeaturesOk | VirtioStatus.DriverOk;

    private static VirtioMachine Create(ulong memory = 4 << 20)
    {
        var machine = new VirtioMachine(ram => new VirtioRng(ram, new VirtioRngConfiguration()), memory);
        machine.Function.Start();
        return machine;
    }

    private static (VirtioGuestDriver Driver, GuestRing Ring) SetUp(VirtioMachine machine, ulong features = ulong.MaxValue)
    {
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(features));
        driver.EnableMsix();
        GuestRing ring = driver.SetUpQueue(0, 16, msix: true);
        driver.DriverOk();
        return (driver, ring);
    }

    /// <summary>The device must notice, say so, stop, and work again after a reset.</summary>
    private static void AssertLatched(VirtioMachine machine, VirtioGuestDriver driver, QueueViolation expected)
    {
        Wait.Until(() => (driver.Status & VirtioStatus.DeviceNeedsReset) != 0, $"{expected}");
        Assert.Equal(expected, machine.Device.LastViolation);
        Wait.Until(() => machine.Messages.Count(0x40) > 0);
        Assert.True(machine.Device.Queues[0].Latched);
        machine.Function.Stop();
        machine.Function.Start();
        (VirtioGuestDriver again, GuestRing ring) = SetUp(machine);
        ring.Add((again.Allocate(64), 8, true));
        Assert.Equal(8u, ring.TakeUsed().Length);
        Assert.Equal(Running, again.Status);
    }

    [Fact]
    public void QueueRegistersAreFrozenAfterActivation()
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine);
        driver.Set(CommonRegister.QueueSelect, 2, 0);
        driver.Set(CommonRegister.QueueSize, 2, 64);
        driver.Set64(CommonRegister.QueueDescLow, 0xDEAD_0000);
        driver.Set64(CommonRegister.QueueDriverLow, 0xDEAD_0000);
        driver.Set64(CommonRegister.QueueDeviceLow, 0xDEAD_0000);
        driver.Set(CommonRegister.QueueEnable, 2, 0);
        driver.Set(CommonRegister.DriverFeature, 4, 0);
        Assert.Equal(16u, driver.Get(CommonRegister.QueueSize, 2));
        Assert.Equal((uint)ring.Descriptors, driver.Get(CommonRegister.QueueDescLow, 4));
        Assert.Equal((uint)ring.Available, driver.Get(CommonRegister.QueueDriverLow, 4));
        Assert.Equal((uint)ring.Used, driver.Get(CommonRegister.QueueDeviceLow, 4));
        Assert.Equal(1u, driver.Get(CommonRegister.QueueEnable, 2));
        ring.Add((driver.Allocate(64), 8, true));
        ring.TakeUsed();
    }

    [Fact]
    public void QueueThatWasNotEnabledIsFrozenByDriverOk()
    {
        using VirtioMachine machine = Create();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        driver.DriverOk();
        driver.SetUpQueue(0, 8);
        Assert.Equal(0u, driver.Get(CommonRegister.QueueEnable, 2));
        Assert.Equal(64u, driver.Get(CommonRegister.QueueSize, 2));
    }

    [Theory]
    [InlineData(0, 0x10_0000UL, 0x10_1000UL, 0x10_2000UL)]
    [InlineData(3, 0x10_0000UL, 0x10_1000UL, 0x10_2000UL)]
    [InlineData(128, 0x10_0000UL, 0x10_1000UL, 0x10_2000UL)]
    [InlineData(16, 0x10_0008UL, 0x10_1000UL, 0x10_2000UL)]
    [InlineData(16, 0x10_0000UL, 0x10_1001UL, 0x10_2000UL)]
    [InlineData(16, 0x10_0000UL, 0x10_1000UL, 0x10_2002UL)]
    [InlineData(16, 0x3F_FF80UL, 0x10_1000UL, 0x10_2000UL)]
    [InlineData(16, 0xFFFF_FFFF_FFFF_FFF0UL, 0x10_1000UL, 0x10_2000UL)]
    [InlineData(16, 0x10_0000UL, 0xC000_0000UL, 0x10_2000UL)]
    [InlineData(16, 0x10_0000UL, 0x10_1000UL, 0x10_0000_0000UL)]
    public void BadGeometryIsRefused(ushort size, ulong descriptors, ulong available, ulong used)
    {
        using VirtioMachine machine = Create();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        driver.EnableMsix();
        driver.Set(CommonRegister.QueueSelect, 2, 0);
        driver.Set(CommonRegister.QueueSize, 2, size);
        driver.Set64(CommonRegister.QueueDescLow, descriptors);
        driver.Set64(CommonRegister.QueueDriverLow, available);
        driver.Set64(CommonRegister.QueueDeviceLow, used);
        driver.Set(CommonRegister.QueueEnable, 2, 1);
        Assert.Equal(0u, driver.Get(CommonRegister.QueueEnable, 2));
        driver.DriverOk();
        AssertLatched(machine, driver, QueueViolation.BadGeometry);
    }

    public static TheoryData<string, QueueViolation> Chains => new()
    {
        { "self loop", QueueViolation.ChainTooLong },
        { "loop of two", QueueViolation.ChainTooLong },
        { "next index", QueueViolation.DescriptorIndex },
        { "head index", QueueViolation.DescriptorIndex },
        { "index jump", QueueViolation.AvailableIndexJump },
        { "outside memory", QueueViolation.OutsideMemory },
        { "end of memory", QueueViolation.OutsideMemory },
        { "address wraps", QueueViolation.OutsideMemory },
        { "device registers", QueueViolation.OutsideMemory },
        { "interrupt range", QueueViolation.OutsideMemory },
        { "readable after writable", QueueViolation.BufferOrder },
        { "indirect nested", QueueViolation.BadIndirect },
        { "indirect with next", QueueViolation.BadIndirect },
        { "indirect length", QueueViolation.BadIndirect },
        { "indirect empty", QueueViolation.BadIndirect },
        { "indirect huge", QueueViolation.BadIndirect },
        { "indirect outside", QueueViolation.OutsideMemory },
        { "indirect index", QueueViolation.DescriptorIndex },
        { "indirect loop", QueueViolation.ChainTooLong },
        { "no writable part", QueueViolation.BadRequest },
    };

    [Theory]
    [MemberData(nameof(Chains))]
    public void MalformedChainLatches(string what, QueueViolation expected)
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine);
        ulong buffer = driver.Allocate(4096), table = driver.Allocate(4096);
        ushort head = 0;
        switch (what)
        {
            case "self loop":
                ring.Descriptor(0, buffer, 8, Next | Write, 0);
                break;
            case "loop of two":
                ring.Descriptor(0, buffer, 8, Next | Write, 1);
                ring.Descriptor(1, buffer, 8, Next | Write, 0);
                break;
            case "next index":
                ring.Descriptor(0, buffer, 8, Next | Write, 16);
                break;
            case "head index":
                head = 16;
                break;
            case "index jump":
                ring.Descriptor(0, buffer, 8, Write, 0);
                ring.SetAvailableIndex(100);
                break;
            case "outside memory":
                ring.Descriptor(0, 0x8000_0000, 8, Write, 0);
                break;
            case "end of memory":
                ring.Descriptor(0, machine.Memory.End - 4, 8, Write, 0);
                break;
            case "address wraps":
                ring.Descriptor(0, ulong.MaxValue - 3, 8, Write, 0);
                break;
            case "device registers":
                ring.Descriptor(0, driver.Bar + 20, 1, Write, 0);
                break;
            case "interrupt range":
                ring.Descriptor(0, 0xFEE0_0000, 4, Write, 0);
                break;
            case "readable after writable":
                ring.Descriptor(0, buffer, 8, Next | Write, 1);
                ring.Descriptor(1, buffer, 8, 0, 0);
                break;
            case "indirect nested":
                ring.Descriptor(0, table, 16, Indirect, 0);
                ring.Descriptor(0, table, 16, Indirect, 0, table);
                break;
            case "indirect with next":
                ring.Descriptor(0, table, 16, Indirect | Next, 1);
                ring.Descriptor(0, buffer, 16, Write, 0, table);
                break;
            case "indirect length":
                ring.Descriptor(0, table, 24, Indirect, 0);
                break;
            case "indirect empty":
                ring.Descriptor(0, table, 0, Indirect, 0);
                break;
            case "indirect huge":
                ring.Descriptor(0, 0, 0xFFFF_FFF0, Indirect, 0);
                break;
            case "indirect outside":
                ring.Descriptor(0, machine.Memory.End - 16, 32, Indirect, 0);
                break;
            case "indirect index":
                ring.Descriptor(0, table, 32, Indirect, 0);
                ring.Descriptor(0, buffer, 8, Next | Write, 2, table);
                break;
            case "indirect loop":
                ring.Descriptor(0, table, 4096, Indirect, 0);
                ring.Descriptor(0, buffer, 8, Next | Write, 1, table);
                ring.Descriptor(1, buffer, 8, Next | Write, 0, table);
                break;
            case "no writable part":
                ring.Descriptor(0, buffer, 8, 0, 0);
                break;
        }
        ring.Publish(head);
        driver.Notify(0);
        AssertLatched(machine, driver, expected);
    }

    [Fact]
    public void IndirectThatWasNotNegotiatedLatches()
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine, VirtioFeatures.Version1);
        ring.Descriptor(0, driver.Allocate(4096), 16, Indirect, 0);
        ring.Publish(0);
        driver.Notify(0);
        AssertLatched(machine, driver, QueueViolation.BadIndirect);
    }

    [Fact]
    public void ChainOfMoreThan32BitsOfBytesLatches()
    {
        using VirtioMachine machine = Create(1UL << 30);
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine);
        ring.Add(Enumerable.Repeat((0UL, 1U << 30, true), 4).ToArray());       // exactly 2^32: would wrap to 0
        AssertLatched(machine, driver, QueueViolation.TooManyBytes);
        (driver, ring) = SetUp(machine);
        ring.Add([.. Enumerable.Repeat((0x20_0000UL, 1U << 29, true), 7), (0x20_0000UL, (1U << 29) - 1, true)]);       // one less is taken
        Assert.Equal(4096u, ring.TakeUsed().Length);
    }

    [Fact]
    public void HeadThatTheDeviceOwnsLatches()
    {
        var backend = new MeteredBackend();
        using var machine = new VirtioMachine(ram => new VirtioConsole(ram, new VirtioConsoleConfiguration([new("", true, backend)])));
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        driver.SetUpQueue(0, 16);
        GuestRing ring = driver.SetUpQueue(1, 16);
        driver.DriverOk();
        backend.Credit = 4;
        ring.Descriptor(0, driver.Allocate(64), 4, 0, 0);
        ring.Descriptor(1, driver.Allocate(64), 8, 0, 0);
        ring.Publish(1);
        driver.Notify(1);
        Wait.Until(() => backend.Taken.Length == 4);
        ring.Publish(1);
        backend.Credit = 100;
        driver.Notify(1);
        // The first has been returned by then or is still owned: either way no more than what was offered arrives.
        Wait.Until(() => backend.Taken.Length >= 8);
        machine.Function.Stop();
        Assert.True(backend.Taken.Length <= 16);

        var queue = new VirtQueue(machine.Memory, 0, 16, _ => { });
        queue.TrySetDescriptorArea(ring.Descriptors);
        queue.TrySetDriverArea(ring.Available);
        queue.TrySetDeviceArea(ring.Used);
        queue.TrySetSize(16);
        Assert.True(queue.TryEnable(VirtioFeatures.Version1));
        DescriptorChain chain = Assert.IsType<DescriptorChain>(queue.TryPop());
        Assert.Null(queue.TryPop());
        Assert.Equal(QueueViolation.HeadInFlight, queue.Violation);
        queue.Complete(chain);
        queue.Complete(chain);
        Assert.Equal(0, queue.InFlight);
    }

    [Fact]
    public void OversubscribedRingHoldsUpNeitherStopNorReset()
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine, VirtioFeatures.Version1);
        ring.Descriptor(0, driver.Allocate(4096), 4096, Write, 0);
        bool stop = false;
        var flood = new Thread(() =>
        {
            // Follows the used index so closely that the device never finds the ring empty.
            while (!Volatile.Read(ref stop))
            {
                ring.SetAvailableIndex((ushort)(ring.UsedIndex + 16));
                driver.Notify(0);
            }
        });
        flood.Start();
        try
        {
            for (int i = 0; i < 20; i++)
            {
                ushort before = ring.UsedIndex;
                Wait.Until(() => ring.UsedIndex != before || machine.Device.LastViolation != QueueViolation.None);
                machine.Function.Stop();
                machine.Function.Start();
            }
            driver.Reset();
            Assert.Equal(VirtioStatus.None, driver.Status);
        }
        finally
        {
            Volatile.Write(ref stop, true);
            flood.Join();
        }
    }

    [Theory]
    [InlineData(VirtioFeatures.Version1)]
    [InlineData(VirtioFeatures.Version1 | VirtioFeatures.EventIndex)]
    public void NoWakeUpIsLost(ulong features)
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine, features);
        ulong buffer = driver.Allocate(64);
        var random = new Random(7);
        for (int sent = 0, taken = 0; sent < 30_000;)
        {
            int burst = random.Next(1, 8);
            for (int i = 0; i < burst; i++)
            {
                ushort before = ring.AvailableIndex;
                ring.Publish(ring.Chain((buffer, 1, true)));
                sent++;
                // Like a driver: no notification unless the device wants one.
                if (ring.WantsNotification(before))
                {
                    driver.Notify(0);
                }
                if (random.Next(4) == 0)
                {
                    Thread.SpinWait(random.Next(100));
                }
            }
            for (; taken < sent; taken++)
            {
                ring.TakeUsed();
            }
            if (random.Next(8) == 0)
            {
                Thread.SpinWait(random.Next(2000));
            }
        }
    }

    [Fact]
    public void InterruptIsSentWheneverTheDriverAskedForIt()
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine);
        ulong buffer = driver.Allocate(64);
        for (int i = 0; i < 5000; i++)
        {
            int before = machine.Messages.Count(0x41);
            ring.ArmInterrupt();
            ring.Add((buffer, 1, true));
            Wait.Until(() => machine.Messages.Count(0x41) > before);
            ring.TakeUsed();
        }
    }

    [Fact]
    public void SavedStateThatLiesIsRefused()
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing ring) = SetUp(machine);
        ring.Add((driver.Allocate(64), 1, true));
        ring.TakeUsed();
        machine.Function.Stop();
        byte[] state = machine.Save();
        using VirtioMachine small = Create(1 << 20);     // the rings lie beyond its RAM
        small.Function.Stop();
        Assert.Throws<Engine.State.SavedStateException>(() => small.Restore(state));
        Assert.Equal(VirtioStatus.None, small.Device.Status);
        var random = new Random(5);
        for (int i = 0; i < 5000; i++)
        {
            byte[] bad = [.. state];
            for (int n = random.Next(1, 5); n > 0; n--)
            {
                bad[random.Next(bad.Length)] = (byte)random.Next(256);
            }
            try
            {
                machine.Restore(bad);
                machine.Function.Start();
                machine.Function.Stop();
            }
            catch (Engine.State.SavedStateException)
            {
            }
        }
    }

    [Fact]
    public void ConfigurationAccessWindowCannotReachItself()
    {
        using VirtioMachine machine = Create();
        var driver = new VirtioGuestDriver(machine);
        int window = 0;
        for (uint at = machine.Config(0x34) & 0xFF; at != 0; at = (machine.Config((int)at) >> 8) & 0xFF)
        {
            if (machine.Config((int)at) >> 24 == 5)
            {
                window = (int)at;
            }
        }
        machine.Config(window + 4, 4, width: 1);
        machine.Config(window + 8, (uint)CommonRegister.NumQueues);
        machine.Config(window + 12, 2u);
        Assert.Equal(1u, machine.Config(window + 16) & 0xFFFF);
        machine.Config(window + 8, (uint)CommonRegister.DeviceStatus);
        machine.Config(window + 12, 1u);
        machine.Config(window + 16, 1u);
        Assert.Equal(VirtioStatus.Acknowledge, driver.Status);
        foreach ((uint offset, uint length) in new[] { (0xFFFF_FFFFu, 1u), (0x8000u, 4u), (1u, 4u), (0u, 3u), (0u, 0x8000_0004u), (0x7FFEu, 4u) })
        {
            machine.Config(window + 8, offset);
            machine.Config(window + 12, length);
            machine.Config(window + 16, 0xFFFF_FFFF);
            machine.Config(window + 16);
        }
        Assert.Equal(VirtioStatus.Acknowledge, driver.Status);
    }
}
