using System.Text;
using Lodge.Engine.Processor;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Xunit;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>A processor that is plugged into a running Linux, used, and given up again, on the hardware engine. It needs what <see cref="LinuxResumeTests"/> needs.</summary>
public class LinuxHotPlugTests(ITestOutputHelper output)
{
    private static readonly TimeSpan s_hang = TimeSpan.FromMinutes(10);

    private const string Init = """
        #!/bin/busybox sh
        /bin/busybox mount -t proc none /proc
        /bin/busybox mount -t sysfs none /sys
        cpus=/sys/devices/system/cpu
        boot=$(/bin/busybox dmesg -r | /bin/busybox wc -l) # what its boot says of a host without an invariant TSC is no matter here
        for round in 1 2; do
            echo "ready $round"
            until [ -e $cpus/cpu1/online ]; do /bin/busybox usleep 100000; done
            echo 1 >$cpus/cpu1/online
            read online <$cpus/online; echo "online $round $online"
            echo "ran $round $(/bin/busybox taskset 2 /bin/busybox sh -c 'i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done; /bin/busybox cut -d " " -f 39 /proc/self/stat')"
            until read present <$cpus/present && [ "$present" = 0 ]; do /bin/busybox usleep 100000; done
            echo "gone $round"
        done
        /bin/busybox dmesg -r | /bin/busybox tail -n +$((boot + 1)) | /bin/busybox grep -i -e 'unstable' -e 'stuck' -e 'BUG:' | /bin/busybox sed 's/^/warning /'
        echo finished
        /bin/busybox poweroff -f
        """;

    [Fact]
    public async Task A_processor_comes_works_and_goes()
    {
        (BootSource kernel, BootSource initramfs) = LinuxResumeTests.DefaultSystem();
        BootSource init = BootSource.FromBytes("plug", LinuxResumeTests.Cpio("plug", Encoding.ASCII.GetBytes(Init.Replace("\r", "", StringComparison.Ordinal))));
        var console = new SerialText();
        var engine = new KvmEngine();
        using var machine = new VirtualMachine(
            new MachineConfiguration
            {
                MemorySize = 256 << 20,
                ProcessorCount = 1,
                MaximumProcessorCount = 2,
                Model = CpuModel.Create(CpuModelName.V3, 2, engine.CpuOffer),
                Boot = (memory, entry) => KernelLoader.Load(memory, new BootOptions(
                    kernel, [new BootModule(initramfs, ""), new BootModule(init, "")], "console=ttyS0 quiet panic=-1 rdinit=/plug", MemoryMap.RootPointer)).Apply(entry),
                SerialPorts = [console.NewPort()],
            },
            engine);
        console.Clock = machine.Clock;
        machine.Start();
        for (int round = 1; round <= 2; round++)
        {
            await Until($"ready {round}");
            await machine.SetProcessorCount(2).WaitAsync(s_hang);
            await Until($"online {round} 0-1");
            await Until($"ran {round} 1");
            await machine.SetProcessorCount(1).WaitAsync(s_hang);
            await Until($"gone {round}");
        }
        await Until("finished");
        Assert.Equal(MachineOutcomeKind.PowerOff, (await machine.Completion.WaitAsync(s_hang)).Kind);
        output.WriteLine(console.Text);
        Assert.DoesNotContain("warning ", console.Text, StringComparison.Ordinal);

        async Task Until(string words)
        {
            bool seen = await console.WaitFor(words, machine.Completion, s_hang);
            Assert.True(seen, $"no '{words}' but {console.Text}\n{(machine.Completion.IsCompleted ? $"{await machine.Completion}" : $"{machine.State}")}");
        }
    }
}
