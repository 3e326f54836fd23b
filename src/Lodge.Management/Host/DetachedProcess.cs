using System.Runtime.InteropServices;
using System.Text;
using Lodge.Management.Sandbox;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Host;

/// <summary>Starts processes that outlive this one and its terminal: a session of their own, no standard input, output to a file (posix_spawn(3)).</summary>
public static unsafe partial class DetachedProcess
{
    /// <summary>The descriptor on which the process tells how its start went: what it writes until it closes it.</summary>
    public const int ReportDescriptor = 3;

    private const int OpaqueRoom = 1024; // larger than posix_spawn_file_actions_t and posix_spawnattr_t of any libc
    private const short SetSession = 0x80, SetSignalMask = 0x08;
    private const int ReadOnly = 0, CloseOnExec = 0x80000;

    /// <summary>The program that runs now, and what must come before its arguments.</summary>
    public static IReadOnlyList<string> Self
    {
        get
        {
            string path = Environment.ProcessPath ?? "/proc/self/exe";
            return Path.GetFileNameWithoutExtension(path) == "dotnet" ? [path, Path.Combine(AppContext.BaseDirectory, "lodge.dll")] : [path];
        }
    }

    /// <summary>Starts a process and gives the reading end of its report.</summary>
    /// <param name="command">Absolute path of the program, and its arguments.</param>
    /// <param name="log">File to which standard output and error are appended.</param>
    /// <param name="handed">Descriptors that it gets, under their numbers, which are 10 or more.</param>
    /// <param name="confined">What it is born with; null: nothing.</param>
    /// <returns>Its number, and a pipe that ends when the process has closed <see cref="ReportDescriptor"/> or has ended.</returns>
    /// <exception cref="IOException">The host refuses.</exception>
    internal static (int Process, SafeFileHandle Report) Start(IReadOnlyList<string> command, string log, IReadOnlyList<SafeFileHandle> handed, ConfinedThread? confined)
    {
        int* pipe = stackalloc int[2];
        if (pipe2(pipe, CloseOnExec) != 0)
        {
            throw new IOException($"no pipe: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        SafeFileHandle report = new(pipe[0], ownsHandle: true);
        byte* actions = stackalloc byte[OpaqueRoom], attributes = stackalloc byte[OpaqueRoom], noSignals = stackalloc byte[OpaqueRoom];
        new Span<byte>(noSignals, OpaqueRoom).Clear();
        posix_spawn_file_actions_init(actions);
        posix_spawnattr_init(attributes);
        List<nint> words = [];
        try
        {
            posix_spawn_file_actions_addopen(actions, 0, "/dev/null", ReadOnly, 0);
            // Opened here: a confined process may not.
            using SafeFileHandle output = HostSystemCalls.OpenForAppending(log);
            posix_spawn_file_actions_adddup2(actions, (int)output.DangerousGetHandle(), 1);
            posix_spawn_file_actions_adddup2(actions, 1, 2);
            posix_spawn_file_actions_adddup2(actions, pipe[1], ReportDescriptor);
            foreach (SafeFileHandle one in handed)
            {
                posix_spawn_file_actions_adddup2(actions, (int)one.DangerousGetHandle(), (int)one.DangerousGetHandle()); // the copy is not closed on exec
            }
            posix_spawnattr_setflags(attributes, SetSession | SetSignalMask);
            posix_spawnattr_setsigmask(attributes, noSignals);
            byte** arguments = stackalloc byte*[command.Count + 1];
            for (int i = 0; i < command.Count; i++)
            {
                arguments[i] = Word(command[i]);
            }
            arguments[command.Count] = null;
            List<string> variables = [];
            foreach (System.Collections.DictionaryEntry variable in Environment.GetEnvironmentVariables())
            {
                variables.Add($"{variable.Key}={variable.Value}");
            }
            variables.Add("DOTNET_EnableDiagnostics=0"); // no socket in /tmp at which .NET lets itself be looked at and changed
            byte** environment = stackalloc byte*[variables.Count + 1];
            for (int i = 0; i < variables.Count; i++)
            {
                environment[i] = Word(variables[i]);
            }
            environment[variables.Count] = null;
            int process = 0, error = 0;
            if (confined is null)
            {
                error = posix_spawn(&process, command[0], actions, attributes, arguments, environment);
            }
            else
            {
                (nint at, nint end) = ((nint)(&process), (nint)(&error));
                (nint a, nint b, nint c, nint d) = ((nint)actions, (nint)attributes, (nint)arguments, (nint)environment);
                confined.Run(() => *(int*)end = posix_spawn((int*)at, command[0], (byte*)a, (byte*)b, (byte**)c, (byte**)d));
            }
            if (error != 0)
            {
                report.Dispose();
                throw new IOException($"'{command[0]}' cannot be started: {Marshal.GetPInvokeErrorMessage(error)}");
            }
            return (process, report);
        }
        finally
        {
            _ = close(pipe[1]);
            posix_spawn_file_actions_destroy(actions);
            posix_spawnattr_destroy(attributes);
            foreach (nint word in words)
            {
                NativeMemory.Free((void*)word);
            }
        }

        byte* Word(string text)
        {
            byte[] bytes = Encoding.UTF8.GetBytes(text);
            byte* word = (byte*)NativeMemory.Alloc((nuint)bytes.Length + 1);
            bytes.CopyTo(new Span<byte>(word, bytes.Length));
            word[bytes.Length] = 0;
            words.Add((nint)word);
            return word;
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int pipe2(int* descriptors, int flags);

    [LibraryImport("libc")]
    private static partial int close(int descriptor);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int posix_spawn(int* process, string path, byte* actions, byte* attributes, byte** arguments, byte** environment);

    [LibraryImport("libc")]
    private static partial int posix_spawn_file_actions_init(byte* actions);

    [LibraryImport("libc")]
    private static partial int posix_spawn_file_actions_destroy(byte* actions);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int posix_spawn_file_actions_addopen(byte* actions, int descriptor, string path, int flags, uint mode);

    [LibraryImport("libc")]
    private static partial int posix_spawn_file_actions_adddup2(byte* actions, int from, int to);

    [LibraryImport("libc")]
    private static partial int posix_spawnattr_init(byte* attributes);

    [LibraryImport("libc")]
    private static partial int posix_spawnattr_destroy(byte* attributes);

    [LibraryImport("libc")]
    private static partial int posix_spawnattr_setflags(byte* attributes, short flags);

    [LibraryImport("libc")]
    private static partial int posix_spawnattr_setsigmask(byte* attributes, byte* mask);
}
