using Iced.Intel;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>Translated code never outlives the bytes that it was made of, whoever changes them and through whichever mapping.</summary>
public sealed unsafe class SelfModifyingCodeTests : IDisposable
{
    private const ulong Code = 0x40_0000, Function = 0x41_0000, Data = 0x50_0000, Stack = 0x60_0000;
    private readonly ExceptionGuest _guest = new(processors: 2);

    public SelfModifyingCodeTests()
    {
        _guest.MapFresh(Code, 0x4000);
        _guest.MapFresh(Function, 0x4000);
        _guest.MapFresh(Data, 0x4000);
        _guest.MapFresh(Stack, 0x2000);
    }

    public void Dispose() => _guest.Dispose();

    // Runs to the exit port; RAX.
    private ulong Run(bool interpret, ulong cr4 = 0)
    {
        _guest.Enter(64, false);
        _guest.B->Cr4 |= cr4;
        _guest.B->Rip = Code;
        _guest.B->Gpr[4] = Stack + 0x2000;
        _guest.Processor.ForceInterpret = interpret;
        Assert.Equal(-1, _guest.Run());
        return _guest.B->Gpr[0];
    }

    private static void Exit(Assembler a)
    {
        a.@out(0xF4, al);
        a.hlt();
    }

    private void ReturnValue(ulong at, int value) => _guest.Assemble(at, a =>
    {
        a.mov(eax, value);
        a.ret();
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AStoreIntoTheRunningBlockIsSeenByItsNextInstruction(bool interpret)
    {
        _guest.Assemble(Code, a =>
        {
            Label patched = a.CreateLabel();
            a.lea(rbx, __[patched]);
            a.mov(__byte_ptr[rbx + 1], 42);
            a.Label(ref patched);
            a.mov(eax, 1);
            Exit(a);
        });
        Assert.Equal(42UL, Run(interpret));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void APageThatWasWrittenBeforeItsCodeRanIsSeenToBeWrittenAfterwards(bool interpret)
    {
        ReturnValue(Function, 1);
        _guest.Assemble(Code, a =>
        {
            a.xor(esi, esi);
            a.mov(rbx, Function);
            for (int value = 3; value < 6; value++)
            {
                a.mov(__byte_ptr[rbx + 1], value);
                a.call(Function);
                a.imul(esi, esi, 10);
                a.add(esi, eax);
            }
            a.mov(eax, esi);
            Exit(a);
        });
        Assert.Equal(345UL, Run(interpret));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void APatchedLoopBodyCountsEveryPatch(bool interpret)
    {
        _guest.Assemble(Code, a =>
        {
            Label loop = a.CreateLabel(), body = a.CreateLabel();
            a.xor(eax, eax);
            a.mov(ecx, 300);
            a.lea(rbx, __[body]);
            a.Label(ref loop);
            a.mov(__dword_ptr[rbx + 1], ecx);
            a.jmp(body);
            a.nop();
            a.Label(ref body);
            a.add(eax, 0x11111111);
            a.dec(ecx);
            a.jnz(loop);
            Exit(a);
        });
        Assert.Equal(300UL * 301 / 2, Run(interpret));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AnInstructionThatCrossesPagesIsPatchedInItsSecondPage(bool interpret)
    {
        const ulong Crossing = Function + 0x1000 - 2;
        ReturnValue(Crossing, 7);
        _guest.Assemble(Code, a =>
        {
            Label loop = a.CreateLabel();
            a.xor(esi, esi);
            a.mov(ecx, 100);
            a.mov(rbx, Crossing);
            a.Label(ref loop);
            a.call(rbx);
            a.add(esi, eax);
            a.mov(__byte_ptr[rbx + 3], cl);
            a.dec(ecx);
            a.jnz(loop);
            a.mov(eax, esi);
            Exit(a);
        });
        // Byte 2 of the immediate becomes 100, 99, ... after each call.
        ulong expected = 7;
        for (ulong patched = 100; patched > 1; patched--)
        {
            expected += 7 + (patched << 16);
        }
        Assert.Equal(expected, Run(interpret));
    }

    [Fact]
    public void CodeThatWasGivenBackIsTranslatedAgain()
    {
        ReturnValue(Function, 5);
        _guest.Assemble(Code, a =>
        {
            a.call(Function);
            a.add(eax, 10);
            Exit(a);
        });
        Assert.Equal(15UL, Run(false));
        long before = _guest.Processor.Blocks.Translated;
        Assert.NotEqual(0, _guest.Processor.Blocks.Used);
        _guest.Processor.Blocks.Trim();
        Assert.Equal(0, _guest.Processor.Blocks.Used);
        Assert.Equal(15UL, Run(false));
        Assert.True(_guest.Processor.Blocks.Translated > before);
        ReturnValue(Function, 6);
        Assert.Equal(16UL, Run(false)); // stores are seen as before
    }

    [Fact]
    public void DataBesideCodeIsWrittenWithoutRetranslation()
    {
        _guest.Assemble(Code, a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, 10_000);
            a.mov(rbx, Code + 0x800);
            a.Label(ref loop);
            a.add(__qword_ptr[rbx], 3);
            a.dec(ecx);
            a.jnz(loop);
            a.mov(rax, __qword_ptr[rbx]);
            Exit(a);
        });
        long before = _guest.Processor.Blocks.Translated;
        Assert.Equal(30_000UL, Run(false));
        Assert.True(_guest.Processor.Blocks.Translated - before < 50);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AWriteByADeviceIsSeenAtTheNextCall(bool interpret)
    {
        ReturnValue(Function, 1);
        _guest.Processor.TryTranslateQuietly(Function + 1, out ulong physical);
        _guest.OnPort = (_, value) => _guest.Memory.TryWrite(physical, (uint)(value * 3));
        _guest.Assemble(Code, a =>
        {
            Label loop = a.CreateLabel();
            a.xor(esi, esi);
            a.mov(ecx, 100);
            a.mov(rbx, Function);
            a.Label(ref loop);
            a.call(rbx);
            a.add(esi, eax);
            a.mov(eax, ecx);
            a.@out(0x80, eax);
            a.dec(ecx);
            a.jnz(loop);
            a.mov(eax, esi);
            Exit(a);
        });
        Assert.Equal(1 + (3UL * ((100 * 101 / 2) - 1)), Run(interpret));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AStoreThroughAnotherMappingIsSeen(bool interpret)
    {
        const ulong Alias = 0x70_0000;
        ReturnValue(Function, 1);
        _guest.Processor.TryTranslateQuietly(Function, out ulong physical);
        _guest.Map(Alias, physical, 3);
        _guest.Assemble(Code, a =>
        {
            Label loop = a.CreateLabel();
            a.xor(esi, esi);
            a.mov(ecx, 200);
            a.mov(rbx, Function);
            a.mov(rdi, Alias + 1);
            a.Label(ref loop);
            a.call(rbx);
            a.add(esi, eax);
            a.mov(__dword_ptr[rdi], ecx);
            a.dec(ecx);
            a.jnz(loop);
            a.mov(eax, esi);
            Exit(a);
        });
        Assert.Equal(1 + (200UL * 201 / 2) - 1, Run(interpret));
    }

    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(false, true)]
    public void ARemappedPageIsExecutedAfterInvlpg(bool interpret, bool global)
    {
        const ulong Tables = 0x80_0000;
        ulong second = _guest.TakePage();
        ReturnValue(Function, 1);
        _guest.Processor.TryTranslateQuietly(Function, out ulong first);
        byte[] code = new byte[16];
        _guest.Memory.TryRead(first, code);
        code[1] = 100;
        _guest.Memory.TryWrite(second, code);
        ulong flags = global ? 0x163UL : 0x63;
        _guest.Map(Code, Physical(Code), flags);
        _guest.Map(Function, first, flags);
        ulong entry = _guest.EntryAddress(Function);
        _guest.Map(Tables, entry & ~0xFFFUL, 3);
        _guest.Assemble(Code, a =>
        {
            Label loop = a.CreateLabel();
            a.xor(esi, esi);
            a.mov(ecx, 50);
            a.mov(rdi, Tables + (entry & 0xFFF));
            a.mov(r8, first | flags);
            a.mov(r9, second | flags);
            a.mov(r10, Function);
            a.Label(ref loop);
            a.call(Function);
            a.add(esi, eax);
            a.mov(__qword_ptr[rdi], r9);
            a.invlpg(__[r10]);
            a.call(Function);
            a.add(esi, eax);
            a.mov(__qword_ptr[rdi], r8);
            a.invlpg(__[r10]);
            a.dec(ecx);
            a.jnz(loop);
            a.mov(eax, esi);
            Exit(a);
        });
        Assert.Equal(50UL * 101, Run(interpret, global ? 0x80UL : 0));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void CodeWrittenByAnotherProcessorIsSeenAfterItsFlag(bool interpret)
    {
        // Processor 1 patches the function and publishes the round; processor 0 waits for the round, serializes, calls and answers.
        const int Rounds = 300;
        ReturnValue(Function, 0);
        _guest.Assemble(Code, a =>
        {
            Label next = a.CreateLabel(), wait = a.CreateLabel();
            a.xor(esi, esi);
            a.mov(ebp, 1);
            a.mov(r8, Data);
            a.mov(r9, Function);
            a.Label(ref next);
            a.call(r9);
            a.Label(ref wait);
            a.cmp(__dword_ptr[r8], ebp);
            a.jne(wait);
            a.xor(eax, eax);
            a.cpuid();
            a.call(r9);
            a.add(esi, eax);
            a.mov(__dword_ptr[r8 + 64], ebp);
            a.inc(ebp);
            a.cmp(ebp, Rounds + 1);
            a.jne(next);
            a.mov(eax, esi);
            Exit(a);
        });
        _guest.Assemble(Code + 0x2000, a =>
        {
            Label next = a.CreateLabel(), wait = a.CreateLabel();
            a.mov(ebp, 1);
            a.mov(r8, Data);
            a.mov(r9, Function);
            a.Label(ref next);
            a.lea(eax, __[rbp + (rbp * 4)]);
            a.mov(__dword_ptr[r9 + 1], eax);
            a.mov(__dword_ptr[r8], ebp);
            a.Label(ref wait);
            a.cmp(__dword_ptr[r8 + 64], ebp);
            a.jne(wait);
            a.inc(ebp);
            a.cmp(ebp, Rounds + 1);
            a.jne(next);
            Label end = a.CreateLabel();
            a.Label(ref end);
            a.pause();
            a.jmp(end);
        });
        _guest.Enter(64, false, 1);
        var other = _guest.Partition.Vcpus[1];
        other.B->Activity = 0;
        other.B->Rip = Code + 0x2000;
        other.B->Gpr[4] = Stack + 0x1000;
        other.ForceInterpret = interpret;
        var thread = new Thread(() => other.RunLoop());
        thread.Start();
        try
        {
            Assert.Equal(5UL * Rounds * (Rounds + 1) / 2, Run(interpret));
        }
        finally
        {
            other.RequestStop();
            thread.Join();
        }
    }

    private ulong Physical(ulong linear)
    {
        Assert.True(_guest.Processor.TryTranslateQuietly(linear, out ulong physical));
        return physical;
    }
}
