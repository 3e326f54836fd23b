using System.Text;
using Lodge.Cli.Console;
using Lodge.Management.Host;
using Lodge.Management.Machines;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>What a machine's process tells the command that started it: lines, then whether the guest runs.</summary>
internal sealed class StartReport : IDisposable
{
    private readonly SafeFileHandle? _pipe;
    private bool _told;

    private StartReport(SafeFileHandle? pipe) => _pipe = pipe;

    /// <summary>Takes the descriptor over, if the process has it. Own lines go there too from now on.</summary>
    public static StartReport Open()
    {
        // Started by hand, descriptor 3 may be anything.
        bool pipe = new FileInfo($"/proc/self/fd/{DetachedProcess.ReportDescriptor}").LinkTarget?.StartsWith("pipe:", StringComparison.Ordinal) == true;
        StartReport report = new(pipe ? new SafeFileHandle(DetachedProcess.ReportDescriptor, ownsHandle: true) : null);
        HostFile.Listener = line => report.Write(line["lodge: ".Length..]);
        return report;
    }

    /// <summary>The guest runs.</summary>
    public void Started() => End(MachineLauncher.Started);

    /// <summary>It cannot.</summary>
    public void Fail(string reason)
    {
        HostFile.Listener = null;
        string line = reason.ReplaceLineEndings(" ").Trim();
        HostFile.Error($"lodge: {line}");
        End(line + "\n");
    }

    /// <summary>Closes it.</summary>
    public void Dispose() => End("");

    private void End(string last)
    {
        HostFile.Listener = null;
        if (!_told)
        {
            Write(last.TrimEnd('\n'));
            _told = true;
            _pipe?.Dispose();
        }
    }

    private void Write(string line)
    {
        if (_pipe is not null && !_told && line.Length != 0)
        {
            HostFile.Write((int)_pipe.DangerousGetHandle(), Encoding.UTF8.GetBytes(line + "\n"));
        }
    }
}
