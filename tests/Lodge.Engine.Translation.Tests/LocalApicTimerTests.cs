using System.Runtime.InteropServices;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Interrupts;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed class LocalApicTimerTests : IDisposable
{
    private const uint Timer = ApicRegister.LocalVectorTable;
    private readonly FlatGuest _guest = new();

    public LocalApicTimerTests() => Apic.WriteMemory(ApicRegister.SpuriousInterrupt, 0x1FF);

    private LocalApic Apic => _guest.Processor.Apic;

    public void Dispose() => _guest.Dispose();

    private byte Await()
    {
        byte vector = 0;
        Assert.True(SpinWait.SpinUntil(() => Apic.TryTakeInterrupt(out vector), 20_000));
        Apic.WriteMemory(ApicRegister.EndOfInterrupt, 0);
        return vector;
    }

    [Fact]
    public void One_shot_fires_once_and_counts_down_to_zero()
    {
        Apic.WriteMemory(ApicRegister.DivideConfiguration, 0xB);
        Apic.WriteMemory(Timer, 0x50);
        Apic.WriteMemory(ApicRegister.InitialCount, 1_000_000);
        Assert.InRange(Apic.ReadMemory(ApicRegister.CurrentCount), 0u, 1_000_000u);
        Assert.Equal(0x50, Await());
        Assert.Equal(0u, Apic.ReadMemory(ApicRegister.CurrentCount));
        Assert.Equal(1_000_000u, Apic.ReadMemory(ApicRegister.InitialCount));
    }

    // Its interrupt was due when time stood still, and had not been sent: what is restored sends it.
    [Fact]
    public void One_shot_that_was_due_when_time_was_stopped_fires_after_a_restore()
    {
        MachineClock clock = _guest.Partition.Options.Clock;
        clock.Stop();
        Apic.WriteMemory(ApicRegister.DivideConfiguration, 0xB);
        Apic.WriteMemory(Timer, 0x52);
        Apic.WriteMemory(ApicRegister.InitialCount, 1000);
        clock.Set(clock.Now + 1_000_000);
        Assert.False(Apic.TryTakeInterrupt(out _));
        var state = new ProcessorState();
        Apic.Save(state);
        Apic.WriteMemory(ApicRegister.InitialCount, 0);
        Apic.Restore(state);
        clock.Start();
        Assert.Equal(0x52, Await());

        Apic.Save(state); // sent: not again
        Apic.Restore(state);
        Assert.False(SpinWait.SpinUntil(() => Apic.TryTakeInterrupt(out _), 20));
    }

    [Fact]
    public void Periodic_fires_again_and_again_until_stopped()
    {
        Apic.WriteMemory(Timer, 0x2_0051);
        Apic.WriteMemory(ApicRegister.InitialCount, 50_000); // divided by 2
        for (int i = 0; i < 5; i++)
        {
            Assert.Equal(0x51, Await());
        }
        Apic.WriteMemory(ApicRegister.InitialCount, 0);
        Assert.Equal(0u, Apic.ReadMemory(ApicRegister.CurrentCount));
    }

    [Fact]
    public void A_divider_slows_the_count()
    {
        _guest.Partition.Options.Clock.Stop();
        Apic.WriteMemory(ApicRegister.DivideConfiguration, 0xA); // 128
        Apic.WriteMemory(Timer, Lvt.Masked);
        Apic.WriteMemory(ApicRegister.InitialCount, 1000);
        _guest.Partition.Options.Clock.Set(_guest.Partition.Options.Clock.Now + 12_800);
        Assert.Equal(900u, Apic.ReadMemory(ApicRegister.CurrentCount));
        Apic.WriteMemory(ApicRegister.DivideConfiguration, 0xB); // 1: goes on from where it is
        _guest.Partition.Options.Clock.Set(_guest.Partition.Options.Clock.Now + 300);
        Assert.Equal(600u, Apic.ReadMemory(ApicRegister.CurrentCount));
    }

    [Fact]
    public void Tsc_deadline_fires_not_before_its_time()
    {
        Assert.True(Apic.TryWriteMsr(ApicMsr.TscDeadline, 5));
        Assert.True(Apic.TryReadMsr(ApicMsr.TscDeadline, out ulong value));
        Assert.Equal(0UL, value); // ignored in other modes
        Apic.WriteMemory(Timer, 0x4_0052);
        ulong deadline = _guest.Processor.ReadTsc() + ((ulong)_guest.Partition.TimestampFrequency / 500);
        Assert.True(Apic.TryWriteMsr(ApicMsr.TscDeadline, deadline));
        Assert.Equal(0x52, Await());
        Assert.True(_guest.Processor.ReadTsc() >= deadline);
        Assert.True(Apic.TryReadMsr(ApicMsr.TscDeadline, out value));
        Assert.Equal(0UL, value);
        Assert.True(Apic.TryWriteMsr(ApicMsr.TscDeadline, 1)); // past: at once
        Assert.True(Apic.TryTakeInterrupt(out _));
        Assert.True(Apic.TryWriteMsr(ApicMsr.TscDeadline, ulong.MaxValue)); // centuries away
        Apic.WriteMemory(Timer, 0x52);
        Assert.True(Apic.TryReadMsr(ApicMsr.TscDeadline, out value));
        Assert.Equal(0UL, value);
    }

    [Fact]
    public void State_survives_saving_with_the_timer_where_it_was()
    {
        _guest.Partition.Options.Clock.Stop();
        Apic.WriteMemory(ApicRegister.DivideConfiguration, 0xB);
        Apic.WriteMemory(Timer, 0x2_0053);
        Apic.WriteMemory(ApicRegister.InitialCount, 1_000_000);
        _guest.Partition.Options.Clock.Set(_guest.Partition.Options.Clock.Now + 250_000);
        Apic.WriteMemory(ApicRegister.LogicalDestination, 0x0400_0000);
        _guest.Partition.SignalMessage(0xFEE0_0000, 0x8066);
        _guest.Partition.SignalMessage(0xFEE0_0000, 0x71);
        Assert.True(Apic.TryTakeInterrupt(out _));
        Apic.Deliver(new InterruptMessage(0, false, DeliveryMode.Nmi, 0, false));
        var state = new ProcessorState();
        Apic.Save(state);
        Apic.Reset();
        Apic.Restore(state);
        var again = new ProcessorState();
        Apic.Save(again);
        Assert.Equal(state.LocalApic, again.LocalApic);
        Assert.Equal(state.ModelSpecificRegisters, again.ModelSpecificRegisters);
        Assert.Equal(750_000u, Apic.ReadMemory(ApicRegister.CurrentCount));
        Assert.True(Apic.TryTakeNmi());
        Assert.False(Apic.HasInterrupt());
        Apic.WriteMemory(ApicRegister.EndOfInterrupt, 0);
        Assert.True(Apic.TryTakeInterrupt(out byte vector));
        Assert.Equal(0x66, vector);
    }

    [Fact]
    public void Any_saved_page_restores_without_harm()
    {
        var random = new Random(7);
        for (int i = 0; i < 200; i++)
        {
            var state = new ProcessorState();
            random.NextBytes(state.LocalApic);
            state.ModelSpecificRegisters[ApicMsr.Base] = (ulong)random.NextInt64();
            state.ModelSpecificRegisters[ApicMsr.TscDeadline] = (ulong)random.NextInt64();
            Apic.Restore(state);
            Apic.HasInterrupt();
            Apic.WriteMemory(ApicRegister.EndOfInterrupt, 0);
            Apic.Save(new ProcessorState());
        }
    }

    [Fact]
    public void Random_register_accesses_do_no_harm()
    {
        var random = new Random(11);
        for (int i = 0; i < 20_000; i++)
        {
            uint offset = (uint)random.Next(4096) & (random.Next(2) == 0 ? 0xFF0u : 0xFFCu), value = (uint)random.NextInt64();
            if (random.Next(2) == 0)
            {
                Apic.WriteMemory(offset, value);
            }
            else
            {
                Apic.ReadMemory(offset);
            }
            Apic.TryTakeInterrupt(out _);
            if (random.Next(50) == 0)
            {
                Apic.TryWriteMsr(0x800 + (uint)random.Next(256), value);
                Apic.TryWriteMsr(0x1B, (value & 0xD00) | 0xFEE0_0000);
                Apic.WriteMemory(ApicRegister.SpuriousInterrupt, 0x1FF);
            }
        }
    }
}
