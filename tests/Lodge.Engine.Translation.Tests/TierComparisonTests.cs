using Iced.Intel;
using Lodge.Engine.Translation.Lockstep;
using Lodge.Engine.Translation.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>The comparison of T0 with T1 while a guest runs, which LODGE_LOCKSTEP switches on: what it finds, and what it found in kernels.</summary>
public sealed unsafe class TierComparisonTests
{
    private const ulong Code = 0x40_0000, Data = 0x50_0000, Stack = 0x60_0000;

    [Theory]
    [InlineData("1")]
    [InlineData("chains:1:0")]
    public void RandomProgramsDoNotDiverge(string setting)
    {
        using ExceptionGuest guest = Guest(setting);
        for (int number = 1; number <= 30; number++)
        {
            guest.Assemble(Code, new ProgramGenerator(number).Write);
            guest.B->Gpr[1] = 6;
            guest.B->Gpr[3] = Data;
            guest.B->Gpr[4] = Stack - 0x100;
            guest.B->Rip = Code;
            guest.Run();
        }
        TierComparison comparison = guest.Processor.Comparison!;
        Assert.Equal(0, comparison.Divergences);
        Assert.True(setting[0] == 'c' ? comparison.Chains > 30 : comparison.Blocks > 300, $"{comparison.Blocks} blocks, {comparison.Chains} chains");
        Assert.True(comparison.Instructions > 300);
    }

    /// <summary>T1 goes by a TLB entry that the guest changed without INVLPG, T0 by the tables: what a wrong load looks like.</summary>
    [Theory]
    [InlineData("1")]
    [InlineData("chains:1:0")]
    public void DifferenceInARegisterIsReported(string setting) => Planted(setting, "RSI: T0 22, T1 11", a => a.mov(rsi, __[rbx]));

    [Theory]
    [InlineData("1")]
    [InlineData("chains:1:0")]
    public void DifferenceInMemoryIsReported(string setting) => Planted(setting, "memory at physical", a =>
    {
        a.mov(rsi, __[rbx]);
        a.mov(__[rbx + 0x1000], rsi);
        a.xor(esi, esi);
    });

    [Theory]
    [InlineData("1")]
    [InlineData("chains:1:0")]
    public void DifferenceInFlagsIsReported(string setting) => Planted(setting, "flags", a => a.cmp(__qword_ptr[rbx], 0x11));

    [Theory]
    [InlineData("1")]
    [InlineData("chains:1:0")]
    public void DifferenceInAVectorIsReported(string setting) => Planted(setting, "YMM5", a => a.movq(xmm5, __qword_ptr[rbx]));

    private static void Planted(string setting, string report, Action<Assembler> access)
    {
        using ExceptionGuest guest = Guest(setting);
        guest.Processor.TryTranslateQuietly(Data, out ulong first);
        guest.Processor.TryTranslateQuietly(Data + 0x1000, out ulong second);
        guest.Memory.TryWrite(first, 0x11UL);
        guest.Memory.TryWrite(second, 0x22UL);
        ulong entry = guest.EntryAddress(Data);
        guest.Memory.TryRead(entry, out ulong mapping);
        guest.OnPort = (_, _) => guest.Memory.TryWrite(entry, second | (mapping & 0xFFF));
        guest.Assemble(Code, a =>
        {
            Label behind = a.CreateLabel();
            a.mov(rbx, Data);
            a.mov(rax, __[rbx]);
            a.mov(__[rbx + 0x1000], rax);
            a.mov(__qword_ptr[rbx + 0x1000], 0x22);
            a.@out(0x80, al); // the page-table entry changes
            a.jmp(behind);
            a.Label(ref behind);
            access(a);
            a.@out(0xF4, al);
        });
        guest.B->Rip = Code;
        EngineFailure failure = Assert.Throws<EngineFailure>(() => guest.Run());
        Assert.Contains("diverge", failure.Message, StringComparison.Ordinal);
        Assert.Contains(report, failure.Message, StringComparison.Ordinal);
    }

    /// <summary>A kernel that patches the routine that copies the patch (Linux's memcpy): T0 is to see the code as it was.</summary>
    [Fact]
    public void CodeThatOverwritesItselfIsNoDivergence()
    {
        using ExceptionGuest guest = Guest("1");
        guest.Assemble(Code + 0x800, a => a.jmp(Code + 0x20));
        guest.Assemble(Code, a =>
        {
            a.mov(rdi, Code);
            a.mov(rsi, Code + 0x800);
            a.mov(ecx, 2);
            a.rep.movsb();
            a.mov(eax, 1);
            a.@out(0xF4, al);
        });
        guest.B->Rip = Code;
        Assert.Equal(-1, guest.Run());
        Assert.Equal(0, guest.Processor.Comparison!.Divergences);
    }

    /// <summary>IRET may set RF, which lasts one instruction: an interrupt later must not find it.</summary>
    [Theory]
    [InlineData("1")]
    [InlineData("chains:1:0")]
    public void ResumeFlagEndsInTranslatedCode(string setting)
    {
        using ExceptionGuest guest = Guest(setting);
        guest.Assemble(Code, a =>
        {
            Label target = a.CreateLabel(), next = a.CreateLabel();
            a.mov(rbp, rsp);
            a.push(0x18);
            a.push(rbp);
            a.push(0x1_0002); // RF
            a.push(0x10);
            a.lea(rax, __[target]);
            a.push(rax);
            a.iretq();
            a.Label(ref target);
            a.mov(eax, 1);
            a.jmp(next);
            a.Label(ref next);
            a.mov(eax, 2);
            a.@out(0xF4, al);
        });
        guest.B->Rip = Code;
        Assert.Equal(-1, guest.Run());
        Assert.Equal(0, guest.Processor.Comparison!.Divergences);
    }

    [Theory]
    [InlineData("x")]
    [InlineData("1:2:3:4")]
    [InlineData("chains:")]
    [InlineData("-1")]
    public void OtherSettingsAreRefused(string setting)
    {
        using var memory = new Memory.GuestMemory(1 << 20);
        Assert.Throws<ArgumentException>(() => new TierComparison(memory, setting));
    }

    private static ExceptionGuest Guest(string setting)
    {
        var guest = new ExceptionGuest();
        guest.MapFresh(Code, 0x1000);
        guest.MapFresh(Data, 0x3000);
        guest.MapFresh(Stack - 0x2000, 0x2000);
        guest.Enter(64, false);
        guest.B->Gpr[4] = Stack;
        guest.Processor.Comparison = new TierComparison(guest.Memory, setting);
        return guest;
    }
}
