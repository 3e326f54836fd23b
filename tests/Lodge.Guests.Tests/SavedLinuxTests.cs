using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Lodge.Engine;
using Lodge.Engine.Kvm.Tests;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Lodge.Machine.Saving;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>
/// Linux that fills its memory and checks it on all processors, saved to a file and restored from it again and again, and kept by snapshots while it runs. A few
/// rounds; LODGE_SAVE_ROUNDS names another number.
/// </summary>
[Collection("guests")]
public sealed partial class SavedLinuxTests(ITestOutputHelper output) : IDisposable
{
    private const ulong MemorySize = 256 << 20;
    private const int CountsBetween = 3;

    private static readonly TimeSpan s_hang = TimeSpan.FromMinutes(4);
    private static readonly int s_rounds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_SAVE_ROUNDS"), out int rounds) ? rounds : 3; // one of them eager

    // Each worker copies a file of noise and compares, and has the floating-point unit make a sum; what is wrong is told at once, and warnings of the kernel. A count costs little.
    private const string Init = """
        #!/bin/busybox sh
        /bin/busybox mount -t proc none /proc
        /bin/busybox mount -t sysfs none /sys
        /bin/busybox mkdir -p /mem /dev
        /bin/busybox mount -t devtmpfs none /dev
        /bin/busybox mount -t tmpfs none /mem
        /bin/busybox dmesg -c >/dev/null
        /bin/busybox dd if=/dev/urandom of=/mem/noise bs=64k count=24 2>/dev/null
        expected=$(/bin/busybox md5sum </mem/noise)
        worker() {
            while :; do
                /bin/busybox cp /mem/noise /mem/copy$1
                [ "$(/bin/busybox md5sum </mem/copy$1)" = "$expected" ] || echo "wrong memory in worker $1"
                /bin/busybox cp /mem/copy$1 /mem/again$1
                /bin/busybox cmp -s /mem/noise /mem/again$1 || echo "wrong copy in worker $1"
                [ "$(/bin/busybox awk 'BEGIN { for (i = 1; i < 200; i++) s += 1 / (i * i); printf "%.9f", s }')" = 1.639921546 ] || echo "wrong sum in worker $1"
                /bin/busybox dmesg -c -r | /bin/busybox grep '^<[0-4]>' | /bin/busybox grep -v -e 'hrtimer: interrupt took' -e 'clocksource' | /bin/busybox sed 's/^/warning /'
            done
        }
        for w in WORKERS; do
            worker $w &
        done
        i=0
        while :; do
            i=$((i+1))
            read up idle </proc/uptime
            read rtc </sys/class/rtc/rtc0/since_epoch
            echo "count $i $up $rtc"
            /bin/busybox usleep 20000
        done
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-saved").FullName;

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public async Task Saved_and_restored_under_load(int processors)
    {
        var console = new SerialText();
        string path = Path.Combine(_folder, "saved");
        VirtualMachine machine = Create(processors, console, restored: false);
        try
        {
            console.Clock = machine.Clock;
            machine.Start();
            for (int round = 0; round < s_rounds; round++)
            {
                await WaitForCounts(console, machine, CountsBetween);
                machine.Pause();
                long time = machine.Clock.Now;
                SaveResult result = MachineImage.Save(machine, path);
                Assert.Equal(time, machine.Clock.Now);
                machine.Dispose();
                string before = console.Text;
                if (round == 0)
                {
                    await Task.Delay(TimeSpan.FromSeconds(2)); // which the guest must not see, except on its real-time clock
                }
                long now = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
                machine = Create(processors, console, restored: true);
                using SavedMachine saved = SavedMachine.Open(path);
                MachineRestore restore = saved.RestoreInto(machine, round % 3 == 2 ? MemoryLoading.Eager : MemoryLoading.Automatic);
                Assert.Equal(time, machine.Clock.Now);
                console.Clock = machine.Clock;
                machine.Start();
                await WaitForCounts(console, machine, 2);
                await restore.Loaded.WaitAsync(s_hang);
                // The second whole count was begun after the restore.
                long clock = Counts(console.Text).Skip(Counts(before).Count).ElementAt(1).Clock;
                Assert.InRange(clock, now - 1, DateTimeOffset.UtcNow.ToUnixTimeSeconds() + 1);
                output.WriteLine($"round {round}: lazy {restore.IsLazy}, {result}");
            }
            Check(console, 1);
        }
        finally
        {
            machine.Dispose();
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public async Task Snapshots_of_a_running_machine(int processors)
    {
        var console = new SerialText();
        using VirtualMachine machine = Create(processors, console, restored: false);
        console.Clock = machine.Clock;
        machine.Start();
        for (int round = 0; round < s_rounds; round++)
        {
            await WaitForCounts(console, machine, CountsBetween);
            string path = Path.Combine(_folder, $"snapshot{round % 2}");
            string before = "";
            MachineSnapshot snapshot = MachineImage.BeginSnapshot(machine, path, () => before = console.Text);
            await WaitForCounts(console, machine, 1); // while it is written, or after
            SaveResult result = await snapshot.Written.WaitAsync(s_hang);
            output.WriteLine($"round {round}: pause {snapshot.Pause.TotalMilliseconds:F1} ms, {result}");
            // The copy goes on from the moment of the snapshot, while the original runs.
            var branch = new SerialText();
            branch.NewPort().Write(Encoding.Latin1.GetBytes(before));
            using VirtualMachine copy = Create(processors, branch, restored: true);
            using SavedMachine saved = SavedMachine.Open(path);
            MachineRestore restore = saved.RestoreInto(copy);
            copy.Start();
            await WaitForCounts(branch, copy, CountsBetween);
            await restore.Loaded.WaitAsync(s_hang);
            copy.Stop();
            Check(branch, 1);
        }
        await WaitForCounts(console, machine, CountsBetween);
        machine.Stop();
        Check(console, 1);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static async Task WaitForCounts(SerialText console, VirtualMachine machine, int more)
    {
        int last = (Counts(console.Text) is [.., var count] ? count.Number : 0) + more;
        bool seen = await console.WaitFor($"\ncount {last} ", machine.Completion, s_hang);
        while (seen && (Counts(console.Text) is not [.., var now] || now.Number < last) && !machine.Completion.IsCompleted)
        {
            await Task.Delay(1); // the rest of the line
        }
        string end = machine.Completion.IsCompleted ? $"{await machine.Completion}" : $"{machine.State}";
        Assert.True(seen && machine.State == MachineRunState.Running, $"no count {last} but {console.Text}\n{end}");
    }

    private static List<(int Number, double Uptime, long Clock)> Counts(string text) =>
    [
        .. Count().Matches(text).Select(m => (
            int.Parse(m.Groups[1].Value, CultureInfo.InvariantCulture), double.Parse(m.Groups[2].Value, CultureInfo.InvariantCulture), long.Parse(m.Groups[3].Value, CultureInfo.InvariantCulture))),
    ];

    /// <summary>Nothing is lost, repeated or wrong, and time never goes back.</summary>
    private static void Check(SerialText console, int first)
    {
        string text = console.Text;
        List<(int Number, double Uptime, long Clock)> counts = Counts(text);
        Assert.Equal(Enumerable.Range(first, counts.Count), counts.Select(static c => c.Number));
        Assert.Equal(counts.Select(static c => c.Uptime).Order(), counts.Select(static c => c.Uptime));
        Assert.Equal(counts.Select(static c => c.Clock).Order(), counts.Select(static c => c.Clock));
        Assert.DoesNotContain("wrong ", text, StringComparison.Ordinal);
        Assert.DoesNotContain("warning ", text, StringComparison.Ordinal);
    }

    private static VirtualMachine Create(int processors, SerialText console, bool restored)
    {
        string cache = Path.Combine(Environment.GetEnvironmentVariable("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetEnvironmentVariable("HOME") ?? "/root", ".cache"), "lodge");
        if (!File.Exists(Path.Combine(cache, "default")))
        {
            Assert.Equal(0, LodgeProcess.Run(["run", "--", "true"]).Status); // makes the default system
        }
        string system = Path.Combine(cache, File.ReadAllText(Path.Combine(cache, "default")).Trim());
        string init = Init.Replace("WORKERS", string.Join(' ', Enumerable.Range(1, processors)), StringComparison.Ordinal);
        BootModule[] modules = [new BootModule(BootSource.FromFile(Path.Combine(system, "initramfs.cpio")), ""), new BootModule(BootSource.FromBytes("load", Cpio("load", Encoding.ASCII.GetBytes(init))), "")];
        IEngine engine = new TranslationEngine();
        return new VirtualMachine(
            new MachineConfiguration
            {
                MemorySize = MemorySize,
                ProcessorCount = processors,
                IsRestored = restored,
                Model = CpuModel.Create(CpuModelName.V3, processors, engine.CpuOffer),
                Boot = (memory, entry) => KernelLoader.Load(memory, new BootOptions(
                    BootSource.FromFile(Path.Combine(system, "vmlinuz")), modules, "console=ttyS0 quiet panic=-1 rdinit=/load", MemoryMap.RootPointer)).Apply(entry),
                SerialPorts = [console.NewPort()],
            },
            engine);
    }

    /// <summary>An initramfs with one executable file ("newc", Linux Documentation/driver-api/early-userspace/buffer-format.rst).</summary>
    private static byte[] Cpio(string name, byte[] contents)
    {
        using var stream = new MemoryStream();
        foreach ((string entry, int mode, byte[] data) in new[] { (name, 0x81ED, contents), ("TRAILER!!!", 0, Array.Empty<byte>()) })
        {
            int[] fields = [1, mode, 0, 0, 1, 0, data.Length, 0, 0, 0, 0, entry.Length + 1, 0];
            stream.Write(Encoding.ASCII.GetBytes($"070701{string.Concat(fields.Select(f => f.ToString("X8", CultureInfo.InvariantCulture)))}{entry}\0"));
            stream.Write(new byte[-stream.Length & 3]);
            stream.Write(data);
            stream.Write(new byte[-stream.Length & 3]);
        }
        return stream.ToArray();
    }

    [GeneratedRegex(@"^count (\d+) (\d+\.\d+) (\d+)\r?\n", RegexOptions.Multiline)]
    private static partial Regex Count();
}
