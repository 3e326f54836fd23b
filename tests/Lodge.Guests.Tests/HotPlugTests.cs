using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Lodge.Machine.Devices.Storage.Nvme;
using Lodge.Machine.Devices.Virtio.Balloon;
using Lodge.Machine.Devices.Virtio.Block;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Devices.Virtio.Scsi;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Devices and processors that come and go while Linux runs.</summary>
[Collection("guests")]
public sealed class HotPlugTests
{
    private const uint ClassMassStorage = 0x018000, ClassEthernet = 0x020000, ClassUnassigned = 0xFF0000;
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(2);

    private static VirtioPciFunction Disk(VirtualMachine machine, string name, TestDisk disk) =>
        new(name, new VirtioBlock(machine.Memory, new VirtioBlockConfiguration(disk) { Serial = name }), ClassMassStorage);

    [Fact]
    public async Task Disks_and_cards_are_plugged_used_and_unplugged()
    {
        using SerialGuest guest = new();
        VirtualMachine machine = guest.Machine;
        guest.Run("modprobe -a virtio_pci virtio_blk virtio_net");
        Assert.Equal("", guest.Run("ls /sys/block"));
        TestDisk first = new(8 << 20), second = new(4 << 20);
        machine.Attach(Disk(machine, "DISK-1", first));
        machine.Attach(Disk(machine, "DISK-2", second), 20);
        guest.Wait("[ -b /dev/vda ] && [ -b /dev/vdb ]");
        Assert.Equal("DISK-1\nDISK-2\n", guest.Run("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial; echo").Replace("\n\n", "\n", StringComparison.Ordinal));
        guest.Run("mke2fs /dev/vda >/dev/null 2>&1 && mount /dev/vda /mnt && cp /bin/busybox /mnt/ && sync && cmp /bin/busybox /mnt/busybox && umount /mnt");
        await machine.RequestDetach("DISK-1").WaitAsync(s_patience);
        guest.Wait("[ ! -e /sys/block/vda ]");
        Assert.Equal("vdb\n", guest.Run("ls /sys/block"));

        // What was written is there when it comes back, in another slot.
        machine.Attach(Disk(machine, "DISK-3", first), 25);
        guest.Wait("[ -b /dev/vda ]");
        guest.Run("mount -o ro /dev/vda /mnt && cmp /bin/busybox /mnt/busybox && umount /mnt");

        (MemoryLink near, MemoryLink far) = MemoryLink.CreatePair();
        VirtioNetwork card = new(machine.Memory, new VirtioNetworkConfiguration(near, new MacAddress(0x5254_0000_0001)));
        machine.Attach(new VirtioPciFunction("net0", card, ClassEthernet));
        guest.Wait("[ -e /sys/class/net/eth0 ]");
        Assert.Equal("52:54:00:00:00:01\n", guest.Run("cat /sys/class/net/eth0/address"));
        guest.Run("ip address add 192.0.2.1/24 dev eth0 && ip link set eth0 up");
        guest.Try("ping -c 1 -W 1 192.0.2.2");
        byte[] frame = new byte[65_600];
        Assert.NotEqual(0, far.TryReceive(frame, out _)); // it asks for the other's address
        await machine.RequestDetach("net0").WaitAsync(s_patience);
        guest.Wait("[ ! -e /sys/class/net/eth0 ]");

        // A guest may eject by itself.
        Task<string> unasked = Detached(machine);
        guest.Run("echo 0 >/sys/bus/pci/slots/25/power");
        Assert.Equal("DISK-3", await unasked.WaitAsync(s_patience));
        Assert.Equal("vdb\n", guest.Run("ls /sys/block"));
        Assert.Equal("", guest.Run("dmesg -r | grep '^<[0-3]>' || true"));
    }

    [Fact]
    public async Task A_saved_guest_goes_on_with_what_was_plugged_in()
    {
        TestDisk disk = new(8 << 20);
        byte[] state;
        byte[] memory = new byte[256 << 20];
        using (SerialGuest guest = new())
        {
            guest.Run("modprobe -a virtio_pci virtio_blk");
            guest.Machine.Attach(Disk(guest.Machine, "disk0", disk), 17);
            guest.Wait("[ -b /dev/vda ]");
            guest.Run("mke2fs /dev/vda >/dev/null 2>&1 && mount /dev/vda /mnt && echo kept >/mnt/file && sync");
            guest.Machine.Pause();
            state = guest.Machine.SaveState();
            Assert.True(guest.Machine.Memory.TryRead(0, memory));
        }
        using SerialGuest restored = new(start: false);
        restored.Machine.Attach(Disk(restored.Machine, "disk0", disk), 17);
        Assert.True(restored.Machine.Memory.TryWrite(0, memory));
        restored.Machine.RestoreState(state);
        restored.Machine.Start();
        Assert.Equal("kept\n", restored.Run("cat /mnt/file"));
        restored.Run("echo more >>/mnt/file && umount /mnt");
        await restored.Machine.RequestDetach("disk0").WaitAsync(s_patience);
        restored.Wait("[ ! -e /sys/block/vda ]");
        restored.Machine.Attach(Disk(restored.Machine, "disk0", disk), 17);
        restored.Wait("[ -b /dev/vda ] && mount /dev/vda /mnt");
        Assert.Equal("kept\nmore\n", restored.Run("cat /mnt/file"));
    }

    [Fact]
    public async Task Processors_are_plugged_used_and_unplugged()
    {
        using SerialGuest guest = new(static configuration => configuration with
        {
            ProcessorCount = 1,
            MaximumProcessorCount = 3,
            Model = CpuModel.Create(CpuModelName.V3, 3),
        });
        VirtualMachine machine = guest.Machine;
        Assert.Equal("0-2\n0\n", guest.Run("cat /sys/devices/system/cpu/possible /sys/devices/system/cpu/present"));
        await machine.SetProcessorCount(3);
        guest.Wait("[ -e /sys/devices/system/cpu/cpu2/online ]");
        guest.Run("echo 1 >/sys/devices/system/cpu/cpu1/online; echo 1 >/sys/devices/system/cpu/cpu2/online");
        Assert.Equal("0-2\n", guest.Run("cat /sys/devices/system/cpu/online"));
        Assert.Equal("2\n", guest.Run("taskset 4 sh -c 'i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done; cut -d \" \" -f 39 /proc/self/stat'"));
        Task fewer = machine.SetProcessorCount(1);
        await fewer.WaitAsync(s_patience);
        guest.Wait("[ $(cat /sys/devices/system/cpu/present) = 0 ]");

        // And again: what was ejected begins anew.
        await machine.SetProcessorCount(2);
        guest.Wait("[ -e /sys/devices/system/cpu/cpu1/online ] && echo 1 >/sys/devices/system/cpu/cpu1/online");
        Assert.Equal("1\n", guest.Run("taskset 2 cut -d ' ' -f 39 /proc/self/stat"));
        Assert.Equal("tsc\n", guest.Run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").Replace("kvm-clock", "tsc", StringComparison.Ordinal));
        Assert.Equal("", guest.Run("dmesg | grep -i -e 'unstable' -e 'stuck' -e 'BUG:' || true"));
    }

    [Fact]
    public async Task The_balloon_takes_memory_and_gives_it_back_also_after_a_restore()
    {
        const ulong Given = 64UL << 20;
        static MachineConfiguration WithBalloon(MachineConfiguration configuration) => configuration with
        {
            AddDevices = static chipset =>
                chipset.Pci.Add(new VirtioPciFunction("balloon0", new VirtioBalloon(chipset.Memory, chipset.Timers, new VirtioBalloonConfiguration()), ClassUnassigned)),
        };
        byte[] state;
        byte[] memory = new byte[256 << 20];
        using (SerialGuest guest = new(WithBalloon))
        {
            guest.Run("modprobe -a virtio_pci virtio_balloon");
            VirtioBalloon balloon = guest.Machine.Balloon!;
            ulong free = (await balloon.GetStatisticsAsync().WaitAsync(s_patience)).Free!.Value;
            balloon.TargetBytes = Given;
            Assert.True(SpinWait.SpinUntil(() => balloon.ActualBytes == Given, s_patience));
            Assert.InRange((await balloon.GetStatisticsAsync().WaitAsync(s_patience)).Free!.Value, 0UL, free - (Given / 2));
            guest.Machine.Pause();
            state = guest.Machine.SaveState();
            Assert.True(guest.Machine.Memory.TryRead(0, memory));
        }
        using SerialGuest restored = new(WithBalloon, start: false);
        Assert.True(restored.Machine.Memory.TryWrite(0, memory));
        restored.Machine.RestoreState(state);
        restored.Machine.Start();
        VirtioBalloon again = restored.Machine.Balloon!;
        ulong less = (await again.GetStatisticsAsync().WaitAsync(s_patience)).Free!.Value;
        Assert.Equal(Given, again.ActualBytes);
        again.TargetBytes = 0;
        Assert.True(SpinWait.SpinUntil(() => again.ActualBytes == 0, s_patience));
        Assert.InRange((await again.GetStatisticsAsync().WaitAsync(s_patience)).Free!.Value, less + (Given / 2), ulong.MaxValue);
    }

    [Fact]
    public async Task Disks_on_other_buses_are_plugged_and_unplugged()
    {
        using SerialGuest guest = new();
        VirtualMachine machine = guest.Machine;
        guest.Run("for m in nvme virtio_pci virtio_scsi sd_mod; do modprobe $m 2>/dev/null; done; true"); // what is built in is no module
        TestDisk nvme = new(8 << 20), scsi = new(8 << 20);
        nvme.Content[0] = 0x31;
        scsi.Content[0] = 0x32;
        machine.Attach(new NvmeController("nvme0", machine.Memory, new NvmeConfiguration(nvme) { Serial = "N" }));
        machine.Attach(new VirtioPciFunction("scsi0", new VirtioScsi(machine.Memory, new VirtioScsiConfiguration([new ScsiTargetConfiguration(scsi)])), ClassMassStorage));
        guest.Wait("[ -b /dev/nvme0n1 ] && [ -b /dev/sda ]");
        Assert.Equal("12", guest.Run("head -c 1 /dev/nvme0n1; head -c 1 /dev/sda"));
        await machine.RequestDetach("nvme0").WaitAsync(s_patience);
        await machine.RequestDetach("scsi0").WaitAsync(s_patience);
        guest.Wait("[ ! -e /sys/block/nvme0n1 ] && [ ! -e /sys/block/sda ]");
    }

    [Fact]
    public async Task A_guest_that_ejects_what_it_uses_harms_only_itself()
    {
        using SerialGuest guest = new();
        VirtualMachine machine = guest.Machine;
        guest.Run("modprobe -a virtio_pci virtio_blk");
        TestDisk disk = new(64 << 20) { Asynchronous = true };
        machine.Attach(Disk(machine, "disk0", disk), 8);
        guest.Wait("[ -b /dev/vda ]");
        Task<string> gone = Detached(machine);
        guest.Run("dd if=/dev/zero of=/dev/vda bs=1M oflag=direct >/dev/null 2>&1 & sleep 0.2");
        // All places at once, while writes are under way: a store to the register, which its processors could make at any time.
        machine.Chipset.Bus.WritePort(PortMap.PciHotPlug + 12, [0xFF, 0xFF, 0xFF, 0xFF]);
        Assert.Equal("disk0", await gone.WaitAsync(s_patience));
        Assert.Equal(["host-bridge", "isa-bridge"], machine.Chipset.Pci.Functions.Select(static f => f.Name).Order());
        machine.Attach(Disk(machine, "disk0", new TestDisk(4 << 20)), 9);
        Assert.Equal("alive\n", guest.Run("echo alive")); // its driver may wait for ever for a device that is gone
        guest.Reset();
        guest.Run("modprobe -a virtio_pci virtio_blk");
        guest.Wait("[ -b /dev/vda ]");
        Assert.Equal("4096\n", guest.Run("head -c 4096 /dev/vda | wc -c"));
    }

    [Fact]
    public void A_start_up_message_starts_no_processor_that_is_not_there()
    {
        Assert.SkipWhen(TranslationEngine.Unusable() is not null, TranslationEngine.Unusable() ?? "");
        DebuggerGuest guest = new();
        using VirtualMachine machine = new(
            new MachineConfiguration
            {
                MemorySize = 16UL << 20,
                Model = CpuModel.Create(CpuModelName.V3, 2),
                ProcessorCount = 1,
                MaximumProcessorCount = 2,
                Boot = (memory, state) => KernelLoader.Load(memory, new BootOptions(BootSource.FromBytes("guest", guest.Image), [], "", MemoryMap.RootPointer)).Apply(state),
            },
            new TranslationEngine());
        machine.Start();
        Assert.True(SpinWait.SpinUntil(() => Read(DebuggerGuest.Counter) > 1000, s_patience)); // long after it has sent the message
        Assert.Equal(0UL, Read(DebuggerGuest.RealModeCounter) & 0xFFFF);
        Assert.True(machine.SetProcessorCount(2).IsCompletedSuccessfully); // and the message is forgotten
        ulong now = Read(DebuggerGuest.Counter);
        Assert.True(SpinWait.SpinUntil(() => Read(DebuggerGuest.Counter) > now + 1000, s_patience));
        Assert.Equal(0UL, Read(DebuggerGuest.RealModeCounter) & 0xFFFF);

        ulong Read(ulong address) => machine.Memory.TryRead(address, out ulong value) ? value : 0;
    }

    private static Task<string> Detached(VirtualMachine machine)
    {
        TaskCompletionSource<string> told = new(TaskCreationOptions.RunContinuationsAsynchronously);
        machine.FunctionDetached += function => told.TrySetResult(function.Name);
        return told.Task;
    }
}
