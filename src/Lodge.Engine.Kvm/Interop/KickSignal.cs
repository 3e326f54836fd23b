using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>
/// The signal that makes a thread leave KVM_RUN. Its handler does nothing, and is no managed code: the runtime never knows of it.
/// </summary>
internal static unsafe class KickSignal
{
    /// <summary>A real-time signal that neither the C library (32, 33) nor .NET (34) uses.</summary>
    private const int Number = 44;

    private const int SetBytes = 128, Block = 0, SetMask = 2; // sigset_t of the C library; SIG_BLOCK, SIG_SETMASK

    private static readonly Lock s_gate = new();
    private static bool s_installed;

    /// <summary>Installs the handler, once for the process.</summary>
    public static void Install()
    {
        lock (s_gate)
        {
            if (s_installed)
            {
                return;
            }
            // struct sigaction of the C library: handler, 128 bytes of mask, flags. SA_RESTART stays off, so that the call is interrupted.
            byte* action = stackalloc byte[160];
            new Span<byte>(action, 160).Clear();
            *(nuint*)action = (nuint)Handler();
            if (Libc.sigaction(Number, action, null) != 0)
            {
                throw new KvmException($"sigaction({Number})", Marshal.GetLastPInvokeError());
            }
            s_installed = true;
        }
    }

    /// <summary>Sends the signal to a thread of this process.</summary>
    public static void Send(int thread) => _ = Libc.tgkill(Environment.ProcessId, thread, Number);

    /// <summary>The signal as a bit of the kernel's set.</summary>
    public static ulong Bit => 1UL << (Number - 1);

    /// <summary>Does something while the signal waits for the calling thread, which holds it back.</summary>
    public static void WhilePending(Action action)
    {
        byte* own = stackalloc byte[SetBytes], old = stackalloc byte[SetBytes];
        new Span<byte>(own, SetBytes).Clear();
        *(ulong*)own = Bit;
        if (Libc.pthread_sigmask(Block, own, old) != 0)
        {
            return;
        }
        try
        {
            Send(Libc.gettid());
            action();
        }
        finally
        {
            _ = Libc.pthread_sigmask(SetMask, old, null); // it is delivered now
        }
    }

    // One RET in memory of its own, written before it is made executable.
    private static byte* Handler()
    {
        const int ProtectReadExecute = 5;
        const byte Return = 0xC3;
        void* page = Libc.mmap(null, 4096, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS, -1, 0);
        if (page == Libc.MAP_FAILED)
        {
            throw new KvmException("mmap of the signal handler", Marshal.GetLastPInvokeError());
        }
        *(byte*)page = Return;
        if (Libc.mprotect(page, 4096, ProtectReadExecute) != 0)
        {
            throw new KvmException("making the signal handler executable (SELinux execmem?)", Marshal.GetLastPInvokeError());
        }
        return (byte*)page;
    }
}
