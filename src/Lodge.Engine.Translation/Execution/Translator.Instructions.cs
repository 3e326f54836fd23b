using Iced.Intel;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

internal sealed unsafe partial class Translator
{
    /// <summary>Emits one instruction; true when it ended the block.</summary>
    private bool EmitInstruction(in Instruction i, Step step)
    {
        switch (step)
        {
            case Step.Nop:
                if (i.Code == Code.Pause)
                {
                    _e.Byte(0xF3);
                    _e.Byte(0x90);
                }
                return false;
            case Step.Copy or Step.CopyX87:
                EmitCopy(i, step == Step.CopyX87);
                return false;
            case Step.Lea:
                EmitLea(i);
                return false;
            case Step.Push:
                EmitPush(i);
                return false;
            case Step.Pop:
                EmitPop(i);
                return false;
            case Step.Leave:
                SecureFlags();
                _e.Reg(_is64, 0x8B, Host.R14, Host.Rbp);
                EmitCheck(StackSize, false);
                _e.Mem(_is64, 0x8B, Host.R14, Host.R14, 0);
                _e.Mem(_is64, 0x8D, Host.R13, Host.Rbp, StackSize);
                _e.Mov(Host.Rbp, Host.R14);
                return false;
            case Step.Call:
                EmitPushReturn(i.NextIP);
                AdvanceRecipe();
                EmitDirectExit(i.NearBranchTarget);
                return true;
            case Step.CallIndirect:
                EmitBranchTarget(i);
                _e.Store(Host.R14, Field.Scratch0);
                EmitPushReturn(i.NextIP);
                _e.Load(Host.R14, Field.Scratch0);
                EmitJumpCacheProbe();
                return true;
            case Step.JumpIndirect:
                EmitBranchTarget(i);
                EmitJumpCacheProbe();
                return true;
            case Step.Return:
                NeedPackedFlags();
                At(_is64, 0x8B, Host.R14, EmitStackAccess(0, false));
                _e.Mem(_is64, 0x8D, Host.R13, Host.R13, StackSize + (i.OpCount > 0 ? i.Immediate16 : 0));
                EmitJumpCacheProbe();
                return true;
            case Step.Jump:
                EmitDirectExit(i.NearBranchTarget);
                return true;
            case Step.Conditional:
                NeedHostFlags();
                LeaveRecipe(BranchWantsRecipe());
                EmitExitJump(i.NearBranchTarget, ConditionNumber(i.ConditionCode));
                EmitExitJump(i.NextIP, -1);
                return true;
            case Step.Cli:
                SecureFlags();
                _e.Gs(false, 0x81, 4, Field.SystemFlags);
                _e.Int32(~0x200);
                return false;
            case Step.Sti:
                NeedPackedFlags();
                _e.Gs(false, 0x81, 1, Field.SystemFlags);
                _e.Int32(0x200);
                _e.CompareGs32(Field.InterruptPending, 0);
                _colds.Add(new Cold { Kind = ColdSti, From = _e.Jump(Cc.Ne), Value = i.NextIP });
                EmitDirectExit(i.NextIP);
                return true;
            case Step.Rdtsc:
                SecureFlags();
                _e.Byte(0x0F);
                _e.Byte(0x31);
                _e.Byte(0x48); // shl rdx, 32
                _e.Byte(0xC1);
                _e.Byte(0xE2);
                _e.Byte(32);
                _e.Reg(true, 0x0B, Host.Rax, Host.Rdx);
                _e.Gs(true, 0x03, Host.Rax, Field.TscOffset);
                _e.Mov(Host.Rdx, Host.Rax);
                _e.Byte(0x48); // shr rdx, 32
                _e.Byte(0xC1);
                _e.Byte(0xEA);
                _e.Byte(32);
                _e.Reg(false, 0x8B, Host.Rax, Host.Rax);
                return false;
            case Step.PushFlags:
                EmitPushFlags();
                return false;
            case Step.ReadSelector:
                EmitReadSelector(i);
                return false;
            case Step.RepeatString:
                {
                    NeedPackedFlags();
                    bool move = i.Op1Kind != OpKind.Register;
                    _e.Call(_cache.Stubs.Strings.Routine((int)(_mode & 3), i.MemorySize.GetSize(), move));
                    _e.Reg(false, 0x85, Host.R14, Host.R14);
                    byte* rest = _e.Jump(Cc.Ne);
                    _colds.Add(new Cold { Kind = ColdInterpret, From = rest, Back = _e.Here, Value = i.IP, Descriptor = (uint)i.Length });
                    return false;
                }
            case Step.SystemCall:
                NeedPackedFlags();
                _e.MovImmediate(Host.R14, i.IP);
                _e.Store(Host.R14, Field.Rip);
                _e.Lea(Host.R14, Host.R14, i.Length);
                _e.Store(Host.R14, Field.ExitTarget);
                EmitSystemCall(i.Mnemonic == Mnemonic.Syscall);
                return true;
            case Step.SwapGs:
                _e.Load(Host.R14, Field.SegmentBase(Seg.Gs));
                _e.Load(Host.R15, Field.KernelGsBase);
                _e.Store(Host.R14, Field.KernelGsBase);
                _e.Store(Host.R15, Field.SegmentBase(Seg.Gs));
                return false;
            case Step.InterpretLast:
                NeedPackedFlags();
                _e.MovImmediate(Host.R14, i.IP);
                _e.Store(Host.R14, Field.ExitTarget);
                _e.StoreImmediate64(Field.ExitInfo, ExitCode.InterpretAt);
                _e.JumpTo(_cache.Stubs.ExitPacked);
                return true;
            default:
                NeedPackedFlags();
                _e.MovImmediate(Host.R14, i.IP);
                _e.Store(Host.R14, Field.Rip);
                _e.MovImmediate(Host.R15, (ulong)i.Length);
                _e.Call(_cache.Stubs.Interpret);
                _x87Known = false;
                return false;
        }
    }

    // From the other level, or with supervisor accesses of another kind, C# does what remains, the faults among it.
    private void EmitSystemCall(bool enter)
    {
        if (enter ? (_mode & ModeBits.User) != 0 : (_mode & ModeBits.Supervisor) != 0 && (_mode & 3) == 0)
        {
            _e.JumpTo(enter ? _cache.Stubs.SystemCalls.Enter : _cache.Stubs.SystemCalls.Leave);
            return;
        }
        _e.StoreImmediate64(Field.ExitInfo, enter ? ExitCode.Syscall : ExitCode.Sysret);
        _e.JumpTo(_cache.Stubs.ExitPacked);
    }

    private int StackSize => _is64 ? 8 : 4;

    private void EmitCopy(in Instruction i, bool x87)
    {
        if (x87 && !_x87Known)
        {
            SecureFlags();
            _e.CompareGs32(Field.X87Loaded, 0);
            byte* from = _e.Jump(Cc.E);
            _colds.Add(new Cold { Kind = ColdX87, From = from, Back = _e.Here });
            _x87Known = true;
            Map();
        }
        int operand = Reencoder.MemoryOperand(i);
        bool bitString = false;
        HostAddress address = HostAddress.InR14;
        if (operand >= 0)
        {
            OpAccess access = MemoryAccess(i, operand);
            int size = i.MemorySize.GetSize();
            if (access == OpAccess.NoMemAccess || size == 0)
            {
                return;
            }
            bitString = Vcpu.IsBitString(i);
            if (bitString)
            {
                SecureFlags();
                EmitBitStringAccess(i, size, IsWrite(access));
                Reencoder.LoadBitOffset(_e, i);
            }
            else
            {
                address = EmitOperandAccess(i, size, IsWrite(access));
            }
        }
        if ((_effects[_current] & FlagEffects.Uses) != 0)
        {
            NeedHostFlags(operand >= 0);
        }
        Map();
        if (operand >= 0 && ComparesForBranch() is { })
        {
            _reencoder.EmitComparisonInR15(_e, i, address);
        }
        else
        {
            _reencoder.Emit(_e, i, bitString, address);
        }
        if (WritesFlags(_current))
        {
            _flags = FlagState.Host;
        }
    }

    // BT, BTS, BTR, BTC [mem], reg: the register selects the operand as well as the bit.
    private void EmitBitStringAccess(in Instruction i, int size, bool write)
    {
        EmitAddress(i);
        int number = Reencoder.Number(i.Op1Register);
        int source = Source(number, Host.R15);
        if (size == 2)
        {
            _e.Reg(true, 0x0FBF, Host.R15, source);
        }
        else if (size == 4)
        {
            _e.Reg(true, 0x63, Host.R15, source);
        }
        else
        {
            _e.Mov(Host.R15, source);
        }
        int shift = size == 2 ? 4 : size == 4 ? 5 : 6;
        _e.Byte(0x49); // sar r15, shift
        _e.Byte(0xC1);
        _e.Byte(0xFF);
        _e.Byte(shift);
        _e.MemIndex(_is64 && (i.MemoryBase == Register.None ? i.MemoryIndex : i.MemoryBase).GetSize() != 4, 0x8D, Host.R14, Host.R14, Host.R15, size, 0);
        EmitCheck(size, write);
    }

    private void EmitLea(in Instruction i)
    {
        int number = Reencoder.Number(i.Op0Register);
        int size = i.Op0Register.GetSize();
        int destination = number == 4 ? Host.R13 : number < 13 ? number : Host.R14;
        if (size == 8)
        {
            EmitOffset(i, destination);
        }
        else
        {
            EmitOffset(i, Host.R14);
            if (size == 4)
            {
                _e.Reg(false, 0x8B, destination, Host.R14);
            }
            else
            {
                if (number >= 13)
                {
                    _e.Mov(Host.R15, Host.R14);
                    _e.Load(Host.R14, Field.Gpr(number));
                    _e.Byte(0x66);
                    _e.Reg(false, 0x8B, Host.R14, Host.R15);
                }
                else
                {
                    _e.Byte(0x66);
                    _e.Reg(false, 0x8B, destination, Host.R14);
                }
            }
        }
        if (number >= 13)
        {
            _e.Store(Host.R14, Field.Gpr(number));
        }
    }

    private void EmitPush(in Instruction i)
    {
        int value = -1;
        if (i.Op0Kind == OpKind.Memory)
        {
            At(_is64, 0x8B, Host.R14, EmitOperandAccess(i, StackSize, false));
            _e.Store(Host.R14, Field.Scratch0);
        }
        HostAddress top = EmitStackAccess(-StackSize, true);
        if (i.Op0Kind == OpKind.Memory)
        {
            _e.Load(Host.R15, Field.Scratch0);
            value = Host.R15;
        }
        else if (i.Op0Kind == OpKind.Register)
        {
            value = Source(Reencoder.Number(i.Op0Register), Host.R15);
        }
        if (value >= 0)
        {
            At(_is64, 0x89, value, top);
        }
        else
        {
            At(_is64, 0xC7, 0, top);
            _e.Int32((int)i.GetImmediate(0));
        }
        _e.Mem(_is64, 0x8D, Host.R13, Host.R13, -StackSize);
    }

    // RFLAGS out of its two halves, without RF and VM (SDM vol. 2, PUSHF).
    private void EmitPushFlags()
    {
        NeedPackedFlags();
        _e.Load(Host.R14, Field.PackedFlags);
        _e.Mov(Host.R15, Host.R14);
        _e.Byte(0x41); // shr r15d, 8
        _e.Byte(0xC1);
        _e.Byte(0xEF);
        _e.Byte(8);
        _e.Immediate(false, 4, Host.R15, 0xD5);
        _e.Immediate(false, 4, Host.R14, 1);
        _e.Byte(0x41); // shl r14d, 11
        _e.Byte(0xC1);
        _e.Byte(0xE6);
        _e.Byte(11);
        _e.Reg(false, 0x0B, Host.R15, Host.R14);
        _e.Gs(true, 0x0B, Host.R15, Field.SystemFlags);
        _e.Immediate(true, 4, Host.R15, ~0x3_0000);
        _e.Store(Host.R15, Field.Scratch0);
        HostAddress top = EmitStackAccess(-8, true);
        _e.Load(Host.R15, Field.Scratch0);
        At(true, 0x89, Host.R15, top);
        _e.Lea(Host.R13, Host.R13, -8);
    }

    private void EmitReadSelector(in Instruction i)
    {
        int number = Reencoder.Number(i.Op0Register);
        int destination = number == 4 ? Host.R13 : number < 13 ? number : Host.R15;
        _e.Gs(false, 0x0FB7, destination, Field.SegmentSelector(i.Op1Register - Register.ES));
        if (number >= 13)
        {
            _e.Store(Host.R15, Field.Gpr(number));
        }
    }

    private void EmitPop(in Instruction i)
    {
        int number = Reencoder.Number(i.Op0Register);
        if (number == 4)
        {
            At(_is64, 0x8B, Host.R13, EmitStackAccess(0, false));
            return;
        }
        int destination = number < 13 ? number : Host.R15;
        At(_is64, 0x8B, destination, EmitStackAccess(0, false));
        if (number >= 13)
        {
            _e.Store(Host.R15, Field.Gpr(number));
        }
        _e.Mem(_is64, 0x8D, Host.R13, Host.R13, StackSize);
    }

    private void EmitPushReturn(ulong address)
    {
        HostAddress top = EmitStackAccess(-StackSize, true);
        if (!_is64 || (long)address == (int)address)
        {
            At(_is64, 0xC7, 0, top);
            _e.Int32((int)address);
        }
        else
        {
            _e.MovImmediate(Host.R15, address);
            At(true, 0x89, Host.R15, top);
        }
        _e.Mem(_is64, 0x8D, Host.R13, Host.R13, -StackSize);
    }

    /// <summary>Target of an indirect branch into R14; flags packed.</summary>
    private void EmitBranchTarget(in Instruction i)
    {
        NeedPackedFlags();
        if (i.Op0Kind == OpKind.Register)
        {
            int source = Source(Reencoder.Number(i.Op0Register), Host.R14);
            if (source != Host.R14)
            {
                _e.Reg(_is64, 0x8B, Host.R14, source);
            }
        }
        else
        {
            At(_is64, 0x8B, Host.R14, EmitOperandAccess(i, StackSize, false));
        }
    }

    private void EmitDirectExit(ulong target)
    {
        LeaveRecipe(WantsRecipe(target));
        EmitExitJump(target, -1);
    }

    /// <summary>A jump (conditional when <paramref name="condition"/> is not negative) that leads out until it is linked.</summary>
    private void EmitExitJump(ulong target, int condition)
    {
        int number = _cache.Exits.Count;
        byte* displacement = condition >= 0 ? _e.Jump(condition) : _e.Jump();
        _cache.Exits.Add(new BlockExit
        {
            Source = _block,
            Target = target,
            Displacement = displacement,
            Flags = _flags,
            Recipe = _flags == FlagState.Host && _recipe is { } recipe ? _cache.RecipeNumber(recipe) : 0,
            RecipeLeft = _stored,
            Back = target <= _instructions[_count - 1].IP,
            InterruptShadow = _steps[_count - 1] == Step.Sti,
            SamePage = ((target ^ _block.Rip) & ~0xFFFUL) == 0 && _block.SecondPage == ulong.MaxValue,
        });
        _colds.Add(new Cold { Kind = ColdExit, From = displacement, Value = (ulong)number, Flags = _flags });
    }

    private static int ConditionNumber(ConditionCode code) => code switch
    {
        ConditionCode.o => Cc.O,
        ConditionCode.no => Cc.No,
        ConditionCode.b => Cc.B,
        ConditionCode.ae => Cc.Ae,
        ConditionCode.e => Cc.E,
        ConditionCode.ne => Cc.Ne,
        ConditionCode.be => Cc.Be,
        ConditionCode.a => Cc.A,
        ConditionCode.s => Cc.S,
        ConditionCode.ns => Cc.Ns,
        ConditionCode.p => Cc.P,
        ConditionCode.np => Cc.Np,
        ConditionCode.l => Cc.L,
        ConditionCode.ge => Cc.Ge,
        ConditionCode.le => Cc.Le,
        _ => Cc.G,
    };
}
