using System.Globalization;
using Lodge.Cli.Console;
using Spectre.Console;

namespace Lodge.Cli.Image;

/// <summary>Shows the progress of an operation: a bar on standard error where that is a terminal; with <c>-p</c> elsewhere qemu-img's line on standard output.</summary>
internal sealed class ImageProgress : IProgress<double>, IDisposable
{
    private readonly ManualResetEventSlim _done = new();
    private readonly Thread? _bar;
    private readonly bool _plain;
    private readonly Lock _gate = new();
    private double _fraction;
    private double _printed = -1;

    /// <summary>Begins to show.</summary>
    public ImageProgress(string text, bool asked, bool quiet)
    {
        bool terminal = Terminal.IsTerminal(HostFile.StandardError) && !quiet;
        _plain = asked && !terminal && !quiet;
        if (terminal)
        {
            IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(System.Console.Error) });
            _bar = new Thread(() => Draw(console, text)) { IsBackground = true };
            _bar.Start();
        }
        else if (_plain)
        {
            Report(0);
        }
    }

    /// <inheritdoc/>
    public void Report(double value)
    {
        lock (_gate)
        {
            _fraction = Math.Max(_fraction, value);
            if (_plain && _fraction - _printed >= 0.01)
            {
                Print(_printed = _fraction, "\r");
            }
        }
    }

    /// <summary>All is done.</summary>
    public void Complete()
    {
        lock (_gate)
        {
            _fraction = 1;
            if (_plain)
            {
                Print(1, "\n");
            }
        }
    }

    public void Dispose()
    {
        _done.Set();
        _bar?.Join();
    }

    private static void Print(double fraction, string end) => HostFile.Write(
        HostFile.StandardOutput, System.Text.Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"    ({fraction * 100:F2}/100%){end}")));

    private void Draw(IAnsiConsole console, string text)
    {
        if (_done.Wait(200))
        {
            return; // what is that short needs no bar
        }
        console.Progress().AutoClear(true)
            .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn(), new RemainingTimeColumn())
            .Start(context =>
            {
                ProgressTask task = context.AddTask(Markup.Escape(text));
                while (!_done.Wait(50))
                {
                    task.Value = Volatile.Read(ref _fraction) * 100;
                }
            });
    }
}
