using Iced.Intel;
using Lodge.Engine.Processor;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class DebugTests
{
    private static SmallGuest Create()
    {
        var guest = new SmallGuest();
        // Each instruction has its place: 10 one-byte NOPs, then a store and a load, then the end.
        guest.Put(SmallGuest.Code, 64, a =>
        {
            for (int i = 0; i < 10; i++)
            {
                a.nop();
            }
            a.mov(rbx, SmallGuest.Data);
            a.mov(__dword_ptr[rbx], 0x55);
            a.mov(eax, __dword_ptr[rbx + 4]);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        return guest;
    }

    private static DebugEvent Stop(SmallGuest guest)
    {
        ProcessorExit exit = guest.Run();
        Assert.True(exit == ProcessorExit.Debug, $"{exit} {guest.Processor.FailureReason}");
        return guest.Processor.DebugEvent;
    }

    // Seen with QEMU's TCG, whose SVM does not load them, and with a KVM that emulates ring 0, for data.
    private static void SkipWhereRegistersDoNothing() => Assert.SkipWhen(
        Environment.GetEnvironmentVariable("LODGE_NESTED") is not null || !(Directory.Exists("/sys/module/kvm_intel") || Directory.Exists("/sys/module/kvm_amd")),
        "debug registers do nothing for guests here");

    private static ulong Rip(SmallGuest guest) => guest.Processor.GetState().InstructionPointer;

    [Fact]
    public void SingleSteps()
    {
        using SmallGuest guest = Create();
        guest.Processor.SetDebug(new DebugRequest(true, [], []));
        for (ulong i = 1; i <= 5; i++)
        {
            Assert.Equal(new DebugEvent(DebugEventKind.Step, SmallGuest.Code + i, false), Stop(guest));
            Assert.Equal(SmallGuest.Code + i, Rip(guest));
        }
        guest.Processor.SetDebug(DebugRequest.None);
        guest.RunToEnd();
    }

    [Theory]
    [InlineData(2)]
    [InlineData(7)]
    public void BreakpointsStopBeforeTheirInstruction(int count)
    {
        if (count <= 4 && Environment.GetEnvironmentVariable("LODGE_NESTED") is not null)
        {
            SkipWhereRegistersDoNothing();
        }
        using SmallGuest guest = Create();
        ulong[] addresses = [.. Enumerable.Range(1, count).Select(static i => SmallGuest.Code + (ulong)i)];
        foreach (ulong address in addresses)
        {
            guest.Processor.SetDebug(new DebugRequest(false, addresses, []));
            Assert.Equal(new DebugEvent(DebugEventKind.Breakpoint, address, false), Stop(guest));
            Assert.Equal(address, Rip(guest));
            // Run again, it stops again; a step passes it.
            Assert.Equal(new DebugEvent(DebugEventKind.Breakpoint, address, false), Stop(guest));
            guest.Processor.SetDebug(new DebugRequest(true, addresses, []));
            Assert.Equal(DebugEventKind.Step, Stop(guest).Kind);
            if (address != addresses[^1])
            {
                Assert.Equal(address + 1, Rip(guest));
            }
        }
        guest.Processor.SetDebug(new DebugRequest(false, addresses, []));
        guest.RunToEnd();
    }

    [Fact]
    public void WatchpointsStopAfterStoresAndLoads()
    {
        SkipWhereRegistersDoNothing();
        using SmallGuest guest = Create();
        const ulong User = SmallGuest.Code + 0x1000;
        guest.PutEntryToRingThree(User);
        guest.Put(User, 64, a =>
        {
            a.mov(rbx, SmallGuest.Data);
            a.mov(__dword_ptr[rbx], 0x55);
            a.nop();
            a.mov(eax, __dword_ptr[rbx + 4]);
            a.nop();
            a.@out(SmallGuest.EndPort, al);
        });
        guest.Processor.SetDebug(new DebugRequest(false, [], [new Watchpoint(SmallGuest.Data, 4, false, true), new Watchpoint(SmallGuest.Data + 4, 4, true, false)]));
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, SmallGuest.Data, true), Stop(guest));
        Assert.Equal(0x55u, guest.Word(SmallGuest.Data));
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, SmallGuest.Data + 4, false), Stop(guest));
        guest.RunToEnd();
    }

    [Fact]
    public void TooManyWatchpointsAreRefusedByName()
    {
        using SmallGuest guest = Create();
        NotSupportedException refusal = Assert.Throws<NotSupportedException>(() => guest.Processor.SetDebug(new DebugRequest(false, [], [new Watchpoint(SmallGuest.Data, 64, false, true)])));
        Assert.Contains("four aligned ranges", refusal.Message);
    }
}
