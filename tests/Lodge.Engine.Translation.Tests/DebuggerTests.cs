using Iced.Intel;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>Breakpoints, watchpoints and single steps of a debugger outside the guest.</summary>
public sealed class DebuggerTests : IDisposable
{
    private const ulong Code = FlatGuest.CodeBase, Data = FlatGuest.DataBase;
    private readonly FlatGuest _guest = new();

    public void Dispose() => _guest.Dispose();

    private ulong Rip => _guest.Processor.SaveState().InstructionPointer;

    private void Ask(bool step = false, ulong[]? breakpoints = null, Watchpoint[]? watchpoints = null) =>
        _guest.Processor.SetDebug(new DebugRequest(step, breakpoints ?? [], watchpoints ?? []));

    private DebugEvent Stop()
    {
        Assert.Equal(ProcessorExit.Debug, _guest.Run());
        return _guest.Processor.LastDebugEvent;
    }

    /// <summary>RCX rounds of: inc rax; add rbx, 3; dec rcx; jne. The addresses of the four.</summary>
    private ulong[] LoadLoop(int rounds)
    {
        _guest.Load(a =>
        {
            Label again = a.CreateLabel();
            a.mov(ecx, rounds);
            a.Label(ref again);
            a.inc(rax);
            a.add(rbx, 3);
            a.dec(rcx);
            a.jne(again);
            FlatGuest.Exit(a);
        });
        return [Code + 5, Code + 8, Code + 12, Code + 15];
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_breakpoint_in_translated_code_stops_each_time_before_its_instruction(int which)
    {
        ulong[] at = LoadLoop(100);
        Assert.Equal(ProcessorExit.Stopped, _guest.Run()); // translated without a breakpoint first
        _guest.Processor.RestoreState(FlatGuest.LongMode(false));
        for (int round = 0; round < 100; round++)
        {
            Ask(breakpoints: [at[which], 0x1234]);
            Assert.Equal(new DebugEvent(DebugEventKind.Breakpoint, at[which], false), Stop());
            var state = _guest.Processor.SaveState();
            Assert.Equal(at[which], state.InstructionPointer);
            Assert.Equal((ulong)round + (which > 0 ? 1UL : 0), state.GeneralRegisters[0]);
            Assert.Equal(((ulong)round + (which > 1 ? 1UL : 0)) * 3, state.GeneralRegisters[3]);
            Assert.Equal(DebugEventKind.Breakpoint, Stop().Kind); // it stays
            Ask(step: true);
            Assert.Equal(DebugEventKind.Step, Stop().Kind);
        }
        Ask(breakpoints: [at[which]]);
        Assert.Equal(ProcessorExit.Stopped, _guest.Run());
    }

    [Fact]
    public void Code_away_from_breakpoints_stays_translated()
    {
        LoadLoop(100_000);
        Ask(breakpoints: [0x9999]);
        long before = _guest.Processor.InterpretedInstructions;
        Assert.Equal(ProcessorExit.Stopped, _guest.Run());
        Assert.InRange(_guest.Processor.InterpretedInstructions - before, 0, 1000);
        Assert.Equal(100_000UL, _guest.Processor.SaveState().GeneralRegisters[0]);
        _guest.Processor.RestoreState(FlatGuest.LongMode(false));
        Ask(watchpoints: [new Watchpoint(Data, 8, true, true)]);
        before = _guest.Processor.InterpretedInstructions;
        Assert.Equal(ProcessorExit.Stopped, _guest.Run());
        Assert.InRange(_guest.Processor.InterpretedInstructions - before, 0, 1000);
    }

    [Fact]
    public void A_step_executes_one_instruction_and_passes_a_breakpoint()
    {
        ulong[] at = LoadLoop(2);
        ulong[] expected = [.. at, .. at, at[3] + 2];
        Ask(step: true, breakpoints: [Code]);
        foreach (ulong next in expected)
        {
            Assert.Equal(new DebugEvent(DebugEventKind.Step, next, false), Stop());
            Assert.Equal(next, Rip);
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Watchpoints_stop_after_accesses_of_their_kind(bool translatedBefore)
    {
        _guest.Load(a =>
        {
            a.mov(rbx, Data);
            a.mov(rax, __qword_ptr[rbx + 16]); // beside
            a.mov(__qword_ptr[rbx + 0], rax);
            a.mov(rax, __qword_ptr[rbx + 8]); // loads what is watched
            a.mov(__byte_ptr[rbx + 15], 5); // stores its last byte
            a.add(__dword_ptr[rbx + 6], 1); // overlaps
            a.mov(__byte_ptr[rbx + 16], 1);
            FlatGuest.Exit(a);
        });
        if (translatedBefore)
        {
            Assert.Equal(ProcessorExit.Stopped, _guest.Run());
            _guest.Processor.RestoreState(FlatGuest.LongMode(false));
            Assert.Equal(ProcessorExit.Stopped, _guest.Run());
            _guest.Processor.RestoreState(FlatGuest.LongMode(false));
        }
        Ask(watchpoints: [new Watchpoint(Data + 8, 8, true, false)]);
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, Data + 8, false), Stop());
        Assert.Equal(Code + 10 + 4 + 3 + 4, Rip);
        Ask(watchpoints: [new Watchpoint(Data + 8, 8, false, true)]);
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, Data + 8, true), Stop());
        Assert.Equal(Code + 10 + 4 + 3 + 4 + 4, Rip);
        _guest.Memory.TryRead(Data + 15, out byte stored);
        Assert.Equal(5, stored);
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, Data + 8, true), Stop());
        Assert.Equal(Code + 10 + 4 + 3 + 4 + 4 + 4, Rip);
        Assert.Equal(ProcessorExit.Stopped, _guest.Run());
    }

    [Fact]
    public void Watchpoints_see_the_stack_strings_vectors_and_page_crossings()
    {
        _guest.Load(a =>
        {
            a.push(rax);
            a.mov(rdi, Data);
            a.mov(ecx, 64);
            a.rep.stosb();
            a.movups(__xmmword_ptr[rdi + 0x1000 - 64 - 8], xmm0);
            a.lea(rsi, __[rdi]);
            a.mov(ecx, 600);
            a.rep.movsq();
            FlatGuest.Exit(a);
        });
        Ask(watchpoints: [new Watchpoint(FlatGuest.StackTop - 4, 1, false, true)]);
        Assert.Equal(DebugEventKind.Watchpoint, Stop().Kind);
        Assert.Equal(Code + 1, Rip);
        Ask(watchpoints: [new Watchpoint(Data + 40, 1, false, true)]);
        Stop();
        Assert.Equal(23UL, _guest.Processor.SaveState().GeneralRegisters[1]); // in the middle of the string
        Ask(watchpoints: [new Watchpoint(Data + 0x1000, 1, false, true)]);
        Stop();
        Assert.Equal(64UL + Data, _guest.Processor.SaveState().GeneralRegisters[7]);
        Assert.Equal(0UL, _guest.Processor.SaveState().GeneralRegisters[1]);
        Ask(watchpoints: [new Watchpoint(Data + 0x1100, 4096, true, false)]);
        Stop();
        Assert.Equal(63UL, _guest.Processor.SaveState().GeneralRegisters[1]); // the element at 0x1100 was the 537th
        Ask();
        Assert.Equal(ProcessorExit.Stopped, _guest.Run());
    }

    [Fact]
    public void A_step_over_a_fault_ends_at_the_handler()
    {
        _guest.Load(a => a.ud2());
        _guest.Load(a => FlatGuest.Exit(a), Code + 0x1000);
        const ulong Table = 0x7_0000, Descriptors = 0x7_1000;
        _guest.Memory.TryWrite(Descriptors + 8, 0x00AF_9B00_0000_FFFFUL);
        _guest.Memory.TryWrite(Table + (6 * 16), ((Code + 0x1000) & 0xFFFF) | (8UL << 16) | (0x8EUL << 40) | (((Code + 0x1000) >> 16) << 48));
        var state = FlatGuest.LongMode(false);
        state.InterruptDescriptorTable = new Lodge.Engine.Processor.TableRegister(Table, 0xFFF);
        state.GlobalDescriptorTable = new Lodge.Engine.Processor.TableRegister(Descriptors, 0x17);
        _guest.Processor.RestoreState(state);
        Ask(step: true);
        Assert.Equal(new DebugEvent(DebugEventKind.Step, Code + 0x1000, false), Stop());
        Assert.Equal(Code + 0x1000, Rip);
    }

    [Fact]
    public void Ends_of_the_address_space_are_watched_without_harm()
    {
        LoadLoop(3);
        Ask(watchpoints: [new Watchpoint(ulong.MaxValue - 3, 4096, true, true), new Watchpoint(0, -5, true, true), new Watchpoint(5, 0, true, true)]);
        Assert.Equal(ProcessorExit.Stopped, _guest.Run());
    }
}
