using Lodge.Cli.Run;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>Exit statuses of machines that ended by themselves, for a kernel of the user's own.</summary>
public class RunOutcomeTests
{
    private static RunOutcome Explain(MachineOutcome outcome, string serial = "")
    {
        RunPlan plan = new(BootSource.FromBytes("kernel", Array.Empty<byte>()), [], "", null, false, []);
        using RunConsole console = new(plan, false, new RunEnd());
        console.PanicWatch.Observe(System.Text.Encoding.ASCII.GetBytes(serial));
        return RunSession.Explain(outcome, console.PanicReason, console.AwaitsCommand);
    }

    [Fact]
    public void A_failure_of_the_engine_is_203_with_its_first_line() =>
        Assert.Equal(new RunOutcome(203, "the engine failed, please report it: first"), Explain(new MachineOutcome(MachineOutcomeKind.EngineFailure, 0, "first\nsecond")));

    [Fact]
    public void A_reset_right_after_a_panic_message_is_a_panic()
    {
        const string Panic = "[    1.0] Kernel panic - not syncing: no \x1b[1minit\r\n";
        var reset = new MachineOutcome(MachineOutcomeKind.Reset);
        Assert.Equal(new RunOutcome(202, "the guest's kernel panicked: no [1minit"), Explain(reset, Panic + string.Concat(Enumerable.Repeat("trace\n", 100))));
        Assert.Equal(200, Explain(reset, Panic + string.Concat(Enumerable.Repeat("it went on\n", 400))).Status); // shown by a program, say
        Assert.Equal(200, Explain(reset, "Kernel panic\n").Status);
        Assert.Equal(0, Explain(new MachineOutcome(MachineOutcomeKind.PowerOff), Panic).Status);
    }
}
