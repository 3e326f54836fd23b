using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Memory;

namespace Lodge.Engine.Kvm;

// Breakpoints and watchpoints of a debugger, by the processor's four debug registers, which the guest then cannot use itself (api.rst, 4.87).
//
// Watchpoints have the registers first. Breakpoints take what is left; when they do not fit, all of them are looked for by single-stepping the guest, which is
// slow but exact. A processor cannot watch for loads alone: such a watchpoint stops at stores, too.
internal sealed unsafe partial class KvmProcessor
{
    private const int RegisterCount = 4;
    private const ulong BreakpointTypeWrite = 1, BreakpointTypeAccess = 3, SingleStepBit = 1 << 14;
    private readonly Watched?[] _watched = new Watched?[RegisterCount];
    private DebugRequest _debug = DebugRequest.None;
    private HashSet<ulong> _soughtByStepping = [];
    private int _registersUsed;

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">The watchpoints need more than four aligned pieces of at most 8 bytes.</exception>
    public override void SetDebug(DebugRequest request)
    {
        KvmGuestDebug debug = default;
        debug.DebugRegisters[7] = 0x400;
        int used = 0;
        Array.Clear(_watched);
        foreach (Watchpoint point in request.Watchpoints)
        {
            // Aligned pieces: a register watches 1, 2, 4 or 8 bytes.
            for (ulong at = point.Address, end = point.Address + (ulong)Math.Max(point.Length, 0); at != end;)
            {
                ulong length = Math.Min(8, at == 0 ? 8 : at & (0 - at));
                while (length > end - at)
                {
                    length /= 2;
                }
                if (used == RegisterCount)
                {
                    throw new NotSupportedException($"the hardware engine can watch four aligned ranges of 1, 2, 4 or 8 bytes; {request.Watchpoints.Count} watchpoints need more");
                }
                ulong lengthBits = length switch { 1 => 0, 2 => 1, 8 => 2, _ => 3 };
                SetRegister(ref debug, used, at, (point.OnRead ? BreakpointTypeAccess : BreakpointTypeWrite) | (lengthBits << 2));
                _watched[used++] = new Watched(point.Address, at, (int)length, point.OnRead, point.OnWrite);
                at += length;
            }
        }
        HashSet<ulong> sought = [];
        if (!request.SingleStep)
        {
            if (request.Breakpoints.Count <= RegisterCount - used)
            {
                foreach (ulong address in request.Breakpoints)
                {
                    SetRegister(ref debug, used++, address, 0);
                }
            }
            else
            {
                sought = [.. request.Breakpoints];
            }
        }
        bool stepping = request.SingleStep || sought.Count != 0;
        if (used != 0 || stepping)
        {
            debug.Control = KvmGuestDebug.Enable | (used != 0 ? KvmGuestDebug.UseHardwareBreakpoints : 0) | (stepping ? KvmGuestDebug.SingleStep : 0)
                | (request.SingleStep ? _partition.Machine.Check(KvmCapability.SetGuestDebug2) is var known ? (uint)known & KvmGuestDebug.BlockInterrupts : 0 : 0);
        }
        _handle.SetGuestDebug(debug);
        _debug = request;
        _registersUsed = used;
        _soughtByStepping = sought;
    }

    /// <inheritdoc/>
    public override bool TryTranslate(ulong linear, out ulong physical) => PageWalk.TryTranslate(_partition.Options.Memory, _handle.SpecialRegisters, linear, out physical);

    private static void SetRegister(ref KvmGuestDebug debug, int number, ulong address, ulong typeAndLength)
    {
        debug.DebugRegisters[number] = address;
        debug.DebugRegisters[7] |= (2UL << (number * 2)) | (typeAndLength << (16 + (number * 4)));
    }

    // A breakpoint at the very first instruction: what single-stepping, which stops after one, would pass.
    private bool StopsBeforeFirst()
    {
        if (_debug.Watchpoints.Count != 0)
        {
            RememberWatched();
        }
        if (_soughtByStepping.Count == 0)
        {
            return false;
        }
        KvmSregs s = _handle.SpecialRegisters;
        ulong rip = _handle.Registers.Rip;
        return StopsAtSought(s.Cs.L != 0 ? rip : (uint)(s.Cs.Base + rip));
    }

    private bool StopsAtSought(ulong linear)
    {
        if (!_soughtByStepping.Contains(linear))
        {
            return false;
        }
        DebugEvent = new DebugEvent(DebugEventKind.Breakpoint, linear, false);
        return true;
    }

    private bool StopsForDebugger(KvmDebugExit exit)
    {
        for (int i = 0; i < RegisterCount; i++)
        {
            if ((exit.Dr6 & (1UL << i)) == 0 || i >= _registersUsed)
            {
                continue; // bits of registers that are not in use mean nothing
            }
            if (_watched[i] is not { } watched)
            {
                if (_debug.Breakpoints.Contains(exit.ProgramCounter))
                {
                    DebugEvent = new DebugEvent(DebugEventKind.Breakpoint, exit.ProgramCounter, false);
                    return true;
                }
                continue;
            }
            // A register that watches for accesses does not tell loads from stores; that the value changed does, mostly.
            bool isWrite = !watched.OnRead || (watched.OnWrite && Contents(watched) != watched.Before);
            DebugEvent = new DebugEvent(DebugEventKind.Watchpoint, watched.Point, isWrite);
            return true;
        }
        if (_debug.SingleStep)
        {
            DebugEvent = new DebugEvent(DebugEventKind.Step, exit.ProgramCounter, false);
            return true;
        }
        return StopsAtSought(exit.ProgramCounter);
    }

    private void RememberWatched()
    {
        foreach (Watched? watched in _watched)
        {
            watched?.Before = Contents(watched);
        }
    }

    private ulong Contents(Watched watched)
    {
        Span<byte> value = stackalloc byte[8];
        value.Clear();
        return TryTranslate(watched.Address, out ulong physical) && _partition.Options.Memory.TryRead(physical, value[..watched.Length]) ? BitConverter.ToUInt64(value) : 0;
    }

    /// <summary>What a debug register watches: a piece of a watchpoint.</summary>
    private sealed record Watched(ulong Point, ulong Address, int Length, bool OnRead, bool OnWrite)
    {
        /// <summary>Contents when the processor was entered.</summary>
        public ulong Before { get; set; }
    }
}
