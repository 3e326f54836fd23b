using Xunit;
using Lodge.Engine.Memory;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;

namespace Lodge.Machine.Tests;

public class VirtioRngTests
{
    private static VirtioMachine Create() => new(memory => new VirtioRng(memory, new VirtioRngConfiguration()));

    [Theory]
    [InlineData(ulong.MaxValue)]
    [InlineData(VirtioFeatures.Version1)]
    public void FillsBuffersWithMsix(ulong features)
    {
        using VirtioMachine machine = Create();
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(features));
        driver.EnableMsix();
        GuestRing ring = driver.SetUpQueue(0, 16, msix: true);
        driver.DriverOk();
        ulong buffer = driver.Allocate(4096);
        for (int i = 1; i <= 100; i++)
        {
            ring.ArmInterrupt();
            ring.Add((buffer, 32, true), (buffer + 100, 32, true));
            (_, uint length) = ring.TakeUsed();
            Assert.Equal(64u, length);
            int expected = i;
            Wait.Until(() => machine.Messages.Count(0x41) >= expected);
        }
        byte[] bytes = new byte[132];
        machine.Memory.TryRead(buffer, bytes);
        Assert.True(bytes.AsSpan(0, 32).ContainsAnyExcept((byte)0));
        Assert.True(bytes.AsSpan(100, 32).ContainsAnyExcept((byte)0));
        Assert.False(bytes.AsSpan(32, 68).ContainsAnyExcept((byte)0));
    }

    [Fact]
    public void InterruptsByPinWithoutMsix()
    {
        using VirtioMachine machine = Create();
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(VirtioFeatures.Version1));
        GuestRing ring = driver.SetUpQueue(0, 8);
        driver.DriverOk();
        ring.Add((driver.Allocate(64), 16, true));
        Wait.Until(() => machine.Lines[3].Level);
        Assert.Equal(1, driver.ReadIsr());
        Assert.False(machine.Lines[3].Level);
        Assert.Equal(0, driver.ReadIsr());
    }

    [Fact]
    public void IndirectChain()
    {
        using VirtioMachine machine = Create();
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        GuestRing ring = driver.SetUpQueue(0, 8);
        driver.DriverOk();
        ulong table = driver.Allocate(4096), buffer = driver.Allocate(4096);
        ring.Descriptor(0, buffer, 8, 3, 1, table);
        ring.Descriptor(1, buffer + 8, 24, 2, 0, table);
        ring.Descriptor(0, table, 32, 4, 0);
        ring.Publish(0);
        driver.Notify(0);
        Assert.Equal((0u, 32u), ring.TakeUsed());
    }

    [Fact]
    public void SavedMidTrafficContinuesElsewhere()
    {
        using VirtioMachine first = Create();
        first.Function.Start();
        var driver = new VirtioGuestDriver(first);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        driver.EnableMsix();
        GuestRing ring = driver.SetUpQueue(0, 64, msix: true);
        driver.DriverOk();
        ulong buffer = driver.Allocate(4096);
        for (int i = 0; i < 40; i++)
        {
            ring.Add((buffer, 16, true));
        }
        first.Function.Stop();
        ushort stoppedAt = ring.UsedIndex;
        ring.Publish(ring.Chain((buffer, 16, true)));
        Thread.Yield();
        Assert.Equal(stoppedAt, ring.UsedIndex);
        byte[] state = first.Save();
        byte[] ram = new byte[first.Memory.Size];
        first.Memory.TryRead(0, ram);
        using VirtioMachine second = Create();
        second.Memory.TryWrite(0, ram);
        second.Restore(state);
        Assert.Equal(state, second.Save());
        second.Function.Start();
        Wait.Until(() => second.Memory.TryRead(ring.Used + 2, out ushort used) && used == 41);
        Assert.Equal(VirtioStatus.Acknowledge | VirtioStatus.Driver | VirtioStatus.FeaturesOk | VirtioStatus.DriverOk, second.Device.Status);
    }

    [Fact]
    public void QueueIsResetAloneAndUsedAgain()
    {
        using VirtioMachine machine = Create();
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        GuestRing ring = driver.SetUpQueue(0, 8);
        driver.DriverOk();
        ulong buffer = driver.Allocate(64);
        ring.Add((buffer, 16, true));
        ring.TakeUsed();
        driver.Set(CommonRegister.QueueReset, 2, 1);
        Wait.Until(() => driver.Get(CommonRegister.QueueReset, 2) == 0);
        Assert.Equal(0u, driver.Get(CommonRegister.QueueEnable, 2));
        ring = driver.SetUpQueue(0, 32);
        Assert.Equal(1u, driver.Get(CommonRegister.QueueEnable, 2));
        ring.Add((buffer, 20, true));
        Assert.Equal((0u, 20u), ring.TakeUsed());
    }

    [Fact]
    public void FeaturesThatWereNotOfferedAreRefused()
    {
        using VirtioMachine machine = Create();
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.False(driver.Negotiate(VirtioFeatures.Version1 | 1));
        Assert.False(driver.Negotiate(VirtioFeatures.EventIndex));
        driver.DriverOk();
        Assert.Equal(VirtioStatus.None, driver.Status & VirtioStatus.DriverOk);
        Assert.True(driver.Negotiate(VirtioFeatures.Version1));
    }
}
