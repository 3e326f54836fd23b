using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// SYSCALL and SYSRETQ between 64-bit modes without leaving generated code (Intel SDM vol. 2). <see cref="ProcessorBlock.SystemCallMode"/> says
/// whether and with which mode the other side goes on; what is out of the ordinary (a fault, a trap, an interrupt that waits for IF) is left to C#.
/// </summary>
internal sealed class SystemCallStubs
{
    private const int TrapAndAlignment = 1 << 8 | 1 << 18, SysretFlags = 0x3C_7FD7;

    /// <summary>SYSCALL of CPL 3: flags packed, RIP in gs:[Rip], that of the next instruction in gs:[ExitTarget].</summary>
    public readonly unsafe byte* Enter;

    /// <summary>SYSRETQ of CPL 0 with supervisor accesses of the ordinary kind; the same.</summary>
    public readonly unsafe byte* Leave;

    /// <summary>Emits both.</summary>
    public unsafe SystemCallStubs(Emitter e, byte* exitPacked, byte* indirectMiss)
    {
        e.Align(16);
        Enter = e.Here;
        e.Gs(false, 0x8B, Host.R15, Field.SystemCallMode);
        e.Reg(false, 0x85, Host.R15, Host.R15);
        byte* slowEnter = e.Jump(Cc.E);
        ExchangeModes(e);
        e.Load(Host.Rcx, Field.ExitTarget);
        // R11: RFLAGS without RF, out of its two halves.
        e.Load(Host.R11, Field.PackedFlags);
        e.Mov(Host.R14, Host.R11);
        Shift(e, 5, Host.R11, 8);
        e.Immediate(false, 4, Host.R11, 0xD5);
        e.Immediate(false, 4, Host.R14, 1);
        Shift(e, 4, Host.R14, 11);
        e.Reg(false, 0x0B, Host.R11, Host.R14);
        e.Gs(true, 0x0B, Host.R11, Field.SystemFlags);
        e.Immediate(true, 4, Host.R11, ~0x1_0000);
        // RFLAGS AND NOT IA32_FMASK.
        e.Load(Host.R14, Field.SyscallMask);
        e.Reg(true, 0xF7, 2, Host.R14); // not
        e.Reg(true, 0x23, Host.R14, Host.R11);
        StoreFlags(e);
        e.Gs(false, 0x8B, Host.R14, Field.Star + 4);
        e.Immediate(false, 4, Host.R14, 0xFFFC);
        StoreSegments(e, 8, Vcpu.FlatCode64, Vcpu.FlatData);
        e.StoreImmediate32(Field.Cpl, 0);
        e.Load(Host.R14, Field.Lstar);
        Continue(e, Field.SupervisorJumpKey, indirectMiss);
        e.Bind(slowEnter);
        e.StoreImmediate64(Field.ExitInfo, ExitCode.Syscall);
        e.JumpTo(exitPacked);

        e.Align(16);
        Leave = e.Here;
        e.Mov(Host.R14, Host.Rcx); // canonical?
        Shift(e, 4, Host.R14, 16, true);
        Shift(e, 7, Host.R14, 16, true);
        e.Reg(true, 0x3B, Host.R14, Host.Rcx);
        byte* notCanonical = e.Jump(Cc.Ne);
        e.Reg(false, 0xF7, 0, Host.R11); // test
        e.Int32(TrapAndAlignment);
        byte* traps = e.Jump(Cc.Ne);
        e.CompareGs32(Field.InterruptPending, 0);
        byte* interrupt = e.Jump(Cc.Ne);
        e.Gs(false, 0x8B, Host.R15, Field.SystemCallMode);
        e.Reg(false, 0x85, Host.R15, Host.R15);
        byte* slowLeave = e.Jump(Cc.E);
        ExchangeModes(e);
        e.Mov(Host.R14, Host.R11);
        e.Immediate(false, 4, Host.R14, SysretFlags);
        StoreFlags(e);
        e.Gs(false, 0x0FB7, Host.R14, Field.Star + 6);
        e.Immediate(false, 0, Host.R14, 16);
        e.Immediate(false, 1, Host.R14, 3);
        StoreSegments(e, -8, Vcpu.FlatCode64 | Vcpu.UserDpl, Vcpu.FlatData | Vcpu.UserDpl);
        e.StoreImmediate32(Field.Cpl, 3);
        e.Mov(Host.R14, Host.Rcx);
        Continue(e, Field.UserJumpKey, indirectMiss);
        e.Bind(notCanonical);
        e.Bind(traps);
        e.Bind(interrupt);
        e.Bind(slowLeave);
        e.StoreImmediate64(Field.ExitInfo, ExitCode.Sysret);
        e.JumpTo(exitPacked);
    }

    // R15: the new mode.
    private static void ExchangeModes(Emitter e)
    {
        e.Gs(false, 0x8B, Host.R14, Field.Mode);
        e.Gs(false, 0x89, Host.R15, Field.Mode);
        e.Gs(false, 0x89, Host.R14, Field.SystemCallMode);
    }

    // RFLAGS in R14 into its two halves.
    private static unsafe void StoreFlags(Emitter e)
    {
        e.Reg(false, 0x8B, Host.R15, Host.R14);
        e.Immediate(false, 4, Host.R15, ~0x8D5);
        e.Immediate(false, 1, Host.R15, 2);
        e.Store(Host.R15, Field.SystemFlags);
        e.Reg(false, 0x8B, Host.R15, Host.R14);
        e.Immediate(false, 4, Host.R15, 0xD5);
        Shift(e, 4, Host.R15, 8);
        Shift(e, 5, Host.R14, 11);
        e.Immediate(false, 4, Host.R14, 1);
        e.MemIndex(true, 0x8D, Host.R15, Host.R15, Host.R14, 1, 0x200);
        e.Store(Host.R15, Field.PackedFlags);
    }

    // The selector of CS in R14, that of SS so much above it.
    private static void StoreSegments(Emitter e, int stack, uint codeAttributes, uint stackAttributes)
    {
        e.Gs16(0x89, Host.R14, Field.SegmentSelector(Seg.Cs));
        e.Immediate(false, 0, Host.R14, stack);
        e.Gs16(0x89, Host.R14, Field.SegmentSelector(Seg.Ss));
        e.StoreImmediate64(Field.SegmentBase(Seg.Cs), 0);
        e.StoreImmediate64(Field.SegmentBase(Seg.Ss), 0);
        e.StoreImmediate64(Field.SegmentLimit(Seg.Cs), -1);
        e.StoreImmediate64(Field.SegmentLimit(Seg.Ss), -1);
        e.StoreImmediate32(Field.SegmentLimit(Seg.Cs) + 4, (int)codeAttributes);
        e.StoreImmediate32(Field.SegmentLimit(Seg.Ss) + 4, (int)stackAttributes);
    }

    private static unsafe void Continue(Emitter e, int key, byte* indirectMiss)
    {
        byte* miss = Stubs.ProbeJumpCache(e, key, indirectMiss);
        e.Bind(miss);
        Stubs.JumpCacheMissed(e, key, indirectMiss);
    }

    // Group C1: /4 SHL, /5 SHR, /7 SAR.
    private static void Shift(Emitter e, int operation, int register, int count, bool wide = false)
    {
        e.Reg(wide, 0xC1, operation, register);
        e.Byte(count);
    }
}
