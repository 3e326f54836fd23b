using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Disks attached to and detached from machines by verbs, with the sandbox on, as root and as an ordinary user.</summary>
[Collection("guests")]
public sealed class AttachTests : IDisposable
{
    // $1: a folder; $2: own, or user for an ordinary one where the tests run as root. A guest that tells what disks and serial numbers it has, whenever they change, and works on /dev/vdb when there is one.
    private const string Setting = """
        set -e
        export XDG_DATA_HOME=$1/data LODGE=$0
        as=
        if [ "$2" = user ] && [ $(id -u) = 0 ]; then
            as='setpriv --reuid=65534 --regid=65534 --clear-groups env HOME='"$1"' XDG_CACHE_HOME='"$1/cache"
            mkdir -p "$1/cache"; cp -r "${XDG_CACHE_HOME:-$HOME/.cache}/lodge" "$1/cache"
            chown -R 65534:65534 "$1"
        fi
        lodge() { $as "$LODGE" "$@"; }
        cd "$1"
        trap 'for m in $(ls "$XDG_DATA_HOME/lodge/machines" 2>/dev/null); do lodge stop --force $m || true; done >/dev/null 2>&1' EXIT
        until_told() { # name, words
            i=0
            until lodge logs "$1" | tr -d '\r' | grep -q -x -e "$2"; do
                i=$((i+1)); [ $i -lt 1200 ] || { echo "the guest did not say: $2"; lodge logs "$1"; exit 9; }
                sleep 0.1
            done
        }
        refused() { # words, command
            words=$1; shift
            if lodge "$@" 2>err; then echo "not refused: $*"; exit 8; fi
            [ $(wc -l <err) = 1 ] || { echo "more than a line:"; cat err; exit 8; }
            grep -q -e "$words" err || { echo "refused otherwise: $*"; cat err; exit 8; }
        }
        make() { # name and options
            lodge create --name "$@" --net none --memory 256M -- sh -c '
                for m in virtio_blk virtio_net nvme virtio_scsi sd_mod; do modprobe $m 2>/dev/null; done
                old=
                while :; do
                    now=$(cd /sys/block; for d in nvme* sd* vd*; do [ -e $d ] && echo "$d:$(cat $d/serial $d/device/serial 2>/dev/null | head -n 1 | tr -d " \n"):"; done | tr "\n" " ")
                    [ "$now" = "$old" ] || { echo "disks: $now"; old=$now; }
                    for d in /dev/vd?; do
                        [ -b $d ] && [ "$(dd if=$d bs=4 count=1 2>/dev/null)" = "ASK!" ] && { printf "DONE" | dd of=$d bs=512 seek=8 conv=fsync 2>/dev/null; echo "answered on $d"; printf "NO! " | dd of=$d conv=fsync 2>/dev/null; }
                    done
                    usleep 100000
                done' >/dev/null
        }
        ask() { printf 'ASK!' | dd of="$1" conv=notrunc 2>/dev/null; }
        serials() { echo "disks: $1"; }

        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-attach.").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("own")]
    [InlineData("user")]
    public void Disks_come_and_go_while_a_sandboxed_machine_runs(string who)
    {
        string output = Run(who, """
            truncate -s 8M first.raw one.raw two.raw
            ask one.raw
            "$LODGE" image create -f qcow2 base.qcow2 8M >/dev/null
            "$LODGE" image create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 >/dev/null
            [ -z "$as" ] || chown -R 65534:65534 "$1"
            [ -n "$as" ] || chmod 600 *.raw *.qcow2
            make web --disk first.raw
            lodge start web
            until_told web 'disks: vda:LODGE-0000: '
            refused "cannot tell\|format of disk" attach web --disk nix
            refused "nix.raw" attach web --disk nix.raw
            refused "in use" attach web --disk first.raw
            refused "nothing to attach" attach web
            refused "no machine 'nowhere'" attach nowhere --disk one.raw
            [ "$(lodge attach web --disk one.raw)" = disk1 ]
            until_told web 'disks: vda:LODGE-0000: vdb:LODGE-0001: '
            until_told web 'answered on /dev/vdb'
            [ "$(dd if=one.raw bs=512 skip=8 count=1 2>/dev/null | head -c 4)" = DONE ]
            refused "in use" attach web --disk one.raw
            lodge attach web --disk top.qcow2,cache=writethrough,name=data --disk two.raw,bus=nvme | tr '\n' ' ' | grep -x 'data disk2 '
            until_told web 'disks: nvme0n1:LODGE-0002: vda:LODGE-0000: vdb:LODGE-0001: vdc:LODGE-data: '
            lodge show web | grep '^Disk:\|^Sandbox:'
            lodge detach web disk1
            until_told web 'disks: nvme0n1:LODGE-0002: vda:LODGE-0000: vdc:LODGE-data: '
            refused "no disk or network card 'disk1'" detach web disk1
            # What was there from the start can go, too; and the file is free again.
            lodge detach web disk0
            until_told web 'disks: nvme0n1:LODGE-0002: vdc:LODGE-data: '
            [ "$(lodge attach web --disk one.raw,readonly)" = disk1 ]
            until_told web 'disks: nvme0n1:LODGE-0002: vda:LODGE-0001: vdc:LODGE-data: '
            [ -z "$as" ] || exit 0 # the rest does not depend on the user
            lodge restart --force web
            until_told web 'disks: nvme0n1:LODGE-0002: vda:LODGE-[a-z0-9]*: vdb:LODGE-[a-z0-9]*: '
            lodge show web | grep '^Disk:'
            lodge detach web data
            lodge pause web
            refused "is paused and its guest cannot let go" detach web disk2
            lodge resume web
            lodge stop --force web
            lodge detach web disk2
            lodge attach web --disk first.raw
            lodge show web | grep '^Disk:'
            """);
        Assert.Contains("system calls (seccomp)", output);
        Assert.Matches(@"Disk: +disk0: first.raw \(PCI slot 4\)\nDisk: +disk1: .*/one.raw \(PCI slot 30\)\nDisk: +data: .*/top.qcow2 \(PCI slot 29\)\nDisk: +disk2: .*/two.raw \(PCI slot 28\)\n", output);
        if (who == "user" && Environment.IsPrivilegedProcess)
        {
            return;
        }
        Assert.Matches(@"Disk: +data: .*/top.qcow2 \(PCI slot 29\)\nDisk: +disk2: .*/two.raw \(PCI slot 28\)\nDisk: +disk1: .*/one.raw \(PCI slot 30\)\n", output);
        Assert.Matches(@"disk2\nDisk: +disk1: .*/one.raw \(PCI slot 30\)\nDisk: +disk2: .*/first.raw \(PCI slot 29\)\n$", output);
    }

    [Fact]
    public void A_guest_that_does_not_let_go_is_told_of_and_forced()
    {
        string output = Run("own", """
            truncate -s 8M one.raw
            # A guest without ACPI's hot-plug does not know of ejections.
            lodge create --name deaf --net none --memory 256M --append acpiphp.disable=1 -- sh -c 'modprobe virtio_blk; echo up; sleep 1000' >/dev/null
            lodge start deaf
            until_told deaf up
            lodge attach deaf --disk one.raw
            refused "has not let go of disk0 for 1 s.*lodge detach --force deaf disk0" detach deaf disk0 --timeout 1s
            lodge show deaf | grep '^Disk:'
            lodge detach --force deaf disk0
            lodge show deaf | grep -c '^Disk:' || true
            lodge attach deaf --disk one.raw >/dev/null
            lodge detach --force deaf disk0
            grep -c unsettled "$XDG_DATA_HOME/lodge/machines/deaf/machine.json" || true
            """);
        Assert.Matches(@"disk0\nDisk: +disk0: .*/one.raw \(PCI slot 30\)\n0\n0\n$", output);
    }

    [Fact]
    public void Saved_machines_and_snapshots_have_what_was_attached()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/qemu-img"), "qemu-img is missing: install the package qemu-utils");
        string output = Run("own", """
            for d in first second; do "$LODGE" image create -f qcow2 $d.qcow2 8M >/dev/null; done
            make two --disk first.qcow2
            lodge start two
            until_told two 'disks: vda:LODGE-0000: '
            lodge attach two --disk second.qcow2
            until_told two 'disks: vda:LODGE-0000: vdb:LODGE-0001: '
            lodge snapshot create two with >/dev/null
            qemu-img snapshot -l -U second.qcow2 | grep -c lodge-
            lodge save two
            refused "is saved and goes on with what it has" detach two disk1
            refused "is saved and goes on with what it has" attach two --disk more.raw
            lodge restore two
            lodge show two | grep '^Disk:'
            lodge detach two disk1
            i=0
            until [ "$(lodge logs two | tr -d '\r' | grep -c '^disks: vda:LODGE-0000: $')" = 2 ]; do
                i=$((i+1)); [ $i -lt 600 ] || { lodge logs two; exit 9; }
                sleep 0.1
            done
            lodge attach two --disk second.qcow2
            lodge snapshot revert two with
            lodge show two | grep '^Disk:'
            lodge detach two disk1
            lodge snapshot create two without >/dev/null
            refused "cannot go back to snapshot 'with' with its memory: it had disk1 then" snapshot revert two with
            lodge attach two --disk second.qcow2 >/dev/null
            lodge snapshot create two again >/dev/null
            lodge stop --force two
            # The disks are the user's and stay, without the machine's snapshots; those of others stay too.
            qemu-img snapshot -c mine first.qcow2
            lodge remove two
            qemu-img snapshot -l first.qcow2 | grep -c mine
            qemu-img snapshot -l first.qcow2 | grep -c lodge- || true
            qemu-img snapshot -l second.qcow2 | grep -c lodge- || true
            qemu-img check -q first.qcow2
            qemu-img check -q second.qcow2
            """);
        Assert.Matches(@"^disk1\n1\n(?<both>Disk: +disk0: first.qcow2 \(PCI slot 4\)\nDisk: +disk1: .*/second.qcow2 \(PCI slot 30\)\n)disk1\n\k<both>1\n0\n0\n$", output);
    }

    // A guest that tells what cards it has, gives eth0 an address and looks whether the host answers there.
    private const string NetSetting = """
        make_net() { # name and options
            lodge create --name "$@" --memory 256M -- sh -c '
                modprobe virtio_net 2>/dev/null
                old=start
                while :; do
                    now=$(cd /sys/class/net; for e in eth*; do [ -e $e ] && echo "$e:$(cat $e/address)"; done | tr "\n" " ")
                    [ "$now" = "$old" ] || { echo "cards: $now"; old=$now; }
                    if [ -e /sys/class/net/eth0 ]; then
                        ip address replace 192.0.2.2/24 dev eth0 2>/dev/null; ip link set eth0 up
                        ping -c 1 -W 1 192.0.2.1 >/dev/null 2>&1 && echo reached
                    fi
                    usleep 200000
                done' >/dev/null
        }

        """;

    /// <summary>In a network namespace of the test's own: taps that an ordinary user owns, and what only root can make.</summary>
    [Theory]
    [InlineData("own")]
    [InlineData("user")]
    public void Network_cards_come_and_go_while_a_sandboxed_machine_runs(string who)
    {
        if (LodgeProcess.Script("[ $(id -u) = 0 ] && exec unshare --net ip link show").Status != 0)
        {
            Assert.Skip("network namespaces and taps need root here");
        }
        if (who == "user" && LodgeProcess.Script("exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'exec 3<>/dev/net/tun'").Status != 0)
        {
            Assert.Skip("/dev/net/tun may not be opened by an ordinary user here");
        }
        string output = Run(who, NetSetting + """
            ip link set lo up
            if [ -n "$as" ]; then
                ip tuntap add dev t0 mode tap user 65534; ip address add 192.0.2.1/24 dev t0; ip link set t0 up
                net=tap=t0
            else
                ip link add br0 type bridge; ip address add 192.0.2.1/24 dev br0; ip link set br0 up
                net=bridge=br0
            fi
            make_net web --net none
            lodge start web
            until_told web 'cards: '
            refused "its sandbox keeps it from the Internet" attach web --net user
            refused "there is no interface 'nix'" attach web --net tap=nix
            [ -n "$as" ] || refused "there is no bridge 'nix'" attach web --net bridge=nix
            [ "$(lodge attach web --net $net,mac=52:54:00:00:00:99,address=192.0.2.2)" = net0 ]
            until_told web 'cards: eth0:52:54:00:00:00:99 '
            until_told web reached
            lodge show web | grep '^Card:\|^Sandbox:\|^Addresses:'
            grep -c unsettled "$XDG_DATA_HOME/lodge/machines/web/machine.json" || true
            lodge detach web net0
            lodge show web | grep '^Card:' || true
            [ -n "$as" ] || ! ip link show | grep lodgetap
            lodge attach web --net $net,name=wire,address=192.0.2.2
            lodge stop --force web
            lodge start web
            until_told web 'cards: eth0:.*'
            until_told web reached
            lodge show web | grep '^Card:'
            lodge show web | grep '^Sandbox:' | grep 'files and signals (Landlock)\|no Landlock in this kernel' >/dev/null
            # A network namespace of its own, where root starts it: its tap is in the host's.
            [ -n "$as" ] || [ "$(readlink /proc/$(lodge show web | sed -n 's/^Process: *//p')/ns/net)" != "$(readlink /proc/self/ns/net)" ]
            """, "unshare --net");
        Assert.Contains("system calls (seccomp)", output);
        Assert.Matches(@"(?m)^Card: +net0: (bridge=br0|tap=t0) \(PCI slot 30\)\nAddresses: +52:54:00:00:00:99\n0\nwire\nCard: +wire: (bridge=br0|tap=t0) \(PCI slot 30\)\n$", output);
    }

    [Fact]
    public void A_card_on_a_named_network_is_on_it_as_long_as_it_is_attached()
    {
        if (LodgeProcess.Script("[ $(id -u) = 0 ] && command -v nft dnsmasq && exec unshare --net ip link show").Status != 0)
        {
            Assert.Skip("named networks need root, and the packages nftables and dnsmasq-base");
        }
        string output = Run("own", NetSetting + """
            ip link set lo up
            trap 'lodge stop --force web || true; lodge network remove --force lab || true' EXIT
            lodge network create lab >/dev/null
            make_net web --net none
            lodge start web
            lodge attach web --net lab
            until_told web 'cards: eth0:.*'
            lodge network show lab | grep '^Machine:' | sed 's/52:54:00:[0-9a-f:]*/MAC/; s/[0-9.]*$//'
            lodge detach web net0
            lodge network show lab | grep -c '^Machine:' || true
            lodge attach web --net lab >/dev/null
            lodge stop --force web
            lodge start web
            lodge network show lab --json | grep '"process":' | tr -dc '0-9\n' | grep -x "$(lodge show web | sed -n 's/^Process: *//p')" >/dev/null
            lodge show web | grep '^Sandbox:'
            lodge network show lab | grep -c '^Machine:'
            """, "unshare --net");
        Assert.Matches(@"^net0\nMachine: +web, MAC.*\n0\nSandbox: .*(files and signals|no Landlock in this kernel).*\n1\n$", output);
    }

    /// <summary>Commands killed at any moment: afterwards the definition and the machine that runs say the same. LODGE_KILL_ROUNDS for more.</summary>
    [Fact]
    public void Whatever_is_killed_definition_and_machine_agree()
    {
        int rounds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_KILL_ROUNDS"), out int asked) ? asked : 12;
        using MachineStoreFolder store = new();
        string disk = Path.Combine(_folder, "one.raw");
        using (FileStream file = File.Create(disk))
        {
            file.SetLength(8 << 20);
        }
        store.Done("create", "--name", "victim", "--net", "none", "--memory", "256M", "--", "sh", "-c", "modprobe virtio_blk; echo up; sleep 1000");
        store.Done("start", "victim");
        store.AwaitLog("victim", "up");
        Random random = new(1);
        for (int i = 0; i < rounds; i++)
        {
            bool has = Devices(store).Count != 0;
            string[] command = has ? ["detach", "victim", Devices(store)[0].GetProperty("name").GetString()!] : ["attach", "victim", "--disk", disk];
            using (Process process = store.Begin(command))
            {
                if (!process.WaitForExit(random.Next(50, 700)))
                {
                    process.Kill();
                }
                process.WaitForExit();
            }
            foreach (JsonElement device in Devices(store))
            {
                Assert.Equal("attached", device.GetProperty("state").GetString());
            }
        }
        store.Done("stop", "--force", "victim");
    }

    private static IReadOnlyList<JsonElement> Devices(MachineStoreFolder store)
    {
        using JsonDocument shown = JsonDocument.Parse(store.Done("show", "victim", "--json"));
        Assert.False(shown.RootElement.GetProperty("definition").TryGetProperty("unsettled", out _));
        return [.. shown.RootElement.GetProperty("devices").EnumerateArray().Select(device => device.Clone())];
    }

    private string Run(string who, string script, string within = "")
    {
        if (who == "user" && LodgeProcess.Script("[ $(id -u) != 0 ] || exec setpriv --reuid=65534 --regid=65534 --clear-groups test -x \"$0\"").Status != 0)
        {
            Assert.Skip($"'{LodgeProcess.Program}' lies where an ordinary user cannot execute it");
        }
        File.SetUnixFileMode(_folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute | UnixFileMode.OtherExecute | UnixFileMode.OtherRead);
        Assert.Equal(0, LodgeProcess.Run(["run", "--", "true"]).Status); // the cache is there now
        (int status, string output, string error) = within.Length == 0
            ? LodgeProcess.Script(Setting + script, _folder, who)
            : LodgeProcess.Script($"exec {within} sh -c \"$3\" \"$0\" \"$1\" \"$2\"", _folder, who, Setting + script);
        Assert.True(status == 0, $"{status}: {output}{error}");
        return output;
    }
}
