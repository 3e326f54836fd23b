using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Machine;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>A whole machine, with all its devices, on the hardware engine.</summary>
public class MachineTests
{
    private const ulong Code = 0x1_0000;
    private const ushort Handler = 0x400;
    private const byte ExitPort = 0xF4;

    private static VirtualMachine Create(Action<Assembler> code, int processors = 1, bool restart = false, Action<Assembler>? handler = null)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        var engine = new KvmEngine();
        return new VirtualMachine(
            new MachineConfiguration
            {
                MemorySize = 16 << 20,
                ProcessorCount = processors,
                Model = CpuModel.Create(CpuModelName.V1, processors, engine.CpuOffer),
                DebugExitPort = ExitPort,
                RestartOnReset = restart,
                Boot = (memory, state) =>
                {
                    memory.TryWrite(Code, Assemble(code));
                    if (handler is not null)
                    {
                        memory.TryWrite(Code + Handler, Assemble(handler));
                        // As firmware leaves it: on, LINT0 for the 8259 (virtual wire mode).
                        BitConverter.TryWriteBytes(state.LocalApic.AsSpan(ApicRegisters.Spurious), 0x1FF);
                        BitConverter.TryWriteBytes(state.LocalApic.AsSpan(ApicRegisters.Lint0), 0x700);
                    }
                    state.Segments[1] = new SegmentState((ushort)(Code >> 4), Code, 0xFFFF, 0x9B);
                    state.InstructionPointer = 0;
                },
            },
            engine);
    }

    private static byte[] Assemble(Action<Assembler> code)
    {
        var assembler = new Assembler(16);
        code(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), 0);
        return stream.ToArray();
    }

    private static MachineOutcome Outcome(VirtualMachine machine)
    {
        Assert.True(machine.Completion.Wait(TimeSpan.FromSeconds(60)), "the machine does not end");
        return machine.Completion.Result;
    }

    [Fact]
    public void GuestEndsByTheDebugExitDevice()
    {
        using VirtualMachine machine = Create(static a =>
        {
            a.mov(al, 21);
            a.@out(ExitPort, al);
            a.hlt();
        });
        machine.Start();
        MachineOutcome outcome = Outcome(machine);
        Assert.Equal((MachineOutcomeKind.DebugExit, 43), (outcome.Kind, outcome.Code));
    }

    [Fact]
    public void TimerInterruptsByThe8259()
    {
        // The 8254 ticks at 1 kHz on IRQ 0, vector 8 of the table.
        using VirtualMachine machine = Create(static a =>
        {
            Label wait = a.CreateLabel();
            a.xor(ax, ax);
            a.mov(ds, ax);
            a.mov(ss, ax);
            a.mov(sp, 0x8000);
            a.xor(bx, bx);
            a.mov(__word_ptr[0x20], Handler);
            a.mov(__word_ptr[0x22], (short)(Code >> 4));
            a.mov(al, 0x11); // ICW1 to 4
            a.@out(0x20, al);
            a.mov(al, 8);
            a.@out(0x21, al);
            a.mov(al, 4);
            a.@out(0x21, al);
            a.mov(al, 1);
            a.@out(0x21, al);
            a.mov(al, 0xFE);
            a.@out(0x21, al);
            a.mov(al, 0x34); // counter 0, rate generator
            a.@out(0x43, al);
            a.mov(al, 0xA9);
            a.@out(0x40, al);
            a.mov(al, 4);
            a.@out(0x40, al);
            a.Label(ref wait);
            a.sti();
            a.hlt();
            a.cmp(bx, 20);
            a.jb(wait);
            a.mov(al, 7);
            a.@out(ExitPort, al);
            a.hlt();
        }, handler: static a =>
        {
            a.inc(bx);
            a.mov(al, 0x20);
            a.@out(0x20, al);
            a.iret();
        });
        machine.Start();
        MachineOutcome outcome = Outcome(machine);
        Assert.Equal((MachineOutcomeKind.DebugExit, 15), (outcome.Kind, outcome.Code));
    }

    [Fact]
    public void GuestResetsAndBootsAgain()
    {
        // Reset by the keyboard controller, the first time; the counter in CMOS outlives it.
        using VirtualMachine machine = Create(static a =>
        {
            Label second = a.CreateLabel();
            a.mov(al, 0x50);
            a.@out(0x70, al);
            a.@in(al, 0x71);
            a.cmp(al, 0x77);
            a.je(second);
            a.mov(al, 0x50);
            a.@out(0x70, al);
            a.mov(al, 0x77);
            a.@out(0x71, al);
            a.mov(al, 0xFE);
            a.@out(0x64, al);
            a.hlt();
            a.Label(ref second);
            a.mov(al, 1);
            a.@out(ExitPort, al);
            a.hlt();
        }, processors: 2, restart: true);
        machine.Start();
        MachineOutcome outcome = Outcome(machine);
        Assert.Equal((MachineOutcomeKind.DebugExit, 3), (outcome.Kind, outcome.Code));
        Assert.Equal(1, machine.Restarts);
    }

    [Fact]
    public void PausesSavesAndResumes()
    {
        // Counts in memory for ever, with a device access each time.
        void Count(Assembler a)
        {
            Label again = a.CreateLabel();
            a.xor(ax, ax);
            a.mov(ds, ax);
            a.Label(ref again);
            a.inc(__dword_ptr[0x7000]);
            a.@out(0x80, al);
            a.jmp(again);
        }

        using VirtualMachine machine = Create(Count, processors: 2);
        machine.Start();
        uint Counted() => machine.Memory.TryRead(0x7000, out uint value) ? value : 0;
        for (int i = 0; i < 5; i++)
        {
            uint before = Counted();
            Assert.True(SpinWait.SpinUntil(() => Counted() > before + 100, TimeSpan.FromSeconds(60)));
            machine.Pause();
            uint still = Counted();
            Thread.Sleep(5);
            Assert.Equal(still, Counted());
            byte[] state = machine.SaveState();
            machine.RestoreState(state);
            machine.Resume();
        }
        machine.Stop();
        Assert.Equal(MachineOutcomeKind.Stopped, Outcome(machine).Kind);
    }
}
