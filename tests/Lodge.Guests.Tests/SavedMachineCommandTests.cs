using System.Globalization;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>The verbs that save machines which are kept, as a user calls them.</summary>
[Collection("guests")]
public sealed partial class SavedMachineCommandTests : IDisposable
{
    // A guest that counts with its uptime; functions of the scripts.
    private const string Setting = """
        export XDG_DATA_HOME=$1
        lodge() { "$LODGE" "$@"; }
        LODGE=$0
        until_tick() { # name, number of ticks
            i=0
            while [ "$("$LODGE" logs "$1" | grep -c tick)" -lt "$2" ]; do
                i=$((i+1)); [ $i -lt 3000 ] || { echo "no tick $2"; exit 9; }
                sleep 0.1
            done
        }
        trap 'for m in $(ls "$XDG_DATA_HOME/lodge/machines" 2>/dev/null); do "$LODGE" stop --force $m; done >/dev/null 2>&1' EXIT
        make() { # name and options
            lodge create --name "$@" --no-sandbox --net none -- sh -c 'i=0; while :; do i=$((i+1)); read up idle </proc/uptime; echo tick $i $up $(cat /tmp/kept 2>/dev/null); usleep 200000; done' >/dev/null
        }
        set -e

        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-saved").FullName;

    [Fact]
    public void A_saved_machine_goes_on_where_it_was()
    {
        (int status, string output, string error) = LodgeProcess.Script(Setting + """
            make one --memory 256M
            lodge start one
            until_tick one 3
            lodge save one
            lodge list
            before=$(lodge logs one | grep -c tick)
            lodge save one && exit 1
            lodge restore one
            until_tick one $((before + 3))
            lodge pause one
            lodge save one
            lodge edit one --memory 320M
            lodge start one && exit 1
            lodge edit one --memory 256M
            lodge start one
            until_tick one $((before + 6))
            lodge save one
            lodge logs one >"$XDG_DATA_HOME/all"
            lodge start --fresh one
            lodge list
            lodge save one
            cat "$XDG_DATA_HOME/all"
            printf x | dd of="$XDG_DATA_HOME/lodge/machines/one/work/saved.lodge" bs=1 seek=40 conv=notrunc 2>/dev/null
            lodge restore one && exit 1
            lodge restore none-such && exit 1
            lodge start --fresh one
            lodge stop --force one
            lodge restore one && exit 1
            lodge remove one
            """, _folder);
        Assert.True(status == 0, $"{status}: {output}{error}");
        Assert.Matches(@"one +saved ", output);
        Assert.Matches(@"one +running ", output);
        MatchCollection ticks = Tick().Matches(output);
        Assert.True(ticks.Count >= 9, output);
        Assert.Equal(Enumerable.Range(1, ticks.Count), ticks.Select(m => int.Parse(m.Groups[1].Value, CultureInfo.InvariantCulture)));
        double[] times = [.. ticks.Select(m => double.Parse(m.Groups[2].Value, CultureInfo.InvariantCulture))];
        Assert.Equal(times.Order(), times);
        Assert.Contains("cannot go on where it was saved: saved state is of a machine with 268435456 bytes of memory; to let it boot instead: lodge start --fresh one", error, StringComparison.Ordinal);
        Assert.Contains("cannot go on where it was saved: the saved machine is damaged: its header", error, StringComparison.Ordinal);
        Assert.Contains("machine 'one' is not saved; to let it boot: lodge start one", error, StringComparison.Ordinal);
    }

    [Fact]
    public void Snapshots_are_made_gone_back_to_and_removed()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/qemu-img"), "qemu-img is missing: install the package qemu-utils");
        (int status, string output, string error) = LodgeProcess.Script(Setting + """
            disk=$XDG_DATA_HOME/d.qcow2
            lodge image create -f qcow2 "$disk" 16M >/dev/null
            # Its memory and its disk say the same, always.
            lodge create --name two --no-sandbox --net none --memory 256M --disk "$disk" -- sh -c 'i=0; while :; do
                i=$((i+1)); printf %08d $i >/tmp/kept; dd if=/tmp/kept of=/dev/vda conv=notrunc,fsync 2>/dev/null; [ "$(head -c 8 /dev/vda)" = "$(cat /tmp/kept)" ] || echo wrong
                echo tick $i; usleep 200000
                [ "$(head -c 8 /dev/vda)" = "$(printf %08d $i)" ] || echo wrong disk; done' >/dev/null
            lodge start two
            until_tick two 3
            lodge snapshot create two first --description 'a first one'
            first=$(lodge logs two | grep tick | tail -1)
            n=$(lodge logs two | grep -c tick)
            until_tick two $((n + 3))
            lodge snapshot create two second
            lodge snapshot create two disks --no-memory
            lodge snapshot create two first && exit 1
            echo "tree:"; lodge snapshot tree two
            lodge snapshot revert two first
            until_tick two 3
            lodge snapshot create two branch
            lodge snapshot remove two second
            lodge pause two
            lodge snapshot create two held
            echo "tree:"; lodge snapshot tree two
            lodge save two
            lodge snapshot create two saved
            lodge snapshot revert two saved
            n=$(lodge logs two | grep -c tick)
            until_tick two $((n + 2))
            lodge logs two
            mkdir "$XDG_DATA_HOME/lodge/machines/two/work/snapshots/0badc0de" # as one that was killed leaves it
            qemu-img snapshot -l -U "$disk" | grep -c lodge-
            lodge stop --force two
            qemu-img snapshot -c lodge-0badc0de "$disk"
            lodge snapshot revert two disks
            lodge list | grep stopped
            lodge snapshot revert two none && exit 1
            for s in first disks branch held; do lodge snapshot remove two $s; done
            lodge snapshot list two
            qemu-img snapshot -l "$disk" | grep -c lodge-
            qemu-img check -q "$disk"
            ls "$XDG_DATA_HOME/lodge/machines/two/work/snapshots" | wc -l
            lodge snapshot show two saved
            lodge remove two
            """, _folder);
        Assert.True(status == 0, $"{status}: {output}{error}");
        Assert.DoesNotContain("wrong", output, StringComparison.Ordinal);
        Assert.Contains("tree:\nfirst\n  second\n    disks *\n", output, StringComparison.Ordinal);
        Assert.Contains("tree:\nfirst\n  disks\n  branch\n    held *\n", output, StringComparison.Ordinal);
        Assert.Matches(@"(?m)^5$", output); // the disk has those that are there
        Assert.Matches(@"(?m)^two +stopped", output);
        Assert.Matches(@"(?m)^saved +[0-9a-f]{8} .* [0-9.]+M +", output);
        Assert.Matches(@"(?m)^1\n2$", output); // one on the disk; its folder and 'current'
        Assert.Contains("has a snapshot 'first' already", error, StringComparison.Ordinal);
        Assert.Contains("has no snapshot 'none'", error, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [GeneratedRegex(@"^tick (\d+) (\d+\.\d+)", RegexOptions.Multiline)]
    private static partial Regex Tick();
}
