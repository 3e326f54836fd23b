using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class DoorbellTests
{
    [Fact]
    public void MemoryWritesSignalInPlaceOfReachingTheBus()
    {
        using var guest = new SmallGuest();
        IDoorbells doorbells = Doorbells(guest);
        using var any = new EventDescriptor();
        using var five = new EventDescriptor();
        var anyBell = new Doorbell(false, 0xD000_0000, 2, null);
        var fiveBell = new Doorbell(false, 0xD000_0010, 2, 5);
        Assert.True(doorbells.TryAttach(anyBell, any.Number));
        Assert.True(doorbells.TryAttach(fiveBell, five.Number));
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.mov(rbx, 0xD000_0000UL);
            a.mov(eax, 7);
            a.mov(__word_ptr[rbx], ax);
            a.mov(__word_ptr[rbx], ax);
            a.mov(__byte_ptr[rbx], al); // other width
            a.mov(__word_ptr[rbx + 0x10], ax); // other value
            a.mov(eax, 5);
            a.mov(__word_ptr[rbx + 0x10], ax);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        guest.RunToEnd();
        Assert.Equal(2ul, any.Take());
        Assert.Equal(1ul, five.Take());
        Assert.Equal(["write8 D0000000 7", "write16 D0000010 7"], guest.Bus.Log);
    }

    [Fact]
    public void PortWritesSignalInPlaceOfReachingTheBus()
    {
        using var guest = new SmallGuest();
        IDoorbells doorbells = Doorbells(guest);
        using var any = new EventDescriptor();
        using var five = new EventDescriptor();
        Assert.True(doorbells.TryAttach(new Doorbell(true, 0x1F0, 4, null), any.Number));
        Assert.True(doorbells.TryAttach(new Doorbell(true, 0x80, 1, 5), five.Number));
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.mov(dx, 0x1F0);
            a.mov(eax, 5);
            a.@out(dx, eax);
            a.@out(dx, al);
            a.@out(0x80, al);
            a.inc(ax);
            a.@out(0x80, al);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(1ul, any.Take());
        Assert.Equal(1ul, five.Take());
        Assert.Equal(["out8 1F0 5", "out8 80 6"], guest.Bus.Log);
    }

    [Fact]
    public void DetachedDoorbellsReachTheBusAgain()
    {
        using var guest = new SmallGuest();
        IDoorbells doorbells = Doorbells(guest);
        using var signal = new EventDescriptor();
        var bell = new Doorbell(true, 0x80, 1, null);
        Assert.True(doorbells.TryAttach(bell, signal.Number));
        Assert.False(doorbells.TryAttach(bell, signal.Number)); // taken
        doorbells.Detach(bell, signal.Number);
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.mov(al, 3);
            a.@out(0x80, al);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(0ul, signal.Take());
        Assert.Equal(["out8 80 3"], guest.Bus.Log);
    }

    private static IDoorbells Doorbells(SmallGuest guest)
    {
        Assert.SkipWhen(guest.Partition.Doorbells is null, "this KVM has no ioeventfd");
        return guest.Partition.Doorbells!;
    }
}
