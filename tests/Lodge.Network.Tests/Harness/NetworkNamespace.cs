using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Xunit;

namespace Lodge.Network.Tests.Harness;

/// <summary>
/// A thread in network and mount namespaces of its own: interfaces, rules and mounts of the host are neither seen nor touched. Programs that the thread starts are in
/// them too. All is gone when the last thread and process has ended.
/// </summary>
internal sealed partial class NetworkNamespace : IDisposable
{
    private const int NewNetwork = 0x40000000, NewMounts = 0x00020000;
    private const ulong MountRecursive = 0x4000, MountPrivate = 1 << 18, MountBind = 4096;

    private readonly System.Collections.Concurrent.BlockingCollection<Action> _work = [];
    private readonly Thread _thread;

    public NetworkNamespace()
    {
        _thread = new Thread(Run) { IsBackground = true, Name = "namespace" };
        _thread.Start();
        Do(() =>
        {
            if (unshare(NewNetwork | NewMounts) != 0 || mount("none", "/", null, MountRecursive | MountPrivate, 0) != 0)
            {
                throw new InvalidOperationException($"no namespace: {Marshal.GetLastPInvokeErrorMessage()}");
            }
            Shell("ip link set lo up");
        });
    }

    /// <summary>Skips the test when namespaces or programs are missing here.</summary>
    public static void Need(params (string Program, string Package)[] programs)
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "namespaces and taps need root");
        Assert.SkipUnless(File.Exists("/dev/net/tun"), "the host has no /dev/net/tun");
        foreach ((string program, string package) in programs.Append(("ip", "iproute2")))
        {
            Assert.SkipUnless(new[] { "/usr/sbin", "/usr/bin", "/sbin", "/bin" }.Any(folder => File.Exists($"{folder}/{program}")), $"the program {program} is missing (apt-get install {package})");
        }
    }

    /// <summary>Runs a test in a namespace of its own.</summary>
    public static void Test(Action<NetworkNamespace> body)
    {
        using NetworkNamespace space = new();
        space.Do(() => body(space));
    }

    /// <summary>Runs something on the namespace's thread and waits.</summary>
    public void Do(Action action) => Get(() =>
    {
        action();
        return 0;
    });

    /// <summary>Computes something on the namespace's thread and waits.</summary>
    public T Get<T>(Func<T> function)
    {
        if (Thread.CurrentThread == _thread)
        {
            return function();
        }
        TaskCompletionSource<T> done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        _work.Add(() =>
        {
            try
            {
                done.SetResult(function());
            }
            catch (Exception e)
            {
                done.SetException(e);
            }
        });
        try
        {
            return done.Task.GetAwaiter().GetResult();
        }
        catch (Exception e)
        {
            ExceptionDispatchInfo.Capture(e).Throw();
            throw;
        }
    }

    /// <summary>Runs a shell script in the namespace; it must succeed.</summary>
    /// <returns>What it printed.</returns>
    public string Shell(string script)
    {
        (int status, string text) = Try(script);
        return status == 0 ? text : throw new InvalidOperationException($"'{script}' ended with {status}: {text}");
    }

    /// <summary>Runs a shell script in the namespace.</summary>
    public (int Status, string Text) Try(string script) => Get(() =>
    {
        using Process process = Start(script);
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, text);
    });

    /// <summary>Starts a shell script in the namespace.</summary>
    public Process Start(string script) => Get(() =>
    {
        ProcessStartInfo start = new("/bin/sh") { RedirectStandardOutput = true, RedirectStandardInput = true, WorkingDirectory = "/" };
        start.ArgumentList.Add("-c");
        start.ArgumentList.Add($"exec 2>&1; PATH=$PATH:/usr/sbin:/sbin; {script}");
        start.Environment["LC_ALL"] = "C";
        return Process.Start(start)!;
    });

    /// <summary>Puts a file over one of the host's, in the namespace only.</summary>
    public void Bind(string source, string target) => Do(() =>
    {
        if (mount(source, target, null, MountBind, 0) != 0)
        {
            throw new InvalidOperationException($"'{target}' cannot be replaced: {Marshal.GetLastPInvokeErrorMessage()}");
        }
    });

    public void Dispose()
    {
        _work.CompleteAdding();
        _thread.Join();
    }

    private void Run()
    {
        foreach (Action action in _work.GetConsumingEnumerable())
        {
            action();
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int unshare(int flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int mount(string source, string target, string? type, ulong flags, nint data);
}
