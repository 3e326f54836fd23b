using Lodge.Cli.Console;
using Spectre.Console;

namespace Lodge.Cli.DefaultSystem;

/// <summary>Tells the user on standard error what is being fetched: a moving bar on a terminal, a line for each step otherwise.</summary>
internal sealed class FetchProgress
{
    private readonly IAnsiConsole? _console;
    private volatile Step? _step;

    /// <summary>Creates it for this process's standard error.</summary>
    public FetchProgress() => _console = Terminal.IsTerminal(HostFile.StandardError)
        ? AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(System.Console.Error) })
        : null;

    /// <summary>Begins a step, which ends when disposed.</summary>
    public IDisposable Begin(string text)
    {
        if (_console is null)
        {
            HostFile.Error($"lodge: {text}");
            return new Step(null, text);
        }
        return _step = new Step(_console, text);
    }

    /// <summary>Percent of the current step.</summary>
    public void Report(double percent)
    {
        if (_step is { } step)
        {
            step.Percent = percent;
        }
    }

    private sealed class Step : IDisposable
    {
        private readonly ManualResetEventSlim _done = new();
        private readonly Thread? _thread;

        public Step(IAnsiConsole? console, string text)
        {
            if (console is null)
            {
                return;
            }
            _thread = new Thread(() => console.Progress().AutoClear(true)
                .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn())
                .Start(context =>
                {
                    ProgressTask task = context.AddTask(Markup.Escape(text));
                    while (!_done.Wait(50))
                    {
                        task.Value = Percent;
                    }
                    task.Value = 100;
                }));
            _thread.Start();
        }

        public double Percent { get; set; }

        public void Dispose()
        {
            _done.Set();
            _thread?.Join();
        }
    }
}
