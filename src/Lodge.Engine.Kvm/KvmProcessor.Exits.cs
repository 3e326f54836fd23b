using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm;

// The rarer exits, and the counters.
internal sealed unsafe partial class KvmProcessor
{
    private long _portExits, _memoryExits, _kicks, _windows, _endsOfInterrupt, _msrExits, _debugExits, _ringFull, _otherExits, _externalInterrupts;

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
        ["debug exits"] = _debugExits,
        ["dirty rings full"] = _ringFull,
        ["other exits"] = _otherExits,
    };

    private const uint SystemEventShutdown = 1, SystemEventReset = 2, SystemEventCrash = 3;

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
            case KvmExit.HyperV:
                const uint Hypercall = 2;
                const ulong InvalidHypercallCode = 2;
                _otherExits++;
                if (run->HyperVType == Hypercall)
                {
                    run->HyperVHypercallResult = InvalidHypercallCode;
                }
                return null;
            case KvmExit.DirtyRingFull:
                _ringFull++;
                _partition.HarvestDirtyRings();
                return null;
            case KvmExit.Debug:
                _debugExits++;
                return StopsForDebugger(run->Debug) ? ProcessorExit.Debug : null;
            case KvmExit.Shutdown:
                return ProcessorExit.Shutdown;
            case KvmExit.SystemEvent when run->SystemEventType is SystemEventShutdown or SystemEventReset or SystemEventCrash:
                return ProcessorExit.Shutdown;
            default:
                FailureReason = DescribeFailure(run);
                return ProcessorExit.Failed;
        }
    }
}
