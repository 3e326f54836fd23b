using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Xunit;

namespace Lodge.Machine.Tests;

public class VirtualMachineTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);

    private static MachineConfiguration Configuration(Action<GuestMemory, ProcessorState>? boot = null) => new()
    {
        MemorySize = 32UL << 20,
        Model = CpuModel.Create(CpuModelName.V1, 1),
        Boot = boot ?? ((_, state) => state.InstructionPointer = 0x1234),
        DebugExitPort = 0xF4,
        SerialPorts = [new FakeBackend()],
    };

    private static MachineOutcome Outcome(VirtualMachine machine)
    {
        Assert.True(machine.Completion.Wait(s_patience));
        Assert.Equal(MachineRunState.Ended, machine.State);
        return machine.Completion.Result;
    }

    private static MachineOutcome Run(Action<FakeProcessor> program, MachineConfiguration? configuration = null)
    {
        var engine = new FakeEngine(program);
        using var machine = new VirtualMachine(configuration ?? Configuration(), engine);
        machine.Start();
        return Outcome(machine);
    }

    [Fact]
    public void Boot_sees_the_tables_and_sets_the_first_processor()
    {
        bool tables = false;
        var engine = new FakeEngine(static p => p.Idle());
        MachineConfiguration configuration = Configuration((memory, state) =>
        {
            tables = memory.TryRead(MemoryMap.RootPointer, out ulong signature) && signature == BitConverter.ToUInt64("RSD PTR "u8);
            state.InstructionPointer = 0x5678;
        });
        using (var machine = new VirtualMachine(configuration with { ProcessorCount = 2 }, engine))
        {
            Assert.True(tables);
            Assert.Equal(0x5678UL, machine.Partition.Processors[0].GetState().InstructionPointer);
            Assert.Equal(0xFFF0UL, machine.Partition.Processors[1].GetState().InstructionPointer);
            Assert.All(machine.Partition.Processors, processor =>
            {
                SortedDictionary<uint, ulong> registers = processor.GetState().ModelSpecificRegisters;
                Assert.Equal((0xC06UL, 0x0606_0606_0606_0606UL, 0UL), (registers[0x2FF], registers[0x250], registers[0x259])); // write-back but for video memory
                Assert.Equal((0xC000_0000UL, 0xC000_0800UL), (registers[0x200], registers[0x201] & 0xFFFF_FFFF)); // and the hole
            });
        }
        Assert.True(engine.Partition.Disposed);
    }

    [Fact]
    public void Processors_run_on_the_CPUs_of_the_host_that_they_are_bound_to()
    {
        IReadOnlyList<int> allowed = HostProcessors.Allowed();
        Assert.NotEmpty(allowed);
        int[] pinning = [.. allowed.Reverse().Take(2)];
        var where = new IReadOnlyList<int>[3];
        var engine = new FakeEngine(p =>
        {
            where[p.Index] = ThreadCpus();
            p.Idle();
        });
        using (var machine = new VirtualMachine(Configuration() with { ProcessorCount = 3, Pinning = pinning }, engine))
        {
            machine.Start();
            Assert.True(SpinWait.SpinUntil(() => where.All(cpus => cpus is not null), s_patience));
        }
        for (int i = 0; i < where.Length; i++)
        {
            Assert.Equal([pinning[i % pinning.Length]], where[i]);
        }
        Assert.Equal(allowed, HostProcessors.Allowed()); // the process is not

        static IReadOnlyList<int> ThreadCpus() => [.. File.ReadLines("/proc/thread-self/status").Where(line => line.StartsWith("Cpus_allowed_list:", StringComparison.Ordinal))
            .SelectMany(line => line.Split('\t')[1].Split(',')).Select(int.Parse)];
    }

    [Fact]
    public void A_CPU_of_the_host_that_is_not_there_ends_the_run_with_its_number()
    {
        MachineOutcome outcome = Run(static p => p.Idle(), Configuration() with { Pinning = [HostProcessors.Limit - 1] });
        Assert.Equal(MachineOutcomeKind.EngineFailure, outcome.Kind);
        Assert.Contains($"CPU {HostProcessors.Limit - 1} of the host", outcome.Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Power_off_from_a_processor_ends_the_run()
    {
        Assert.Equal(MachineOutcomeKind.PowerOff, Run(p =>
        {
            p.Out16(0x604, (5 << 10) | (1 << 13));
            p.Idle();
        }).Kind);
    }

    [Fact]
    public void Every_processor_leaves_when_one_ends_the_run()
    {
        var engine = new FakeEngine(p =>
        {
            if (p.Index == 3)
            {
                p.Out(0xF4, 0x15);
            }
            p.Idle();
        });
        using var machine = new VirtualMachine(Configuration() with { ProcessorCount = 4 }, engine);
        machine.Start();
        Assert.Equal(new MachineOutcome(MachineOutcomeKind.DebugExit, 0x2B), Outcome(machine));
        Assert.All(engine.Partition.Processors, static p => Assert.False(((FakeProcessor)p).Inside));
    }

    [Theory]
    [InlineData(0xCF9, 0x06)]
    [InlineData(0x64, 0xFE)]
    [InlineData(0x92, 0x01)]
    public void A_reset_ends_the_run_unless_told_otherwise(int port, byte value)
    {
        Assert.Equal(MachineOutcomeKind.Reset, Run(p =>
        {
            p.Out((ushort)port, value);
            p.Idle();
        }).Kind);
    }

    [Fact]
    public void A_reset_boots_again_with_clean_memory_and_devices()
    {
        int boots = 0;
        var backend = new FakeBackend();
        MachineConfiguration configuration = Configuration((memory, state) =>
        {
            Assert.True(memory.TryRead(0x50_0000, out ulong left));
            Assert.Equal(0UL, left);
            state.GeneralRegisters[0] = (ulong)++boots;
        }) with
        { RestartOnReset = true, SerialPorts = [backend] };
        var scratch = new List<byte>();
        MachineOutcome outcome = Run(p =>
        {
            scratch.Add(p.In(0x3FF));
            p.Out(0x3FF, 0x77);
            p.Partition.Options.Memory.TryWrite(0x50_0000, 0xFFFFUL);
            if (p.GetState().GeneralRegisters[0] < 5)
            {
                p.Out(0x64, 0xFE);
            }
            else
            {
                p.Out(0xF4, 0);
            }
            p.Idle();
        }, configuration);
        Assert.Equal(MachineOutcomeKind.DebugExit, outcome.Kind);
        Assert.Equal(5, boots);
        Assert.Equal(new byte[5], scratch);
    }

    [Fact]
    public void Panic_is_told_and_a_crash_kernel_may_go_on()
    {
        var engine = new FakeEngine(static p =>
        {
            p.Out(0x505, 2);
            p.Out(0x505, 1);
            p.Idle();
        });
        using var machine = new VirtualMachine(Configuration(), engine);
        int crashes = 0;
        machine.CrashKernelStarting += () => crashes++;
        machine.Start();
        Assert.Equal(MachineOutcomeKind.Panic, Outcome(machine).Kind);
        Assert.Equal(1, crashes);
    }

    [Fact]
    public void Triple_fault_and_failures_of_the_engine_are_told_apart()
    {
        Assert.Equal(new MachineOutcome(MachineOutcomeKind.TripleFault, 0), Run(static p => p.Exit = ProcessorExit.Shutdown));
        MachineOutcome failed = Run(static p => p.Fail("broken"));
        Assert.Equal(MachineOutcomeKind.EngineFailure, failed.Kind);
        Assert.Contains("broken", failed.Text, StringComparison.Ordinal);
        failed = Run(static _ => throw new InvalidDataException("thrown"));
        Assert.Equal(MachineOutcomeKind.EngineFailure, failed.Kind);
        Assert.Contains("thrown", failed.Text, StringComparison.Ordinal);
    }

    [Fact]
    public void A_boot_that_fails_the_second_time_ends_the_run()
    {
        int boots = 0;
        MachineOutcome outcome = Run(
            static p =>
            {
                p.Out(0x64, 0xFE);
                p.Idle();
            },
            Configuration((_, _) =>
            {
                if (++boots == 2)
                {
                    throw new IOException("kernel vanished");
                }
            }) with
            { RestartOnReset = true });
        Assert.Equal(MachineOutcomeKind.EngineFailure, outcome.Kind);
        Assert.Contains("kernel vanished", outcome.Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Pause_holds_time_and_processors_until_resumed()
    {
        var engine = new FakeEngine(static p => p.Idle());
        using var machine = new VirtualMachine(Configuration() with { ProcessorCount = 3 }, engine);
        machine.Start();
        for (int i = 0; i < 20; i++)
        {
            machine.Pause();
            Assert.Equal(MachineRunState.Paused, machine.State);
            Assert.False(machine.Clock.Running);
            Assert.All(engine.Partition.Processors, static p => Assert.False(((FakeProcessor)p).Inside));
            machine.Resume();
            Assert.True(machine.Clock.Running);
        }
        machine.Stop();
        Assert.Equal(MachineOutcomeKind.Stopped, Outcome(machine).Kind);
        machine.Resume();
        Assert.Equal(MachineRunState.Ended, machine.State);
    }

    [Fact]
    public async Task A_debug_stop_pauses_and_tells_which_processor()
    {
        var engine = new FakeEngine(static p =>
        {
            if (p.Index == 1 && p.Runs == 1)
            {
                p.Exit = ProcessorExit.Debug;
            }
            else
            {
                p.Idle();
            }
        });
        using var machine = new VirtualMachine(Configuration() with { ProcessorCount = 2 }, engine);
        var stopped = new TaskCompletionSource<int>();
        machine.DebugStopped += p =>
        {
            Assert.Equal(MachineRunState.Paused, machine.State);
            stopped.SetResult(Assert.Single(p).Index);
        };
        machine.Start();
        Assert.Equal(1, await stopped.Task.WaitAsync(s_patience));
        machine.Resume();
        Assert.Equal(MachineRunState.Running, machine.State);
    }

    [Fact]
    public void Stop_from_a_processors_thread_is_only_a_request()
    {
        VirtualMachine machine = null!;
        Exception? refused = null;
        var engine = new FakeEngine(p =>
        {
            refused = Record.Exception(machine.Stop);
            machine.RequestStop();
            p.Idle();
        });
        using (machine = new VirtualMachine(Configuration(), engine))
        {
            machine.Start();
            Assert.Equal(MachineOutcomeKind.Stopped, Outcome(machine).Kind);
            Assert.IsType<InvalidOperationException>(refused);
        }
    }

    [Fact]
    public void The_power_button_and_nmi_reach_the_guest()
    {
        var engine = new FakeEngine(static p => p.Idle());
        using var machine = new VirtualMachine(Configuration(), engine);
        Assert.False(machine.PressPowerButton());
        Assert.True(machine.SignalNmi());
        Assert.Equal(1, engine.Partition.Nmis);
        machine.Chipset.Bus.WritePort(0x70, [0x80]);
        Assert.False(machine.SignalNmi());
        machine.Chipset.Bus.WritePort(0xB2, [0xA1]);
        machine.Chipset.Bus.WritePort(0x602, [0x00, 0x01]);
        Assert.True(machine.PressPowerButton());
    }

    [Fact]
    public void Saved_state_moves_to_another_machine()
    {
        var engine = new FakeEngine(static p => p.Idle());
        using var first = new VirtualMachine(Configuration() with { ProcessorCount = 2 }, engine);
        first.Start();
        first.Chipset.Bus.WritePort(0x3FF, [0x42]);
        first.Pause();
        first.Partition.Processors[1].GetState().GeneralRegisters[3] = 99;
        byte[] state = first.SaveState();

        using var second = new VirtualMachine(Configuration() with { ProcessorCount = 2 }, new FakeEngine(static p => p.Idle()));
        second.RestoreState(state);
        Assert.Equal(first.Clock.Now, second.Clock.Now);
        byte[] scratch = new byte[1];
        second.Chipset.Bus.ReadPort(0x3FF, scratch);
        Assert.Equal(0x42, scratch[0]);
        Assert.Equal(99UL, second.Partition.Processors[1].GetState().GeneralRegisters[3]);
        Assert.Equal(state, second.SaveState());
        second.Start();
        Assert.Throws<InvalidOperationException>(second.SaveState);
    }

    [Fact]
    public void States_of_other_machines_and_damaged_ones_are_refused()
    {
        using var machine = new VirtualMachine(Configuration(), new FakeEngine(static p => p.Idle()));
        byte[] state = machine.SaveState();
        using var other = new VirtualMachine(Configuration() with { ProcessorCount = 2 }, new FakeEngine(static p => p.Idle()));
        Assert.Throws<SavedStateException>(() => other.RestoreState(state));
        Assert.Throws<SavedStateException>(() => machine.RestoreState(state.AsMemory(0, state.Length - 1)));
        Assert.Throws<SavedStateException>(() => machine.RestoreState(ReadOnlyMemory<byte>.Empty));
        var random = new Random(1);
        for (int i = 0; i < 2000; i++)
        {
            byte[] damaged = [.. state];
            damaged[random.Next(damaged.Length)] ^= (byte)(1 << random.Next(8));
            Exception? thrown = Record.Exception(() => machine.RestoreState(damaged));
            Assert.True(thrown is null or SavedStateException, $"{i}: {thrown}");
        }
    }

    [Fact]
    public void Impossible_configurations_are_refused_and_leave_nothing_behind()
    {
        var engine = new FakeEngine(static p => p.Idle());
        Assert.Throws<ArgumentException>(() => new VirtualMachine(Configuration() with { ProcessorCount = 256 }, engine));
        Assert.Throws<ArgumentException>(() => new VirtualMachine(Configuration() with { DebugExitPort = 0x3F8 }, engine));
        Assert.Throws<IOException>(() => new VirtualMachine(Configuration((_, _) => throw new IOException("no kernel")), engine));
        Assert.True(engine.Partition.Disposed);
    }

    [Fact]
    public void The_cmos_is_written_when_the_run_ends()
    {
        string path = Path.Combine(Path.GetTempPath(), $"lodge-cmos-{Guid.NewGuid():N}");
        try
        {
            MachineConfiguration configuration = Configuration() with { CmosPath = path };
            Run(static p =>
            {
                p.Out(0x70, 0x44);
                p.Out(0x71, 0x99);
                p.Out(0xF4, 0);
                p.Idle();
            }, configuration);
            byte read = 0;
            Run(p =>
            {
                p.Out(0x70, 0x44);
                read = p.In(0x71);
                p.Out(0xF4, 0);
                p.Idle();
            }, configuration);
            Assert.Equal(0x99, read);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Starting_and_stopping_many_times_leaves_no_thread()
    {
        for (int i = 0; i < 50; i++)
        {
            var engine = new FakeEngine(static p => p.Idle());
            var machine = new VirtualMachine(Configuration() with { ProcessorCount = 2 }, engine);
            if (i % 3 != 0)
            {
                machine.Start();
            }
            if (i % 2 == 0)
            {
                machine.Stop();
            }
            machine.Dispose();
            machine.Dispose();
            Assert.True(machine.Completion.IsCompleted);
            Assert.All(engine.Partition.Processors, static p => Assert.False(((FakeProcessor)p).Inside));
        }
    }
}
