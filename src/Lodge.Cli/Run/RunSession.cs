namespace Lodge.Cli.Run;

/// <summary>One machine in the foreground.</summary>
internal static class RunSession
{
    /// <summary>Runs it to its end.</summary>
    /// <returns>Exit status of the process.</returns>
    public static int Run(RunOptions options)
    {
        RunPlan plan = RunPlan.Create(options);
        throw new LodgeException($"'{plan.Kernel.Name}' cannot be run: this build has no engine");
    }
}
