using Iced.Intel;
using Lodge.Engine.Kvm.Probing;
using Xunit;

namespace Lodge.Engine.Kvm.Tests.Probing;

/// <summary>The probing guest on the KVM of this host, whatever that is, and its programs against a decoder.</summary>
public sealed class KvmProbeTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(5);

    private static ProbeProgram Program(string name) => ProbePrograms.All.First(program => program.Name == name);

    private static ProbeResult Run(ProbeProgram program, TimeSpan? limit = null) => Assert.Single(KvmProbe.Run([program], limit ?? s_limit).Results);

    private static void RequireKvm() => Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");

    [Fact]
    public void Programs_have_names_of_their_own_and_end_in_reports()
    {
        Assert.Equal(ProbePrograms.All.Count, ProbePrograms.All.Select(program => program.Name).Distinct().Count());
        Assert.All(ProbePrograms.All, program =>
        {
            Assert.Equal(0xF4, program.Code[^1]); // hlt behind the last report
            Assert.All(program.Handlers, handler => Assert.InRange(handler.Offset, 1, program.Code.Length - 1));
        });
    }

    [Theory]
    [InlineData("xsave and xsetbv", Code.Xsetbv, Code.Xsave_mem)]
    [InlineData("cmpxchg16b", Code.Cmpxchg16b_m128)]
    [InlineData("movbe", Code.Movbe_r32_m32)]
    [InlineData("popcnt", Code.Popcnt_r32_rm32)]
    [InlineData("rdtscp", Code.Rdtscp)]
    [InlineData("stac and clac", Code.Stac, Code.Clac)]
    [InlineData("syscall and sysret", Code.Sysretq, Code.Wrmsr)]
    [InlineData("int3", Code.Int3, Code.Iretq)]
    [InlineData("vmcall", Code.Vmcall)]
    [InlineData("vmmcall", Code.Vmmcall)]
    [InlineData("paging", Code.Invlpg_m, Code.Mov_cr_r64)]
    [InlineData("AVX in ring 0", Code.VEX_Vaddps_ymm_ymm_ymmm256)]
    [InlineData("SSE in ring 0", Code.Movaps_xmmm128_xmm)]
    [InlineData("x87", Code.Fninit, Code.Fld1)]
    public void A_program_executes_what_it_is_named_for(string name, params Code[] instructions)
    {
        var decoder = Decoder.Create(64, Program(name).Code);
        List<Code> found = [];
        while (decoder.IP < (ulong)Program(name).Code.Length)
        {
            Instruction instruction = decoder.Decode();
            Assert.False(instruction.IsInvalid, $"{name} at {instruction.IP:x}");
            found.Add(instruction.Code);
        }
        Assert.Empty(instructions.Except(found));
    }

    [Fact]
    public void Ring_0_and_page_tables_of_a_small_guest_work()
    {
        RequireKvm();
        Assert.All((string[])["ring 0 in long mode", "paging", "local APIC timer"], name => Assert.Equal((name, ProbeOutcome.Passed, ""), (name, Run(Program(name)).Outcome, Run(Program(name)).Detail)));
    }

    [Fact]
    public void A_comparison_that_fails_is_told()
    {
        RequireKvm();
        Assert.Equal((ProbeOutcome.Failed, "wrong result at comparison 7"), Outcome([0xB0, 0x07, 0xE6, 0x11, 0xF4]));
    }

    [Fact]
    public void An_exception_that_nobody_expects_is_told()
    {
        RequireKvm();
        Assert.Equal((ProbeOutcome.Failed, "unexpected #UD"), Outcome([0x0F, 0x0B]));
        Assert.Equal((ProbeOutcome.Failed, "unexpected #PF"), Outcome([0x8B, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00])); // mov eax, [0x400000]
    }

    [Fact]
    public void A_program_that_does_not_end_is_ended()
    {
        RequireKvm();
        ProbeResult spinning = Run(new ProbeProgram("spin", "") { Code = [0xEB, 0xFE] }, TimeSpan.FromMilliseconds(50));
        Assert.Equal(ProbeOutcome.TimedOut, spinning.Outcome);
        ProbeResult halted = Run(new ProbeProgram("halt", "") { Code = [0xF4, 0xEB, 0xFD] }, TimeSpan.FromMilliseconds(50));
        Assert.Equal(ProbeOutcome.TimedOut, halted.Outcome);
        Assert.StartsWith("it does not end within", halted.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public void What_the_processor_does_not_offer_is_not_tried()
    {
        RequireKvm();
        var program = new ProbeProgram("never", "") { Code = [0x0F, 0x0B], Feature = new ProbeFeature(0x1FFF_FFFF, 'b', 3) };
        Assert.Equal(ProbeOutcome.NotOffered, Run(program).Outcome);
    }

    [Fact]
    public void Everything_is_tried_and_has_a_verdict()
    {
        RequireKvm();
        ProbeReport report = KvmProbe.Run();
        Assert.Equal(ProbePrograms.All.Count - 1, report.Results.Count); // vmcall or vmmcall
        Assert.All(report.Results, result => Assert.Equal(result.Outcome is ProbeOutcome.Failed or ProbeOutcome.TimedOut, result.Detail.Length != 0));
        Assert.Equal(report.Failures.Count == 0, report.Problem is null);
        if (Environment.GetEnvironmentVariable("LODGE_NESTED") == "1")
        {
            Assert.Null(report.Problem); // ./test --nested is a full KVM
        }
        TestContext.Current.TestOutputHelper?.WriteLine($"{report.Duration.TotalMilliseconds:f0} ms\n" + string.Join('\n', report.Results.Select(r => $"{r.Name}: {r.Outcome} {r.Detail}")));
    }

    [Fact]
    public void The_line_names_what_fails()
    {
        ProbeResult Result(string name, ProbeOutcome outcome) => new(name, "", outcome, "x");
        var report = new ProbeReport([Result("a", ProbeOutcome.Passed), Result("b", ProbeOutcome.Failed), Result("c", ProbeOutcome.TimedOut)], default, default);
        Assert.EndsWith("it fails at b, c", report.Problem, StringComparison.Ordinal);
        Assert.True(report.IsLasting);
        var many = new ProbeReport([.. "abcdef".Select(c => Result($"{c}", ProbeOutcome.Failed))], default, default);
        Assert.EndsWith("it fails at a, b, c and 3 more", many.Problem, StringComparison.Ordinal);
        Assert.False(new ProbeReport([Result("a", ProbeOutcome.TimedOut)], default, default).IsLasting);
        Assert.Null(new ProbeReport([Result("a", ProbeOutcome.NotOffered)], default, default).Problem);
    }

    private static (ProbeOutcome Outcome, string Detail) Outcome(byte[] code)
    {
        ProbeResult result = Run(new ProbeProgram("test", "") { Code = code });
        return (result.Outcome, result.Detail);
    }
}
