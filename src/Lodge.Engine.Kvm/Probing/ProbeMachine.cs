using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Memory;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Probing;

/// <summary>A virtual machine that runs one program to its report. It runs on the thread that calls <see cref="Run"/>; another may end it.</summary>
internal sealed unsafe class ProbeMachine : IDisposable
{
    private const ulong IdentityMapAddress = 0xFEFF_C000, TssAddress = 0xFEFF_D000; // as KvmPartition has them
    private const int IoApicRoutes = 24;

    private readonly Lock _gate = new();
    private readonly ProbeProgram _program;
    private readonly GuestMemory _memory = new(ProbeImage.Size);
    private readonly KvmVirtualMachine _machine;
    private readonly KvmProcessorHandle _processor;
    private int _thread; // guarded by _gate
    private bool _over;  // guarded by _gate

    /// <summary>Makes it, with the interrupt controllers that the engine uses.</summary>
    /// <exception cref="KvmException">The kernel refuses.</exception>
    public ProbeMachine(KvmSystem system, ReadOnlySpan<KvmCpuidEntry> features, ProbeProgram program)
    {
        _program = program;
        try
        {
            _machine = system.CreateVirtualMachine();
            _machine.Enable(KvmCapability.SplitIrqchip, IoApicRoutes);
            _machine.SetIdentityMapAddress(IdentityMapAddress);
            _machine.SetTssAddress(TssAddress);
            _ = new MemorySlots(_machine, _memory);
            _processor = _machine.CreateProcessor(0);
            _processor.SetCpuid(features);
            ProbeImage.Write(_memory, program);
            ProbeImage.Start(_processor, program);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Runs the program until it reports, KVM gives up, or <see cref="End"/> is called.</summary>
    /// <returns>What came of it, and what went wrong.</returns>
    public (ProbeOutcome Outcome, string Detail) Run()
    {
        lock (_gate)
        {
            _thread = Libc.gettid();
        }
        try
        {
            while (true)
            {
                int error = _processor.Enter();
                lock (_gate)
                {
                    if (error != 0 && _over)
                    {
                        return (ProbeOutcome.TimedOut, "it does not end");
                    }
                }
                if (error is not (0 or Libc.EINTR or Libc.EAGAIN))
                {
                    return (ProbeOutcome.Failed, new KvmException(nameof(KvmIoctl.KVM_RUN), error).Message);
                }
                if (error == 0 && Judge(_processor.Run) is { } verdict)
                {
                    return verdict;
                }
            }
        }
        finally
        {
            lock (_gate)
            {
                _thread = 0;
            }
        }
    }

    /// <summary>Makes a current or later <see cref="Run"/> end soon. Any thread, again and again.</summary>
    public void End()
    {
        lock (_gate)
        {
            _over = true;
            if (_processor.Run != null)
            {
                Volatile.Write(ref _processor.Run->ImmediateExit, 1);
            }
            if (_thread != 0)
            {
                KickSignal.Send(_thread);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _processor?.Dispose();
        }
        _machine?.Dispose();
        _memory.Dispose();
    }

    private (ProbeOutcome Outcome, string Detail)? Judge(KvmRun* run)
    {
        byte data = run->ExitReason == KvmExit.Io && run->IoSize == 1 ? *((byte*)run + run->IoDataOffset) : (byte)0;
        return run->ExitReason switch
        {
            KvmExit.Io when run->IoPort == ProbeImage.PassedPort && data == 1 => (ProbeOutcome.Passed, ""),
            KvmExit.Io when run->IoPort == ProbeImage.WrongPort => (ProbeOutcome.Failed, $"wrong result at comparison {data}"),
            KvmExit.Io when run->IoPort == ProbeImage.ExceptionPort => (ProbeOutcome.Failed, $"unexpected {ExceptionName(data)}"),
            KvmExit.Io => (ProbeOutcome.Failed, $"unexpected access to port {run->IoPort:#x}"),
            KvmExit.Mmio => (ProbeOutcome.Failed, $"unexpected access to address {run->MmioAddress:#x}"),
            KvmExit.Shutdown => (ProbeOutcome.Failed, "the guest was shut down (triple fault)"),
            KvmExit.FailEntry => (ProbeOutcome.Failed, $"the guest cannot be entered (reason {run->HardwareReason:#x})"),
            KvmExit.InternalError => (ProbeOutcome.Failed, InternalError(run)),
            KvmExit.Interrupted or KvmExit.InterruptWindowOpen or KvmExit.IoApicEoi => null,
            _ => (ProbeOutcome.Failed, $"KVM exit {(uint)run->ExitReason}"),
        };
    }

    // api.rst, 5, KVM_EXIT_INTERNAL_ERROR and KVM_CAP_EXIT_ON_EMULATION_FAILURE.
    private string InternalError(KvmRun* run)
    {
        const uint Emulation = 1;
        const ulong HasInstruction = 1;
        string text = run->InternalSuberror == Emulation ? "KVM cannot emulate it" : $"internal error {run->InternalSuberror} of KVM";
        if (run->InternalSuberror == Emulation && run->InternalDataCount >= 4 && (run->InternalData[0] & HasInstruction) != 0)
        {
            return $"{text} ({Convert.ToHexString(new ReadOnlySpan<byte>(run->InstructionBytes, Math.Min(run->InstructionLength, (byte)15))).ToLowerInvariant()})";
        }
        ulong address = _processor.Registers.Rip - (_program.Mode == ProbeMode.Long ? ProbeImage.Code : 0);
        return $"{text} (at {address:#x} of the program)";
    }

    private static string ExceptionName(byte vector) => vector switch
    {
        0 => "#DE",
        1 => "#DB",
        3 => "#BP",
        6 => "#UD",
        7 => "#NM",
        8 => "#DF",
        10 => "#TS",
        11 => "#NP",
        12 => "#SS",
        13 => "#GP",
        14 => "#PF",
        16 => "#MF",
        17 => "#AC",
        19 => "#XM",
        _ => $"interrupt {vector}",
    };
}
