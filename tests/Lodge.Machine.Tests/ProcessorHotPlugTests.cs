using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>Processors that come and go while a machine runs.</summary>
public class ProcessorHotPlugTests
{
    private const int Places = 32;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);

    private static VirtualMachine Make(int count, int maximum, Action<FakeProcessor>? program = null) => new(
        new MachineConfiguration
        {
            MemorySize = 32UL << 20,
            Model = CpuModel.Create(CpuModelName.V1, maximum),
            ProcessorCount = count,
            MaximumProcessorCount = maximum,
            Boot = static (_, _) => { },
        },
        new FakeEngine(program ?? (static p => p.Idle())));

    private static byte[] Registers(VirtualMachine machine, int bitmap)
    {
        byte[] data = new byte[4];
        machine.Chipset.Bus.ReadPort((ushort)(PortMap.ProcessorHotPlug + (bitmap * Places)), data);
        return data;
    }

    private static void Eject(VirtualMachine machine, int processor) =>
        machine.Chipset.Bus.WritePort((ushort)(PortMap.ProcessorHotPlug + (3 * Places) + (processor / 8)), [(byte)(1 << (processor % 8))]);

    private static bool Inside(VirtualMachine machine, int processor) => ((FakeProcessor)machine.Partition.Processors[processor]).Inside;

    private static bool Soon(Func<bool> condition) => SpinWait.SpinUntil(condition, s_patience);

    /// <summary>Which processors the tables in memory say are there.</summary>
    private static List<int> Told(VirtualMachine machine)
    {
        byte[] tables = new byte[0x1_0000];
        machine.Memory.TryRead(MemoryMap.RootPointer, tables);
        int at = tables.AsSpan().IndexOf("APIC\u0008"u8[..4]);
        while (BitConverter.ToInt32(tables, at + 4) is <= 44 or > 0x4000 || tables[at + 8] != 5)
        {
            at += 1 + tables.AsSpan(at + 1).IndexOf("APIC"u8);
        }
        int end = at + BitConverter.ToInt32(tables, at + 4);
        var told = new List<int>();
        for (at += 44; at < end; at += tables[at + 1])
        {
            if (tables[at] == 0 && (tables[at + 4] & 1) != 0)
            {
                told.Add(tables[at + 3]);
            }
        }
        return told;
    }

    private static bool Done(Task task) => SpinWait.SpinUntil(() => task.IsCompleted, s_patience) && task.IsCompletedSuccessfully;

    private static void Refused<T>(Action action) where T : Exception => Assert.Throws<T>(action);

    [Fact]
    public void Absent_processors_do_not_run_until_they_are_plugged_in()
    {
        using VirtualMachine machine = Make(2, 4);
        Assert.Equal((2, 4), (machine.ProcessorCount, machine.MaximumProcessorCount));
        Assert.Equal([0, 1], Told(machine));
        machine.Start();
        Assert.True(Soon(() => Inside(machine, 0) && Inside(machine, 1)));
        Assert.True(machine.SetProcessorCount(4).IsCompletedSuccessfully);
        Assert.True(Soon(() => Inside(machine, 2) && Inside(machine, 3)));
        Assert.Equal(0b1111, Registers(machine, 0)[0]);
        Assert.Equal(0b1100, Registers(machine, 1)[0]);
        Assert.Equal(4, machine.ProcessorCount);
        machine.Pause();
        Assert.All(machine.Partition.Processors, static p => Assert.False(((FakeProcessor)p).Inside));
        machine.Resume();
        Assert.True(Soon(() => Inside(machine, 3)));
    }

    [Fact]
    public void The_guest_ejects_processors_but_never_the_first()
    {
        using VirtualMachine machine = Make(4, 4);
        machine.Start();
        Assert.True(Soon(() => Inside(machine, 3)));
        Task fewer = machine.SetProcessorCount(2);
        Assert.Equal(0b1100, Registers(machine, 2)[0]);
        Eject(machine, 0);
        Eject(machine, 3);
        Assert.False(fewer.IsCompleted);
        Assert.True(Soon(() => !Inside(machine, 3)));
        Eject(machine, 2);
        Assert.True(Done(fewer));
        Assert.True(Soon(() => !Inside(machine, 2)));
        Assert.True(Inside(machine, 0));
        Eject(machine, 200);
        Eject(machine, 1); // unasked
        Assert.Equal(1, machine.ProcessorCount);
        Assert.True(machine.SetProcessorCount(3).IsCompletedSuccessfully);
        Assert.True(Soon(() => Inside(machine, 1) && Inside(machine, 2)));
    }

    [Fact]
    public void A_later_count_replaces_an_earlier_one()
    {
        using VirtualMachine machine = Make(3, 4);
        machine.Start();
        Task fewer = machine.SetProcessorCount(1);
        Task more = machine.SetProcessorCount(4);
        Assert.True(fewer.IsCanceled);
        Assert.True(more.IsCompletedSuccessfully);
        Assert.Equal(0, Registers(machine, 2)[0]);
        Refused<ArgumentOutOfRangeException>(() => machine.SetProcessorCount(0));
        Refused<ArgumentOutOfRangeException>(() => machine.SetProcessorCount(5));
        Task last = machine.SetProcessorCount(2);
        machine.Stop();
        Assert.True(last.IsCanceled);
        Refused<InvalidOperationException>(() => machine.SetProcessorCount(2));
    }

    [Fact]
    public void A_reset_carries_requests_out_and_the_tables_say_what_is_there()
    {
        using VirtualMachine machine = Make(1, 4);
        Assert.True(machine.SetProcessorCount(3).IsCompletedSuccessfully);
        Assert.Equal([0, 1, 2], Told(machine));
        Assert.Equal(0, Registers(machine, 1)[0]);
        machine.Start();
        Eject(machine, 1);
        machine.SetProcessorCount(2);
        machine.SetProcessorCount(3);
        Task fewer = machine.SetProcessorCount(2);
        Assert.False(fewer.IsCompleted);
        machine.Reset();
        Assert.True(fewer.IsCompletedSuccessfully);
        Assert.Equal([0, 1], Told(machine));
        Assert.True(Soon(() => Inside(machine, 0) && Inside(machine, 1) && !Inside(machine, 2)));
    }

    [Fact]
    public void A_saved_machine_keeps_which_processors_are_there()
    {
        using VirtualMachine machine = Make(1, 4), other = Make(3, 4);
        machine.Start();
        machine.SetProcessorCount(4);
        Eject(machine, 2);
        machine.Pause();
        byte[] state = machine.SaveState();
        other.RestoreState(state);
        Assert.Equal([0, 1, 3], other.Chipset.ProcessorHotPlug.PresentPlaces);
        other.Start();
        Assert.True(Soon(() => Inside(other, 0) && Inside(other, 1) && Inside(other, 3)));
        Assert.False(Inside(other, 2));
        using VirtualMachine smaller = Make(3, 3);
        Assert.Throws<SavedStateException>(() => smaller.RestoreState(state));
    }

    [Fact]
    public void A_processor_may_eject_itself()
    {
        using VirtualMachine machine = Make(2, 2, static p =>
        {
            if (p.Index == 1)
            {
                p.Out(PortMap.ProcessorHotPlug + (3 * Places), 0xFF);
            }
            p.Idle();
        });
        machine.Start();
        Assert.True(Soon(() => machine.ProcessorCount == 1 && !Inside(machine, 1)));
        for (int i = 0; i < 20; i++)
        {
            machine.SetProcessorCount(2);
            Assert.True(Soon(() => machine.ProcessorCount == 1));
            machine.Pause();
            machine.Resume();
        }
        Assert.Equal(MachineRunState.Running, machine.State);
    }

    [Fact]
    public void Tables_for_as_many_processors_as_possible_fit()
    {
        using VirtualMachine machine = Make(1, 255);
        Assert.Equal([0], Told(machine));
        machine.Start();
        Assert.True(machine.SetProcessorCount(255).IsCompletedSuccessfully);
        machine.Reset();
        Assert.Equal(255, Told(machine).Count);
    }
}
