using System.Runtime.InteropServices;
using Lodge.Engine.Translation.Execution;

namespace Lodge.Engine.Translation.Emission;

/// <summary>
/// Faults of copied instructions (#GP of misaligned vector operands, #DE, unmasked floating point) arrive as host signals. The handler is emitted
/// machine code that only redirects to the vCPU's exit stub when the fault is in generated code, and otherwise chains to the runtime's own handler,
/// whose flags and mask are kept.
/// </summary>
internal static unsafe partial class HostSignals
{
    private const int SigIll = 4, SigBus = 7, SigFpe = 8, SigSegv = 11;
    private const int ContextRip = 168;
    private static readonly Lock Gate = new();
    private static CodeMemory? _memory;

    /// <summary>Installs the handlers once per process.</summary>
    public static void Install()
    {
        lock (Gate)
        {
            if (_memory is not null)
            {
                return;
            }
            var memory = new CodeMemory(65536);
            var emitter = new Emitter();
            emitter.Begin(memory, memory.Execute);
            byte* action = stackalloc byte[160];
            foreach (int signal in (ReadOnlySpan<int>)[SigSegv, SigFpe, SigIll, SigBus])
            {
                if (sigaction(signal, null, action) != 0)
                {
                    throw new InvalidOperationException($"sigaction({signal}) failed");
                }
                emitter.Align(16);
                byte* handler = emitter.Here;
                emitter.Mem(true, 0x8B, Host.Rax, Host.Rdx, ContextRip);
                emitter.MovImmediate(Host.Rcx, (ulong)CodeMemory.RangeStart);
                emitter.Reg(true, 0x3B, Host.Rax, Host.Rcx);
                byte* below = emitter.Jump(Cc.B);
                emitter.MovImmediate(Host.Rcx, (ulong)CodeMemory.RangeEnd);
                emitter.Reg(true, 0x3B, Host.Rax, Host.Rcx);
                byte* above = emitter.Jump(Cc.Ae);
                emitter.Store(Host.Rax, Field.FaultPc);
                emitter.Store(Host.Rdi, Field.FaultSignal);
                emitter.Load(Host.Rax, Field.FaultExit);
                emitter.Mem(true, 0x89, Host.Rax, Host.Rdx, ContextRip);
                emitter.Byte(0xC3);
                emitter.Bind(below);
                emitter.Bind(above);
                emitter.MovImmediate(Host.Rax, *(ulong*)action);
                emitter.Byte(0xFF);
                emitter.Byte(0xE0);
                *(ulong*)action = (ulong)handler;
                if (sigaction(signal, action, null) != 0)
                {
                    throw new InvalidOperationException($"sigaction({signal}) failed");
                }
            }
            _memory = memory;
        }
    }

    /// <summary>Sets GS base of the calling thread (unused by .NET and libc on x86-64).</summary>
    public static void SetGsBase(void* address)
    {
        const int ArchPrctl = 158, ArchSetGs = 0x1001;
        if (syscall(ArchPrctl, ArchSetGs, (nint)address) != 0)
        {
            throw new InvalidOperationException("arch_prctl(ARCH_SET_GS) failed");
        }
    }

    [LibraryImport("libc")]
    private static partial int sigaction(int signal, byte* action, byte* old);

    [LibraryImport("libc")]
    private static partial long syscall(long number, long a, nint b);
}
