namespace Lodge.Cli;

/// <summary>
/// Exit statuses of <c>lodge</c>. A command run in the guest passes its own (0-127, 128 + signal); a debug exit gives (value &lt;&lt; 1) | 1.
/// </summary>
internal static class ExitStatus
{
    /// <summary>The guest turned its power off, or the command succeeded.</summary>
    public const int PowerOff = 0;

    /// <summary>The machine could not be made or started.</summary>
    public const int CannotStart = 1;

    /// <summary>The command line is wrong.</summary>
    public const int Usage = 2;

    /// <summary><c>--timeout</c> ran out, as timeout(1) has it.</summary>
    public const int Timeout = 124;

    /// <summary>Standard output was closed by its reader: 128 + SIGPIPE, as a shell has it.</summary>
    public const int BrokenPipe = 141;

    /// <summary>The guest reset itself.</summary>
    public const int Reset = 200;

    /// <summary>Triple fault.</summary>
    public const int TripleFault = 201;

    /// <summary>The guest's kernel panicked.</summary>
    public const int Panic = 202;

    /// <summary>The engine failed.</summary>
    public const int EngineFailure = 203;

    /// <summary>The user left with Ctrl-].</summary>
    public const int Left = 204;

    /// <summary>The guest turned its power off before the command had ended.</summary>
    public const int Unfinished = 205;
}

/// <summary>A failure to tell the user in one line.</summary>
internal sealed class LodgeException(string message, int status = ExitStatus.CannotStart) : Exception(message)
{
    /// <summary>Exit status of the process.</summary>
    public int Status { get; } = status;
}
