using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio.Transport;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>PCI functions that come and go while a machine runs.</summary>
public sealed class HotPlugTests : IDisposable
{
    private const int FirstFree = 1;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);
    private readonly VirtualMachine _machine = Make();

    public void Dispose() => _machine.Dispose();

    private static VirtualMachine Make(Action<Chipset>? add = null) => new(
        new MachineConfiguration
        {
            MemorySize = 32UL << 20,
            Model = CpuModel.Create(CpuModelName.V1, 1),
            Boot = static (_, _) => { },
            AddDevices = add,
        },
        new FakeEngine(static p => p.Idle()));

    private static TestFunction Function(string name, int pages = 1) => new(name, pages);

    private static uint Configuration(VirtualMachine machine, int slot, int register)
    {
        byte[] data = new byte[4];
        machine.Chipset.Bus.ReadMemory(MemoryMap.EcamBase + ((ulong)slot << 15) + (ulong)register, data);
        return BitConverter.ToUInt32(data);
    }

    private static void Eject(VirtualMachine machine, uint slots) => machine.Chipset.Bus.WritePort(PortMap.PciHotPlug + 12, BitConverter.GetBytes(slots));

    private static uint Registers(VirtualMachine machine, int offset)
    {
        byte[] data = new byte[4];
        machine.Chipset.Bus.ReadPort((ushort)(PortMap.PciHotPlug + offset), data);
        return BitConverter.ToUInt32(data);
    }

    private static bool Done(Task task) => SpinWait.SpinUntil(() => task.IsCompleted, s_patience) && task.IsCompletedSuccessfully;

    private static void Refused<T>(Action action) where T : Exception => Assert.Throws<T>(action);

    // A guest that boots clears the events before it enables them: what came meanwhile is not lost.
    [Fact]
    public void WhatComesBeforeTheGuestListensIsToldWhenItDoes()
    {
        const ushort Status = 0x620, Enable = 0x622;
        byte Read(ushort port)
        {
            byte[] data = new byte[1];
            _machine.Chipset.Bus.ReadPort(port, data);
            return data[0];
        }
        void Write(ushort port, byte value) => _machine.Chipset.Bus.WritePort(port, [value]);
        _machine.Start();
        _machine.Attach(Function("late"));
        Assert.Equal(2, Read(Status) & 2);
        Write(Status, 0xFF);
        Assert.Equal(0, Read(Status));
        Write(Enable, 2);
        Assert.Equal(2, Read(Status));
        Write(Enable, 0);
        _machine.Chipset.Bus.WritePort(PortMap.PciHotPlug + 4, BitConverter.GetBytes(uint.MaxValue)); // looked at
        Write(Status, 0xFF);
        Write(Enable, 2);
        Assert.Equal(0, Read(Status));
    }

    // A guest whose disk has not answered would see errors of what is given up for a pause.
    [Fact]
    public void A_machine_whose_device_waits_for_the_host_goes_on_instead_of_being_held()
    {
        SlowFunction quick = new("quick"), slow = new("slow") { Waits = true };
        _machine.Attach(quick);
        _machine.Attach(slow);
        quick.Calls.Clear();
        slow.Calls.Clear();
        _machine.Start();
        DeviceBusyException refused = Assert.Throws<DeviceBusyException>(_machine.Pause);
        Assert.Equal("slow", refused.Device);
        Assert.Equal(MachineRunState.Running, _machine.State);
        Assert.Throws<DeviceBusyException>(() => _machine.Hold(() => Assert.Fail("held")));
        Assert.Equal(MachineRunState.Running, _machine.State);
        Assert.DoesNotContain("stop", quick.Calls.Concat(slow.Calls));
        Assert.Equal(quick.Calls.Count(call => call == "finish") + 1, quick.Calls.Count(call => call == "start")); // as often as it was held up, and at first
        Assert.Equal(["start", "finish", "finish"], slow.Calls);
        slow.Waits = false;
        _machine.Pause();
        Assert.Equal(MachineRunState.Paused, _machine.State);
        Assert.Equal("stop", quick.Calls[^1]);
        Assert.Equal("stop", slow.Calls[^1]);
        _machine.Resume();
        slow.Waits = true;
        _machine.Reset(); // whoever resets it, or ends it, does not wait for what is given up anyway
        Assert.Equal(MachineRunState.Running, _machine.State);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_function_is_plugged_used_and_ejected(bool paused)
    {
        _machine.Start();
        if (paused)
        {
            _machine.Pause();
        }
        TestFunction function = Function("card");
        PciFunction? told = null;
        _machine.FunctionDetached += function => Volatile.Write(ref told, function);
        Assert.Equal(FirstFree, _machine.Attach(function).Device);
        Assert.Equal(!paused, function.Started);
        Assert.Equal(0x1234_5678u, Configuration(_machine, FirstFree, 0));
        Assert.Equal(1u << FirstFree, Registers(_machine, 4));
        uint bar = Configuration(_machine, FirstFree, 0x10);
        Assert.Equal(MemoryMap.PciWindow1Base, bar);
        byte[] data = new byte[1];
        _machine.Chipset.Bus.ReadMemory(bar, data);
        Assert.Equal(0xFF, data[0]); // the guest enables decoding
        _machine.Chipset.Bus.WriteMemory(MemoryMap.EcamBase + (FirstFree << 15) + 4, [2]);
        _machine.Chipset.Bus.ReadMemory(bar, data);
        Assert.Equal(0x42, data[0]);
        if (paused)
        {
            _machine.Resume();
            Assert.True(function.Started);
        }

        Task gone = _machine.RequestDetach("card");
        Assert.Equal(1u << FirstFree, Registers(_machine, 8));
        Assert.Same(gone, _machine.RequestDetach("card"));
        Assert.False(gone.IsCompleted);
        Eject(_machine, 1u << FirstFree);
        Assert.Equal(uint.MaxValue, Configuration(_machine, FirstFree, 0)); // at once
        _machine.Chipset.Bus.ReadMemory(bar, data);
        Assert.Equal(0xFF, data[0]);
        Assert.True(Done(gone));
        Assert.False(function.Started);
        Assert.True(function.Disposed);
        Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref told) is not null, s_patience));
        Assert.Same(function, told);
        Refused<ArgumentException>(() => _machine.RequestDetach("card"));
        Assert.Equal(FirstFree, _machine.Attach(Function("card")).Device);
        Assert.Equal(bar, Configuration(_machine, FirstFree, 0x10));
    }

    [Fact]
    public void Fixed_functions_are_not_for_unplugging_and_places_and_names_are_single()
    {
        using VirtualMachine machine = Make(static chipset => chipset.Pci.Add(Function("fixed"), 5));
        machine.Start();
        Assert.Equal(29, machine.FreeSlots.Count);
        Refused<InvalidOperationException>(() => machine.RequestDetach("fixed"));
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("a"), 5));
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("a"), 0));
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("a"), 31));
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("a"), 32));
        Assert.Throws<ArgumentException>(() => machine.Attach(Function("fixed")));
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("large", 1 << 20))); // 4 GiB in windows of half a one
        Eject(machine, uint.MaxValue);
        Assert.Equal(0x1234_5678u, Configuration(machine, 5, 0));
        Assert.Equal(0xFFFF_FFFFu, Configuration(machine, 1, 0));
        for (int i = 0; i < 29; i++)
        {
            machine.Attach(Function($"f{i}"));
        }
        Assert.Empty(machine.FreeSlots);
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("more")));
        machine.Stop();
        Assert.Throws<InvalidOperationException>(() => machine.Attach(Function("late")));
    }

    [Fact]
    public void A_reset_carries_requests_out_and_the_end_cancels_them()
    {
        _machine.Start();
        TestFunction first = Function("first"), second = Function("second");
        _machine.Attach(first, 7);
        _machine.Attach(second, 9);
        Task gone = _machine.RequestDetach("first");
        _machine.Reset();
        Assert.True(gone.IsCompletedSuccessfully);
        Assert.True(first.Disposed);
        Assert.True(second.Started);
        Assert.Equal(0x1234_5678u, Configuration(_machine, 9, 0));
        Assert.Equal((uint)PciCommand.MemorySpace, Configuration(_machine, 9, 4) & 7); // a machine that boots finds it as if it had always been there
        Assert.Equal([9], _machine.Chipset.PciHotPlug.PresentPlaces);
        Task pending = _machine.RequestDetach("second");
        _machine.Stop();
        Assert.True(pending.IsCanceled);
    }

    [Fact]
    public void What_is_plugged_before_the_start_can_be_taken_away_at_once()
    {
        TestFunction function = Function("early");
        _machine.Attach(function, 3);
        Assert.Equal((uint)PciCommand.MemorySpace, Configuration(_machine, 3, 4) & 7);
        Assert.Equal(0u, Registers(_machine, 4));
        Assert.True(_machine.RequestDetach("early").IsCompletedSuccessfully);
        Assert.True(function.Disposed);
        Assert.Contains(3, _machine.FreeSlots);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_saved_machine_keeps_what_is_plugged_in(bool fromTheStart)
    {
        _machine.Start();
        _machine.Attach(Function("card"), 12);
        _machine.Pause();
        byte[] state = _machine.SaveState();
        using VirtualMachine same = fromTheStart ? Make(static chipset => chipset.Pci.Add(Function("card"), 12)) : Make();
        if (!fromTheStart)
        {
            same.Attach(Function("card"), 12);
        }
        same.RestoreState(state);
        Assert.Equal(_machine.Chipset.PciHotPlug.Saved(), same.Chipset.PciHotPlug.Saved());
        same.Start();
        Task gone = same.RequestDetach("card");
        Eject(same, 1 << 12);
        Assert.True(Done(gone));
        same.Attach(Function("card"), 12);

        using VirtualMachine without = Make(), elsewhere = Make();
        Assert.Throws<SavedStateException>(() => without.RestoreState(state));
        elsewhere.Attach(Function("card"), 13);
        SavedStateException error = Assert.Throws<SavedStateException>(() => elsewhere.RestoreState(state));
        Assert.Contains("slot 12", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Any_sequence_leaves_a_machine_that_works()
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        var made = new List<TestFunction>();
        var told = new List<PciFunction>();
        _machine.FunctionDetached += function =>
        {
            lock (told)
            {
                told.Add(function);
            }
        };
        using var end = new CancellationTokenSource();
        // A guest that ejects whatever is there, and pokes at the rest.
        Task guest = Task.Run(() =>
        {
            var own = new Random(seed + 1);
            while (!end.IsCancellationRequested)
            {
                Eject(_machine, (uint)own.NextInt64() & (uint)own.NextInt64() & (uint)own.NextInt64());
                int slot = own.Next(32);
                Configuration(_machine, slot, 0);
                _machine.Chipset.Bus.WriteMemory(MemoryMap.EcamBase + ((ulong)slot << 15) + 4, [(byte)own.Next(8)]);
            }
        });
        try
        {
            _machine.Start();
            for (int i = 0; i < 1500; i++)
            {
                string name = $"f{random.Next(40)}";
                try
                {
                    switch (random.Next(12))
                    {
                        case < 6:
                            TestFunction function = random.Next(2) == 0 ? Function(name) : Function(name, 16);
                            _machine.Attach(function, random.Next(3) == 0 ? random.Next(32) : null);
                            made.Add(function);
                            break;
                        case < 9:
                            _machine.RequestDetach(name);
                            break;
                        case 9:
                            _machine.Pause();
                            _machine.SaveState();
                            break;
                        case 10:
                            _machine.Resume();
                            break;
                        case 11 when i % 10 == 0:
                            _machine.Reset();
                            break;
                    }
                }
                catch (Exception e) when (e is InvalidOperationException or ArgumentException)
                {
                    // A slot or a name that is taken, a function that is gone.
                }
            }
        }
        catch (Exception e)
        {
            Assert.Fail($"seed {seed}: {e}");
        }
        finally
        {
            end.Cancel();
            Assert.True(Done(guest), $"seed {seed}");
        }
        _machine.Pause();
        Eject(_machine, uint.MaxValue);
        Assert.True(SpinWait.SpinUntil(() => made.TrueForAll(static f => f.Disposed && !f.Started), s_patience), $"seed {seed}");
        Assert.True(SpinWait.SpinUntil(() => { lock (told) { return told.Count == made.Count; } }, s_patience), $"seed {seed}: {told.Count} of {made.Count}");
        Assert.Equal(30, _machine.FreeSlots.Count);
        Assert.Equal(["host-bridge", "isa-bridge"], _machine.Chipset.Pci.Functions.Select(f => f.Name).Order());
        Assert.DoesNotContain(_machine.Chipset.Bus.Memory.Regions, static r => r.Claim.Name.StartsWith('f'));
    }

    [Fact]
    public void A_virtio_device_is_plugged_and_ejected_many_times_without_a_trace()
    {
        _machine.Start();
        int devices = _machine.Chipset.Devices.Count, regions = _machine.Chipset.Bus.Memory.Regions.Count;
        for (int i = 0; i < 100; i++)
        {
            var function = new VirtioPciFunction("rng1", new VirtioRng(_machine.Memory, new VirtioRngConfiguration()), 0xFF0000);
            PciAddress address = _machine.Attach(function);
            Task gone = _machine.RequestDetach("rng1");
            Eject(_machine, 1u << address.Device);
            Assert.True(Done(gone));
        }
        Assert.Equal((devices, regions), (_machine.Chipset.Devices.Count, _machine.Chipset.Bus.Memory.Regions.Count));
    }

    /// <summary>Waits for the host, for ever.</summary>
    private sealed class SlowFunction(string name) : PciFunction(name, new PciIdentity(0x5678, 0x1234, 0xFF0000, 0, 0, 0), 1), IHostRequests
    {
        public bool Waits { get; set; }

        public List<string> Calls { get; } = [];

        public override void Start() => Calls.Add("start");

        public override void Stop() => Calls.Add("stop");

        public bool TryFinish(TimeSpan patience)
        {
            Calls.Add("finish");
            return !Waits;
        }
    }

    private sealed class TestFunction : PciFunction, IDisposable, IIoHandler
    {
        public TestFunction(string name, int pages) : base(name, new PciIdentity(0x5678, 0x1234, 0xFF0000, 0, 0, 0), 1) =>
            AddBar(0, PciBarKind.Memory32, (ulong)pages << 12, this);

        public bool Started { get; private set; }

        public bool Disposed { get; private set; }

        public override void Start()
        {
            ObjectDisposedException.ThrowIf(Disposed, this);
            Started = true;
        }

        public override void Stop() => Started = false;

        public void Dispose() => Disposed = true;

        public IoResult Read(ulong offset, Span<byte> data)
        {
            data.Fill(0x42);
            return IoResult.Done;
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data) => IoResult.Done;
    }
}
