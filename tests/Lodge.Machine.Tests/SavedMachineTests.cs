using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Machine.Saving;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>Machines that are saved to a file and restored from it.</summary>
public sealed class SavedMachineTests : IDisposable
{
    private const ulong Size = (32UL << 20) + (7 * GuestMemory.PageSize); // the last chunk is a short one
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);
    private static readonly MemoryBacking s_private = new(Mergeable: true);

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-saved").FullName;

    public static TheoryData<bool, MemoryLoading> Ways => new() { { false, MemoryLoading.Automatic }, { false, MemoryLoading.Eager }, { true, MemoryLoading.Automatic }, { true, MemoryLoading.Eager } };

    private string File1 => Path.Combine(_folder, "saved");

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task A_machine_comes_back_as_it_was(bool anonymous, MemoryLoading loading)
    {
        byte[] contents = RandomMemory(1);
        byte[] state;
        long length;
        using (VirtualMachine first = Create(Idle, anonymous))
        {
            first.Memory.TryWrite(0, contents);
            first.Start();
            first.Chipset.Bus.WritePort(0x3FF, [0x42]);
            first.Pause();
            ulong last = 0;
            SaveResult result = MachineImage.Save(first, File1, new SaveOptions { Name = "one", Notes = new Dictionary<string, string> { ["a"] = "b" }, Progress = (done, _) => last = Math.Max(last, done) });
            state = first.SaveState();
            Assert.Equal(MachineRunState.Paused, first.State);
            length = new FileInfo(File1).Length;
            Assert.Equal(result.FileLength, length);
            Assert.InRange(last, 1UL, Size);
        }
        Assert.InRange(length, 1 << 20, 11 << 20); // 8 MiB are random, the rest is zero or the same in all places
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(File1));

        using SavedMachine saved = SavedMachine.Open(File1);
        Assert.Equal(("one", "b", 2, Size), (saved.Metadata.Name, saved.Metadata.Notes["a"], saved.Metadata.Processors, saved.Metadata.MemorySize));
        using VirtualMachine second = Create(Idle, anonymous, restored: true);
        Assert.Throws<InvalidOperationException>(second.Start);
        MachineRestore restore = saved.RestoreInto(second, loading);
        Assert.Equal(loading == MemoryLoading.Automatic && LazyIsPossible, restore.IsLazy);
        saved.Dispose();
        File.Delete(File1);
        second.Start();
        Assert.Equal(contents, Contents(second)); // while it is read in
        await restore.Loaded.WaitAsync(s_patience);
        Assert.Equal(contents, Contents(second));
        second.Pause();
        Assert.Equal(new StateReader(state).Nested(1, new MachineState()).Devices.Count, new StateReader(second.SaveState()).Nested(1, new MachineState()).Devices.Count);
        byte[] scratch = new byte[1];
        second.Chipset.Bus.ReadPort(0x3FF, scratch);
        Assert.Equal(0x42, scratch[0]);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Memory_that_was_zero_takes_nothing(bool anonymous, MemoryLoading loading)
    {
        using (VirtualMachine first = Create(Idle, anonymous))
        {
            first.Memory.TryWrite(0, RandomMemory(1));
            MachineImage.Save(first, File1);
        }
        using SavedMachine saved = SavedMachine.Open(File1);
        using VirtualMachine second = Create(Idle, anonymous, restored: true);
        await saved.RestoreInto(second, loading).Loaded.WaitAsync(s_patience);
        using MemoryImage image = second.Memory.CurrentImage();
        Assert.InRange(image.Data.Aggregate(0UL, static (sum, range) => sum + range.End - range.Start), 16UL << 20, 17UL << 20);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task What_the_guest_and_devices_write_while_memory_is_read_in_stays(bool anonymous)
    {
        Assert.SkipUnless(LazyIsPossible, "needs userfaultfd for faults of the kernel");
        byte[] contents = RandomMemory(2);
        using (VirtualMachine first = Create(Idle, anonymous))
        {
            first.Memory.TryWrite(0, contents);
            MachineImage.Save(first, File1);
        }
        string data = Path.Combine(_folder, "data");
        File.WriteAllBytes(data, [.. Enumerable.Repeat((byte)0xA5, 3 * GuestMemory.PageSize)]);
        using VirtualMachine second = Create(Idle, anonymous, restored: true);
        using SavedMachine saved = SavedMachine.Open(File1);
        MachineRestore restore = saved.RestoreInto(second);
        Assert.True(restore.IsLazy);
        var random = new Random(3);
        using var file = File.OpenHandle(data);
        for (int i = 0; i < 300; i++)
        {
            int at = random.Next((int)Size - (4 * GuestMemory.PageSize));
            if (i % 2 == 0)
            {
                // A system call writes to memory that may not be there.
                Assert.True(second.Memory.TryLend((ulong)at, 2 * GuestMemory.PageSize, out Memory<byte> lent));
                Assert.Equal(lent.Length, RandomAccess.Read(file, lent.Span, 0));
                contents.AsSpan(at, lent.Length).Fill(0xA5);
            }
            else
            {
                second.Memory.TryWrite((ulong)at, (ulong)i);
                BitConverter.TryWriteBytes(contents.AsSpan(at), (ulong)i);
            }
            if (i % 50 == 0)
            {
                GC.Collect(); // while others wait for pages
            }
        }
        await restore.Loaded.WaitAsync(s_patience);
        Assert.Equal(contents, Contents(second));
    }

    [Fact]
    public async Task Garbage_collections_and_waiting_for_pages_do_not_hold_each_other_up()
    {
        Assert.SkipUnless(LazyIsPossible, "needs userfaultfd for faults of the kernel");
        using (VirtualMachine first = Create(Idle))
        {
            first.Memory.TryWrite(0, RandomMemory(4));
            MachineImage.Save(first, File1);
        }
        for (int round = 0; round < 5; round++)
        {
            using VirtualMachine second = Create(Idle, restored: true);
            using SavedMachine saved = SavedMachine.Open(File1);
            MachineRestore restore = saved.RestoreInto(second);
            bool end = false;
            Task[] readers = [.. Enumerable.Range(0, 4).Select(i => Task.Factory.StartNew(() =>
            {
                var random = new Random(i);
                while (!Volatile.Read(ref end))
                {
                    second.Memory.TryRead((ulong)random.Next((int)Size - 8), out ulong _);
                }
            }, TaskCreationOptions.LongRunning))];
            while (!restore.Loaded.IsCompleted)
            {
                GC.Collect(0);
            }
            Volatile.Write(ref end, true);
            await Task.WhenAll(readers).WaitAsync(s_patience);
            await restore.Loaded;
        }
    }

    [Fact]
    public async Task A_damaged_chunk_ends_the_machine_or_is_refused_before()
    {
        using (VirtualMachine first = Create(Idle))
        {
            first.Memory.TryWrite(0, RandomMemory(5));
            MachineImage.Save(first, File1);
        }
        byte[] bytes = File.ReadAllBytes(File1);
        bytes[SavedMachineHeader.Length + 200_000] ^= 1;
        File.WriteAllBytes(File1, bytes);
        using (SavedMachine saved = SavedMachine.Open(File1))
        using (VirtualMachine eager = Create(Idle, restored: true))
        {
            Assert.Contains("damaged", Assert.Throws<SavedStateException>(() => saved.RestoreInto(eager, MemoryLoading.Eager)).Message, StringComparison.Ordinal);
        }
        Assert.SkipUnless(LazyIsPossible, "needs userfaultfd for faults of the kernel");
        using (SavedMachine saved = SavedMachine.Open(File1))
        using (VirtualMachine lazy = Create(static p =>
        {
            // A guest that walks through all its memory.
            for (ulong at = 0; at < Size; at += GuestMemory.PageSize)
            {
                p.Partition.Options.Memory.TryRead(at, out ulong _);
            }
            p.Idle();
        }, restored: true))
        {
            MachineRestore restore = saved.RestoreInto(lazy);
            lazy.Start();
            MachineOutcome outcome = await lazy.Completion.WaitAsync(s_patience);
            Assert.Equal(MachineOutcomeKind.EngineFailure, outcome.Kind);
            Assert.Contains("damaged", outcome.Text, StringComparison.Ordinal);
            Assert.Contains(File1, outcome.Text, StringComparison.Ordinal);
            await Assert.ThrowsAsync<IOException>(() => restore.Loaded.WaitAsync(s_patience));
        }
    }

    [Fact]
    public async Task A_machine_that_ends_while_its_memory_is_read_in_leaves_nothing()
    {
        using (VirtualMachine first = Create(Idle))
        {
            first.Memory.TryWrite(0, RandomMemory(6));
            MachineImage.Save(first, File1);
        }
        for (int i = 0; i < 20; i++)
        {
            using SavedMachine saved = SavedMachine.Open(File1);
            MachineRestore restore;
            using (VirtualMachine second = Create(Idle, anonymous: i % 2 == 0, restored: true))
            {
                restore = saved.RestoreInto(second);
                if (i % 3 == 0)
                {
                    second.Start();
                    second.Reset(); // with empty memory
                }
            }
            await restore.Loaded.WaitAsync(s_patience);
        }
    }

    [Fact]
    public async Task A_snapshot_is_of_one_moment_and_the_machine_goes_on()
    {
        const ulong first = 1UL << 20;
        ulong rounds = 0;
        bool wrong = false;
        // Rounds over memory that check the round before; stopped at any page.
        ulong round = 1, at = first;
        void Guest(FakeProcessor p)
        {
            GuestMemory memory = p.Partition.Options.Memory;
            while (!p.Stopping)
            {
                memory.TryRead(at, out ulong before);
                wrong |= before != round - 1;
                memory.TryWrite(at, round);
                at += GuestMemory.PageSize;
                if (at + GuestMemory.PageSize > Size)
                {
                    (at, round) = (first, round + 1);
                    Volatile.Write(ref rounds, round);
                }
            }
        }
        using VirtualMachine machine = Create(p =>
        {
            if (p.Index == 0)
            {
                Guest(p);
            }
            else
            {
                p.Idle();
            }
        });
        machine.Start();
        for (int i = 0; i < 4; i++)
        {
            ulong seen = Volatile.Read(ref rounds);
            Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref rounds) > seen + 1, s_patience));
            (ulong Round, ulong At) moment = default;
            MachineSnapshot snapshot = MachineImage.BeginSnapshot(machine, File1, () =>
            {
                Assert.Equal(MachineRunState.Paused, machine.State);
                moment = (round, at);
            });
            Assert.Equal(MachineRunState.Running, machine.State);
            if (i == 0)
            {
                Assert.Throws<InvalidOperationException>(() => MachineImage.BeginSnapshot(machine, File1));
            }
            await snapshot.Written.WaitAsync(s_patience);
            Assert.True(snapshot.Pause > TimeSpan.Zero);
            using SavedMachine saved = SavedMachine.Open(File1);
            using VirtualMachine copy = Create(Idle, restored: true);
            await saved.RestoreInto(copy).Loaded;
            for (ulong page = first; page + GuestMemory.PageSize <= Size; page += GuestMemory.PageSize)
            {
                copy.Memory.TryRead(page, out ulong value);
                Assert.Equal(page < moment.At ? moment.Round : moment.Round - 1, value);
            }
        }
        machine.Stop();
        Assert.False(wrong);
    }

    // A paravirtual end of interrupt is half in RAM: taken before the state is, the interrupt stays in service for ever in what is restored.
    [Fact]
    public async Task What_saving_the_state_writes_to_RAM_is_in_the_snapshot()
    {
        using VirtualMachine machine = Create(Idle);
        ((FakeProcessor)machine.Partition.Processors[1]).Saving = () => machine.Memory.TryWrite(0x1000, (byte[])[0x5A]);
        machine.Start();
        await MachineImage.BeginSnapshot(machine, File1).Written.WaitAsync(s_patience);
        using SavedMachine saved = SavedMachine.Open(File1);
        using VirtualMachine copy = Create(Idle, restored: true);
        await saved.RestoreInto(copy).Loaded;
        Assert.True(copy.Memory.TryRead(0x1000, out byte value));
        Assert.Equal(0x5A, value);
    }

    // Pages of a pool are copied while the machine is held.
    [Fact]
    public async Task A_machine_in_pool_pages_is_kept_and_restored()
    {
        const string pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
        const ulong size = 32UL << 20;
        Assert.SkipUnless(Environment.IsPrivilegedProcess && File.Exists(pool), "needs root to fill the pool of huge pages");
        int before = int.Parse(File.ReadAllText(pool), System.Globalization.CultureInfo.InvariantCulture);
        File.WriteAllText(pool, $"{before + 40}");
        try
        {
            Assert.SkipUnless(int.Parse(File.ReadAllText(pool), System.Globalization.CultureInfo.InvariantCulture) >= before + 40, "the host has no huge pages left");
            MachineConfiguration configuration = Configuration() with { MemorySize = size, Backing = new MemoryBacking(HugePages.Pool2M) };
            using VirtualMachine machine = new(configuration, new FakeEngine(Idle));
            byte[] contents = RandomMemory(9)[..(int)size];
            Assert.True(machine.Memory.TryWrite(0, contents));
            machine.Start();
            for (int round = 0; round < 2; round++)
            {
                MachineSnapshot snapshot = MachineImage.BeginSnapshot(machine, File1);
                Assert.True(machine.Memory.TryWrite(0x3000, (ulong)round + 1)); // after the moment
                await snapshot.Written.WaitAsync(s_patience);
                using SavedMachine saved = SavedMachine.Open(File1);
                using VirtualMachine copy = new(configuration with { IsRestored = true, Backing = round == 0 ? configuration.Backing : MemoryBacking.Default }, new FakeEngine(Idle));
                await saved.RestoreInto(copy).Loaded.WaitAsync(s_patience);
                Assert.Equal(contents, Contents(copy));
                BitConverter.TryWriteBytes(contents.AsSpan(0x3000), (ulong)round + 1);
            }
            machine.Pause();
            Assert.Equal(contents, Contents(machine));
        }
        finally
        {
            File.WriteAllText(pool, $"{before}");
        }
    }

    [Fact]
    public void What_fails_while_the_machine_is_held_leaves_no_file_and_the_machine_running()
    {
        using VirtualMachine machine = Create(Idle);
        machine.Start();
        for (int i = 0; i < 2; i++)
        {
            Assert.Equal("disk", Assert.Throws<IOException>(() => MachineImage.BeginSnapshot(machine, File1, () => throw new IOException("disk"))).Message);
            Assert.Equal(MachineRunState.Running, machine.State);
        }
        Assert.Throws<InvalidOperationException>(() => MachineImage.Save(machine, File1));
        machine.Pause();
        Assert.Throws<OperationCanceledException>(() => MachineImage.Save(machine, File1, null, new CancellationToken(true)));
        Assert.Throws<IOException>(() => MachineImage.Save(machine, Path.Combine(_folder, "missing", "saved")));
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
        machine.Stop();
        Assert.Throws<InvalidOperationException>(() => MachineImage.Save(machine, File1));
    }

    [Fact]
    public void A_full_disk_leaves_the_file_that_was_there()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "mounts a small file system, as root");
        string small = Path.Combine(_folder, "small");
        Directory.CreateDirectory(small);
        using (var mount = System.Diagnostics.Process.Start("mount", ["-t", "tmpfs", "-o", "size=4m", "none", small]))
        {
            mount.WaitForExit();
            Assert.SkipUnless(mount.ExitCode == 0, "cannot mount here");
        }
        try
        {
            string path = Path.Combine(small, "saved");
            using VirtualMachine machine = Create(Idle);
            MachineImage.Save(machine, path);
            byte[] before = File.ReadAllBytes(path);
            machine.Memory.TryWrite(0, RandomMemory(7));
            Assert.Throws<IOException>(() => MachineImage.Save(machine, path));
            machine.Start();
            MachineSnapshot snapshot = MachineImage.BeginSnapshot(machine, path);
            Assert.True(Assert.Throws<AggregateException>(() => snapshot.Written.Wait(s_patience)).InnerException is IOException);
            Assert.Equal(before, File.ReadAllBytes(path));
            Assert.Equal([path], Directory.GetFileSystemEntries(small));
        }
        finally
        {
            using var unmount = System.Diagnostics.Process.Start("umount", ["-l", small]);
            unmount.WaitForExit();
        }
    }

    [Fact]
    public void Damaged_files_end_in_one_clear_exception()
    {
        using (VirtualMachine first = Create(Idle))
        {
            first.Memory.TryWrite(0, RandomMemory(8).AsSpan(0, 1 << 20));
            MachineImage.Save(first, File1);
        }
        byte[] whole = File.ReadAllBytes(File1);
        int cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out int given) ? given : 1500;
        for (int seed = 0; seed < cases; seed++)
        {
            var random = new Random(seed);
            byte[] bytes = whole;
            if (random.Next(4) == 0)
            {
                bytes = whole[..random.Next(whole.Length)];
            }
            else
            {
                bytes = [.. whole];
                for (int i = random.Next(4); i >= 0; i--)
                {
                    int at = random.Next(3) switch { 0 => random.Next(128), 1 => whole.Length - 1 - random.Next(4096), _ => random.Next(whole.Length) };
                    bytes[at] = (byte)random.Next(256);
                }
                if (random.Next(2) == 0)
                {
                    // With a header whose own sum is right: what it says is not to be believed either.
                    BitConverter.TryWriteBytes(bytes.AsSpan(104), SavedMachineHeader.Sum(bytes.AsSpan(0, 104)));
                }
            }
            string path = Path.Combine(_folder, "damaged");
            File.WriteAllBytes(path, bytes);
            Exception? thrown = Record.Exception(() =>
            {
                using SavedMachine saved = SavedMachine.Open(path);
                if (seed % 20 == 0)
                {
                    using VirtualMachine machine = Create(Idle, restored: true);
                    saved.RestoreInto(machine, MemoryLoading.Eager);
                }
            });
            Assert.True(thrown is null or SavedStateException or IOException, $"seed {seed}: {thrown}");
        }
    }

    [Fact]
    public void Machines_that_do_not_fit_are_refused()
    {
        using (VirtualMachine first = Create(Idle))
        {
            MachineImage.Save(first, File1);
        }
        using SavedMachine saved = SavedMachine.Open(File1);
        using var smaller = new VirtualMachine(Configuration() with { MemorySize = 16 << 20 }, new FakeEngine(Idle));
        Assert.Throws<SavedStateException>(() => saved.RestoreInto(smaller));
        using var single = new VirtualMachine(Configuration() with { ProcessorCount = 1 }, new FakeEngine(Idle));
        Assert.Throws<SavedStateException>(() => saved.RestoreInto(single));
        File.WriteAllText(File1 + "x", "something else");
        Assert.Contains("not a saved machine", Assert.Throws<SavedStateException>(() => SavedMachine.Open(File1 + "x")).Message, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static bool LazyIsPossible => Environment.IsPrivilegedProcess && File.Exists("/dev/userfaultfd") || File.ReadAllText("/proc/sys/vm/unprivileged_userfaultfd").Trim() == "1";

    private static void Idle(FakeProcessor p) => p.Idle();

    private static MachineConfiguration Configuration() => new()
    {
        MemorySize = Size,
        ProcessorCount = 2,
        Model = CpuModel.Create(CpuModelName.V1, 2),
        Boot = static (_, state) => state.InstructionPointer = 0x1234,
        SerialPorts = [new FakeBackend()],
        RestartOnReset = true,
    };

    private static VirtualMachine Create(Action<FakeProcessor> program, bool anonymous = false, bool restored = false) =>
        new(Configuration() with { Backing = anonymous ? s_private : MemoryBacking.Default, IsRestored = restored }, new FakeEngine(program));

    /// <summary>8 MiB of noise, 8 MiB that compress, single pages, and zeros; also in the short last chunk.</summary>
    private static byte[] RandomMemory(int seed)
    {
        byte[] memory = new byte[Size];
        var random = new Random(seed);
        random.NextBytes(memory.AsSpan(0, 8 << 20));
        memory.AsSpan(10 << 20, 8 << 20).Fill(0x77);
        for (int at = 20 << 20; at < 30 << 20; at += 128 << 10)
        {
            memory[at + random.Next(GuestMemory.PageSize)] = 1;
        }
        memory[^1] = 0xEE;
        return memory;
    }

    private static byte[] Contents(VirtualMachine machine)
    {
        byte[] contents = new byte[machine.Memory.Size];
        Assert.True(machine.Memory.TryRead(0, contents));
        return contents;
    }
}
