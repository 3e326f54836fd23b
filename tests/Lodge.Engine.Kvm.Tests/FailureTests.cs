using Iced.Intel;
using Lodge.Engine.Processor;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class FailureTests
{
    [Fact]
    public void TripleFaultIsShutdown()
    {
        using var guest = new SmallGuest();
        guest.Put(SmallGuest.Code, 64, a => a.ud2());
        guest.LongMode(change: static state => state.InterruptDescriptorTable = new TableRegister(0, 0));
        Assert.Equal(ProcessorExit.Shutdown, guest.Run());
    }

    [Fact]
    public void GuestRunsAgainAfterResetFromShutdown()
    {
        using var guest = new SmallGuest();
        guest.Put(SmallGuest.Code, 64, a => a.ud2());
        guest.LongMode(change: static state => state.InterruptDescriptorTable = new TableRegister(0, 0));
        Assert.Equal(ProcessorExit.Shutdown, guest.Run());
        guest.Partition.Reset();
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.mov(al, 9);
            a.@out(0x80, al);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(["out8 80 9"], guest.Bus.Log);
    }

    [Fact]
    public void ExecutionOutsideOfMemoryFailsWithWhatAndWhere()
    {
        using var guest = new SmallGuest();
        guest.LongMode(0xD000_0000);
        // A kernel that runs guests in hardware cannot fetch from where no memory is, and emulation cannot either.
        using var watchdog = new Timer(_ => guest.Processor.Stop(), null, TimeSpan.FromSeconds(20), Timeout.InfiniteTimeSpan);
        ProcessorExit exit = guest.Processor.Run();
        Assert.SkipWhen(exit == ProcessorExit.Stopped, "this KVM tries it for ever");
        Assert.SkipWhen(exit == ProcessorExit.Shutdown, "this KVM makes a triple fault of it");
        Assert.Equal(ProcessorExit.Failed, exit);
        Assert.Contains("linear 0xd0000000", guest.Processor.FailureReason);
        Assert.Contains("64-bit mode, ring 0", guest.Processor.FailureReason);
    }

    [Fact]
    public void UnknownMsrsRaiseGeneralProtection()
    {
        using var guest = new SmallGuest();
        const ulong Handler = SmallGuest.Code + 0x1000;
        guest.Gate(13, Handler);
        guest.Put(Handler, 64, a => a.@out(SmallGuest.EndPort, al));
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.mov(ecx, 0x1234_5678);
            a.rdmsr();
            a.hlt();
        });
        guest.LongMode();
        guest.RunToEnd();
    }
}
