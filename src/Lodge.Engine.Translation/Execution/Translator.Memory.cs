using Iced.Intel;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

internal sealed unsafe partial class Translator
{
    private readonly byte[] _accessByCode = new byte[IcedConstants.CodeEnumCount]; // 0 unknown, else OpAccess + 1

    private OpAccess MemoryAccess(in Instruction i, int operand)
    {
        ref byte cached = ref _accessByCode[(int)i.Code];
        if (cached == 0)
        {
            cached = (byte)((int)_reencoder.Access(i, operand) + 1);
        }
        return (OpAccess)(cached - 1);
    }

    private static bool IsWrite(OpAccess access) => access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;

    /// <summary>Host register that holds guest register <paramref name="number"/>, loading R13-R15 of the guest into <paramref name="scratch"/>.</summary>
    private int Source(int number, int scratch)
    {
        if (number == 4)
        {
            return Host.R13;
        }
        if (number < 13)
        {
            return number;
        }
        _e.Load(scratch, Field.Gpr(number));
        return scratch;
    }

    /// <summary>The address of a memory operand when it is a constant.</summary>
    private bool ConstantAddress(in Instruction i, out ulong address)
    {
        address = i.MemoryDisplacement64;
        bool constant = i.IsIPRelativeMemoryOperand || (i.MemoryBase == Register.None && i.MemoryIndex == Register.None);
        if (!_is64 || i.MemoryBase == Register.EIP)
        {
            address &= 0xFFFF_FFFF;
        }
        return constant && i.MemorySegment is not (Register.FS or Register.GS);
    }

    /// <summary>Linear address of the memory operand into R14; flags are lost only for FS and GS. Uses R15.</summary>
    private void EmitAddress(in Instruction i)
    {
        EmitOffset(i, Host.R14);
        if (i.MemorySegment is Register.FS or Register.GS)
        {
            _e.Gs(true, 0x03, Host.R14, Field.SegmentBase(i.MemorySegment == Register.FS ? Seg.Fs : Seg.Gs));
        }
    }

    /// <summary>Offset part of the memory operand into a host register, as LEA computes it. Flags kept. Uses R14 and R15.</summary>
    private void EmitOffset(in Instruction i, int destination)
    {
        if (i.IsIPRelativeMemoryOperand || (i.MemoryBase == Register.None && i.MemoryIndex == Register.None))
        {
            ulong address = i.MemoryDisplacement64;
            if (!_is64 || i.MemoryBase == Register.EIP)
            {
                address &= 0xFFFF_FFFF;
            }
            _e.MovImmediate(destination, address);
            return;
        }
        bool wide = i.MemoryBase != Register.None ? i.MemoryBase.GetSize() == 8 : i.MemoryIndex.GetSize() == 8;
        int displacement = (int)i.MemoryDisplacement64;
        int @base = i.MemoryBase == Register.None ? -1 : Source(Reencoder.Number(i.MemoryBase), Host.R14);
        if (i.MemoryIndex == Register.None)
        {
            if (displacement == 0)
            {
                if (destination != @base || !wide)
                {
                    _e.Reg(wide, 0x8B, destination, @base);
                }
            }
            else
            {
                _e.Mem(wide, 0x8D, destination, @base, displacement);
            }
            return;
        }
        int index = Source(Reencoder.Number(i.MemoryIndex), Host.R15);
        if (@base < 0)
        {
            _e.MemNoBase(wide, 0x8D, destination, index, i.MemoryIndexScale, displacement);
        }
        else
        {
            _e.MemIndex(wide, 0x8D, destination, @base, index, i.MemoryIndexScale, displacement);
        }
    }

    /// <summary>
    /// Makes the memory operand accessible: checks it (or the window that it belongs to) unless that was done; says where it is. Host flags are lost when a
    /// check is emitted, saved before when they matter. Uses R14 and R15.
    /// </summary>
    private HostAddress EmitOperandAccess(in Instruction i, int size, bool write)
    {
        if (_groups.OfMemory(_current) is { } group)
        {
            return EmitWindowAccess(group, Reencoder.Number(i.MemoryBase), (int)i.MemoryDisplacement64);
        }
        SecureFlags();
        if (ConstantAddress(i, out ulong address) && (address & 0xFFF) + (ulong)size <= 4096)
        {
            EmitConstantAccess(address, size, write);
            return HostAddress.InR14;
        }
        EmitAddress(i);
        EmitCheck(size, write);
        return HostAddress.InR14;
    }

    /// <summary>The same for a stack access at RSP + <paramref name="offset"/>.</summary>
    private HostAddress EmitStackAccess(int offset, bool write)
    {
        if (_groups.OfStack(_current) is { } group)
        {
            return EmitWindowAccess(group, 4, offset);
        }
        SecureFlags();
        if (offset == 0)
        {
            _e.Reg(_is64, 0x8B, Host.R14, Host.R13);
        }
        else
        {
            _e.Mem(_is64, 0x8D, Host.R14, Host.R13, offset);
        }
        EmitCheck(StackSize, write);
        return HostAddress.InR14;
    }

    private HostAddress EmitWindowAccess(AccessGroups.Group group, int number, int displacement)
    {
        int slot = Field.Windows + (group.Base * 8);
        if (group.Checked)
        {
            _e.Load(Host.R14, slot);
        }
        else
        {
            group.Checked = true;
            SecureFlags();
            int tlb = Field.TlbOf((int)(_mode & 3));
            int tag = tlb + (group.Write ? 8 : 0);
            int size = group.High - group.Low, start = group.Low - group.StackOffsetAtFirst;
            _e.Lea(Host.R14, Source(number, Host.R14), start);
            _e.Rorx(Host.R15, Host.R14, 12 - 5);
            _e.Immediate(false, 4, Host.R15, (ProcessorBlock.TlbEntries - 1) << 5);
            _e.GsIndex(true, 0x33, Host.R14, Host.R15, tag);
            _e.Immediate(true, 7, Host.R14, 4096 - size);
            byte* slow = _e.Jump(Cc.A);
            _e.GsIndex(true, 0x8B, Host.R14, Host.R15, tlb + 24);
            _colds.Add(new Cold
            {
                Kind = ColdWindow,
                From = slow,
                Back = _e.Here,
                TagOffset = tag,
                Base = number,
                PageOffset = start,
                Instruction = (ushort)_current,
                Source = SourceOf(_flags),
                Descriptor = AccessDescriptor.Make(size, group.Write, (int)(_mode & 3)) | AccessDescriptor.Window,
            });
            _e.Store(Host.R14, slot);
        }
        if (number >= 13)
        {
            _e.Load(Host.R15, Field.Gpr(number));
            _e.MemIndex(true, 0x8D, Host.R14, Host.R15, Host.R14, 1, displacement);
            return HostAddress.InR14;
        }
        return new HostAddress(number == 4 ? Host.R13 : number, true, displacement);
    }

    /// <summary>op reg, [address].</summary>
    private void At(bool wide, int opcode, int reg, HostAddress address)
    {
        if (address.HasIndex)
        {
            _e.MemIndex(wide, opcode, reg, address.Base, Host.R14, 1, address.Displacement);
        }
        else
        {
            _e.Mem(wide, opcode, reg, address.Base, address.Displacement);
        }
    }

    /// <summary>R14: linear address in, host address out.</summary>
    private void EmitCheck(int size, bool write)
    {
        int tlb = Field.TlbOf((int)(_mode & 3));
        int tag = tlb + (write ? 8 : 0);
        _e.Rorx(Host.R15, Host.R14, 12 - 5);
        _e.Immediate(false, 4, Host.R15, (ProcessorBlock.TlbEntries - 1) << 5);
        _e.GsIndex(true, 0x33, Host.R14, Host.R15, tag);
        _e.Immediate(true, 7, Host.R14, 4096 - size);
        byte* slow = _e.Jump(Cc.A);
        _e.GsIndex(true, 0x03, Host.R14, Host.R15, tlb + 16);
        _colds.Add(new Cold
        {
            Kind = ColdAccess,
            From = slow,
            Back = _e.Here,
            TagOffset = tag,
            Descriptor = AccessDescriptor.Make(size, write, (int)(_mode & 3)),
            Instruction = (ushort)_current,
            Source = SourceOf(_flags),
        });
    }

    private void EmitConstantAccess(ulong address, int size, bool write)
    {
        ulong page = address & ~0xFFFUL;
        int entry = Field.TlbOf((int)(_mode & 3)) + ((int)(page >> 12) & (ProcessorBlock.TlbEntries - 1)) * 32;
        if ((long)page == (int)page)
        {
            _e.Gs(true, 0x81, 7, entry + (write ? 8 : 0));
            _e.Int32((int)page);
        }
        else
        {
            _e.MovImmediate(Host.R14, page);
            _e.Gs(true, 0x3B, Host.R14, entry + (write ? 8 : 0));
        }
        byte* slow = _e.Jump(Cc.Ne);
        _e.Load(Host.R14, entry + 16);
        if ((address & 0xFFF) != 0)
        {
            _e.Lea(Host.R14, Host.R14, (int)(address & 0xFFF));
        }
        _colds.Add(new Cold
        {
            Kind = ColdConstantAccess,
            From = slow,
            Back = _e.Here,
            Value = address,
            Descriptor = AccessDescriptor.Make(size, write, (int)(_mode & 3)),
            Instruction = (ushort)_current,
            Source = SourceOf(_flags),
        });
    }

    private void EmitColds()
    {
        for (int k = 0; k < _colds.Count; k++)
        {
            Cold cold = _colds[k];
            _e.Bind(cold.From);
            switch (cold.Kind)
            {
                case ColdAccess:
                    MapTo(cold.Instruction, cold.Source);
                    _e.GsIndex(true, 0x33, Host.R14, Host.R15, cold.TagOffset);
                    _e.MovImmediate(Host.R15, cold.Descriptor);
                    _e.Call(_cache.Stubs.SlowAccess);
                    _e.JumpTo(cold.Back);
                    break;
                case ColdWindow:
                    MapTo(cold.Instruction, cold.Source);
                    _e.GsIndex(true, 0x33, Host.R14, Host.R15, cold.TagOffset);
                    _e.MovImmediate(Host.R15, cold.Descriptor);
                    _e.Call(_cache.Stubs.SlowAccess);
                    _e.Lea(Host.R15, Source(cold.Base, Host.R15), cold.PageOffset);
                    _e.Reg(true, 0x2B, Host.R14, Host.R15);
                    _e.JumpTo(cold.Back);
                    break;
                case ColdConstantAccess:
                    MapTo(cold.Instruction, cold.Source);
                    _e.MovImmediate(Host.R14, cold.Value);
                    _e.MovImmediate(Host.R15, cold.Descriptor);
                    _e.Call(_cache.Stubs.SlowAccess);
                    _e.JumpTo(cold.Back);
                    break;
                case ColdX87:
                    _e.Call(_cache.Stubs.LoadX87);
                    _e.JumpTo(cold.Back);
                    break;
                case ColdExit:
                    {
                        ref BlockExit exit = ref System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_cache.Exits)[(int)cold.Value];
                        exit.Cold = _e.Here;
                        if (exit.SamePage || exit.InterruptShadow || ((_mode & 1) == 0 && (_vcpu.B->Cr4 & (1UL << 7)) != 0))
                        {
                            _e.StoreImmediate64(Field.ExitInfo, (int)cold.Value);
                            _e.NoteFixup(FixupKind.Exit);
                            _e.JumpTo(cold.Flags == FlagState.Host ? _cache.Stubs.ExitHost : _cache.Stubs.ExitPacked);
                        }
                        else
                        {
                            if (cold.Flags == FlagState.Host)
                            {
                                Stubs.PackFlags(_e, Field.PackedFlags);
                            }
                            _e.MovImmediate(Host.R14, exit.Target);
                            EmitJumpCacheProbe();
                        }
                        break;
                    }
                case ColdPoll or ColdPollHost or ColdPollRecipe:
                    if (cold.Kind == ColdPollRecipe)
                    {
                        if (!_block.EntryObserved)
                        {
                            _e.Store(Host.R15, Field.EntryOperand); // for a fault, the jump to the block stores it
                        }
                        if (_block.EntryRecipe > 0)
                        {
                            _e.StoreImmediate32(Field.EntryRecipe, _block.EntryRecipe);
                        }
                    }
                    _e.MovImmediate(Host.R14, cold.Value);
                    _e.Store(Host.R14, Field.ExitTarget);
                    _e.StoreImmediate64(Field.ExitInfo, cold.Kind == ColdPollRecipe ? ExitCode.PollRecipe : ExitCode.Poll);
                    _e.JumpTo(cold.Kind == ColdPollHost ? _cache.Stubs.ExitHost : _cache.Stubs.ExitPacked);
                    break;
                case ColdIndirect:
                    Stubs.JumpCacheMissed(_e, JumpKey, _cache.Stubs.IndirectMiss);
                    break;
                case ColdInterpret:
                    _e.MovImmediate(Host.R14, cold.Value);
                    _e.Store(Host.R14, Field.Rip);
                    _e.MovImmediate(Host.R15, cold.Descriptor);
                    _e.Call(_cache.Stubs.Interpret);
                    _e.JumpTo(cold.Back);
                    break;
                case ColdSti:
                    _e.MovImmediate(Host.R14, cold.Value);
                    _e.Store(Host.R14, Field.ExitTarget);
                    _e.StoreImmediate64(Field.ExitInfo, ExitCode.Sti);
                    _e.JumpTo(_cache.Stubs.ExitPacked);
                    break;
            }
        }
    }

    /// <summary>Emits a jump through the jump cache to a known guest address, for use outside a block.</summary>
    public void EmitProbe(Emitter emitter, uint mode, ulong target, FlagState flags)
    {
        _e = emitter;
        _mode = mode;
        _colds.Clear();
        if (flags == FlagState.Host)
        {
            Stubs.PackFlags(_e, Field.PackedFlags);
        }
        _e.MovImmediate(Host.R14, target);
        EmitJumpCacheProbe();
        EmitColds();
    }

    /// <summary>Jumps to the guest address in R14 through the jump cache; flags must be packed.</summary>
    private void EmitJumpCacheProbe() =>
        _colds.Add(new Cold { Kind = ColdIndirect, From = Stubs.ProbeJumpCache(_e, JumpKey, _cache.Stubs.IndirectMiss) });

    private int JumpKey => (_mode & 1) != 0 ? Field.UserJumpKey : Field.SupervisorJumpKey;
}
