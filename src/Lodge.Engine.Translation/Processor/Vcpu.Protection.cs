using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

internal sealed unsafe partial class Vcpu
{
    /// <summary>
    /// Far transfers, interrupts by software and their return, fast system calls, segment registers and descriptor tables.
    /// </summary>
    /// <returns>False: the instruction is none of these.</returns>
    /// <exception cref="GuestFault">The instruction faults; nothing has changed (a task switch past its point of no return excepted).</exception>
    internal bool TryExecuteProtection(in Instruction instruction)
    {
        switch (instruction.Code)
        {
            case Code.Jmp_ptr1616:
                FarJump(instruction.FarBranchSelector, instruction.FarBranch16);
                return true;
            case Code.Jmp_ptr1632:
                FarJump(instruction.FarBranchSelector, instruction.FarBranch32);
                return true;
            case Code.Jmp_m1616 or Code.Jmp_m1632 or Code.Jmp_m1664:
                ulong jump = ReadFarPointer(instruction, FarPointerSize(instruction.Code), out ushort jumpSelector);
                FarJump(jumpSelector, jump);
                return true;
            case Code.Call_ptr1616:
                FarCall(instruction.FarBranchSelector, instruction.FarBranch16, 2);
                return true;
            case Code.Call_ptr1632:
                FarCall(instruction.FarBranchSelector, instruction.FarBranch32, 4);
                return true;
            case Code.Call_m1616 or Code.Call_m1632 or Code.Call_m1664:
                int size = FarPointerSize(instruction.Code);
                ulong call = ReadFarPointer(instruction, size, out ushort callSelector);
                FarCall(callSelector, call, size);
                return true;
            case Code.Retfw or Code.Retfw_imm16:
                FarReturn(2, ReleasedBytes(instruction));
                return true;
            case Code.Retfd or Code.Retfd_imm16:
                FarReturn(4, ReleasedBytes(instruction));
                return true;
            case Code.Retfq or Code.Retfq_imm16:
                FarReturn(8, ReleasedBytes(instruction));
                return true;
            case Code.Iretw:
                InterruptReturn(2);
                return true;
            case Code.Iretd:
                InterruptReturn(4);
                return true;
            case Code.Iretq:
                InterruptReturn(8);
                return true;
            case Code.Int_imm8:
                DeliverSoftwareInterrupt(instruction.Immediate8);
                return true;
            case Code.Int3:
                DeliverSoftwareTrap(Vector.Breakpoint);
                return true;
            case Code.Into:
                if ((Rflags & 0x800) != 0)
                {
                    DeliverSoftwareTrap(Vector.Overflow);
                }
                return true;
            case Code.Int1:
                DeliverPrivilegedSoftwareException();
                return true;
            case Code.Syscall:
                EnterSyscall(B->NextRip);
                return true;
            case Code.Sysretd or Code.Sysretq:
                LeaveSyscall(instruction.Code == Code.Sysretq);
                return true;
            case Code.Sysenter:
                EnterSysenter();
                return true;
            case Code.Sysexitd or Code.Sysexitq:
                LeaveSysenter(instruction.Code == Code.Sysexitq);
                return true;
            default:
                return TryExecuteSegmentInstruction(instruction);
        }
    }

    private bool TryExecuteSegmentInstruction(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Mov when instruction.Code is Code.Mov_rm16_Sreg or Code.Mov_r32m16_Sreg or Code.Mov_r64m16_Sreg
                or Code.Mov_Sreg_rm16 or Code.Mov_Sreg_r32m16 or Code.Mov_Sreg_r64m16:
                ExecuteMoveSegment(instruction);
                return true;
            case Mnemonic.Push when instruction.Op0Kind == OpKind.Register && instruction.Op0Register.IsSegmentRegister():
                ExecutePushSegment(instruction.Op0Register, -instruction.StackPointerIncrement);
                return true;
            case Mnemonic.Pop when instruction.Op0Kind == OpKind.Register && instruction.Op0Register.IsSegmentRegister():
                ExecutePopSegment(instruction.Op0Register, instruction.StackPointerIncrement);
                return true;
            case Mnemonic.Les:
                ExecuteLoadFarPointer(instruction, Seg.Es);
                return true;
            case Mnemonic.Lds:
                ExecuteLoadFarPointer(instruction, Seg.Ds);
                return true;
            case Mnemonic.Lfs:
                ExecuteLoadFarPointer(instruction, Seg.Fs);
                return true;
            case Mnemonic.Lgs:
                ExecuteLoadFarPointer(instruction, Seg.Gs);
                return true;
            case Mnemonic.Lss:
                ExecuteLoadFarPointer(instruction, Seg.Ss);
                return true;
            case Mnemonic.Lgdt or Mnemonic.Lidt:
                int bytes = instruction.Code switch
                {
                    Code.Lgdt_m1632_16 or Code.Lidt_m1632_16 => 3,
                    Code.Lgdt_m1632 or Code.Lidt_m1632 => 4,
                    _ => 8,
                };
                ExecuteLoadTable(instruction, instruction.Mnemonic == Mnemonic.Lidt, bytes);
                return true;
            case Mnemonic.Sgdt or Mnemonic.Sidt:
                ExecuteStoreTable(instruction, instruction.Mnemonic == Mnemonic.Sidt);
                return true;
            case Mnemonic.Lldt:
                ExecuteLoadLdt(instruction);
                return true;
            case Mnemonic.Ltr:
                ExecuteLoadTask(instruction);
                return true;
            case Mnemonic.Sldt or Mnemonic.Str:
                RequireProtectedMode();
                RefuseUnderUmip();
                WriteSelector(instruction, instruction.Mnemonic == Mnemonic.Sldt ? B->Ldtr.Selector : B->Tr.Selector);
                return true;
            case Mnemonic.Lar or Mnemonic.Lsl:
                ExecuteInspect(instruction, instruction.Mnemonic == Mnemonic.Lsl);
                return true;
            case Mnemonic.Verr or Mnemonic.Verw:
                ExecuteVerify(instruction, instruction.Mnemonic == Mnemonic.Verw);
                return true;
            case Mnemonic.Arpl:
                ExecuteAdjustRpl(instruction);
                return true;
            default:
                return false;
        }
    }

    private static int FarPointerSize(Code code) => code switch
    {
        Code.Jmp_m1616 or Code.Call_m1616 => 2,
        Code.Jmp_m1632 or Code.Call_m1632 => 4,
        _ => 8,
    };

    // 0 without an immediate.
    private static ushort ReleasedBytes(in Instruction instruction) => instruction.OpCount == 0 ? (ushort)0 : instruction.Immediate16;
}
