using Iced.Intel;
using Lodge.Engine.Processor;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class ProcessorsTests
{
    private const ulong StartUp = 0x8000, LongEntry = SmallGuest.Code + 0x3000, Handler = SmallGuest.Code + 0x1000;
    private const int Count = 3;

    /// <summary>Processor 0 starts the others by INIT and SIPI; they count up in real mode and stop there.</summary>
    private static SmallGuest Create()
    {
        var guest = new SmallGuest(Count);
        guest.Put(StartUp, 16, a =>
        {
            Label wait = a.CreateLabel();
            a.xor(ax, ax);
            a.mov(ds, ax);
            a.@lock.inc(__word_ptr[0x7000]);
            a.mov(al, 0x33);
            a.@out(0x92, al);
            a.Label(ref wait);
            a.hlt();
            a.jmp(wait);
        });
        guest.Put(SmallGuest.Code, 64, a =>
        {
            Label wait = a.CreateLabel();
            a.EnableApic();
            a.Apic(ApicRegisters.CommandLow, 0xC_4500); // INIT to all others
            a.Apic(ApicRegisters.CommandLow, 0xC_4600 | (uint)(StartUp >> 12));
            a.Apic(ApicRegisters.CommandLow, 0xC_4600 | (uint)(StartUp >> 12)); // a second one changes nothing
            a.mov(rbx, 0x7000UL);
            a.Label(ref wait);
            a.pause();
            a.mov(eax, __dword_ptr[rbx]);
            a.cmp(eax, Count - 1);
            a.jne(wait);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        return guest;
    }

    private static void RunAll(SmallGuest guest)
    {
        var threads = new Thread[Count];
        var exits = new ProcessorExit[Count];
        for (int i = 0; i < Count; i++)
        {
            int number = i;
            threads[i] = new Thread(() => exits[number] = guest.Partition.Processors[number].Run());
            threads[i].Start();
        }
        Assert.All(threads, static thread => Assert.True(thread.Join(TimeSpan.FromSeconds(60))));
        Assert.All(Enumerable.Range(0, Count), i => Assert.True(exits[i] == ProcessorExit.Stopped, $"processor {i}: {exits[i]} {guest.Partition.Processors[i].FailureReason}"));
    }

    [Fact]
    public void OthersStartByInitAndStartUp()
    {
        using SmallGuest guest = Create();
        Assert.All(guest.Partition.Processors.Skip(1), static p => Assert.Equal(ActivityState.WaitForSipi, p.GetState().Activity));
        RunAll(guest);
        Assert.True(guest.Bus.Ended);
        Assert.Equal((uint)Count - 1, guest.Word(0x7000));
        Assert.Equal(Count - 1, guest.Bus.Log.Count(static line => line == "out8 92 33"));
    }

    [Fact]
    public void AnInitMessageToProcessorsThatAreHeldLetsThemStartAgain()
    {
        using SmallGuest guest = Create();
        RunAll(guest);
        for (uint i = 1; i < Count; i++)
        {
            guest.Partition.SignalMessage(0xFEE0_0000 | (i << 12), 0x4500);
        }
        Assert.All(guest.Partition.Processors.Skip(1), static p => Assert.Equal(ActivityState.WaitForSipi, p.GetState().Activity));
        guest.Memory.TryWrite(0x7000, 0u);
        guest.Bus.Ended = false;
        guest.LongMode();
        RunAll(guest);
        Assert.Equal((uint)Count - 1, guest.Word(0x7000));
    }

    [Fact]
    public void ResetLetsThemStartAgain()
    {
        using SmallGuest guest = Create();
        RunAll(guest);
        guest.Partition.Reset();
        Assert.All(guest.Partition.Processors, static p => Assert.Equal(p.Index == 0 ? ActivityState.Active : ActivityState.WaitForSipi, p.GetState().Activity));
        ProcessorState state = guest.Processor.GetState();
        Assert.Equal((0xFFF0UL, 0xF000, 0xFFFF_0000UL, 0UL), (state.InstructionPointer, state.Segments[1].Selector, state.Segments[1].Base, state.Cr0 & 0x8000_0001));
        guest.Memory.TryWrite(0x7000, 0u);
        guest.Bus.Ended = false;
        guest.LongMode();
        RunAll(guest);
        Assert.Equal((uint)Count - 1, guest.Word(0x7000));
    }

    [Fact]
    public void ProcessorsInterruptEachOther()
    {
        const int Rounds = 200;
        using var guest = new SmallGuest(2);
        guest.Gate(0x40, Handler);
        // Each handler sends the interrupt on to the other processor, whose number is in R15, until enough were counted.
        guest.Put(Handler, 64, a =>
        {
            Label end = a.CreateLabel();
            a.mov(rbx, SmallGuest.Data);
            a.mov(eax, __dword_ptr[rbx]);
            a.inc(eax);
            a.mov(__dword_ptr[rbx], eax);
            a.cmp(eax, Rounds);
            a.mov(eax, 0);
            a.mov(__dword_ptr[rbp + ApicRegisters.EndOfInterrupt], eax);
            a.je(end);
            a.mov(eax, r15d);
            a.mov(__dword_ptr[rbp + ApicRegisters.CommandHigh], eax);
            a.Apic(ApicRegisters.CommandLow, 0x4040);
            a.iretq();
            a.Label(ref end);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.EnableApic();
            a.WaitForInterrupts();
        });
        guest.Put(LongEntry, 64, a =>
        {
            a.EnableApic();
            a.mov(eax, r15d);
            a.mov(__dword_ptr[rbp + ApicRegisters.CommandHigh], eax);
            a.Apic(ApicRegisters.CommandLow, 0x4040);
            a.WaitForInterrupts();
        });
        guest.LongMode(SmallGuest.Code, 0, static state => state.GeneralRegisters[15] = 1 << 24);
        guest.LongMode(LongEntry, 1, static state =>
        {
            state.GeneralRegisters[15] = 0;
        });
        var other = new Thread(() => guest.Partition.Processors[1].Run());
        var first = new Thread(() => guest.Partition.Processors[0].Run());
        // Processor 0 must be listening before the first interrupt is sent: a local APIC that is off takes none.
        first.Start();
        while (!Listening(guest))
        {
            Thread.Sleep(5);
        }
        other.Start();
        Assert.True(first.Join(TimeSpan.FromSeconds(60)) && other.Join(TimeSpan.FromSeconds(60)), $"{guest.Word(SmallGuest.Data)} interrupts");
        Assert.Equal((uint)Rounds, guest.Word(SmallGuest.Data));
    }

    // Its state can be read only between runs.
    private static bool Listening(SmallGuest guest) => guest.Word(SmallGuest.Data + 8) == 1 || Mark(guest);

    private static bool Mark(SmallGuest guest)
    {
        Thread.Sleep(50);
        guest.Memory.TryWrite(SmallGuest.Data + 8, 1u);
        return false;
    }
}
