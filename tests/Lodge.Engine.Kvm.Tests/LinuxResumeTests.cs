using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Xunit;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>
/// Linux that counts, saved on one engine and resumed on the other. It needs a KVM that runs real kernels and Lodge's default system, both of which the
/// nested machine of <c>./test --nested</c> has.
/// </summary>
public partial class LinuxResumeTests(ITestOutputHelper output)
{
    private const ulong MemorySize = 256 << 20;
    private const int CountsBetween = 6;

    private static readonly TimeSpan s_hang = TimeSpan.FromMinutes(20);

    // Each count has a sum by the floating-point unit, made in a process of its own. Messages of the boot are thrown away first, so that a warning is a late one; one of them only says that the host is slow.
    private const string Init = """
        #!/bin/busybox sh
        /bin/busybox mount -t proc none /proc
        /bin/busybox dmesg -c >/dev/null
        i=0
        while [ $i -lt LAST ]; do
            i=$((i+1))
            read up idle </proc/uptime
            echo "count $i $up $(/bin/busybox awk 'BEGIN { for (i = 1; i < 200; i++) s += 1 / (i * i); printf "%.12f", s }')"
            /bin/busybox usleep 50000
        done
        /bin/busybox dmesg -r | /bin/busybox grep '^<[0-4]>' | /bin/busybox grep -v 'hrtimer: interrupt took' | /bin/busybox sed 's/^/warning /'
        echo finished
        /bin/busybox poweroff -f
        """;

    [Theory]
    [InlineData("kvm", "translate", "kvm")]
    [InlineData("translate", "kvm")]
    public async Task CountGoesOnWhereItWas(params string[] engines)
    {
        (BootSource kernel, BootSource initramfs) = DefaultSystem();
        int last = CountsBetween * engines.Length;
        BootSource init = BootSource.FromBytes("counter", Cpio("counter", Encoding.ASCII.GetBytes(Init.Replace("LAST", last.ToString(CultureInfo.InvariantCulture)).Replace("\r", ""))));
        var console = new SerialText();
        byte[]? state = null;
        byte[] ram = new byte[MemorySize];
        for (int leg = 0; leg < engines.Length; leg++)
        {
            IEngine engine = engines[leg] == "kvm" ? new KvmEngine() : new TranslationEngine();
            // The guest is given what KVM offers here, wherever it boots; whoever resumes it has its own engine's offer.
            CpuOffer offer = (leg == 0 ? new KvmEngine() : engine).CpuOffer;
            using var machine = new VirtualMachine(
                new MachineConfiguration
                {
                    MemorySize = MemorySize,
                    Model = CpuModel.Create(CpuModelName.V3, 1, offer),
                    Boot = (memory, entry) => KernelLoader.Load(memory, new BootOptions(
                        kernel, [new BootModule(initramfs, ""), new BootModule(init, "")], "console=ttyS0 quiet panic=-1 rdinit=/counter", MemoryMap.RootPointer)).Apply(entry),
                    SerialPorts = [console.NewPort()],
                },
                engine);
            if (state is not null)
            {
                CopyMemory(machine.Memory, ram, restore: true);
                machine.RestoreState(state);
                await Task.Delay(TimeSpan.FromSeconds(3)); // which the guest must not see
            }
            console.Clock = machine.Clock;
            machine.Start();
            bool ends = leg == engines.Length - 1;
            string awaited = ends ? "finished" : $"count {CountsBetween * (leg + 1)} ";
            bool seen = await console.WaitFor(awaited, machine.Completion, s_hang);
            string end = machine.Completion.IsCompleted ? $"{await machine.Completion}" : $"{machine.State}";
            Assert.True(seen, $"on {engines[leg]}, leg {leg + 1}: no '{awaited}' but {console.Text}\n{end}");
            if (ends)
            {
                MachineOutcome outcome = await machine.Completion.WaitAsync(s_hang);
                Assert.Equal(MachineOutcomeKind.PowerOff, outcome.Kind);
            }
            else
            {
                machine.Pause();
                state = machine.SaveState();
                CopyMemory(machine.Memory, ram, restore: false);
                Assert.DoesNotContain($"count {last} ", console.Text, StringComparison.Ordinal);
            }
        }
        output.WriteLine(console.Text);
        MatchCollection counts = Count().Matches(console.Text);
        Assert.Equal(Enumerable.Range(1, last), counts.Select(m => int.Parse(m.Groups[1].Value, CultureInfo.InvariantCulture)));
        Assert.Single(counts.Select(m => m.Groups[3].Value).Distinct());
        double[] uptimes = [.. counts.Select(m => double.Parse(m.Groups[2].Value, CultureInfo.InvariantCulture))];
        Assert.Equal(uptimes.Order(), uptimes);
        Assert.All(console.Lines.Where(l => Count().IsMatch(l.Text)), l =>
            Assert.True(double.Parse(Count().Match(l.Text).Groups[2].Value, CultureInfo.InvariantCulture) <= l.MachineTime.TotalSeconds + 0.5, $"the guest is ahead of the machine's time {l.MachineTime}: {l.Text}"));
        Assert.DoesNotContain("warning ", console.Text, StringComparison.Ordinal);
    }

    internal static (BootSource Kernel, BootSource Initramfs) DefaultSystem()
    {
        Assert.SkipWhen(Environment.GetEnvironmentVariable("LODGE_NESTED") is null, "this host's KVM is not known to run kernels; ./test --nested runs it");
        string cache = Path.Combine(Environment.GetEnvironmentVariable("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetEnvironmentVariable("HOME") ?? "/root", ".cache"), "lodge");
        Assert.SkipUnless(File.Exists(Path.Combine(cache, "default")), "there is no default system; 'lodge run -- true' makes it");
        string system = Path.Combine(cache, File.ReadAllText(Path.Combine(cache, "default")).Trim());
        return (BootSource.FromFile(Path.Combine(system, "vmlinuz")), BootSource.FromFile(Path.Combine(system, "initramfs.cpio")));
    }

    private static void CopyMemory(GuestMemory memory, byte[] ram, bool restore)
    {
        foreach (MemorySlot slot in memory.Slots)
        {
            Span<byte> part = ram.AsSpan((int)slot.Offset, (int)slot.Length);
            Assert.True(restore ? memory.TryWrite(slot.Address, part) : memory.TryRead(slot.Address, part));
        }
    }

    /// <summary>An initramfs with one executable file ("newc", Linux Documentation/driver-api/early-userspace/buffer-format.rst).</summary>
    internal static byte[] Cpio(string name, byte[] contents)
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

    [GeneratedRegex(@"^count (\d+) (\d+\.\d+) (\S+)\r?$", RegexOptions.Multiline)]
    private static partial Regex Count();
}
