using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm;

// The rarer exits, and the counters.
internal sealed unsafe partial class KvmProcessor
{
    private long _portExits, _memoryExits, _kicks, _windows, _endsOfInterrupt, _msrExits, _otherExits, _externalInterrupts;

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, long> Counters => new Dictionary<string, long>
    {
        ["port exits"] = _portExits,
        ["memory exits"] = _memoryExits,
        ["kicks"] = _kicks,
        ["interrupt windows"] = _windows,
        ["external interrupts"] = _externalInterrupts,
        ["ends of interrupt"] = _endsOfInterrupt,
        ["MSR exits"] = _msrExits,
        ["other exits"] = _otherExits,
    };

    private ProcessorExit? OtherExit(KvmRun* run)
    {
        const int HypercallNotKnown = -1000; // KVM_ENOSYS
        switch (run->ExitReason)
        {
            case KvmExit.InterruptWindowOpen:
                _windows++;
                ServeEvents(run);
                return null;
            case KvmExit.IoApicEoi:
                _endsOfInterrupt++;
                _partition.EndOfInterruptListener?.EndOfInterrupt(run->EoiVector);
                return null;
            case KvmExit.ReadMsr or KvmExit.WriteMsr:
                _msrExits++;
                run->MsrError = 1; // #GP, as the software engine raises
                run->MsrData = 0;
                return null;
            case KvmExit.Hypercall:
                _otherExits++;
                run->HypercallResult = unchecked((ulong)HypercallNotKnown);
                return null;
            case KvmExit.Interrupted or KvmExit.SetTpr or KvmExit.TprAccess or KvmExit.BusLock or KvmExit.Notify:
                _otherExits++;
                return null;
            case KvmExit.Shutdown:
                return ProcessorExit.Shutdown;
            default:
                FailureReason = $"KVM exit {(uint)run->ExitReason}";
                return ProcessorExit.Failed;
        }
    }

    /// <inheritdoc/>
    public override void SetDebug(DebugRequest request)
    {
    }

    /// <inheritdoc/>
    public override bool TryTranslate(ulong linear, out ulong physical)
    {
        KvmTranslation translation = _handle.Translate(linear);
        physical = translation.Physical;
        return translation.Valid != 0;
    }
}
