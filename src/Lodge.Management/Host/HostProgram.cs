using System.Diagnostics;

namespace Lodge.Management.Host;

/// <summary>Runs programs of the host: no shell, C locale, standard error kept for the message when they fail.</summary>
public static class HostProgram
{
    /// <summary>Whether a program is on the PATH (with the system folders, which a user's PATH may lack).</summary>
    public static bool Exists(string name) => Path(name) is not null;

    /// <summary>Fails with the name of the package when a program is missing.</summary>
    /// <exception cref="ManagementException">It is missing.</exception>
    public static void Require(string name, string package)
    {
        if (!Exists(name))
        {
            throw new ManagementException($"the program '{name}' is missing; install the package {package} (apt-get install {package})");
        }
    }

    /// <summary>Runs a program to its end; what it prints is dropped.</summary>
    /// <param name="name">Program.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="errorLine">Chooses the line of standard error to keep: the last that it accepts; without it the last that is not blank.</param>
    /// <returns>Its exit status and the kept line.</returns>
    /// <exception cref="ManagementException">It cannot be started.</exception>
    public static (int Status, string Error) Run(string name, IEnumerable<string> arguments, Func<string, bool>? errorLine = null) =>
        Run(name, arguments, stream => stream.CopyTo(Stream.Null), errorLine);

    /// <summary>Runs a program with a text as its standard input; what it prints is dropped.</summary>
    /// <returns>Its exit status and the first line of standard error that has a message.</returns>
    /// <exception cref="ManagementException">It cannot be started.</exception>
    public static (int Status, string Error) Feed(string name, IEnumerable<string> arguments, string input)
    {
        string first = "";
        (int status, _) = Run(name, arguments, stream => stream.CopyTo(Stream.Null), line =>
        {
            first = first.Length == 0 ? line : first;
            return false;
        }, input);
        return (status, first);
    }

    /// <summary>Runs a program and returns its standard output as text, or null when it fails.</summary>
    public static string? Text(string name, params string[] arguments)
    {
        string text = "";
        return Run(name, arguments, stream => text = new StreamReader(stream).ReadToEnd(), null).Status == 0 ? text : null;
    }

    private static (int Status, string Error) Run(string name, IEnumerable<string> arguments, Action<Stream> output, Func<string, bool>? errorLine, string input = "")
    {
        ProcessStartInfo start = new(Path(name) ?? name, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = "/",
        };
        start.Environment["LC_ALL"] = "C";
        start.Environment["DEBIAN_FRONTEND"] = "noninteractive";
        start.Environment["PATH"] = string.Join(':', Folders);
        using Process process = Process.Start(start) ?? throw new ManagementException($"'{name}' cannot be started");
        string kept = "", last = "";
        process.ErrorDataReceived += (_, e) =>
        {
            if (!string.IsNullOrWhiteSpace(e.Data))
            {
                last = e.Data.Trim();
                kept = errorLine?.Invoke(last) == true ? last : kept;
            }
        };
        process.BeginErrorReadLine();
        try
        {
            process.StandardInput.Write(input);
            process.StandardInput.Close();
        }
        catch (IOException)
        {
            // It ended without reading all; its status tells why.
        }
        output(process.StandardOutput.BaseStream);
        process.WaitForExit();
        return (process.ExitCode, kept.Length != 0 ? kept : last);
    }

    private static IEnumerable<string> Folders => (Environment.GetEnvironmentVariable("PATH") ?? "")
        .Split(':', StringSplitOptions.RemoveEmptyEntries).Concat(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]).Distinct();

    private static string? Path(string name) => Folders.Select(folder => System.IO.Path.Combine(folder, name)).FirstOrDefault(File.Exists);
}
