using System.Collections.Concurrent;
using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class InterruptTests
{
    private const ulong Handler = SmallGuest.Code + 0x1000;
    private const byte Told = 0x90, Ready = 0x91;

    /// <summary>A guest that waits for interrupts of vector 0x40, handled by counting.</summary>
    private static SmallGuest Create(Action<Assembler>? prepare = null)
    {
        var guest = new SmallGuest();
        guest.Gate(0x40, Handler);
        guest.Put(Handler, 64, a => a.CountingHandler(SmallGuest.Data, Told));
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.EnableApic();
            prepare?.Invoke(a);
            a.@out(Ready, al);
            a.WaitForInterrupts();
        });
        guest.LongMode();
        return guest;
    }

    /// <summary>Runs the guest; calls <paramref name="next"/> when it is ready and after each interrupt with their number, until that returns false.</summary>
    private static void Run(SmallGuest guest, Func<int, bool> next)
    {
        guest.Bus.PortWritten = (port, value) =>
        {
            if (!next(port == Told ? (int)value : 0))
            {
                guest.Bus.Ended = true;
                guest.Processor.Stop();
            }
        };
        guest.RunToEnd();
    }

    [Fact]
    public void MessagesWakeAHaltedProcessor()
    {
        using SmallGuest guest = Create();
        using var asked = new BlockingCollection<int>();
        var sender = new Thread(() =>
        {
            foreach (int _ in asked.GetConsumingEnumerable())
            {
                guest.Partition.SignalMessage(0xFEE0_0000, 0x40);
            }
        });
        sender.Start();
        Run(guest, count =>
        {
            asked.Add(count);
            return count < 100;
        });
        asked.CompleteAdding();
        sender.Join();
        Assert.Equal(100u, guest.Word(SmallGuest.Data));
    }

    [Fact]
    public void LevelTriggeredEndsAreReported()
    {
        using SmallGuest guest = Create();
        var ends = new Listener();
        guest.Partition.EndOfInterruptListener = ends;
        Run(guest, count =>
        {
            // The handler ends the interrupt before it tells; that comes out of the kernel at the next entry, which is this one or the next.
            Assert.InRange(ends.Vectors.Count, count - 1, count);
            guest.Partition.SignalMessage(0xFEE0_0000, 0xC040);
            return count < 20;
        });
        Assert.All(ends.Vectors, static vector => Assert.Equal(0x40, vector));
    }

    [Fact]
    public void MoreLevelTriggeredMessagesThanPlacesAreLearnedAnew()
    {
        using SmallGuest guest = Create();
        var ends = new Listener();
        guest.Partition.EndOfInterruptListener = ends;
        Run(guest, count =>
        {
            // Other messages of the same vector: a hint and address bits that processors ignore make them differ.
            guest.Partition.SignalMessage(0xFEE0_0000, 0xC040 | ((uint)(count % 150) << 16));
            return count < 300;
        });
        Assert.InRange(ends.Vectors.Count, 299, 300);
    }

    [Fact]
    public void EdgeTriggeredEndsAreNot()
    {
        using SmallGuest guest = Create();
        var ends = new Listener();
        guest.Partition.EndOfInterruptListener = ends;
        Run(guest, count =>
        {
            guest.Partition.SignalMessage(0xFEE0_0000, 0x40);
            return count < 5;
        });
        Assert.Empty(ends.Vectors);
    }

    [Fact]
    public void EventDescriptorsRaiseInterrupts()
    {
        using SmallGuest guest = Create();
        Assert.SkipWhen(guest.Partition.InterruptEvents is null, "this KVM has no irqfd");
        using var signal = new EventDescriptor();
        using IInterruptEvent? binding = guest.Partition.InterruptEvents!.TryAttach(signal.Number, 0xFEE0_0000, 0x40);
        Assert.NotNull(binding);
        Run(guest, count =>
        {
            if (count == 10)
            {
                guest.Gate(0x41, Handler);
                binding.Route(0xFEE0_0000, 0x41);
            }
            signal.Write();
            return count < 20;
        });
        Assert.Equal(20u, guest.Word(SmallGuest.Data));
    }

    [Fact]
    public void ExternalInterruptsAreAcknowledgedByVector()
    {
        using SmallGuest guest = Create(static a => a.Apic(ApicRegisters.Lint0, 0x700));
        var controller = new Controller(guest.Partition);
        guest.Partition.ExternalInterrupts = controller;
        Run(guest, count =>
        {
            if (count < 50)
            {
                controller.Raise();
            }
            return count < 50;
        });
        Assert.Equal(50, controller.Acknowledged);
    }

    [Fact]
    public void ExternalInterruptWaitsUntilTheGuestEnablesInterrupts()
    {
        using var guest = new SmallGuest();
        guest.Gate(0x40, Handler);
        guest.Put(Handler, 64, a => a.@out(SmallGuest.EndPort, al));
        guest.Put(SmallGuest.Code, 64, a =>
        {
            Label wait = a.CreateLabel();
            a.EnableApic();
            a.Apic(ApicRegisters.Lint0, 0x700);
            a.@out(Ready, al);
            a.mov(ecx, 200);
            a.Label(ref wait);
            a.dec(ecx);
            a.jnz(wait);
            a.mov(rbx, SmallGuest.Data);
            a.mov(__dword_ptr[rbx], 1);
            a.WaitForInterrupts();
        });
        guest.LongMode();
        var controller = new Controller(guest.Partition);
        guest.Partition.ExternalInterrupts = controller;
        guest.Bus.PortWritten = (_, _) => controller.Raise();
        guest.RunToEnd();
        Assert.Equal(1u, guest.Word(SmallGuest.Data));
        Assert.Equal(1, controller.Acknowledged);
    }

    [Fact]
    public void HaltedProcessorRestoredUnderAnAssertedLineWakes()
    {
        using SmallGuest guest = Create(static a => a.Apic(ApicRegisters.Lint0, 0x700));
        var controller = new Controller(guest.Partition);
        guest.Partition.ExternalInterrupts = controller;
        // Stop it while it is halted, and assert the line while nobody runs.
        var stopped = new Thread(() =>
        {
            while (guest.Bus.Log.Count == 0)
            {
                Thread.Yield();
            }
            Thread.Sleep(20);
            guest.Processor.Stop();
        });
        stopped.Start();
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        stopped.Join();
        controller.Raise();
        Run(guest, static _ => false);
        Assert.Equal(1, controller.Acknowledged);
    }

    [Fact]
    public void NonMaskableInterruptGoesThroughLint1()
    {
        using var guest = new SmallGuest();
        guest.Gate(2, Handler);
        guest.Put(Handler, 64, a =>
        {
            a.mov(eax, 1);
            a.@out(Told, eax);
            a.iretq();
        });
        guest.Put(SmallGuest.Code, 64, a =>
        {
            Label again = a.CreateLabel();
            a.EnableApic();
            a.@out(Ready, al); // masked still
            a.Apic(ApicRegisters.Lint1, 0x400);
            a.@out(Ready, al);
            a.Label(ref again);
            a.hlt();
            a.jmp(again);
        });
        guest.LongMode();
        int told = 0, ready = 0;
        Run(guest, count =>
        {
            told += count;
            ready += 1 - count;
            guest.Partition.SignalNmi();
            return told == 0;
        });
        Assert.Equal(2, ready);
    }

    /// <summary>Remembers ends of interrupt.</summary>
    private sealed class Listener : IEndOfInterruptListener
    {
        public List<int> Vectors { get; } = [];

        public void EndOfInterrupt(byte vector) => Vectors.Add(vector);
    }

    /// <summary>An 8259 with one request.</summary>
    private sealed class Controller(Partition partition) : IExternalInterruptSource
    {
        public int Acknowledged { get; private set; }

        public void Raise() => partition.SetExternalInterrupt(true);

        public byte Acknowledge()
        {
            Acknowledged++;
            partition.SetExternalInterrupt(false);
            return 0x40;
        }
    }
}
