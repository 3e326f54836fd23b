using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>Loads of SS hold debug exceptions for one instruction (Intel SDM vol. 3, 6.8.3 and 19.3.1.1).</summary>
public sealed class HeldDebugExceptionTests
{
    private const ulong Code = FlatGuest.CodeBase, Selector = FlatGuest.DataBase, SingleStep = 1 << 14;
    private const ulong WatchesSelector = 1 | 1 << 16 | 1 << 17 | 1 << 18, Executes = 1;

    // The first exception of the code: vector, return RIP, DR6. RAX, and RBX's memory, hold a selector for SS.
    private static (ulong Vector, ulong Rip, ulong Dr6) Run(Action<Assembler> code, bool trap, ulong dr7 = 0, ulong dr0 = Selector)
    {
        using var guest = new FlatGuest();
        guest.InstallHandlers();
        guest.Memory.TryWrite<ulong>(Selector, 0x10);
        guest.Load(code);
        ProcessorState state = guest.Processor.SaveState();
        (state.GeneralRegisters[0], state.GeneralRegisters[3], state.GeneralRegisters[4]) = (0x10, Selector, trap ? FlatGuest.StackTop - 0x800 : Selector);
        (state.Flags, state.DebugAddresses[0], state.Dr7) = (trap ? 0x102UL : 2, dr0, dr7 | 0x400);
        guest.Processor.RestoreState(state);
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        return (guest.Output[0].Value, guest.Output[1].Value, guest.Output[3].Value & 0xE00F);
    }

    private static void Load(Assembler a)
    {
        a.mov(ss, eax);
        a.nop();
        a.nop();
        a.nop();
    }

    [Fact]
    public void Single_step_traps_after_the_next_instruction() => Assert.Equal((1UL, Code + 3, SingleStep), Run(Load, true));

    [Fact]
    public void Of_two_loads_only_the_first_holds() => Assert.Equal((1UL, Code + 4, SingleStep), Run(
        a =>
        {
            a.mov(ss, eax);
            a.mov(ss, eax);
            a.nop();
            a.nop();
        },
        true));

    [Fact]
    public void Other_loads_hold_nothing() => Assert.Equal((1UL, Code + 2, SingleStep), Run(
        a =>
        {
            a.mov(ds, eax);
            a.nop();
            a.nop();
        },
        true));

    [Fact]
    public void A_breakpoint_at_the_next_instruction_is_passed()
    {
        Assert.Equal((3UL, Code + 4, 0UL), Run(
            a =>
            {
                a.mov(ss, eax);
                a.nop();
                a.int3();
            },
            false,
            Executes,
            Code + 2));
        Assert.Equal((1UL, Code + 3, 1UL), Run(Load, false, Executes, Code + 3));
    }

    [Fact]
    public void A_data_breakpoint_is_held() => Assert.Equal((1UL, Code + 3, 1UL), Run(
        a =>
        {
            a.mov(ss, __word_ptr[rbx]);
            a.nop();
            a.nop();
            a.nop();
        },
        false,
        WatchesSelector));

    [Fact]
    public void A_data_breakpoint_of_the_load_comes_in_the_handler_of_the_next_instruction()
    {
        foreach (bool fault in (bool[])[false, true])
        {
            (ulong vector, ulong rip, ulong dr6) = Run(
                a =>
                {
                    a.mov(ss, __word_ptr[rbx]);
                    if (fault)
                    {
                        a.ud2();
                    }
                    else
                    {
                        a.int3();
                    }
                },
                false,
                WatchesSelector);
            Assert.Equal((1UL, FlatGuest.HandlerAddress(fault ? 6 : 3), 1UL), (vector, rip, dr6));
        }
    }

    [Fact]
    public void What_is_held_survives_saving()
    {
        ProcessorState state = FlatGuest.LongMode(false);
        (state.InterruptShadow, state.DebugShadow, state.PendingDebug, state.Dr7) = (true, true, 1, 0x401);
        using var guest = new FlatGuest();
        guest.InstallHandlers();
        ProcessorState tables = guest.Processor.SaveState();
        (state.GlobalDescriptorTable, state.InterruptDescriptorTable) = (tables.GlobalDescriptorTable, tables.InterruptDescriptorTable);
        guest.Load(Load);
        guest.Processor.RestoreState(state);
        guest.Processor.RestoreState(guest.Processor.SaveState());
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal((1UL, Code + 2, 1UL), (guest.Output[0].Value, guest.Output[1].Value, guest.Output[3].Value & 0xE00F));
    }
}
