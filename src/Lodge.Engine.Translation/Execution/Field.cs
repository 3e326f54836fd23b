using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>Offsets of <see cref="ProcessorBlock"/> fields, for generated code.</summary>
internal static unsafe class Field
{
    public static readonly int Rip, NextRip, PackedFlags, SystemFlags, ExitRequest, InterruptPending, Cpl, Mode, X87Loaded, Mxcsr, HostMxcsr, TscOffset, TscAux;
    public static readonly int HostRsp, Scratch0, Scratch1, Scratch2, Scratch3, FaultPc, FaultSignal, FaultFlags, ExitInfo, ExitTarget, ExitSite, Self, FaultExit;
    public static readonly int UserJumpKey, SupervisorJumpKey, ExtendedState, Ymm, InstructionTlb, JumpCache, Tlb, InterruptShadow, Segments, Windows, SystemCallMode, KernelGsBase, Star, Lstar, SyscallMask, EntryRecipe, EntryOperand, LoopsLeft;

    static Field()
    {
        // Taking the address of a field reads nothing, but the runtime checks a large offset from null: a real block, then.
        var b = (ProcessorBlock*)System.Runtime.InteropServices.NativeMemory.Alloc((nuint)sizeof(ProcessorBlock));
        int Of(void* field) => (int)((byte*)field - (byte*)b);
        Rip = Of(&b->Rip);
        NextRip = Of(&b->NextRip);
        PackedFlags = Of(&b->PackedFlags);
        SystemFlags = Of(&b->SystemFlags);
        ExitRequest = Of(&b->ExitRequest);
        InterruptPending = Of(&b->InterruptPending);
        Cpl = Of(&b->Cpl);
        Mode = Of(&b->Mode);
        X87Loaded = Of(&b->X87Loaded);
        Mxcsr = Of(&b->Mxcsr);
        HostMxcsr = Of(&b->HostMxcsr);
        TscOffset = Of(&b->TscOffset);
        TscAux = Of(&b->TscAux);
        HostRsp = Of(&b->HostRsp);
        Scratch0 = Of(&b->Scratch0);
        Scratch1 = Of(&b->Scratch1);
        Scratch2 = Of(&b->Scratch2);
        Scratch3 = Of(&b->Scratch3);
        FaultPc = Of(&b->FaultPc);
        FaultSignal = Of(&b->FaultSignal);
        FaultFlags = Of(&b->FaultFlags);
        ExitInfo = Of(&b->ExitInfo);
        ExitTarget = Of(&b->ExitTarget);
        ExitSite = Of(&b->ExitSite);
        Self = Of(&b->Self);
        FaultExit = Of(&b->FaultExit);
        UserJumpKey = Of(&b->UserJumpKey);
        SupervisorJumpKey = Of(&b->SupervisorJumpKey);
        ExtendedState = Of(b->ExtendedState);
        Ymm = Of(b->Ymm);
        InstructionTlb = Of(b->InstructionTlb);
        JumpCache = Of(b->JumpCache);
        Tlb = Of(b->Tlb);
        InterruptShadow = Of(&b->InterruptShadow);
        Windows = Of(b->Windows);
        SystemCallMode = Of(&b->SystemCallMode);
        KernelGsBase = Of(&b->KernelGsBase);
        Star = Of(&b->Star);
        Lstar = Of(&b->Lstar);
        SyscallMask = Of(&b->SyscallMask);
        EntryRecipe = Of(&b->EntryRecipe);
        EntryOperand = Of(&b->EntryOperand);
        LoopsLeft = Of(&b->LoopsLeft);
        Segments = Of(&b->Segment0);
        System.Runtime.InteropServices.NativeMemory.Free(b);
        if ((ExtendedState & 63) != 0)
        {
            throw new InvalidOperationException($"ExtendedState lies at {ExtendedState}, not at a multiple of 64");
        }
    }

    /// <summary>Offset of a general register.</summary>
    public static int Gpr(int number) => number * 8;

    /// <summary>Offset of the base of a segment register.</summary>
    public static int SegmentBase(int number) => Segments + (number * sizeof(Segment));

    /// <summary>Offset of the limit of a segment register; the attributes follow.</summary>
    public static int SegmentLimit(int number) => Segments + (number * sizeof(Segment)) + 8;

    /// <summary>Offset of the selector of a segment register.</summary>
    public static int SegmentSelector(int number) => Segments + (number * sizeof(Segment)) + 16;

    /// <summary>Offset of the first-level TLB of a mode.</summary>
    public static int TlbOf(int mode) => Tlb + (mode * ProcessorBlock.TlbEntries * sizeof(TlbEntry));
}
