using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Saving;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>
/// Machines on the hardware engine that are saved and kept by snapshots: KVM goes on with RAM that is mapped anew at the same address, forked, or read in while the guest
/// runs. The guest counts in two pages.
/// </summary>
public sealed class SnapshotTests : IDisposable
{
    private const ulong Code = 0x1_0000;
    private const ushort First = 0x3000, Second = 0x6000;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);
    private readonly string _path = Path.GetTempFileName();

    [Fact]
    public async Task Snapshots_hold_one_moment_and_both_machines_go_on()
    {
        using VirtualMachine machine = Create(new KvmEngine(), restored: false);
        machine.Start();
        uint before = 0;
        for (int i = 0; i < 4; i++)
        {
            before = WaitBeyond(machine, before);
            uint held = 0;
            MachineSnapshot snapshot = MachineImage.BeginSnapshot(machine, _path, () => held = Count(machine));
            uint after = WaitBeyond(machine, held); // while it is written, or later
            await snapshot.Written.WaitAsync(s_patience);
            // On this engine again, and on the other one.
            foreach (IEngine engine in (IEngine[])[new KvmEngine(), new TranslationEngine()])
            {
                using VirtualMachine copy = Create(engine, restored: true);
                using SavedMachine saved = SavedMachine.Open(_path);
                MachineRestore restore = saved.RestoreInto(copy);
                Assert.Equal(held, Count(copy));
                copy.Start();
                WaitBeyond(copy, held);
                await restore.Loaded.WaitAsync(s_patience);
                copy.Stop();
            }
            before = WaitBeyond(machine, after);
        }
        machine.Pause();
        uint last = Count(machine);
        MachineImage.Save(machine, _path);
        using VirtualMachine again = Create(new KvmEngine(), restored: true);
        using SavedMachine whole = SavedMachine.Open(_path);
        whole.RestoreInto(again, MemoryLoading.Eager);
        Assert.Equal(last, Count(again));
        again.Start();
        WaitBeyond(again, last);
    }

    public void Dispose() => File.Delete(_path);

    private static uint WaitBeyond(VirtualMachine machine, uint count)
    {
        Assert.True(
            SpinWait.SpinUntil(() => Count(machine) > count || machine.State == MachineRunState.Ended, s_patience) && machine.State == MachineRunState.Running,
            $"{machine.State} at {Count(machine)}: {(machine.Completion.IsCompleted ? machine.Completion.Result : null)}");
        return Count(machine);
    }

    /// <summary>What the guest has counted; the second page is as far, or one behind.</summary>
    private static uint Count(VirtualMachine machine)
    {
        Assert.True(machine.Memory.TryRead(Second, out uint second) & machine.Memory.TryRead(First, out uint first));
        if (machine.State != MachineRunState.Running)
        {
            Assert.InRange(first - second, 0u, 1u);
        }
        return first;
    }

    private static VirtualMachine Create(IEngine engine, bool restored)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        return new VirtualMachine(
            new MachineConfiguration
            {
                MemorySize = 16 << 20,
                IsRestored = restored,
                Model = CommonModel.Create(CpuModelName.V1, engine),
                Boot = static (memory, state) =>
                {
                    memory.TryWrite(Code, Program());
                    state.Segments[1] = new SegmentState((ushort)(Code >> 4), Code, 0xFFFF, 0x9B);
                    state.InstructionPointer = 0;
                },
            },
            engine);
    }

    private static byte[] Program()
    {
        var a = new Assembler(16);
        Label again = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ds, ax);
        a.Label(ref again);
        a.inc(__dword_ptr[First]);
        a.inc(__dword_ptr[Second]);
        a.jmp(again);
        using var stream = new MemoryStream();
        a.Assemble(new StreamCodeWriter(stream), 0);
        return stream.ToArray();
    }
}
