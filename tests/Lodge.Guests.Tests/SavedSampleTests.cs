using Iced.Intel;
using Lodge.Engine;
using Lodge.Engine.Kvm.Tests;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Saving;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Guests.Tests;

/// <summary>
/// Machines that earlier releases saved, kept in Samples, go on here. Each is a guest that prints a letter of the alphabet, twice over, at each interrupt of its timer and
/// was saved in the midst. Samples/README.md says how to add one.
/// </summary>
public sealed class SavedSampleTests
{
    private const ulong Code = 0x1_0000;
    private const ushort Handler = 0x100;
    private const byte ExitPort = 0xF4;
    private const string Alphabet = "abcdefghijklmnopqrstuvwxyz";

    private static readonly TimeSpan s_hang = TimeSpan.FromMinutes(2);

    [Theory]
    [InlineData("saved-v1")]
    public async Task A_machine_of_an_earlier_release_goes_on(string sample)
    {
        using SavedMachine saved = SavedMachine.Open(Path.Combine(AppContext.BaseDirectory, "Samples", sample));
        string printed = saved.Metadata.Notes["printed"];
        Assert.InRange(printed.Length, 5, 40);
        foreach (MemoryLoading loading in new[] { MemoryLoading.Eager, MemoryLoading.Automatic })
        {
            var console = new SerialText();
            using VirtualMachine machine = Create(console, restored: true);
            saved.RestoreInto(machine, loading);
            machine.Start();
            MachineOutcome outcome = await machine.Completion.WaitAsync(s_hang);
            Assert.Equal((MachineOutcomeKind.DebugExit, 43), (outcome.Kind, outcome.Code));
            Assert.Equal(Alphabet + Alphabet, printed + console.Text);
        }
    }

    [Fact]
    public async Task A_sample_can_be_made()
    {
        string? wanted = Environment.GetEnvironmentVariable("LODGE_WRITE_SAMPLE");
        string path = string.IsNullOrEmpty(wanted) ? Path.GetTempFileName() : wanted;
        try
        {
            var console = new SerialText();
            using VirtualMachine machine = Create(console, restored: false);
            machine.Start();
            Assert.True(await console.WaitFor("t", machine.Completion, s_hang), console.Text);
            machine.Pause();
            MachineImage.Save(machine, path, new SaveOptions { Name = "sample", Notes = new Dictionary<string, string> { ["printed"] = console.Text } });
            machine.Start();
            await machine.Completion.WaitAsync(s_hang);
            Assert.Equal(Alphabet + Alphabet, console.Text);
        }
        finally
        {
            if (string.IsNullOrEmpty(wanted))
            {
                File.Delete(path);
            }
        }
    }

    private static VirtualMachine Create(SerialText console, bool restored)
    {
        IEngine engine = new TranslationEngine();
        return new VirtualMachine(
            new MachineConfiguration
            {
                MemorySize = 1 << 20,
                IsRestored = restored,
                Model = CpuModel.Create(CpuModelName.V1, 1, engine.CpuOffer),
                DebugExitPort = ExitPort,
                SerialPorts = [console.NewPort()],
                Boot = static (memory, state) =>
                {
                    memory.TryWrite(Code, Assemble(Program));
                    memory.TryWrite(Code + Handler, Assemble(Tick));
                    // As firmware leaves it: on, LINT0 for the 8259 (virtual wire mode).
                    BitConverter.TryWriteBytes(state.LocalApic.AsSpan(0xF0), 0x1FF);
                    BitConverter.TryWriteBytes(state.LocalApic.AsSpan(0x350), 0x700);
                    state.Segments[1] = new SegmentState((ushort)(Code >> 4), Code, 0xFFFF, 0x9B);
                    state.InstructionPointer = 0;
                },
            },
            engine);
    }

    private static void Program(Assembler a)
    {
        Label wait = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ds, ax);
        a.mov(ss, ax);
        a.mov(sp, 0x8000);
        a.xor(bx, bx);
        a.mov(__word_ptr[0x20], Handler);
        a.mov(__word_ptr[0x22], (short)(Code >> 4));
        foreach ((byte port, byte value) in new (byte, byte)[] { (0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0x43, 0x34), (0x40, 0x9C), (0x40, 0x2E) }) // the 8254 at 100 Hz
        {
            a.mov(al, unchecked((sbyte)value));
            a.@out(port, al);
        }
        a.mov(dx, 0x3F8);
        a.sti();
        a.Label(ref wait);
        a.hlt();
        a.cmp(bx, (short)(2 * Alphabet.Length));
        a.jb(wait);
        a.mov(al, 21);
        a.@out(ExitPort, al);
        a.hlt();
    }

    private static void Tick(Assembler a)
    {
        a.mov(al, bl);
        a.aam((sbyte)Alphabet.Length);
        a.add(al, (sbyte)'a');
        a.@out(dx, al);
        a.inc(bx);
        a.mov(al, 0x20);
        a.@out(0x20, al);
        a.iret();
    }

    private static byte[] Assemble(Action<Assembler> code)
    {
        var assembler = new Assembler(16);
        code(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), 0);
        return stream.ToArray();
    }
}
