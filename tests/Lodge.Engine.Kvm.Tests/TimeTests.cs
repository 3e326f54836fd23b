using Iced.Intel;
using Lodge.Engine.Processor;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class TimeTests
{
    private const ulong Handler = SmallGuest.Code + 0x1000;
    private const uint TimestampCounter = 0x10, Deadline = 0x6E0;

    private static SmallGuest Create(Action<Assembler> arm)
    {
        var guest = new SmallGuest();
        guest.Gate(0x40, Handler);
        guest.Put(Handler, 64, a => a.@out(SmallGuest.EndPort, al));
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.EnableApic();
            arm(a);
            a.@out(0x91, al);
            a.WaitForInterrupts();
        });
        guest.LongMode();
        return guest;
    }

    private static void OneShot(Assembler a, uint count)
    {
        a.Apic(ApicRegisters.Divide, 0xB);
        a.Apic(ApicRegisters.Timer, 0x40);
        a.Apic(ApicRegisters.InitialCount, count);
    }

    private static void ByDeadline(Assembler a, uint ticks)
    {
        a.Apic(ApicRegisters.Timer, 0x4_0040);
        a.rdtsc();
        a.add(eax, ticks);
        a.adc(edx, 0);
        a.mov(ecx, Deadline);
        a.wrmsr();
    }

    [Fact]
    public void TimerCountsDown()
    {
        using SmallGuest guest = Create(static a => OneShot(a, 2_000_000));
        guest.RunToEnd();
    }

    [Fact]
    public void TimerFiresAtItsDeadline()
    {
        using SmallGuest guest = Create(static a => ByDeadline(a, 5_000_000));
        guest.RunToEnd();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void TimeStandsWhileTheClockStands(bool byDeadline)
    {
        // Half a second of the guest's time, of which some remains when its clock stops for longer than that.
        using SmallGuest guest = Create(a =>
        {
            if (byDeadline)
            {
                ByDeadline(a, 2_000_000_000);
            }
            else
            {
                OneShot(a, 1_000_000_000);
            }
        });
        guest.Bus.PortWritten = (_, _) => guest.Processor.Stop();
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        guest.Clock.Stop();
        ProcessorState before = guest.Processor.GetState();
        Thread.Sleep(1500);
        ProcessorState after = guest.Processor.GetState();
        Assert.Equal(before.ModelSpecificRegisters[TimestampCounter], after.ModelSpecificRegisters[TimestampCounter]);
        Assert.Equal(before.LocalApic[0x390..0x394], after.LocalApic[0x390..0x394]);
        if (byDeadline)
        {
            Assert.Equal(before.ModelSpecificRegisters[Deadline], after.ModelSpecificRegisters[Deadline]);
            Assert.True(after.ModelSpecificRegisters[Deadline] > after.ModelSpecificRegisters[TimestampCounter]);
        }
        else
        {
            Assert.NotEqual(0u, BitConverter.ToUInt32(after.LocalApic, 0x390));
        }
        guest.Clock.Start();
        // It has not fired while time stood: not pending now.
        ProcessorState resumed = guest.Processor.GetState();
        Assert.Equal(0u, BitConverter.ToUInt32(resumed.LocalApic, 0x220) & 1);
        guest.RunToEnd();
    }

    [Fact]
    public void StateTakenWhileTimeStandsGoesOnElsewhere()
    {
        using SmallGuest first = Create(static a => ByDeadline(a, 200_000_000));
        first.Bus.PortWritten = (_, _) => first.Processor.Stop();
        Assert.Equal(ProcessorExit.Stopped, first.Run());
        first.Clock.Stop();
        ProcessorState state = first.Processor.GetState();
        byte[] memory = new byte[1 << 20];
        first.Memory.TryRead(0, memory);
        using var second = new SmallGuest();
        second.Clock.Stop();
        second.Memory.TryWrite(0, memory);
        second.Processor.SetState(state);
        Assert.SkipUnless(second.Processor.GetState().LocalApic[0xF1] == 1, "registers of the local APIC are not restored yet");
        Assert.Equal(state.ModelSpecificRegisters[TimestampCounter], second.Processor.GetState().ModelSpecificRegisters[TimestampCounter]);
        second.Clock.Start();
        second.RunToEnd();
    }
}
