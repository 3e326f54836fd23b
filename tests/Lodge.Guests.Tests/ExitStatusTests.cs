using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Guests.Tests;

/// <summary>The exit statuses of docs/running.md that <see cref="CommandTests"/> does not show. 203 cannot be brought about by a guest, see RunOutcomeTests.</summary>
[Collection("guests")]
public class ExitStatusTests
{
    private static void Forever(Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.hlt();
        a.jmp(again);
    }

    private static (int Status, string Output, string Error) Run(Action<Assembler> program, double timeout = 120, params string[] arguments)
    {
        using SmallGuest guest = new(program);
        return LodgeProcess.Run(["run", "--kernel", guest.Path, "--timeout", timeout.ToString(System.Globalization.CultureInfo.InvariantCulture), .. arguments]);
    }

    private static void AssertEnd(int status, string line, (int Status, string Output, string Error) run)
    {
        Assert.Equal(status, run.Status);
        Assert.StartsWith(line, run.Error, StringComparison.Ordinal);
        Assert.Equal(line.Length == 0 ? 0 : 1, run.Error.Count(c => c == '\n'));
    }

    [Fact]
    public void Triple_fault_is_201() => AssertEnd(201, "lodge: triple fault on CPU 0", Run(a =>
    {
        a.push(0);
        a.push(0);
        a.lidt(__[esp]);
        a.ud2();
    }));

    [Fact]
    public void Resets_are_200()
    {
        AssertEnd(200, "lodge: the guest reset the machine", Run(a =>
        {
            a.mov(dx, 0xCF9);
            a.mov(al, 6);
            a.@out(dx, al);
            Forever(a);
        }));
        AssertEnd(200, "lodge: the guest reset the machine", Run(a =>
        {
            a.mov(al, 0xFE);
            a.@out(0x64, al);
            Forever(a);
        }));
    }

    [Fact]
    public void Power_off_of_a_kernel_of_ones_own_is_0() => AssertEnd(0, "", Run(a =>
    {
        a.mov(dx, 0x604);
        a.mov(eax, 0x3400);
        a.@out(dx, ax);
        Forever(a);
    }));

    [Fact]
    public void A_panic_told_to_pvpanic_is_202() => AssertEnd(202, "lodge: the guest's kernel panicked", Run(a =>
    {
        a.mov(dx, 0x505);
        a.mov(al, 1);
        a.@out(dx, al);
        Forever(a);
    }));

    [Fact]
    public void A_panic_seen_on_the_serial_port_is_202()
    {
        Assert.Equal(0, LodgeProcess.Run(["run", "--", "true"]).Status); // the kernel is there now
        (int status, string output, string error) = LodgeProcess.Script(
            "c=${XDG_CACHE_HOME:-$HOME/.cache}/lodge; exec \"$0\" run --timeout 240 --kernel \"$c/$(cat \"$c/default\")/vmlinuz\" --append 'console=ttyS0 panic=-1'");
        Assert.Contains("Kernel panic - not syncing", output, StringComparison.Ordinal);
        Assert.Equal(202, status);
        Assert.Contains("the guest's kernel panicked: VFS: Unable to mount root fs", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(21, 43)]
    [InlineData(0x1FF, 0xFF)]
    public void Debug_exit_is_the_value_twice_and_one(int value, int status) => AssertEnd(status, "", Run(
        a =>
        {
            a.mov(eax, value);
            a.@out(0xF4, eax);
            Forever(a);
        },
        120,
        "--debug-exit"));

    [Fact]
    public void Timeout_is_124() => AssertEnd(124, "lodge: the machine was still running after 0.5 s", Run(Forever, 0.5));

    [Fact]
    public void A_kernel_that_cannot_be_loaded_is_1_and_wrong_usage_2()
    {
        AssertEnd(1, "lodge: ", LodgeProcess.Run(["run", "--kernel", "/nonexistent"]));
        AssertEnd(1, "lodge: '/dev/null' is not", LodgeProcess.Run(["run", "--kernel", "/dev/null"]));
        Assert.Equal(2, LodgeProcess.Run(["run", "--cpus", "256"]).Status);
        Assert.Equal(2, LodgeProcess.Run(["run", "--"]).Status);
    }

    [Theory]
    [InlineData("INT", 130)]
    [InlineData("TERM", 143)]
    [InlineData("HUP", 129)]
    [InlineData("QUIT", 131)]
    public void Signals_are_128_and_their_number(string signal, int status)
    {
        // The guest tells that it runs, so that the signal finds the handlers in place.
        using SmallGuest guest = new(a =>
        {
            a.mov(dx, 0x3F8);
            a.mov(al, (byte)'\n');
            a.@out(dx, al);
            Forever(a);
        });
        AssertEnd(status, $"lodge: ended by SIG{signal}", LodgeProcess.Script(
            """
            pipe=$(mktemp -u); mkfifo "$pipe"
            env --default-signal "$0" run --kernel "$1" --timeout 120 >"$pipe" </dev/null &
            read -r _ <"$pipe"
            rm "$pipe"
            kill -s "$2" $!
            wait $!
            """,
            guest.Path,
            signal));
    }

    [Fact]
    public void A_reader_that_goes_away_is_141()
    {
        (int status, string output, string error) = LodgeProcess.Script(
            "{ \"$0\" run -- sh -c 'while echo line; do :; done'; echo $? >&2; } | head -n 1");
        Assert.Equal((0, "line\n"), (status, output));
        Assert.EndsWith("141\n", error, StringComparison.Ordinal);
    }

    [Fact]
    public void Leaving_with_the_key_is_204()
    {
        if (LodgeProcess.Script("command -v script").Status != 0)
        {
            Assert.Skip("script is missing: install the package bsdutils");
        }
        using SmallGuest guest = new(Forever);
        (int status, string output, _) = LodgeProcess.Script("while printf '\\035'; do sleep 0.2; done 2>/dev/null | script -qec \"$0 run --kernel $1 --timeout 120\" /dev/null", guest.Path);
        Assert.Contains("left with Ctrl-]", output, StringComparison.Ordinal);
        Assert.Equal(204, status);
    }
}
