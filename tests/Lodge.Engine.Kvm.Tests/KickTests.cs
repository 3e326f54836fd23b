using Iced.Intel;
using Lodge.Engine.Processor;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class KickTests
{
    // Fewer where each exit is emulated.
    private static readonly int Rounds = Environment.GetEnvironmentVariable("LODGE_NESTED") is null ? 3000 : 500;

    [Theory]
    [InlineData("halted")]
    [InlineData("spinning")]
    [InlineData("ports")]
    [InlineData("waiting for SIPI")]
    public void NoStopIsLost(string guestKind)
    {
        using var guest = new SmallGuest();
        guest.Bus.Recording = false;
        guest.Put(SmallGuest.Code, 16, a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            switch (guestKind)
            {
                case "halted":
                    a.hlt();
                    break;
                case "ports":
                    a.@out(0x80, al);
                    break;
            }
            a.inc(bx);
            a.jmp(again);
        });
        guest.RealMode(change: state => state.Activity = guestKind == "waiting for SIPI" ? ActivityState.WaitForSipi : ActivityState.Active);
        int stops = 0;
        string? failure = null;
        var runner = new Thread(() =>
        {
            for (int i = 0; i < Rounds; i++)
            {
                if (guest.Processor.Run() is var exit and not ProcessorExit.Stopped)
                {
                    failure = $"{exit} {guest.Processor.FailureReason}";
                    return;
                }
                Interlocked.Increment(ref stops);
            }
        });
        runner.Start();
        for (int i = 0; i < Rounds; i++)
        {
            if (i % 3 == 0)
            {
                Thread.SpinWait(i % 200);
            }
            guest.Processor.Stop();
            // The next stop is asked for only when this one has arrived: one that were lost would be waited for in vain.
            long until = Environment.TickCount64 + 30_000;
            var spin = new SpinWait();
            while (Volatile.Read(ref stops) <= i && failure is null)
            {
                spin.SpinOnce(-1);
                Assert.True(Environment.TickCount64 < until, $"stop {i} was lost");
            }
            Assert.Null(failure);
        }
        Assert.True(runner.Join(TimeSpan.FromSeconds(30)));
        Assert.Equal(Rounds, stops);
    }

    [Fact]
    public void StopBeforeRunIsRemembered()
    {
        using var guest = new SmallGuest();
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.@out(0x80, al);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.Processor.Stop();
        Assert.Equal(ProcessorExit.Stopped, guest.Processor.Run());
        Assert.Empty(guest.Bus.Log);
        guest.RunToEnd();
        Assert.Single(guest.Bus.Log);
    }

    [Fact]
    public void StoppedProcessorIsBetweenInstructions()
    {
        using var guest = new SmallGuest();
        guest.Bus.Answer = static (_, _) => 0x77;
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.@out(0x80, al);
            a.@in(al, 0x81);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.Bus.PortWritten = (_, _) => guest.Processor.Stop();
        Assert.Equal(ProcessorExit.Stopped, guest.Processor.Run());
        Assert.Equal(2UL, guest.Processor.GetState().InstructionPointer);
        guest.Bus.PortWritten = null;
        guest.RunToEnd();
        ProcessorState state = guest.Processor.GetState();
        Assert.Equal(6UL, state.InstructionPointer);
        Assert.Equal(0x77UL, state.GeneralRegisters[0] & 0xFF);
    }
}
