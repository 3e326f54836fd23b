using System.Diagnostics.CodeAnalysis;
using System.Reflection;

namespace Lodge.Cli.Machines;

/// <summary>
/// A machine lives for months, and the file of the program that it runs is replaced by a later one meanwhile. The runtime opens that file whenever it needs a part of the program for the first time, which then is
/// not there, or of another build: so all parts are loaded when the machine begins. A part that is loaded stays what it was.
/// </summary>
internal static class WholeProgram
{
    /// <summary>Loads the parts of the program that are not loaded yet. What belongs to an installed .NET stays where it is.</summary>
    public static void Load()
    {
        string own = Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory);
        // Files that the runtime knows; parts of a program that is one file are not among them.
        Dictionary<string, string?> files = [];
        foreach (string file in (AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") as string ?? "").Split(Path.PathSeparator))
        {
            files[Path.GetFileNameWithoutExtension(file)] = Path.GetDirectoryName(file);
        }
        HashSet<string> seen = [];
        Queue<Assembly> loaded = new([typeof(WholeProgram).Assembly]);
        while (loaded.TryDequeue(out Assembly? part))
        {
            foreach (AssemblyName name in References(part))
            {
                if (seen.Add(name.Name!) && (!files.TryGetValue(name.Name!, out string? folder) || folder == own))
                {
                    try
                    {
                        loaded.Enqueue(Assembly.Load(name));
                    }
                    catch (Exception e) when (e is IOException or BadImageFormatException)
                    {
                        // Nothing has asked for it; what does says so.
                    }
                }
            }
        }
    }

    [UnconditionalSuppressMessage("Trimming", "IL2026", Justification = "A reference that was trimmed away is of a part that nothing needs.")]
    private static AssemblyName[] References(Assembly part) => part.GetReferencedAssemblies();
}
