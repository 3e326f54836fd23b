using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests.Harness;

/// <summary>
/// Makes random programs that end: blocks of integer, vector, stack and memory instructions with flags live between them, joined by forward, backward,
/// indirect jumps and calls. RBX addresses two data pages, RCX counts the backward jumps that are left (by LEA and JRCXZ, which leave flags alone).
/// </summary>
internal sealed class ProgramGenerator(int seed)
{
    private static readonly AssemblerRegister64[] Wide = [rax, rdx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    private static readonly AssemblerRegister32[] Narrow = [eax, edx, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];
    private static readonly AssemblerRegister16[] Words = [ax, dx, bp, si, di, r8w, r9w, r10w, r11w, r12w, r13w, r14w, r15w];
    private static readonly AssemblerRegister8[] Bytes = [al, dl, bpl, sil, dil, r8b, r9b, r10b, r11b, r12b, r13b, r14b, r15b];
    private static readonly AssemblerRegister8[] HighBytes = [ah, dh];
    private static readonly AssemblerRegisterXMM[] Vectors = [xmm0, xmm1, xmm2, xmm3, xmm8, xmm9, xmm14, xmm15];

    private readonly Random _random = new(seed);
    private Assembler _a = null!;

    /// <summary>Writes the program; it ends with OUT to the exit port.</summary>
    public void Write(Assembler assembler)
    {
        _a = assembler;
        int count = _random.Next(3, 14);
        var blocks = new Label[count];
        for (int i = 0; i < count; i++)
        {
            blocks[i] = _a.CreateLabel();
        }
        Label exit = _a.CreateLabel(), leaf = _a.CreateLabel(), start = _a.CreateLabel();
        _a.jmp(start);
        _a.Label(ref leaf);
        for (int i = _random.Next(4); i >= 0; i--)
        {
            Step();
        }
        _a.ret();
        _a.Label(ref start);
        _a.nop();
        for (int i = 0; i < count; i++)
        {
            _a.Label(ref blocks[i]);
            for (int k = _random.Next(7); k >= 0; k--)
            {
                Step();
            }
            if (_random.Next(4) == 0)
            {
                _a.call(leaf);
            }
            int target = _random.Next(count);
            Label to = target > i ? blocks[target] : i + 1 < count ? blocks[i + 1] : exit;
            switch (_random.Next(5))
            {
                case 0 when target <= i:
                    _a.lea(rcx, __[rcx - 1]);
                    _a.jrcxz(exit);
                    Conditional(blocks[target]);
                    break;
                case 1:
                    Conditional(to);
                    break;
                case 2:
                    AssemblerRegister64 register = Wide[_random.Next(Wide.Length)];
                    _a.lea(register, __[to]);
                    _a.jmp(register);
                    break;
                case 3 when target <= i:
                    _a.lea(rcx, __[rcx - 1]);
                    _a.jrcxz(exit);
                    _a.jmp(blocks[target]);
                    break;
            }
        }
        _a.Label(ref exit);
        _a.@out(0xF4, al);
        _a.hlt();
    }

    private void Conditional(Label to)
    {
        switch (_random.Next(12))
        {
            case 0: _a.jo(to); break;
            case 1: _a.jno(to); break;
            case 2: _a.jb(to); break;
            case 3: _a.jae(to); break;
            case 4: _a.je(to); break;
            case 5: _a.jne(to); break;
            case 6: _a.jbe(to); break;
            case 7: _a.js(to); break;
            case 8: _a.jp(to); break;
            case 9: _a.jl(to); break;
            case 10: _a.jle(to); break;
            default: _a.jg(to); break;
        }
    }

    private int Pick => _random.Next(Wide.Length);

    // [rbx + small index + displacement]; the index register is masked without touching flags.
    private AssemblerMemoryOperand Memory()
    {
        int displacement = _random.Next(8) == 0 ? 0x1000 - _random.Next(1, 9) : _random.Next(0, 0x1E00);
        if (_random.Next(3) == 0)
        {
            AssemblerRegister64 index = Wide[Pick];
            _a.movzx(index, Bytes[Array.IndexOf(Wide, index)]);
            return __[rbx + (index * 2) + (displacement & 0x17FF)];
        }
        return __[rbx + displacement];
    }

    private void Step()
    {
        AssemblerRegister64 a = Wide[Pick], b = Wide[Pick];
        AssemblerRegister32 c = Narrow[Pick], d = Narrow[Pick];
        AssemblerRegister8 e = _random.Next(5) == 0 ? HighBytes[_random.Next(2)] : Bytes[Pick];
        switch (_random.Next(42))
        {
            case 0: _a.add(a, b); break;
            case 1: _a.adc(c, d); break;
            case 2: _a.sub(c, _random.Next()); break;
            case 3: _a.sbb(a, b); break;
            case 4: _a.xor(c, d); break;
            case 5: _a.and(a, _random.Next(-128, 128)); break;
            case 6: _a.cmp(a, b); break;
            case 7: _a.test(c, d); break;
            case 8: _a.inc(a); break;
            case 9: _a.dec(c); break;
            case 10: _a.neg(Words[Pick]); break;
            case 11: _a.not(a); break;
            case 12: _a.shl(a, (byte)_random.Next(70)); break;
            case 13: _a.sar(c, cl); break;
            case 14: _a.rcl(a, (byte)_random.Next(5)); break;
            case 15: _a.ror(Words[Pick], (byte)_random.Next(20)); break;
            case 16: _a.imul(a, b); break;
            case 17: _a.setl(e); break;
            case 18: _a.cmovb(a, b); break;
            case 19: _a.movzx(c, e is var h && (h == ah || h == dh) ? al : e); break;
            case 20: _a.lea(a, __[b + (Wide[Pick] * 4) + _random.Next(1000)]); break;
            case 21: _a.xchg(a, b); break;
            case 22: _a.mov(a, Memory()); break;
            case 23: _a.mov(Memory(), a); break;
            case 24: _a.add(c, Memory()); break;
            case 25: _a.adc(Memory(), a); break;
            case 26: _a.cmp(__byte_ptr[Memory()], (sbyte)_random.Next(-128, 128)); break;
            case 27: _a.inc(__word_ptr[Memory()]); break;
            case 28: _a.@lock.xadd(Memory(), c); break;
            case 29: _a.movdqu(Vectors[_random.Next(8)], Memory()); break;
            case 30: _a.movdqu(Memory(), Vectors[_random.Next(8)]); break;
            case 31: _a.paddd(Vectors[_random.Next(8)], Vectors[_random.Next(8)]); break;
            case 32: _a.ptest(Vectors[_random.Next(8)], Vectors[_random.Next(8)]); break;
            case 33: _a.push(a); Quiet(); _a.pop(b); break;
            case 34: _a.stc(); break;
            case 35: _a.cmc(); break;
            case 36: _a.bt(a, (byte)_random.Next(64)); break;
            case 37: _a.popcnt(a, b); break;
            case 38: _a.pushfq(); _a.pop(a); _a.and(a, 0x8D5); break;
            case 39: _a.lahf(); break;
            case 40: _a.vpxor(ymm1, ymm2, ymm1); break;
            default: _a.mov(a, (ulong)_random.NextInt64()); break;
        }
    }

    private void Quiet()
    {
        if (_random.Next(2) == 0)
        {
            _a.bswap(Wide[Pick]);
        }
    }
}
