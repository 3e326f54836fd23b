namespace Lodge.Cli.Run;

/// <summary>One machine in the foreground.</summary>
internal static class RunSession
{
    public static int Run(RunOptions options)
    {
        var files = DefaultSystem.SystemCache.ForUser().Get(DefaultSystem.DebianSystem.Make);
        System.Console.WriteLine(files);
        System.Console.WriteLine(options);
        return 0;
    }
}
