using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Misc.GenerationId;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>The virtual machine generation identifier, and the states of machines that did not have it yet.</summary>
public class GenerationIdTests
{
    private static readonly Guid s_first = new("00112233-4455-6677-8899-aabbccddeeff"), s_second = new("ffeeddcc-bbaa-9988-7766-554433221100");

    private static VirtualMachine Machine(Guid generation) => new(
        new MachineConfiguration
        {
            MemorySize = 32UL << 20,
            Model = CpuModel.Create(CpuModelName.V1, 1),
            Boot = static (_, _) => { },
            Generation = generation,
        },
        new FakeEngine(static p => p.Idle()));

    private static Guid InMemory(VirtualMachine machine)
    {
        byte[] bytes = new byte[16];
        Assert.True(machine.Memory.TryRead(MemoryMap.GenerationId, bytes));
        return new Guid(bytes);
    }

    private static int Events(VirtualMachine machine)
    {
        Span<byte> status = stackalloc byte[2];
        machine.Chipset.Bus.ReadPort(PortMap.GeneralPurposeEvents, status);
        return BitConverter.ToUInt16(status);
    }

    private static byte[] Edit(byte[] state, Func<MachineState, MachineState> change)
    {
        var writer = new StateWriter();
        writer.Nested(1, change(new StateReader(state).Nested(1, new MachineState())));
        return writer.ToArray();
    }

    [Fact]
    public void A_change_reaches_memory_and_raises_its_event()
    {
        using VirtualMachine machine = Machine(s_first);
        Assert.Equal(s_first, InMemory(machine));
        Assert.Equal(0, Events(machine));
        machine.Start();
        machine.NewGeneration(s_second);
        Assert.Equal(s_second, InMemory(machine));
        Assert.Equal(1 << EventMap.GenerationId, Events(machine));
        machine.Pause();
        machine.NewGeneration(s_first);
        Assert.Equal(s_first, InMemory(machine));
        machine.Reset();
        Assert.Equal(s_first, InMemory(machine));
        Assert.Equal(0, Events(machine));
    }

    [Fact]
    public void It_is_saved_with_the_machine()
    {
        using VirtualMachine machine = Machine(s_first), other = Machine(s_second);
        machine.NewGeneration(s_second);
        machine.NewGeneration(s_first);
        other.RestoreState(machine.SaveState());
        Assert.Equal(s_first, other.Chipset.Generation.Value);
        Assert.Equal(1 << EventMap.GenerationId, Events(other));
        other.Reset();
        Assert.Equal(s_first, InMemory(other));
        Assert.Throws<SavedStateException>(() => other.Chipset.Generation.Restore(Nested(new byte[15])));

        static byte[] Nested(byte[] value)
        {
            var writer = new StateWriter();
            writer.Nested(1, new GenerationIdState(value));
            return writer.ToArray();
        }
    }

    [Fact]
    public void States_of_machines_without_it_restore_and_others_do_not()
    {
        using VirtualMachine machine = Machine(s_first), other = Machine(s_second);
        byte[] state = machine.SaveState();
        other.RestoreState(Edit(state, s => s with { Devices = [.. s.Devices.Where(d => d.Name is not ("vmgenid" or "pci-hotplug" or "cpu-hotplug"))] }));
        Assert.Equal(s_second, other.Chipset.Generation.Value);
        Assert.Equal([0], other.Chipset.ProcessorHotPlug.PresentPlaces);
        SavedStateException missing = Assert.Throws<SavedStateException>(() =>
            other.RestoreState(Edit(state, s => s with { Devices = [.. s.Devices.Where(d => d.Name != "hpet")] })));
        Assert.Contains("'hpet'", missing.Message, StringComparison.Ordinal);
        SavedStateException extra = Assert.Throws<SavedStateException>(() =>
            other.RestoreState(Edit(state, s => s with { Devices = [.. s.Devices, new DeviceState { Name = "disk7" }] })));
        Assert.Contains("'disk7'", extra.Message, StringComparison.Ordinal);
    }
}
