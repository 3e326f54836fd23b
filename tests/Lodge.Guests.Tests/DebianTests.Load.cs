using System.Diagnostics;
using System.Globalization;
using System.Net;
using Xunit;

namespace Lodge.Guests.Tests;

/// <content>
/// A Debian that works hard (fio that verifies what it wrote, on a virtio and an NVMe disk, stress-ng that verifies, TCP connections) while it is paused, saved and restored, kept in snapshots and brought back to them.
/// </content>
public sealed partial class DebianTests
{
    private const string LoadNetwork = "10.97.10", LoadTap = "lgload";

    // In the guest; $1 is the port of the host's peer on the user network, $2 on the tap, empty for none. What ends, and should not, says so in /run/load/failed.
    private const string LoadScript = """
        systemctl is-system-running --wait >/dev/null # cards have their names then
        renice -n -15 -p $(pgrep -x qemu-ga) >/dev/null # what looks at the guest does not wait for its load
        mkdir -p /run/load
        dmesg | wc -l >/run/load/messages
        cat >/run/load/echo.pl <<'END'
        use Socket; $SIG{PIPE} = "IGNORE";
        while (1) {
            socket(my $s, PF_INET, SOCK_STREAM, 0) or die;
            setsockopt($s, SOL_SOCKET, SO_KEEPALIVE, 1); setsockopt($s, 6, 4, 2); setsockopt($s, 6, 5, 1); setsockopt($s, 6, 6, 30); # who only reads does not learn otherwise that the other end is gone
            if (connect($s, sockaddr_in($ARGV[1], inet_aton($ARGV[0])))) {
                C: while (my $n = sysread($s, my $data, 65536)) {
                    for (my $at = 0; $at < $n;) { $at += syswrite($s, $data, $n - $at, $at) || last C; }
                }
            }
            close($s); select(undef, undef, undef, 0.1);
        }
        END
        echoing() { while :; do perl /run/load/echo.pl "$1" "$2"; sleep 0.1; done; }
        always() { name=$1; shift; "$@" >/run/load/$name.log 2>&1; echo "$name ended with $?: $(tail -n 3 /run/load/$name.log)" >>/run/load/failed; }
        verified() { fio --name=$1 --filename=$2 --ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite --bsrange=4k-64k --size=24M --loops=1000000 --verify=crc32c --verify_fatal=1 --verify_backlog=64 --thinktime=2000; }
        if [ -n "$2" ]; then
            card=$(ls /sys/class/net | grep -v lo | tail -n 1)
            printf '[Match]\nName=%s\n[Network]\nAddress=NETWORK.2/24\nIPv6AcceptRA=no\n' "$card" >/etc/systemd/network/10-direct.network
            networkctl reload && networkctl reconfigure "$card"
            for i in $(seq 300); do ip -4 -o address show dev "$card" | grep -q NETWORK.2 && break; sleep 0.1; done
        fi
        exec </dev/null >/run/load/all.log 2>&1
        [ -z "$1" ] || echoing 10.0.2.2 $1 &
        [ -z "$2" ] || echoing NETWORK.1 $2 &
        always virtio verified virtio /dev/disk/by-id/virtio-LOAD-V &
        always nvme verified nvme $(ls /dev/disk/by-id/nvme-*LOAD-N* | head -n 1) &
        always stress stress-ng --verify --cache-size 1M --cpu 1 --cpu-load 50 --vm 1 --vm-bytes 24M --vm-hang 1 --timer 1 --timer-freq 500 --switch 1 --switch-freq 200 -t 0 &
        """;

    // What is wrong in the guest, if anything; then its time, and what its disks have written.
    private const string LoadCheck = """
        cat /run/load/failed 2>/dev/null
        [ $(pgrep -x -c fio) -ge 4 ] || echo "fio does not run: $(pgrep -x -a fio)"
        [ $(pgrep -x -c stress-ng) -ge 1 ] || echo "stress-ng does not run"
        grep -i -E 'fail|error' /run/load/*.log
        dmesg | tail -n +$(($(cat /run/load/messages) + 1)) | grep -i -E 'stall|lockup|hung|unstable|error|warning|bug:|time went|reset'
        echo "at $(date +%s.%N) $(awk '$3 == "vda" || $3 == "vdb" { v += $10 } $3 == "nvme0n1" { n += $10 } END { print v, n }' /proc/diskstats)"
        """;

    /// <summary>
    /// In each round: saved and restored, a live snapshot, brought back to it, paused. Nothing that runs in the guest may find anything wrong, its clock must be right, and TCP connections must live on without a byte lost, but for those
    /// whose other end ends with the machine's process (user-mode NAT at save), or that cannot go back (both at revert). One round; LODGE_LOAD_ROUNDS names another number.
    /// </summary>
    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void AMachineUnderLoadIsSavedAndBroughtBack(int processors)
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        bool asked = int.TryParse(Environment.GetEnvironmentVariable("LODGE_LOAD_ROUNDS"), out int rounds);
        Assert.SkipUnless(asked, "takes a minute for each number of processors and more for each round; LODGE_LOAD_ROUNDS names their number");
        Assert.SkipUnless(Environment.GetEnvironmentVariable("LODGE_LOAD_CPUS") is not { } only || only == $"{processors}", "LODGE_LOAD_CPUS names another number of processors");
        int seed = int.TryParse(Environment.GetEnvironmentVariable("LODGE_SEED"), out int given) ? given : Environment.TickCount;
        Random random = new(seed);
        bool tapped = Environment.UserName == "root" && File.Exists("/dev/net/tun");
        string name = $"load{processors}", tap = LoadTap + processors, network = $"{LoadNetwork}{processors}";
        string virtio = Path.Combine(image.Folder, name + "-v.qcow2"), nvme = Path.Combine(image.Folder, name + "-n.qcow2");
        Ok("image", "create", "-f", "qcow2", virtio, "32M");
        Ok("image", "create", "-f", "qcow2", nvme, "32M");
        EchoPeer? user = null, direct = null;
        try
        {
            if (tapped)
            {
                Host("ip", "tuntap", "add", "dev", tap, "mode", "tap");
                Host("ip", "address", "add", $"{network}.1/24", "dev", tap);
                Host("ip", "link", "set", "dev", tap, "up");
            }
            user = new EchoPeer(IPAddress.Loopback);
            direct = tapped ? new EchoPeer(IPAddress.Parse($"{network}.1")) : null;
            Ok(
            [
                "create", "debian", "--name", name, "--memory", "512M", "--cpus", $"{processors}", "--net", "user", .. tapped ? ["--net", $"tap={tap},address={network}.2"] : Array.Empty<string>(),
                "--disk", $"{virtio},bus=virtio,serial=LOAD-V", "--disk", $"{nvme},bus=nvme,serial=LOAD-N",
            ]);
            Ok("start", name);
            Ok("wait", name, "--for", "agent", "--timeout", "9m");
            Ok("exec", name, "sh", "-c", LoadScript.Replace("NETWORK", network, StringComparison.Ordinal), "sh", $"{user.Port}", direct is null ? "" : $"{direct.Port}");
            Await(() => user.Connections == 1 && direct is null or { Connections: 1 }, "the guest to connect");
            Assert.True(direct is null || $"{direct.From}" == $"{network}.2", $"not over the tap but from {direct?.From}");
            Exec("for i in $(seq 600); do [ $(pgrep -x -c fio) -ge 4 ] && break; sleep 0.2; done"); // each has a process for its job, later
            Check("begin");
            for (int round = 1; round <= rounds; round++)
            {
                long begin = Stopwatch.GetTimestamp();
                List<(string Title, double At)> steps = [];
                string told = $"seed {seed}, round {round}";
                (int users, int directs) = (user.Connections, direct?.Connections ?? 0);
                Step("save");
                Ok("save", name);
                Thread.Sleep(random.Next(1500));
                Step("restore");
                Ok("restore", name);
                Step("restored");
                Check($"{told}: restored");
                Await(() => user.Connections > users, $"{told}: the connection of the user network, which has ended, to be made again");
                Flows(user, user.Connections, $"{told}: user network after a restore");
                Flows(direct, directs, $"{told}: tap after a restore");
                users = user.Connections;

                Step("snapshot");
                Ok("snapshot", "create", name, "kept");
                Step("kept");
                Flows(user, users, $"{told}: user network after a snapshot");
                Flows(direct, directs, $"{told}: tap after a snapshot");
                Check($"{told}: kept");

                Step("pause");
                Ok("pause", name);
                Thread.Sleep(random.Next(1500));
                if (random.Next(3) == 0)
                {
                    Ok("snapshot", "create", name, "held"); // of a machine that stands still already
                    Ok("snapshot", "remove", name, "held");
                }
                Ok("resume", name);
                Step("resumed");
                Flows(user, users, $"{told}: user network after a pause");
                Flows(direct, directs, $"{told}: tap after a pause");
                Check($"{told}: resumed");

                Step("revert");
                Ok("snapshot", "revert", name, "kept");
                Step("reverted");
                Check($"{told}: brought back");
                Ok("snapshot", "remove", name, "kept");
                Exec("pkill -x perl"); // what its connections know of the other end is the future
                Await(() => user.Connections > users && (direct is null || direct.Connections > directs), $"{told}: the guest to connect again after it was brought back");
                Check($"{told}: end");
                Step("end");
                string line = $"{DateTime.Now:HH:mm:ss} {processors} CPUs, {told}:{string.Concat(steps.Select(step => $" {step.At:F1} {step.Title}"))} s";
                TestContext.Current.TestOutputHelper?.WriteLine(line);
                if (Environment.GetEnvironmentVariable("LODGE_LOAD_LOG") is { } log)
                {
                    File.AppendAllText(log, line + "\n");
                }

                void Step(string title) => steps.Add((title, Stopwatch.GetElapsedTime(begin).TotalSeconds));
            }
            Ok("stop", name, "--timeout", "9m");
            Ok("image", "check", virtio);
            Ok("image", "check", nvme);
            Ok("image", "check", Path.Combine(image.Folder, "lodge", "machines", name, "disk.qcow2"));
        }
        finally
        {
            (int status, string log, _) = image.Run("logs", name);
            TestContext.Current.TestOutputHelper?.WriteLine(status == 0 && log.Length > 4000 ? log[^4000..] : log);
            image.Run("remove", "--force", name);
            user?.Dispose();
            direct?.Dispose();
            if (tapped)
            {
                Host("ip", "link", "delete", "dev", tap);
            }
        }

        // The guest finds nothing wrong, its clock is right soon, and it writes to both disks.
        void Check(string when)
        {
            string[] first = Look(when);
            long virtioBefore = Number(first[2]), nvmeBefore = Number(first[3]);
            Await(
                () =>
                {
                    double before = Now();
                    string[] words = Look(when);
                    double time = double.Parse(words[1], CultureInfo.InvariantCulture);
                    return time >= before - 1 && time <= Now() + 1 && Number(words[2]) > virtioBefore && Number(words[3]) > nvmeBefore;
                },
                $"{when}: clock to be right and disks to be written: {string.Join(' ', first)} at {Now()}");
        }

        // A guest that works hard on a host that does may be slow to answer: the agent of one that hangs never does.
        string Exec(string script)
        {
            (int status, string output, string error) = (0, "", "");
            Await(
                () =>
                {
                    (status, output, error) = image.Run("exec", name, "sh", "-c", script);
                    return !error.Contains("guest agent did not answer", StringComparison.Ordinal) && !error.Contains("no guest agent answered", StringComparison.Ordinal);
                },
                "the guest's agent");
            Assert.True(status == 0, $"{script} ended with {status}: {output}{error}");
            return output;
        }

        string[] Look(string when)
        {
            string found = Exec(LoadCheck);
            Assert.True(found.StartsWith("at ", StringComparison.Ordinal), $"{when}: {found}");
            return found.Trim().Split(' ');
        }
    }

    private static double Now() => (DateTime.UtcNow - DateTime.UnixEpoch).TotalSeconds;

    private static long Number(string word) => long.Parse(word, CultureInfo.InvariantCulture);

    /// <summary>A connection is the one that it was, and bytes still come back, all of them right.</summary>
    private static void Flows(EchoPeer? peer, int connections, string told)
    {
        if (peer is null)
        {
            return;
        }
        long before = peer.Echoed;
        Await(() => peer.Echoed > before + (1 << 17), $"{told}: bytes to come back; {before} have");
        Assert.True(peer.Fault is null, $"{told}: {peer.Fault}");
        Assert.True(peer.Connections == connections, $"{told}: connection {peer.Connections}, was {connections}");
    }

    private static void Await(Func<bool> condition, string what)
    {
        long begin = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(begin) < TimeSpan.FromMinutes(4), $"waited in vain for {what}");
            Thread.Sleep(50);
        }
    }

    private static void Host(params string[] command)
    {
        using Process process = Process.Start(command[0], command[1..]);
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{string.Join(' ', command)} ended with {process.ExitCode}");
    }
}
