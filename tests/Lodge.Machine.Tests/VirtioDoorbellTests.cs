using Lodge.Engine;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio.Transport;
using Xunit;

namespace Lodge.Machine.Tests;

public class VirtioDoorbellTests
{
    private static VirtioMachine Create(FakeDoorbells doorbells, EventListener listener)
    {
        var machine = new VirtioMachine(memory => new VirtioRng(memory, new VirtioRngConfiguration()));
        machine.Pci.Doorbells = new MachineDoorbells(doorbells, listener);
        machine.Function.Start();
        return machine;
    }

    [Fact]
    public void SignalsReachTheDevice()
    {
        var doorbells = new FakeDoorbells();
        using var listener = new EventListener();
        using VirtioMachine machine = Create(doorbells, listener);
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        GuestRing ring = driver.SetUpQueue(0, 8);
        Assert.Empty(doorbells.Attached);
        driver.DriverOk();
        Assert.Equal(driver.Bar + VirtioPciRegisters.NotifyOffset, Assert.Single(doorbells.Attached).Key);
        ulong buffer = driver.Allocate(64);
        for (int i = 0; i < 100; i++)
        {
            ring.Publish(ring.Chain((buffer, 32, true)));
            doorbells.Ring(driver.Bar + VirtioPciRegisters.NotifyOffset);
            Assert.Equal(32u, ring.TakeUsed().Length);
        }
    }

    [Fact]
    public void DoorbellsFollowTheDriverAndTheBar()
    {
        var doorbells = new FakeDoorbells();
        using var listener = new EventListener();
        using VirtioMachine machine = Create(doorbells, listener);
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        driver.SetUpQueue(0, 8);
        driver.DriverOk();
        Assert.Single(doorbells.Attached);
        machine.Config(PciRegisters.Command, 0, width: 2); // decoding off
        Assert.Empty(doorbells.Attached);
        ulong moved = driver.Bar + 0x10_0000;
        machine.Config(0x20, (uint)moved);
        machine.Config(PciRegisters.Command, 6, width: 2);
        Assert.Equal(moved + VirtioPciRegisters.NotifyOffset, Assert.Single(doorbells.Attached).Key);
        machine.Config(0x20, (uint)driver.Bar);
        Assert.Equal(driver.Bar + VirtioPciRegisters.NotifyOffset, Assert.Single(doorbells.Attached).Key);
        Assert.True(driver.Negotiate(ulong.MaxValue)); // a reset by the driver
        Assert.Empty(doorbells.Attached);
    }

    [Fact]
    public void AFunctionThatIsTakenAwayLeavesNone()
    {
        var doorbells = new FakeDoorbells();
        using var listener = new EventListener();
        using VirtioMachine machine = Create(doorbells, listener);
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        driver.SetUpQueue(0, 8);
        driver.DriverOk();
        Assert.Single(doorbells.Attached);
        Assert.True(machine.Pci.Remove(machine.Function));
        Assert.Empty(doorbells.Attached);
        Assert.False(machine.Pci.Remove(machine.Function));
        machine.Function.WriteConfiguration(PciRegisters.Command, [6, 0]); // a processor that was on its way there
        Assert.Empty(doorbells.Attached);
    }

    [Fact]
    public void NotificationsReachTheDeviceByTheBusWhereDoorbellsAreRefused()
    {
        var doorbells = new FakeDoorbells { Refusing = true };
        using var listener = new EventListener();
        using VirtioMachine machine = Create(doorbells, listener);
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(ulong.MaxValue));
        GuestRing ring = driver.SetUpQueue(0, 8);
        driver.DriverOk();
        ring.Add((driver.Allocate(64), 32, true));
        Assert.Equal(32u, ring.TakeUsed().Length);
        Assert.Empty(doorbells.Attached);
    }

    /// <summary>Doorbells that a test rings.</summary>
    private sealed class FakeDoorbells : IDoorbells
    {
        public Dictionary<ulong, int> Attached { get; } = [];

        public bool Refusing { get; init; }

        public bool TryAttach(in Doorbell doorbell, int eventDescriptor) => !Refusing && Attached.TryAdd(doorbell.Address, eventDescriptor);

        public void Detach(in Doorbell doorbell, int eventDescriptor)
        {
            Assert.Equal(eventDescriptor, Attached[doorbell.Address]);
            Attached.Remove(doorbell.Address);
        }

        public void Ring(ulong address)
        {
            using var handle = new Microsoft.Win32.SafeHandles.SafeFileHandle(Attached[address], ownsHandle: false);
            RandomAccess.Write(handle, BitConverter.GetBytes(1UL), 0);
        }
    }
}
