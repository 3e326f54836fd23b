using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>Offsets of <see cref="ProcessorBlock"/> fields, for generated code.</summary>
internal static unsafe class Field
{
    public static readonly int Rip, NextRip, PackedFlags, SystemFlags, ExitRequest, InterruptPending, Cpl, Mode, X87Loaded, Mxcsr, HostMxcsr, TscOffset, TscAux;
    public static readonly int HostRsp, Scratch0, Scratch1, Scratch2, Scratch3, FaultPc, FaultSignal, FaultFlags, ExitInfo, ExitTarget, ExitSite, Self, FaultExit;
    public static readonly int UserJumpKey, SupervisorJumpKey, ExtendedState, Ymm, InstructionTlb, JumpCache, Tlb, InterruptShadow, Segments;

    static Field()
    {
        ProcessorBlock* b = null;
        Rip = (int)&b->Rip;
        NextRip = (int)&b->NextRip;
        PackedFlags = (int)&b->PackedFlags;
        SystemFlags = (int)&b->SystemFlags;
        ExitRequest = (int)&b->ExitRequest;
        InterruptPending = (int)&b->InterruptPending;
        Cpl = (int)&b->Cpl;
        Mode = (int)&b->Mode;
        X87Loaded = (int)&b->X87Loaded;
        Mxcsr = (int)&b->Mxcsr;
        HostMxcsr = (int)&b->HostMxcsr;
        TscOffset = (int)&b->TscOffset;
        TscAux = (int)&b->TscAux;
        HostRsp = (int)&b->HostRsp;
        Scratch0 = (int)&b->Scratch0;
        Scratch1 = (int)&b->Scratch1;
        Scratch2 = (int)&b->Scratch2;
        Scratch3 = (int)&b->Scratch3;
        FaultPc = (int)&b->FaultPc;
        FaultSignal = (int)&b->FaultSignal;
        FaultFlags = (int)&b->FaultFlags;
        ExitInfo = (int)&b->ExitInfo;
        ExitTarget = (int)&b->ExitTarget;
        ExitSite = (int)&b->ExitSite;
        Self = (int)&b->Self;
        FaultExit = (int)&b->FaultExit;
        UserJumpKey = (int)&b->UserJumpKey;
        SupervisorJumpKey = (int)&b->SupervisorJumpKey;
        ExtendedState = (int)b->ExtendedState;
        Ymm = (int)b->Ymm;
        InstructionTlb = (int)b->InstructionTlb;
        JumpCache = (int)b->JumpCache;
        Tlb = (int)b->Tlb;
        InterruptShadow = (int)&b->InterruptShadow;
        Segments = (int)&b->Segment0;
        if ((ExtendedState & 63) != 0)
        {
            throw new InvalidOperationException($"ExtendedState lies at {ExtendedState}, not at a multiple of 64");
        }
    }

    /// <summary>Offset of a general register.</summary>
    public static int Gpr(int number) => number * 8;

    /// <summary>Offset of the base of a segment register.</summary>
    public static int SegmentBase(int number) => Segments + (number * sizeof(Segment));

    /// <summary>Offset of the first-level TLB of a mode.</summary>
    public static int TlbOf(int mode) => Tlb + (mode * ProcessorBlock.TlbEntries * sizeof(TlbEntry));
}
