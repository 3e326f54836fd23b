using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Interrupts;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed class LocalApicTests : IDisposable
{
    private readonly FlatGuest _guest = new(processors: 4);

    public LocalApicTests()
    {
        foreach (var vcpu in _guest.Partition.Vcpus)
        {
            vcpu.Apic.Reset();
            vcpu.Apic.WriteMemory(ApicRegister.SpuriousInterrupt, 0x1FF);
            vcpu.Apic.WriteMemory(ApicRegister.LocalVectorTable + (Lvt.Lint0 * 16), Lvt.Masked);
        }
    }

    public void Dispose() => _guest.Dispose();

    private LocalApic Apic(int index = 0) => _guest.Partition.Vcpus[index].Apic;

    private void Signal(byte vector, int destination = 0, bool level = false) =>
        _guest.Partition.SignalMessage(0xFEE0_0000 | ((ulong)destination << 12), vector | (level ? 0x8000u : 0));

    private static void EnableX2(LocalApic apic)
    {
        Assert.True(apic.TryReadMsr(0x1B, out ulong value));
        Assert.True(apic.TryWriteMsr(0x1B, value | 0xC00));
    }

    [Fact]
    public void Higher_vectors_come_first_and_lower_ones_wait_for_the_end_of_interrupt()
    {
        Signal(0x41);
        Signal(0x52);
        Assert.True(Apic().TryTakeInterrupt(out byte vector));
        Assert.Equal(0x52, vector);
        Assert.Equal(0x50u, Apic().ReadMemory(ApicRegister.ProcessorPriority));
        Assert.False(Apic().TryTakeInterrupt(out _));
        Signal(0x5F); // same class
        Assert.False(Apic().HasInterrupt());
        Signal(0x60);
        Assert.True(Apic().TryTakeInterrupt(out vector));
        Assert.Equal(0x60, vector);
        Apic().WriteMemory(ApicRegister.EndOfInterrupt, 0);
        Apic().WriteMemory(ApicRegister.EndOfInterrupt, 0);
        Assert.True(Apic().TryTakeInterrupt(out vector));
        Assert.Equal(0x5F, vector);
        Apic().WriteMemory(ApicRegister.EndOfInterrupt, 0);
        Assert.True(Apic().TryTakeInterrupt(out vector));
        Assert.Equal(0x41, vector);
    }

    [Fact]
    public unsafe void Lowering_the_task_priority_makes_a_waiting_interrupt_noticed()
    {
        Apic().TaskPriority = 5;
        Assert.Equal(0x50u, Apic().ReadMemory(ApicRegister.TaskPriority));
        Signal(0x51);
        Assert.False(Apic().HasInterrupt());
        _guest.Processor.B->InterruptPending = 0;
        Apic().TaskPriority = 4;
        Assert.Equal(1u, _guest.Processor.B->InterruptPending);
        Assert.True(Apic().HasInterrupt());
    }

    private sealed class EndListener : IEndOfInterruptListener
    {
        public List<byte> Vectors { get; } = [];

        public void EndOfInterrupt(byte vector) => Vectors.Add(vector);
    }

    [Fact]
    public void Only_level_triggered_ends_are_broadcast()
    {
        var listener = new EndListener();
        _guest.Partition.EndOfInterruptListener = listener;
        Signal(0x31);
        Signal(0x45, level: true);
        Assert.Equal(1u << 5, Apic().ReadMemory(ApicRegister.TriggerMode + 0x20));
        for (int i = 0; i < 2; i++)
        {
            Assert.True(Apic().TryTakeInterrupt(out _));
            Apic().WriteMemory(ApicRegister.EndOfInterrupt, 0);
        }
        Assert.Equal([0x45], listener.Vectors);
    }

    private sealed class Controller : IExternalInterruptSource
    {
        public byte Acknowledge() => 0x0B;
    }

    [Fact]
    public void Virtual_wire_mode_passes_the_8259_after_reset()
    {
        _guest.Partition.ExternalInterrupts = new Controller();
        Apic().Reset();
        _guest.Partition.SetExternalInterrupt(true);
        Assert.True(Apic().HasInterrupt());
        Assert.False(Apic(1).HasInterrupt());
        Assert.True(Apic().TryTakeInterrupt(out byte vector));
        Assert.Equal(0x0B, vector);
        _guest.Partition.SetExternalInterrupt(false);
        Assert.False(Apic().HasInterrupt());
        Apic().WriteMemory(ApicRegister.SpuriousInterrupt, 0x1FF);
        Apic().WriteMemory(0x350, 0x30); // fixed: each rising edge is vector 0x30
        _guest.Partition.SetExternalInterrupt(true);
        Assert.True(Apic().TryTakeInterrupt(out vector));
        Assert.Equal(0x30, vector);
    }

    [Fact]
    public void Disabling_by_software_masks_the_vector_table_and_drops_messages()
    {
        Apic().WriteMemory(0x370, 0x20);
        Apic().WriteMemory(ApicRegister.SpuriousInterrupt, 0xFF);
        Assert.Equal(Lvt.Masked | 0x20, Apic().ReadMemory(0x370));
        Apic().WriteMemory(0x370, 0x21);
        Assert.Equal(Lvt.Masked | 0x21, Apic().ReadMemory(0x370));
        Signal(0x40);
        Assert.False(Apic().HasInterrupt());
        _guest.Partition.SignalMessage(0xFEE0_0000, 0x400);
        Assert.True(Apic().TryTakeNmi());
        Assert.False(Apic().TryTakeNmi());
    }

    [Fact]
    public void Only_the_legal_mode_transitions_are_taken()
    {
        const ulong Bsp = 0xFEE0_0100;
        Assert.False(Apic().TryReadMsr(0x802, out _));
        Assert.False(Apic().TryWriteMsr(0x1B, Bsp | 0x400));
        Assert.True(Apic().TryWriteMsr(0x1B, Bsp));
        Assert.False(Apic().Enabled);
        Assert.Equal(ulong.MaxValue, Apic().MemoryBase);
        Assert.False(Apic().TryWriteMsr(0x1B, Bsp | 0xC00));
        Assert.True(Apic().TryWriteMsr(0x1B, 0xFED0_0900));
        Assert.Equal(0xFED0_0000UL, Apic().MemoryBase);
        Assert.True(Apic().TryWriteMsr(0x1B, Bsp | 0xC00));
        Assert.False(Apic().TryWriteMsr(0x1B, Bsp | 0x800));
        Assert.Equal(ulong.MaxValue, Apic().MemoryBase);
        Assert.False(Apic().TryWriteMsr(0x1B, Bsp | 0xC01));
        Assert.True(Apic().TryWriteMsr(0x1B, Bsp));
    }

    [Fact]
    public void X2Apic_registers_check_reserved_bits()
    {
        EnableX2(Apic(2));
        Assert.True(Apic(2).TryReadMsr(0x802, out ulong id));
        Assert.Equal(2UL, id);
        Assert.True(Apic(2).TryReadMsr(0x80D, out ulong logical));
        Assert.Equal(4UL, logical);
        Assert.False(Apic(2).TryWriteMsr(0x802, 0));
        Assert.False(Apic(2).TryReadMsr(0x80E, out _));
        Assert.False(Apic(2).TryReadMsr(0x80B, out _));
        Assert.False(Apic(2).TryWriteMsr(0x80B, 1));
        Assert.True(Apic(2).TryWriteMsr(0x80B, 0));
        Assert.False(Apic(2).TryWriteMsr(0x808, 0x100));
        Assert.False(Apic(2).TryWriteMsr(0x830, 1 << 13));
        Assert.False(Apic(2).TryWriteMsr(0x831, 0));
        Assert.False(Apic(2).TryWriteMsr(0x832, 1UL << 32));
        Assert.True(Apic(2).TryWriteMsr(0x83F, 0x77));
        Assert.True(Apic(2).TryTakeInterrupt(out byte vector));
        Assert.Equal(0x77, vector);
    }

    [Fact]
    public void Commands_reach_the_processors_they_name()
    {
        void Send(uint high, uint low)
        {
            Apic().WriteMemory(ApicRegister.InterruptCommandHigh, high);
            Apic().WriteMemory(ApicRegister.InterruptCommandLow, low);
        }
        string Taken()
        {
            string taken = "";
            for (int i = 0; i < 4; i++)
            {
                if (Apic(i).TryTakeInterrupt(out _))
                {
                    taken += i;
                    Apic(i).WriteMemory(ApicRegister.EndOfInterrupt, 0);
                }
            }
            return taken;
        }
        for (int i = 0; i < 4; i++)
        {
            Apic(i).WriteMemory(ApicRegister.LogicalDestination, 1u << (24 + i));
        }
        Send(2u << 24, 0x40);
        Assert.Equal("2", Taken());
        Send(9u << 24, 0x40);
        Assert.Equal("", Taken());
        Send(0xFFu << 24, 0x40);
        Assert.Equal("0123", Taken());
        Send(0xAu << 24, 0x840);
        Assert.Equal("13", Taken());
        Send(0, 0x4_0040);
        Assert.Equal("0", Taken());
        Send(0, 0x8_0040);
        Assert.Equal("0123", Taken());
        Send(0, 0xC_0040);
        Assert.Equal("123", Taken());
        for (int i = 0; i < 4; i++)
        {
            Apic(i).WriteMemory(ApicRegister.DestinationFormat, 0x0FFF_FFFF);
            Apic(i).WriteMemory(ApicRegister.LogicalDestination, (0x10u << 24 << (i / 2)) | (1u << (24 + (i % 2))));
        }
        Send(0x22u << 24, 0x840);
        Assert.Equal("3", Taken());
        foreach (int i in (int[])[1, 2, 3])
        {
            EnableX2(Apic(i));
        }
        EnableX2(Apic());
        Assert.True(Apic().TryWriteMsr(0x830, 0x0000_000C_0000_0840));
        Assert.Equal("23", string.Concat(Enumerable.Range(0, 4).Where(i => Apic(i).TryTakeInterrupt(out _))));
    }

    [Fact]
    public void Lowest_priority_takes_turns_among_equals_and_avoids_the_busy()
    {
        for (int i = 0; i < 4; i++)
        {
            Apic(i).WriteMemory(ApicRegister.LogicalDestination, 1u << (24 + i));
        }
        Apic(1).TaskPriority = 9;
        var seen = new HashSet<int>();
        for (int n = 0; n < 6; n++)
        {
            _guest.Partition.SignalMessage(0xFEE0_0000 | (0xFu << 12) | 4, 0x150);
            int taken = Enumerable.Range(0, 4).Single(i => Apic(i).TryTakeInterrupt(out _));
            Apic(taken).WriteMemory(ApicRegister.EndOfInterrupt, 0);
            seen.Add(taken);
        }
        Assert.Equal([0, 2, 3], seen.Order());
    }

    [Fact]
    public void Init_and_start_up_messages_are_kept_in_order()
    {
        Apic(1).WriteMemory(ApicRegister.TaskPriority, 0x30);
        Apic().WriteMemory(ApicRegister.InterruptCommandHigh, 1u << 24);
        Apic().WriteMemory(ApicRegister.InterruptCommandLow, 0xC500);
        Apic().WriteMemory(ApicRegister.InterruptCommandLow, 0x8500); // de-assert
        Apic().WriteMemory(ApicRegister.InterruptCommandLow, 0x469A);
        Assert.True(Apic(1).TryTakeInit());
        Assert.False(Apic(1).TryTakeInit());
        Assert.Equal(0u, Apic(1).ReadMemory(ApicRegister.TaskPriority));
        Assert.True(Apic(1).TryTakeSipi(out byte page));
        Assert.Equal(0x9A, page);
        Assert.False(Apic(1).TryTakeSipi(out _));
    }

    [Fact]
    public void Errors_are_latched_by_a_write_and_raise_the_error_vector_once()
    {
        Apic().WriteMemory(0x370, 0x45);
        Apic().WriteMemory(ApicRegister.InterruptCommandLow, 0x4_0005);
        Assert.True(Apic().TryTakeInterrupt(out byte vector));
        Assert.Equal(0x45, vector);
        Assert.Equal(0u, Apic().ReadMemory(ApicRegister.ErrorStatus));
        Apic().WriteMemory(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0x20u, Apic().ReadMemory(ApicRegister.ErrorStatus));
        Apic().WriteMemory(0x370, 3); // an error vector that is itself illegal
        Signal(4);
        Apic().ReadMemory(0x3A0);
        Apic().WriteMemory(ApicRegister.ErrorStatus, 0);
        Assert.Equal(0xC0u, Apic().ReadMemory(ApicRegister.ErrorStatus));
    }

    [Fact]
    public void Messages_that_are_no_interrupts_are_dropped()
    {
        _guest.Partition.SignalMessage(0xFED0_0000, 0x40);
        _guest.Partition.SignalMessage(0xFEE0_0000, 0x240);
        _guest.Partition.SignalMessage(0xFEE0_0000, 0x640);
        _guest.Partition.SignalMessage(0xFEEF_E000, 0x40);
        _guest.Partition.SignalMessage(ulong.MaxValue, uint.MaxValue);
        Assert.DoesNotContain(Enumerable.Range(0, 4), i => Apic(i).HasInterrupt() || Apic(i).TryTakeSipi(out _));
    }

    [Fact]
    public void Paravirtual_end_of_interrupt_is_noticed_and_withdrawn()
    {
        const ulong Word = 0x5000;
        uint Flag() => _guest.Memory.TryRead(Word, out uint value) ? value : 99;
        Assert.False(Apic().TrySetPvEoi(Word | 3));
        Assert.True(Apic().TrySetPvEoi(Word | 1));
        Signal(0x51);
        Assert.True(Apic().TryTakeInterrupt(out _));
        Assert.Equal(1u, Flag());
        _guest.Memory.TryWrite(Word, 0u); // the guest's end of interrupt
        Signal(0x41);
        Assert.True(Apic().TryTakeInterrupt(out byte vector));
        Assert.Equal(0x41, vector);
        Signal(0x42); // now waits, so the guest has to say when it is done
        Assert.False(Apic().HasInterrupt());
        Assert.Equal(0u, Flag());
        Apic().WriteMemory(ApicRegister.EndOfInterrupt, 0);
        Assert.True(Apic().TryTakeInterrupt(out vector));
        Assert.Equal(0x42, vector);
        Apic().WriteMemory(ApicRegister.EndOfInterrupt, 0);
        Signal(0x61, level: true);
        Assert.True(Apic().TryTakeInterrupt(out _));
        Assert.Equal(0u, Flag());
    }
}
