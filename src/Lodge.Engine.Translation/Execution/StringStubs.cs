using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// REP MOVS and REP STOS of 64-bit code as emitted routines: page by page through the first-level TLB, the host's own string instruction in between.
/// What they cannot do (TLB miss, DF set, interrupt waiting) is left to C#, with the registers advanced by what was done.
/// </summary>
internal sealed unsafe class StringStubs
{
    private readonly nint[] _routines = new nint[ProcessorBlock.TlbModes * 8];

    /// <summary>Emits all variants.</summary>
    public StringStubs(Emitter e)
    {
        for (int mode = 0; mode < ProcessorBlock.TlbModes; mode++)
        {
            for (int log = 0; log < 4; log++)
            {
                e.Align(16);
                _routines[(mode * 8) + log] = (nint)e.Here;
                Emit(e, mode, log, true);
                e.Align(16);
                _routines[(mode * 8) + 4 + log] = (nint)e.Here;
                Emit(e, mode, log, false);
            }
        }
    }

    /// <summary>
    /// The routine for a TLB mode, an element size of 1, 2, 4 or 8 bytes, and MOVS or STOS. Called with flags packed; R14 is 0 when all is done and 1 when C# has
    /// to execute the (rest of the) instruction.
    /// </summary>
    public byte* Routine(int mode, int size, bool move) => (byte*)_routines[(mode * 8) + (move ? 0 : 4) + System.Numerics.BitOperations.Log2((uint)size)];

    private static void Emit(Emitter e, int mode, int log, bool move)
    {
        int size = 1 << log;
        int tlb = Field.TlbOf(mode);
        byte* start = e.Here;
        e.Reg(true, 0x85, Host.Rcx, Host.Rcx);
        byte* done = e.Jump(Cc.E);
        e.Gs(false, 0xF7, 0, Field.SystemFlags); // test dword [..], DF
        e.Int32(0x400);
        byte* fail0 = e.Jump(Cc.Ne);
        byte* fail1 = null;
        if (move)
        {
            fail1 = Check(e, Host.Rsi, tlb, 0, size);
            e.Store(Host.R14, Field.Scratch0);
            e.GsIndex(true, 0x03, Host.R14, Host.R15, tlb + 16);
            e.Store(Host.R14, Field.Scratch1);
        }
        byte* fail2 = Check(e, Host.Rdi, tlb, 8, size);
        e.Store(Host.Rsi, Field.Scratch2);
        e.Store(Host.Rdi, Field.Scratch3);
        if (move)
        {
            e.Load(Host.Rsi, Field.Scratch0);
            e.Reg(true, 0x3B, Host.Rsi, Host.R14);
            e.Reg(true, 0x0F42, Host.Rsi, Host.R14); // cmovb: the larger offset bounds the chunk
        }
        else
        {
            e.Mov(Host.Rsi, Host.R14);
        }
        e.MovImmediate(Host.Rdi, 4096);
        e.Reg(true, 0x2B, Host.Rdi, Host.Rsi);
        if (log != 0)
        {
            e.Byte(0x48); // shr rdi, log
            e.Byte(0xC1);
            e.Byte(0xEF);
            e.Byte(log);
        }
        e.Reg(true, 0x3B, Host.Rdi, Host.Rcx);
        e.Reg(true, 0x0F47, Host.Rdi, Host.Rcx); // cmova
        e.GsIndex(true, 0x03, Host.R14, Host.R15, tlb + 16);
        e.Mov(Host.R15, Host.Rdi);
        e.Mov(Host.Rdi, Host.R14);
        if (move)
        {
            e.Load(Host.Rsi, Field.Scratch1);
        }
        e.Mov(Host.R14, Host.Rcx);
        e.Mov(Host.Rcx, Host.R15);
        e.Byte(0xF3);
        if (log == 1)
        {
            e.Byte(0x66);
        }
        else if (log == 3)
        {
            e.Byte(0x48);
        }
        e.Byte((move ? 0xA4 : 0xAA) | (log == 0 ? 0 : 1));
        e.Mov(Host.Rcx, Host.R14);
        e.Reg(true, 0x2B, Host.Rcx, Host.R15);
        e.Load(Host.Rsi, Field.Scratch2);
        if (move)
        {
            e.MemIndex(true, 0x8D, Host.Rsi, Host.Rsi, Host.R15, size, 0);
        }
        e.Load(Host.Rdi, Field.Scratch3);
        e.MemIndex(true, 0x8D, Host.Rdi, Host.Rdi, Host.R15, size, 0);
        e.CompareGs32(Field.ExitRequest, 0);
        e.JumpTo(Cc.E, start);
        e.Reg(true, 0x85, Host.Rcx, Host.Rcx);
        byte* finished = e.Jump(Cc.E);
        e.Bind(fail0);
        if (move)
        {
            e.Bind(fail1);
        }
        e.Bind(fail2);
        e.MovImmediate(Host.R14, 1);
        e.Byte(0xC3);
        e.Bind(done);
        e.Bind(finished);
        e.Reg(false, 0x33, Host.R14, Host.R14);
        e.Byte(0xC3);
    }

    private static byte* Check(Emitter e, int register, int tlb, int tag, int size)
    {
        e.Mov(Host.R14, register);
        e.Rorx(Host.R15, Host.R14, 12 - 5);
        e.Immediate(false, 4, Host.R15, (ProcessorBlock.TlbEntries - 1) << 5);
        e.GsIndex(true, 0x33, Host.R14, Host.R15, tlb + tag);
        e.Immediate(true, 7, Host.R14, 4096 - size);
        return e.Jump(Cc.A);
    }
}
