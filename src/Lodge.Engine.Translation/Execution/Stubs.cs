using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// The fixed pieces of machine code at the start of each vCPU's code cache: entering and leaving generated code, the slow path of memory accesses,
/// lazy x87 state. Convention between blocks: general registers RAX-R12 (without RSP) hold the guest's, R13 the guest's RSP, guest R13-R15 are in
/// the processor block, R14 and R15 are scratch, RSP is the host's stack, GS base the processor block.
/// </summary>
internal sealed unsafe class Stubs
{
    /// <summary>Enter(block, code): runs generated code until an exit; guest flags must be packed.</summary>
    public readonly delegate* unmanaged<ProcessorBlock*, byte*, void> Enter;

    /// <summary>Leaves with the guest flags in host RFLAGS.</summary>
    public readonly byte* ExitHost;

    /// <summary>Leaves with the guest flags already packed.</summary>
    public readonly byte* ExitPacked;

    /// <summary>Slow memory access: R14 linear address, R15 descriptor (see <see cref="AccessDescriptor"/>); returns the host address in R14 or leaves.</summary>
    public readonly byte* SlowAccess;

    /// <summary>Loads x87 state into the host's registers; flags are lost.</summary>
    public readonly byte* LoadX87;

    /// <summary>Lets C# execute the instruction at the RIP in gs:[Rip] (size in R15) and goes on behind it, or leaves. Flags packed before and after.</summary>
    public readonly byte* Interpret;

    /// <summary>Indirect jump to the address in R14 that the jump cache does not have; flags packed.</summary>
    public readonly byte* IndirectMiss;

    /// <summary>Moves x87 state from the host's registers to memory; callable from C# on the vCPU thread while it is loaded.</summary>
    public readonly delegate* unmanaged[SuppressGCTransition]<void> SaveX87;

    /// <summary>REP MOVS and REP STOS.</summary>
    public readonly StringStubs Strings;

    /// <summary>SYSCALL and SYSRETQ.</summary>
    public readonly SystemCallStubs SystemCalls;

    /// <summary>First address for translated blocks.</summary>
    public readonly byte* End;

    private static ReadOnlySpan<byte> Identity => [Host.Rax, Host.Rcx, Host.Rdx, Host.Rbx, Host.Rbp, Host.Rsi, Host.Rdi, Host.R8, Host.R9, Host.R10, Host.R11, Host.R12];

    private static ReadOnlySpan<byte> CallerSaved => [Host.Rax, Host.Rcx, Host.Rdx, Host.Rsi, Host.Rdi, Host.R8, Host.R9, Host.R10, Host.R11];

    private static ReadOnlySpan<byte> CalleeSaved => [Host.Rbp, Host.Rbx, Host.R12, Host.R13, Host.R14, Host.R15];

    /// <summary>Emits the stubs.</summary>
    public Stubs(CodeMemory memory, delegate* unmanaged<ProcessorBlock*, ulong, uint, ulong, ulong> slowAccess, delegate* unmanaged<ProcessorBlock*, uint, ulong> interpret)
    {
        var e = new Emitter();
        e.Begin(memory, memory.Execute);

        byte* enter = e.Here;
        foreach (byte register in CalleeSaved)
        {
            Push(e, register);
        }
        e.Immediate(true, 5, Host.Rsp, 8);
        e.Store(Host.Rsp, Field.HostRsp);
        e.Mov(Host.R14, Host.Rsi);
        LoadState(e);
        e.Byte(0x41);
        e.Byte(0xFF);
        e.Byte(0xE6); // jmp r14
        Enter = (delegate* unmanaged<ProcessorBlock*, byte*, void>)enter;

        e.Align(16);
        byte* faultExit = e.Here;
        PackFlags(e, Field.FaultFlags);
        e.StoreImmediate64(Field.ExitInfo, ExitCode.HostFault);
        byte* toPacked = e.Jump();

        e.Align(16);
        ExitHost = e.Here;
        PackFlags(e, Field.PackedFlags);
        e.Bind(toPacked);
        ExitPacked = e.Here;
        SaveState(e);
        byte* exitTail = e.Here;
        // x87 back to memory when it was used.
        e.CompareGs32(Field.X87Loaded, 0);
        byte* noX87 = e.Jump(Cc.E);
        e.MovImmediate(Host.Rax, 1);
        e.Reg(false, 0x33, Host.Rdx, Host.Rdx);
        SaveX87Registers(e);
        e.StoreImmediate32(Field.X87Loaded, 0);
        e.Bind(noX87);
        e.Load(Host.Rsp, Field.HostRsp);
        e.Immediate(true, 0, Host.Rsp, 8);
        for (int i = CalleeSaved.Length - 1; i >= 0; i--)
        {
            Pop(e, CalleeSaved[i]);
        }
        e.Byte(0xC3);
        FaultExitAddress = faultExit;

        e.Align(16);
        SlowAccess = e.Here;
        foreach (byte register in CallerSaved)
        {
            e.Store(register, Field.Gpr(register));
        }
        SaveVectors(e);
        e.Load(Host.Rdi, Field.Self);
        e.Mov(Host.Rsi, Host.R14);
        e.Reg(false, 0x8B, Host.Rdx, Host.R15);
        e.Mem(true, 0x8B, Host.Rcx, Host.Rsp, 0);
        e.Immediate(true, 5, Host.Rsp, 8);
        e.MovAddress(Host.Rax, slowAccess);
        e.Byte(0xFF);
        e.Byte(0xD0); // call rax
        e.Immediate(true, 0, Host.Rsp, 8);
        e.Mov(Host.R14, Host.Rax);
        LoadVectors(e);
        foreach (byte register in CallerSaved)
        {
            e.Load(register, Field.Gpr(register));
        }
        e.Reg(true, 0x85, Host.R14, Host.R14);
        e.JumpTo(Cc.E, ExitPacked);
        e.Byte(0xC3);

        e.Align(16);
        IndirectMiss = e.Here;
        e.StoreImmediate64(Field.ExitInfo, ExitCode.Indirect);
        e.Store(Host.R14, Field.ExitTarget);
        e.JumpTo(ExitPacked);

        e.Align(16);
        SaveX87 = (delegate* unmanaged[SuppressGCTransition]<void>)e.Here;
        e.MovImmediate(Host.Rax, 1);
        e.Reg(false, 0x33, Host.Rdx, Host.Rdx);
        SaveX87Registers(e);
        e.StoreImmediate32(Field.X87Loaded, 0);
        e.Byte(0xC3);

        e.Align(16);
        LoadX87 = e.Here;
        e.Store(Host.Rax, Field.Scratch0);
        e.Store(Host.Rdx, Field.Scratch1);
        e.StoreImmediate32(Field.X87Loaded, 1);
        e.StoreImmediate64(Field.ExtendedState + 512, 1); // XSTATE_BV: x87 only
        e.MovImmediate(Host.Rax, 1);
        e.Reg(false, 0x33, Host.Rdx, Host.Rdx);
        e.Gs(true, 0x0FAE, 5, Field.ExtendedState); // xrstor64
        e.Load(Host.Rax, Field.Scratch0);
        e.Load(Host.Rdx, Field.Scratch1);
        e.Byte(0xC3);

        e.Align(16);
        Interpret = e.Here;
        SaveState(e);
        e.Load(Host.Rdi, Field.Self);
        e.Reg(false, 0x8B, Host.Rsi, Host.R15);
        e.Immediate(true, 5, Host.Rsp, 8);
        e.MovAddress(Host.Rax, interpret);
        e.Byte(0xFF);
        e.Byte(0xD0);
        e.Immediate(true, 0, Host.Rsp, 8);
        e.Reg(true, 0x85, Host.Rax, Host.Rax);
        e.JumpTo(Cc.E, exitTail);
        LoadState(e);
        e.Byte(0xC3);
        Strings = new StringStubs(e);
        SystemCalls = new SystemCallStubs(e, ExitPacked, IndirectMiss);
        e.Align(64);
        End = e.Here;
    }

    /// <summary>Where the signal handler continues.</summary>
    public byte* FaultExitAddress { get; }

    /// <summary>SETO AL; LAHF into a field, RAX kept; uses R14.</summary>
    public static void PackFlags(Emitter e, int field)
    {
        e.Mov(Host.R14, Host.Rax);
        e.Byte(0x9F);
        e.Byte(0x0F);
        e.Byte(0x90);
        e.Byte(0xC0);
        e.Byte(0x65);
        e.Byte(0x66);
        e.Byte(0x89);
        e.Byte(0x04);
        e.Byte(0x25);
        e.Int32(field);
        e.Mov(Host.Rax, Host.R14);
    }

    /// <summary>The reverse of <see cref="PackFlags"/>; uses R14 unless it is to be kept.</summary>
    public static void UnpackFlags(Emitter e, bool keepR14 = false)
    {
        if (keepR14)
        {
            e.Store(Host.Rax, Field.Scratch1);
        }
        else
        {
            e.Mov(Host.R14, Host.Rax);
        }
        e.Gs(false, 0x0FB7, Host.Rax, Field.PackedFlags);
        e.Byte(0x04);
        e.Byte(0x7F); // add al, 0x7f: OF from bit 0
        e.Byte(0x9E); // sahf
        if (keepR14)
        {
            e.Load(Host.Rax, Field.Scratch1);
        }
        else
        {
            e.Mov(Host.Rax, Host.R14);
        }
    }

    /// <summary>
    /// Jumps to the guest address in R14 through the jump cache, or to <paramref name="indirectMiss"/> when the vCPU is wanted; flags packed. Returns the jump of a
    /// miss, to be bound to <see cref="JumpCacheMissed"/>.
    /// </summary>
    public static byte* ProbeJumpCache(Emitter e, int key, byte* indirectMiss)
    {
        e.CompareGs32(Field.ExitRequest, 0);
        e.JumpTo(Cc.Ne, indirectMiss);
        e.Mov(Host.R15, Host.R14);
        e.Gs(true, 0x33, Host.R15, key);
        e.Reg(false, 0x8B, Host.R14, Host.R15);
        e.Byte(0x41); // shr r14d, 6
        e.Byte(0xC1);
        e.Byte(0xEE);
        e.Byte(6);
        e.Reg(false, 0x33, Host.R14, Host.R15);
        e.Immediate(false, 4, Host.R14, ProcessorBlock.JumpCacheEntries - 1);
        e.Byte(0x41); // shl r14d, 4
        e.Byte(0xC1);
        e.Byte(0xE6);
        e.Byte(4);
        e.GsIndex(true, 0x3B, Host.R15, Host.R14, Field.JumpCache);
        byte* miss = e.Jump(Cc.Ne);
        e.GsIndex(false, 0xFF, 4, Host.R14, Field.JumpCache + 8);
        return miss;
    }

    /// <summary>Behind a miss of <see cref="ProbeJumpCache"/>.</summary>
    public static void JumpCacheMissed(Emitter e, int key, byte* indirectMiss)
    {
        e.Mov(Host.R14, Host.R15);
        e.Gs(true, 0x33, Host.R14, key);
        e.JumpTo(indirectMiss);
    }

    // XSAVE64 of x87 alone (EAX = 1, EDX = 0), then a clean unit for the host. The instruction and data pointers are addresses of this process: not for the guest.
    private static void SaveX87Registers(Emitter e)
    {
        e.Gs(true, 0x0FAE, 4, Field.ExtendedState);
        e.Byte(0xDB);
        e.Byte(0xE3); // fninit
        e.StoreImmediate64(Field.ExtendedState + 8, 0);
        e.StoreImmediate64(Field.ExtendedState + 16, 0);
    }

    private static void SaveState(Emitter e)
    {
        foreach (byte register in Identity)
        {
            e.Store(register, Field.Gpr(register));
        }
        e.Store(Host.R13, Field.Gpr(4));
        SaveVectors(e);
    }

    private static void LoadState(Emitter e)
    {
        LoadVectors(e);
        foreach (byte register in Identity)
        {
            e.Load(register, Field.Gpr(register));
        }
        e.Load(Host.R13, Field.Gpr(4));
    }

    private static void SaveVectors(Emitter e)
    {
        for (int i = 0; i < 16; i++)
        {
            e.GsYmm(true, i, Field.Ymm + (i * 32));
        }
        e.Gs(false, 0x0FAE, 3, Field.Mxcsr); // stmxcsr
        e.Gs(false, 0x0FAE, 2, Field.HostMxcsr); // ldmxcsr
        e.Byte(0xC5);
        e.Byte(0xF8);
        e.Byte(0x77); // vzeroupper
    }

    private static void LoadVectors(Emitter e)
    {
        e.Gs(false, 0x0FAE, 2, Field.Mxcsr);
        for (int i = 0; i < 16; i++)
        {
            e.GsYmm(false, i, Field.Ymm + (i * 32));
        }
    }

    private static void Push(Emitter e, int register)
    {
        if (register >= 8)
        {
            e.Byte(0x41);
        }
        e.Byte(0x50 | (register & 7));
    }

    private static void Pop(Emitter e, int register)
    {
        if (register >= 8)
        {
            e.Byte(0x41);
        }
        e.Byte(0x58 | (register & 7));
    }
}

/// <summary>Values of ExitInfo: non-negative values are exit sites of blocks.</summary>
internal static class ExitCode
{
    /// <summary>A host signal: FaultPc, FaultSignal and FaultFlags tell.</summary>
    public const int HostFault = -1;

    /// <summary>The slow path of a memory access faulted; the fault is in the vCPU's pending fields.</summary>
    public const int GuestFault = -2;

    /// <summary>The instruction must be executed by C# (device memory, page crossing, code page).</summary>
    public const int Interpret = -3;

    /// <summary>RIP is set: look up the next block.</summary>
    public const int Resume = -4;

    /// <summary>The poll at the head of a block: RIP in ExitTarget.</summary>
    public const int Poll = -5;

    /// <summary>The same where <see cref="ProcessorBlock.EntryRecipe"/> tells the flags.</summary>
    public const int PollRecipe = -13;

    /// <summary>A loop that may be hot: the number of its exit in ExitTarget, <see cref="ProcessorBlock.EntryRecipe"/> tells the flags.</summary>
    public const int HotLoop = -14;

    /// <summary>Indirect jump: target in ExitTarget.</summary>
    public const int Indirect = -6;

    /// <summary>Execute the instruction at ExitTarget by C# with interrupts considered before.</summary>
    public const int InterpretAt = -7;

    /// <summary>STI while an interrupt waits: RIP behind it in ExitTarget; the next instruction runs before the interrupt.</summary>
    public const int Sti = -8;

    /// <summary>A window of accesses could not be checked as one (page boundary, fault, device): go on at RIP with code that checks each alone.</summary>
    public const int Careful = -9;

    /// <summary>SYSCALL: RIP behind it in ExitTarget.</summary>
    public const int Syscall = -10;

    /// <summary>SYSRETQ: RIP behind it in ExitTarget.</summary>
    public const int Sysret = -11;

    /// <summary>In a comparison of the tiers: the instruction that C# executes at RIP reaches a device.</summary>
    public const int DeviceReached = -12;
}

/// <summary>Descriptor of a memory access as the slow path gets it: bits 0-15 size, 16 write, 17 a window of accesses, 24-25 TLB mode.</summary>
internal static class AccessDescriptor
{
    public const uint Window = 1u << 17;

    public static uint Make(int size, bool write, int mode) => (uint)size | (write ? 1u << 16 : 0) | ((uint)mode << 24);
}
