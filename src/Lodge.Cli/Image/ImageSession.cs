using System.Runtime.InteropServices;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Storage.Disks;

namespace Lodge.Cli.Image;

/// <summary>The run of one verb: its cancellation by signals, its output, and how failures become an exit status.</summary>
internal sealed class ImageSession : IDisposable
{
    private const int LeastThreads = 16; // host I/O may block a thread; more are added only slowly
    private readonly CancellationTokenSource _stop = new();
    private readonly List<PosixSignalRegistration> _signals = [];
    private int _signal;

    private ImageSession()
    {
        foreach ((PosixSignal signal, int number) in (ReadOnlySpan<(PosixSignal, int)>)[(PosixSignal.SIGINT, 2), (PosixSignal.SIGTERM, 15), (PosixSignal.SIGHUP, 1)])
        {
            _signals.Add(PosixSignalRegistration.Create(signal, context =>
            {
                context.Cancel = true;
                Volatile.Write(ref _signal, number);
                _stop.Cancel();
            }));
        }
    }

    /// <summary>Ends when the user interrupts.</summary>
    public CancellationToken Cancellation => _stop.Token;

    /// <summary>Runs a verb and gives its status.</summary>
    /// <param name="verb">The work.</param>
    /// <param name="failure">Status of a failure.</param>
    public static int Run(Func<ImageSession, Task<int>> verb, int failure = ExitStatus.CannotStart)
    {
        ThreadPool.GetMinThreads(out int workers, out int ports);
        ThreadPool.SetMinThreads(Math.Max(workers, LeastThreads), ports);
        using ImageSession session = new();
        try
        {
            return Task.Run(() => verb(session)).GetAwaiter().GetResult();
        }
        catch (OperationCanceledException) when (session._stop.IsCancellationRequested)
        {
            throw new LodgeException("interrupted", 128 + Volatile.Read(ref session._signal));
        }
        catch (DiskException e)
        {
            throw new LodgeException(e.Message, failure);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException(e.Message, failure);
        }
        catch (LodgeException e) when (e.Status == ExitStatus.CannotStart && failure != e.Status)
        {
            throw new LodgeException(e.Message, failure);
        }
    }

    /// <summary>Writes text and a line end to standard output.</summary>
    public static int Print(string text, int status = 0)
    {
        if (text.Length != 0 && !text.EndsWith('\n'))
        {
            text += "\n";
        }
        return Write(text, status);
    }

    /// <summary>Writes text as it is to standard output.</summary>
    public static int Write(string text, int status = 0) =>
        HostFile.Write(HostFile.StandardOutput, Encoding.UTF8.GetBytes(text)) ? status : ExitStatus.BrokenPipe;

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals)
        {
            signal.Dispose();
        }
        _stop.Dispose();
    }
}
