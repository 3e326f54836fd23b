using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Two machines with Linux on one cable: its driver and the card agree, also over a save and restore in the middle of a connection.</summary>
[Collection("guests")]
public sealed class NetworkCardTests
{
    private const int Bytes = 18_000_000;
    private static readonly OffloadFeatures AllOffloads =
        OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

    [Theory]
    [InlineData(1, true, 1500)]
    [InlineData(2, true, 1500)]
    [InlineData(1, false, 9000)]
    public void A_stream_arrives_whole(int processors, bool offloads, int mtu)
    {
        (MemoryLink left, MemoryLink right) = MemoryLink.CreatePair(new() { Offloads = offloads ? AllOffloads : OffloadFeatures.None, Mtu = mtu });
        using var server = new Guest(left, 1, processors, Server);
        var seen = new LongestFrame(right);
        using var client = new Guest(seen, 2, processors, Client);
        server.Machine.Start();
        client.Machine.Start();
        client.End();
        Assert.Contains(Expected(), client.Output, StringComparison.Ordinal);
        Assert.Contains($"mtu {mtu}", client.Output, StringComparison.Ordinal);
        Assert.Equal((0, 0), (client.Card.Counters.SendErrors, client.Card.Counters.ReceiveErrors));
        Assert.True(client.Card.Counters.ReceivedBytes > Bytes);
        // With segmentation left to the receiver there are frames longer than the MTU.
        Assert.Equal(offloads, seen.Received > mtu + 18);
    }

    [Fact]
    public void A_connection_outlives_a_save_and_restore()
    {
        (MemoryLink left, MemoryLink right) = MemoryLink.CreatePair(new() { Offloads = AllOffloads });
        using var server = new Guest(left, 1, 1, Server);
        var first = new Guest(right, 2, 1, Client);
        server.Machine.Start();
        first.Machine.Start();
        Assert.True(SpinWait.SpinUntil(() => first.Card.Counters.ReceivedBytes > 2_000_000 || first.Machine.Completion.IsCompleted, TimeSpan.FromMinutes(5)));
        first.Machine.Pause();
        byte[] state = first.Machine.SaveState();
        using var second = new Guest(right, 2, 1, Client);
        first.CopyMemoryTo(second);
        first.Dispose();
        second.Machine.RestoreState(state);
        second.Machine.Start();
        second.Card.Announce();
        second.End();
        Assert.DoesNotContain(Expected(), first.Output, StringComparison.Ordinal);
        Assert.Contains(Expected(), second.Output, StringComparison.Ordinal);
    }

    private static string Server => $"yes lodge | head -c {Bytes} | nc -l -p 5000; poweroff -f";

    private static string Client => """
        while ! ping -c 1 -W 1 10.0.0.1 >/dev/null; do :; done
        mkfifo /run/nothing
        sleep 9999 >/run/nothing &
        while ! nc 10.0.0.1 5000 </run/nothing >/run/data; do sleep 1; sleep 9999 >/run/nothing & done
        echo "mtu $(cat /sys/class/net/eth0/mtu) sum $(md5sum </run/data)"
        poweroff -f
        """;

    private static string Expected()
    {
        byte[] data = new byte[Bytes];
        for (int i = 0; i < data.Length; i++)
        {
            data[i] = (byte)"lodge\n"[i % 6];
        }
        return "sum " + Convert.ToHexStringLower(MD5.HashData(data));
    }

    /// <summary>Notes the longest frame that a card received.</summary>
    private sealed class LongestFrame(ILink inner) : LinkDecorator(inner)
    {
        public int Received { get; private set; }

        public override int TryReceive(Span<byte> buffer, out FrameOffload offload)
        {
            int length = base.TryReceive(buffer, out offload);
            Received = Math.Max(Received, length);
            return length;
        }
    }

    /// <summary>The default system with a script of its own.</summary>
    private sealed class Guest : IDisposable
    {
        private readonly Text _console = new();

        public Guest(ILink link, int number, int processors, string script)
        {
            VirtioNetwork? card = null;
            string system = SystemFolder.Value;
            byte[] more = Archive("lodge/main", $"""
                #!/bin/sh
                export PATH=/bin:/sbin:/usr/bin:/usr/sbin
                mount -a
                exec </dev/console >/dev/console 2>&1
                modprobe -a virtio_pci virtio_net
                while [ ! -e /sys/class/net/eth0 ]; do usleep 1000; done
                ip addr add 10.0.0.{number}/24 dev eth0
                ip link set eth0 up
                {script}
                """);
            Machine = new VirtualMachine(
                new MachineConfiguration
                {
                    MemorySize = 256 << 20,
                    ProcessorCount = processors,
                    Model = CpuModel.Create(CpuModelName.V2, processors),
                    Boot = (memory, state) => KernelLoader.Load(memory, new BootOptions(
                        BootSource.FromFile(Path.Combine(system, "vmlinuz")),
                        [new BootModule(BootSource.FromFile(Path.Combine(system, "initramfs.cpio")), ""), new BootModule(BootSource.FromBytes("script", more), "")],
                        "console=ttyS0 quiet panic=-1",
                        MemoryMap.RootPointer)).Apply(state),
                    SerialPorts = [_console],
                    AddDevices = chipset =>
                    {
                        card = new VirtioNetwork(chipset.Memory, new(link, new MacAddress(0x5254_0000_0000 + (ulong)number)) { QueuePairs = processors });
                        chipset.Pci.Add(new VirtioPciFunction("net0", card, 0x020000));
                    },
                },
                new TranslationEngine());
            Card = card!;
        }

        public VirtualMachine Machine { get; }

        public VirtioNetwork Card { get; }

        public string Output => _console.ToString();

        public void End() => Assert.True(Machine.Completion.Wait(TimeSpan.FromMinutes(10)), $"the guest hangs: {Output}");

        public void CopyMemoryTo(Guest other)
        {
            byte[] piece = new byte[1 << 20];
            foreach (MemorySlot slot in Machine.Memory.Slots)
            {
                for (ulong at = slot.Address; at < slot.Address + slot.Length; at += (ulong)piece.Length)
                {
                    Assert.True(Machine.Memory.TryRead(at, piece));
                    Assert.True(other.Machine.Memory.TryWrite(at, piece));
                }
            }
        }

        public void Dispose() => Machine.Dispose();
    }

    /// <summary>Where the default system lies; made by the first run of any machine.</summary>
    private static readonly Lazy<string> SystemFolder = new(() =>
    {
        (int status, _, string error) = LodgeProcess.Run(["run", "--net", "none", "--", "true"]);
        Assert.True(status == 0, error);
        string? cache = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        string root = Path.Combine(string.IsNullOrEmpty(cache) ? Path.Combine(Environment.GetEnvironmentVariable("HOME")!, ".cache") : cache, "lodge");
        return Path.Combine(root, File.ReadAllText(Path.Combine(root, "default")).Trim());
    });

    /// <summary>A cpio archive with one executable file (Linux Documentation/driver-api/early-userspace/buffer-format.rst).</summary>
    private static byte[] Archive(string path, string contents)
    {
        using var archive = new MemoryStream();
        Entry(path, 0x81ED, Encoding.UTF8.GetBytes(contents));
        Entry("TRAILER!!!", 0, []);
        return archive.ToArray();

        void Entry(string name, uint mode, byte[] data)
        {
            uint[] fields = [1, mode, 0, 0, 1, 0, (uint)data.Length, 0, 0, 0, 0, (uint)name.Length + 1, 0];
            archive.Write(Encoding.ASCII.GetBytes("070701" + string.Concat(fields.Select(f => f.ToString("X8", CultureInfo.InvariantCulture))) + name + "\0"));
            archive.SetLength((archive.Length + 3) & ~3L);
            archive.Position = archive.Length;
            archive.Write(data);
            archive.SetLength((archive.Length + 3) & ~3L);
            archive.Position = archive.Length;
        }
    }

    private sealed class Text : ICharacterBackend
    {
        private readonly StringBuilder _text = new();

        public void Connect(ICharacterReceiver receiver)
        {
        }

        public int Write(ReadOnlySpan<byte> data)
        {
            lock (_text)
            {
                _text.Append(Encoding.ASCII.GetString(data));
            }
            return data.Length;
        }

        public void InputReady()
        {
        }

        public override string ToString()
        {
            lock (_text)
            {
                return _text.ToString();
            }
        }
    }
}
