using System.Runtime.InteropServices;
using Lodge.Engine.Memory.Code;

namespace Lodge.Engine.Memory;

/// <summary>
/// RAM as it was when this process was forked: the child (fork.s) has it copy-on-write and does nothing but answer. It ends with this object, with the thread that made
/// it, and with the process.
/// </summary>
internal sealed unsafe partial class ForkedImage : MemoryImage
{
    private const int UnixFamily = 1, Stream = 1, CloseOnExec = 0x80000, WaitAll = 0x100, NoSignal = 0x4000, WaitForClones = 0x40000000;

    private readonly Lock _gate = new();
    private readonly ulong _base;
    private readonly int _process;
    private int _socket;

    private ForkedImage(GuestMemory memory, Func<IReadOnlyList<BackingRange>> data, int process, int socket)
        : base(memory.Size, data) => (_base, _process, _socket) = ((ulong)memory.HostBase, process, socket);

    /// <summary>Forks. All that writes RAM stands still, and the calling thread lives on as long as the image is needed.</summary>
    /// <param name="memory">RAM, which a fork copies at this moment.</param>
    /// <param name="find">Finds the data of a process with this number; called when somebody asks for it.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    public static ForkedImage Create(GuestMemory memory, Func<int, IReadOnlyList<BackingRange>> find)
    {
        int* sockets = stackalloc int[2];
        if (socketpair(UnixFamily, Stream | CloseOnExec, 0, sockets) != 0)
        {
            throw new IOException($"no socket for an image of guest memory: error {Marshal.GetLastPInvokeError()}");
        }
        long process;
        try
        {
            process = HostCode.Fork(sockets[1]);
        }
        catch
        {
            close(sockets[0]);
            throw;
        }
        finally
        {
            close(sockets[1]);
        }
        if (process < 0)
        {
            close(sockets[0]);
            throw new IOException($"the process cannot be forked for an image of guest memory: error {-process}");
        }
        return new ForkedImage(memory, () => find((int)process), (int)process, sockets[0]);
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        lock (_gate)
        {
            if (_socket >= 0)
            {
                End(_process, _socket);
                _socket = -1;
            }
        }
    }

    private protected override void ReadInside(ulong offset, Span<byte> destination)
    {
        ulong* request = stackalloc ulong[2];
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_socket < 0, this);
            request[0] = _base + offset;
            request[1] = (ulong)destination.Length;
            bool lost = destination.Length != 0 && send(_socket, request, 16, NoSignal) != 16;
            fixed (byte* start = destination)
            {
                for (int done = 0; done < destination.Length && !lost;)
                {
                    nint received = recv(_socket, start + done, (nuint)(destination.Length - done), WaitAll);
                    lost = received == 0 || (received < 0 && Marshal.GetLastPInvokeError() != 4 /* EINTR */);
                    done += (int)Math.Max(0, received);
                }
            }
            if (lost)
            {
                throw new IOException("the process that kept the image of guest memory is gone");
            }
        }
    }

    private static void End(int process, int socket)
    {
        const int kill9 = 9;
        close(socket);
        _ = kill(process, kill9); // it may be amidst a long copy
        while (waitpid(process, null, WaitForClones) < 0 && Marshal.GetLastPInvokeError() == 4)
        {
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int socketpair(int family, int type, int protocol, int* sockets);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint send(int socket, void* data, nuint length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recv(int socket, void* data, nuint length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int waitpid(int process, int* status, int options);

    [LibraryImport("libc")]
    private static partial int kill(int process, int signal);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
