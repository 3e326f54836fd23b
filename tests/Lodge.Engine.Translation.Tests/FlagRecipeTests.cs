using System.Globalization;
using Iced.Intel;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>
/// Arithmetic flags that nothing reads any more are right in T1 wherever the guest can see them: T0, which executes one instruction at a time on the
/// host, is the measure. LODGE_FLAG_ROUNDS sets the number of random programs.
/// </summary>
public sealed unsafe class FlagRecipeTests : IDisposable
{
    private const ulong Code = 0x4B0_0000, Data = 0x500_0000, Absent = 0x510_0000, Stack = 0x600_0000;
    private static readonly ulong[] Edges = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, long.MaxValue, 1UL << 63, ulong.MaxValue];
    private readonly ExceptionGuest _guest = new();
    private readonly Random _random = new(20261121);
    private ulong _at = Code;

    public FlagRecipeTests()
    {
        _guest.MapFresh(Code, 0x20_0000);
        _guest.MapFresh(Data, 0x1000);
        _guest.MapFresh(Stack - 0x2000, 0x2000);
        _guest.Enter(64, false);
    }

    public static TheoryData<string> Recipes => [.. Producers.Keys];

    // RAX and RDX (R14 and R13, XMM1 and XMM2) are operands. What is rebuilt, and not kept.
    private static readonly Dictionary<string, Action<Assembler>> Producers = new()
    {
        ["cmp r64, r64"] = a => a.cmp(rax, rdx),
        ["cmp r32, r32"] = a => a.cmp(eax, edx),
        ["cmp r16, r16"] = a => a.cmp(ax, dx),
        ["cmp r8, r8"] = a => a.cmp(al, dl),
        ["cmp r14, r13"] = a => a.cmp(r14, r13),
        ["cmp r64, imm8"] = a => a.cmp(rax, -3),
        ["cmp r32, imm32"] = a => a.cmp(eax, 0x1234_5678),
        ["cmp r8, imm"] = a => a.cmp(al, -128),
        ["test r64, r64"] = a => a.test(rax, rdx),
        ["test r8, imm"] = a => a.test(dl, 0x81),
        ["sub r64, r64"] = a => a.sub(rax, rdx),
        ["sub r32, r32"] = a => a.sub(eax, edx),
        ["sub r16, imm"] = a => a.sub(ax, 0x7FFF),
        ["sub r8, r8"] = a => a.sub(al, dl),
        ["sub rsp, imm"] = a => a.sub(rsp, 0x40),
        ["sub r14, r13"] = a => a.sub(r14d, r13d),
        ["sub same"] = a => a.sub(edx, edx),
        ["add r64, r64"] = a => a.add(rax, rdx),
        ["add r32, r32"] = a => a.add(eax, edx),
        ["add r16, r16"] = a => a.add(ax, dx),
        ["add r8, imm"] = a => a.add(dl, 0x70),
        ["add r15, imm"] = a => a.add(r14, -1),
        ["and r64, r64"] = a => a.and(rax, rdx),
        ["and r32, imm"] = a => a.and(eax, 0x8000_00FFu),
        ["or r16, r16"] = a => a.or(ax, dx),
        ["xor r8, r8"] = a => a.xor(al, dl),
        ["xor same"] = a => a.xor(eax, eax),
        ["xor r32, mem"] = a => a.xor(eax, __dword_ptr[rbx]),
        ["neg r64"] = a => a.neg(rax),
        ["neg r8"] = a => a.neg(dl),
        ["comisd"] = a => a.comisd(xmm1, xmm2),
        ["ucomiss"] = a => a.ucomiss(xmm1, xmm2),
        ["vucomisd"] = a => a.vucomisd(xmm1, xmm2),
    };

    // What destroys a recipe's inputs, or has no recipe: the flags are kept.
    public static TheoryData<string> Kept => [.. KeptPrograms.Keys];

    private static readonly Dictionary<string, Action<Assembler>> KeptPrograms = new()
    {
        ["cmp, then its left operand changes"] = a => { a.cmp(rax, rdx); a.mov(eax, 5); },
        ["cmp, then its right operand changes"] = a => { a.cmp(rax, rdx); a.lea(rdx, __[rdx + 1]); },
        ["cmp, then part of an operand changes"] = a => { a.cmp(rax, rdx); a.mov(ah, 7); },
        ["cmp, then an operand is loaded"] = a => { a.cmp(rax, rdx); a.mov(rdx, __[rbx]); },
        ["cmp, then an operand is popped"] = a => { a.cmp(rax, rdx); a.pop(rdx); },
        ["cmp of RSP, then a push"] = a => { a.cmp(rsp, rdx); a.push(rax); },
        ["sub, then the result changes"] = a => { a.sub(rax, rdx); a.bswap(rax); },
        ["xor, then exchanged"] = a => { a.xor(rax, rdx); a.xchg(rax, r8); },
        ["comisd, then an operand changes"] = a => { a.comisd(xmm1, xmm2); a.movaps(xmm2, xmm3); },
        ["vucomisd, then an operand changes by YMM"] = a => { a.vucomisd(xmm1, xmm2); a.vpxor(ymm1, ymm1, ymm1); },
        ["cmp r, mem"] = a => a.cmp(rax, __[rbx]),
        ["cmp r8, mem"] = a => a.cmp(dl, __byte_ptr[rbx + 3]),
        ["cmp mem, r16"] = a => a.cmp(__word_ptr[rbx], ax),
        ["cmp mem, r14"] = a => a.cmp(__[rbx], r14),
        ["cmp mem, rsp"] = a => a.cmp(__[rbx], rsp),
        ["cmp mem, ah"] = a => a.cmp(__[rbx], ah),
        ["test mem, imm"] = a => a.test(__byte_ptr[rbx + 1], 0x81),
        ["cmp mem of R14, imm"] = a => { a.mov(r14, rbx); a.cmp(__qword_ptr[r14], -7); },
        ["cmp mem of constant address"] = a => a.cmp(__qword_ptr[(long)Data + 0x10], rdx),
        ["cmp mem, imm"] = a => a.cmp(__dword_ptr[rbx], 5),
        ["add r, mem"] = a => a.add(rax, __[rbx]),
        ["add mem, r"] = a => a.add(__[rbx], rax),
        ["test mem, r"] = a => a.test(__[rbx], edx),
        ["add same"] = a => a.add(rax, rax),
        ["sub ah, dl"] = a => a.sub(ah, dl),
        ["adc"] = a => a.adc(rax, rdx),
        ["sbb same"] = a => a.sbb(eax, eax),
        ["inc"] = a => { a.cmp(rax, rdx); a.inc(rax); },
        ["dec"] = a => { a.add(rax, rdx); a.dec(edx); },
        ["shl"] = a => a.shl(rax, 3),
        ["shr by cl"] = a => { a.cmp(rax, rdx); a.shr(rax, cl); },
        ["imul"] = a => a.imul(rax, rdx),
        ["bt"] = a => { a.cmp(rax, rdx); a.bt(rdx, 5); },
        ["cmc"] = a => { a.cmp(rax, rdx); a.cmc(); },
        ["popcnt"] = a => a.popcnt(rax, rdx),
        ["xadd"] = a => a.xadd(rax, rdx),
        ["cmpxchg"] = a => a.cmpxchg(r8, rdx),
    };

    public static TheoryData<string> Observers => [.. Faults.Keys];

    private static readonly Dictionary<string, Action<Assembler>> Faults = new()
    {
        ["load"] = a => a.mov(r8, __[rsi]),
        ["store"] = a => a.mov(__byte_ptr[rsi + 5], r9b),
        ["read-modify-write"] = a => a.add(__[rsi], r9),
        ["constant address"] = a => a.mov(__qword_ptr[(long)Absent], r9),
        ["window, second access absent"] = a => { a.mov(r8, __[rdi]); a.mov(r8, __[rdi + 0x100]); },
        ["load after loads"] = a => { a.mov(r8, __[rbx]); a.mov(r9, __[rbx + 8]); a.mov(r8, __[rsi]); },
        ["misaligned vector"] = a => a.movaps(xmm4, __[rbx + 1]),
        ["vector exception"] = a => a.divsd(xmm5, xmm6),
        ["x87 load"] = a => a.fld(__qword_ptr[rsi]),
        ["pop"] = a => { a.mov(r8, rsp); a.mov(rsp, rsi); a.pop(r9); },
        ["push"] = a => { a.mov(rsp, rsi); a.push(r9); },
        ["leave"] = a => { a.mov(rbp, rsi); a.leave(); },
        ["segment base"] = a => a.mov(r8, __.fs[rsi]),
        ["rdtsc, then load"] = a => { a.mov(r10, rax); a.mov(r11, rdx); a.mov(r8, __[rsi]); },
        ["divide"] = a => { a.mov(r8, __[rbx]); a.div(r12); },
    };

    public void Dispose() => _guest.Dispose();

    [Theory]
    [MemberData(nameof(Recipes))]
    public void FaultShowsFlagsThatARecipeRebuilds(string producer)
    {
        foreach ((string observer, Action<Assembler> fault) in Faults)
        {
            long before = _guest.Processor.FlagsRebuilt;
            CheckStraight($"{producer}, {observer}", Producers[producer], fault);
            Assert.True(observer != "load" || _guest.Processor.FlagsRebuilt > before, $"the flags of {producer} were kept");
        }
    }

    [Theory]
    [MemberData(nameof(Kept))]
    public void FaultShowsFlagsThatNoRecipeRebuilds(string producer)
    {
        foreach ((string observer, Action<Assembler> fault) in Faults)
        {
            CheckStraight($"{producer}, {observer}", KeptPrograms[producer], fault);
        }
    }

    private void CheckStraight(string name, Action<Assembler> producer, Action<Assembler> fault) => Check(name, a =>
    {
        producer(a);
        fault(a);
        a.cmp(r9, r9);
    });

    /// <summary>The flags come from another block: over a branch, a jump, a call, a return; the first operations of this block change inputs or not.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void FaultShowsTheFlagsOfTheBlockBefore(bool changes)
    {
        foreach ((string name, Action<Assembler> producer) in Producers.Concat(KeptPrograms))
        {
            void Fault(Assembler a)
            {
                if (changes)
                {
                    a.lea(rax, __[rax + 1]);
                    a.mov(r14, rdx);
                    a.movaps(xmm1, xmm3);
                }
                a.mov(r8, __[rsi]);
                a.cmp(r9, r9);
            }
            Check($"{name}, taken or not", a =>
            {
                Label target = a.CreateLabel();
                producer(a);
                a.jb(target);
                a.lea(r10, __[r10 + 1]);
                a.Label(ref target);
                Fault(a);
            });
            Check($"{name}, jump", a =>
            {
                Label target = a.CreateLabel();
                producer(a);
                a.jmp(target);
                a.hlt();
                a.Label(ref target);
                Fault(a);
            });
            Check($"{name}, call", a =>
            {
                Label target = a.CreateLabel();
                producer(a);
                a.mov(rsp, Stack - 0x100);
                a.call(target);
                a.Label(ref target);
                Fault(a);
            });
            Check($"{name}, call that shares a check", a =>
            {
                Label target = a.CreateLabel();
                a.mov(rsp, Stack - 0x100);
                a.push(r8);
                producer(a);
                a.call(target);
                a.Label(ref target);
                Fault(a);
            });
            Check($"{name}, return", a =>
            {
                Label target = a.CreateLabel(), leaf = a.CreateLabel(), start = a.CreateLabel();
                a.mov(rsp, Stack - 0x100);
                a.jmp(start);
                a.Label(ref leaf);
                a.lea(r10, __[r10 + 1]);
                producer(a);
                a.mov(rsp, Stack - 0x108);
                a.ret();
                a.Label(ref start);
                a.call(leaf);
                Fault(a);
            });
        }
    }

    /// <summary>The flags come from the end of the loop whose head faults in one of its rounds.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void FaultInALoopShowsTheFlagsOfItsEnd(bool changes)
    {
        foreach ((string name, Action<Assembler> producer) in Producers.Concat(KeptPrograms))
        {
            Check($"{name}, loop", a =>
            {
                Label loop = a.CreateLabel(), next = a.CreateLabel();
                a.lea(rdi, __[rdi - 0x5F8]); // rounds enough for a loop to get a variant of its own
                a.Label(ref loop);
                if (changes)
                {
                    a.lea(rdx, __[rdx + 3]);
                }
                a.lea(rdi, __[rdi + 16]);
                a.mov(r8, __[rdi]);
                producer(a);
                a.js(loop);
                a.jmp(loop);
                a.Label(ref next);
                a.nop();
            });
        }
    }

    /// <summary>A recipe was left for a block that is then reached with packed flags, because its faulting access has not been the first.</summary>
    [Fact]
    public void FaultShowsPackedFlagsAfterARecipe()
    {
        foreach ((string name, Action<Assembler> producer) in Producers.Concat(KeptPrograms))
        {
            Check($"{name}, packed", a =>
            {
                Label join = a.CreateLabel(), again = a.CreateLabel();
                a.cmp(r11, r12);
                a.jp(join);
                a.jmp(join);
                a.Label(ref again);
                producer(a);
                a.mov(r8, __[rbx]);
                a.jb(join);
                a.nop();
                a.Label(ref join);
                a.mov(r10, __[rdi]);
                a.lea(rdi, __[rdi + 16]);
                a.add(r9, 3);
                a.jmp(again);
            });
        }
    }

    [Fact]
    public void RandomProgramsFaultWithTheSameFlags()
    {
        int rounds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FLAG_ROUNDS"), CultureInfo.InvariantCulture, out int value) ? value : 400;
        Action<Assembler>[] producers = [.. Producers.Values, .. KeptPrograms.Values];
        for (int number = 0; number < rounds; number++)
        {
            var random = new Random(number);
            Check($"program {number}", a =>
            {
                var blocks = new Label[random.Next(2, 7)];
                for (int i = 0; i < blocks.Length; i++)
                {
                    blocks[i] = a.CreateLabel();
                }
                Label last = a.CreateLabel();
                for (int i = 0; i < blocks.Length; i++)
                {
                    a.Label(ref blocks[i]);
                    a.lea(rdi, __[rdi + 8]); // at the end of its page soon
                    bool early = random.Next(2) == 0;
                    if (early)
                    {
                        a.mov(r10, __[rdi]);
                    }
                    for (int k = random.Next(5); k >= 0; k--)
                    {
                        switch (random.Next(6))
                        {
                            case 0:
                                a.mov(random.Next(2) == 0 ? r8 : rdx, __[rdi + (random.Next(5) * 8)]);
                                break;
                            case 1:
                                a.mov(__[rdi + (random.Next(5) * 8)], rax);
                                break;
                            case 2:
                                a.lea(rax, __[rdx + 5]);
                                break;
                            case 3:
                                a.mov(r13, r9);
                                break;
                            default:
                                producers[random.Next(producers.Length)](a);
                                break;
                        }
                    }
                    if (!early)
                    {
                        a.mov(__[rdi], r10);
                    }
                    a.mov(rsp, Stack - 0x300);
                    Label to = blocks[random.Next(blocks.Length)];
                    switch (random.Next(6))
                    {
                        case 0:
                            a.jb(to);
                            break;
                        case 1:
                            a.jle(to);
                            break;
                        case 2:
                            a.jp(to);
                            break;
                        case 3:
                            a.jmp(to);
                            break;
                        case 4:
                            a.lea(r11, __[to]);
                            a.jmp(r11);
                            break;
                    }
                }
                a.jmp(blocks[0]);
                a.Label(ref last);
                a.nop();
            });
        }
    }

    /// <summary>A loop is left between two rounds, as for an interrupt: the flags are those of its end.</summary>
    [Theory]
    [InlineData("cmp r64, r64")]
    [InlineData("sub r32, r32")]
    [InlineData("add r64, r64")]
    [InlineData("comisd")]
    [InlineData("add r, mem")]
    [InlineData("cmp mem, r16")]
    [InlineData("cmp r8, mem")]
    [InlineData("cmp mem, r14")]
    [InlineData("test mem, imm")]
    [InlineData("imul")]
    [InlineData("shl")]
    public void LeavingALoopShowsFlags(string producer)
    {
        _guest.Assemble(_at, a =>
        {
            Label loop = a.CreateLabel();
            a.xor(ecx, ecx);
            a.Label(ref loop);
            a.add(rcx, 1); // all are written before they are read
            a.mov(rax, rcx);
            a.imul(rdx, rcx, 0x1234_5677);
            a.mov(r12, rdx); // operands, for the comparison
            a.mov(__[rbx], rdx);
            a.cvtsi2sd(xmm1, rax);
            a.cvtsi2sd(xmm2, rdx);
            (Producers.GetValueOrDefault(producer) ?? KeptPrograms[producer])(a);
            a.jp(loop); // half of the rounds
            a.jmp(loop);
        });
        RegisterFile start = Operands();
        start.Gpr[1] = 0;
        start.Load(_guest.B);
        _guest.B->Rip = _at;
        _guest.Processor.ForceInterpret = false;
        for (int i = 0; i < 25; i++)
        {
            using var stopper = new Timer(_ => _guest.Processor.RequestStop(), null, 2, Timeout.Infinite);
            Assert.Equal(-2, _guest.Run());
            RegisterFile stopped = RegisterFile.Save(_guest.B);
            ulong rip = _guest.B->Rip;
            // T0 executes the same round from its beginning.
            _guest.Assemble(_at + 0x1000, a =>
            {
                (Producers.GetValueOrDefault(producer) ?? KeptPrograms[producer])(a);
                a.@out(0xF4, al);
                a.hlt();
            });
            if (stopped.Gpr[1] == 0)
            {
                continue; // before the first round
            }
            var again = new RegisterFile { Flags = 2 };
            stopped.Gpr.CopyTo(again.Gpr.AsSpan());
            stopped.Ymm.CopyTo(again.Ymm.AsSpan());
            again.Gpr[0] = stopped.Gpr[1];
            again.Gpr[2] = stopped.Gpr[12];
            again.Load(_guest.B);
            _guest.B->Rip = _at + 0x1000;
            _guest.Processor.ForceInterpret = true;
            _guest.Run();
            ulong expected = RegisterFile.Save(_guest.B).Flags;
            Assert.True(((expected ^ stopped.Flags) & RegisterFile.ArithmeticFlags) == 0, $"stopped at {rip:x} in round {stopped.Gpr[1]}: flags {stopped.Flags:x}, expected {expected:x}");
            _guest.Processor.ForceInterpret = false;
            stopped.Load(_guest.B);
            _guest.B->Rip = rip;
        }
    }

    private RegisterFile Operands()
    {
        var registers = new RegisterFile { Mxcsr = 0x1D80 | (uint)(_random.Next(2) * 0x40) }; // division by zero is not masked
        for (int i = 0; i < 16; i++)
        {
            registers.Gpr[i] = _random.Next(3) == 0 ? Edges[_random.Next(Edges.Length)] : (ulong)_random.NextInt64() << _random.Next(2);
        }
        registers.Gpr[13] = _random.Next(4) == 0 ? registers.Gpr[14] : registers.Gpr[13];
        registers.Gpr[2] = _random.Next(4) == 0 ? registers.Gpr[0] : registers.Gpr[2];
        registers.Gpr[3] = Data + 0x10;
        registers.Gpr[4] = Stack - 0x100;
        registers.Gpr[6] = Absent;
        registers.Gpr[7] = Data + 0xF80;
        registers.Gpr[12] = 0;
        registers.Flags = 2 | ((ulong)_random.NextInt64() & RegisterFile.ArithmeticFlags);
        registers.X87[0] = 0x7F;
        registers.X87[1] = 3;
        double[] values = [0, -0.0, 1, 1.5, double.NaN, double.PositiveInfinity, double.Epsilon, -double.Epsilon, BitConverter.UInt64BitsToDouble(0x0000_0001_0000_0001)];
        for (int i = 1; i <= 3; i++)
        {
            BitConverter.TryWriteBytes(registers.Ymm.AsSpan(i * 32), values[_random.Next(values.Length)]);
        }
        BitConverter.TryWriteBytes(registers.Ymm.AsSpan(5 * 32), 1.0);
        return registers;
    }

    /// <summary>Runs a program that faults (or comes to its end) with several operands in T0, and twice in T1: the second time its blocks are linked.</summary>
    private void Check(string name, Action<Assembler> program)
    {
        _at = _at > Code + 0x1F_0000 ? Code : (_at + 0x1FF) & ~0xFFUL;
        _guest.Assemble(_at, a =>
        {
            program(a);
            a.@out(0xF4, al);
            a.hlt();
        });
        byte[] data = new byte[0x1000];
        for (int i = 0; i < 5; i++)
        {
            RegisterFile start = Operands();
            _random.NextBytes(data);
            if (_random.Next(2) == 0)
            {
                BitConverter.TryWriteBytes(data.AsSpan(0x10), start.Gpr[0]);
            }
            (int vector0, RegisterFile end0) = Run(start, data, true);
            for (int again = 0; again < 2; again++)
            {
                (int vector1, RegisterFile end1) = Run(start, data, false);
                Assert.True(vector0 == vector1, $"{name}: exception {vector0} in T0, {vector1} in T1");
                Assert.True(end0.Difference(end1) is null, $"{name} (T0 / T1 run {again}, exception {vector0}): {end0.Difference(end1)}");
            }
        }
    }

    private (int Vector, RegisterFile End) Run(RegisterFile start, byte[] data, bool interpret)
    {
        _guest.Write(Data, data);
        start.Load(_guest.B);
        _guest.B->Rip = _at;
        _guest.Processor.ForceInterpret = interpret;
        int vector = _guest.Run();
        RegisterFile end = RegisterFile.Save(_guest.B);
        if (vector >= 0)
        {
            var frame = _guest.Frame(vector);
            (end.Gpr[4], end.Flags) = (frame.Rsp, frame.Flags);
        }
        return (vector, end);
    }
}
