using System.Text;
using Lodge.Cli.Run;

namespace Lodge.Cli.DefaultSystem;

/// <summary>What the default system is to do.</summary>
internal enum CommandMode
{
    /// <summary>A shell on the console.</summary>
    Shell,

    /// <summary>The command on the console (a terminal on both sides).</summary>
    Terminal,

    /// <summary>The command on three ports.</summary>
    Pipe,
}

/// <summary>
/// The second, small initramfs, which the kernel unpacks over the first: what to run. The words of the command are arbitrary bytes; each is
/// quoted for the shell.
/// </summary>
internal static class CommandImage
{
    /// <summary>Builds the archive.</summary>
    /// <param name="run">What to run; null: that comes later, by the command port (see <see cref="RunText"/>).</param>
    /// <param name="disks">What the machine's disks need; null: it has none.</param>
    /// <param name="networks">What its network cards need; null: it has none.</param>
    /// <param name="shares">Shared folders, see <see cref="RunShares.Mounts"/>.</param>
    public static byte[] Build(byte[]? run, DiskNeeds? disks = null, NetworkNeeds? networks = null, string shares = "")
    {
        using MemoryStream archive = new();
        CpioWriter cpio = new(archive);
        using MemoryStream text = new();
        if (disks is { Count: not 0 } or { Modules.Count: not 0 })
        {
            Assign(text, "disks", disks.Count.ToString(System.Globalization.CultureInfo.InvariantCulture));
            Assign(text, "disk_modules", string.Join(' ', disks.Modules));
        }
        if (networks is { Cards.Count: not 0 })
        {
            Assign(text, "cards", string.Join(' ', networks.Cards));
            Assign(text, "card_modules", NetworkNeeds.Module);
            if (networks.NameServer is { } server)
            {
                cpio.File("etc/resolv.conf", Encoding.ASCII.GetBytes($"nameserver {server}\n"));
            }
        }
        if (shares.Length != 0)
        {
            Assign(text, "shares", shares);
        }
        if (run is null)
        {
            Assign(text, "template", "1");
        }
        else
        {
            text.Write(run);
        }
        cpio.File("lodge/run", text.ToArray());
        cpio.Finish();
        return archive.ToArray();
    }

    /// <summary>What the default system is told to run.</summary>
    /// <param name="mode">What to do.</param>
    /// <param name="hostName">Host name.</param>
    /// <param name="terminalType">Value of TERM.</param>
    /// <param name="size">Columns and rows of the terminal, when they must be set; null: the console has them already.</param>
    /// <param name="endMark">Ends the streams in pipe mode.</param>
    /// <param name="command">Program and arguments; empty for a shell.</param>
    public static byte[] RunText(CommandMode mode, string hostName, string terminalType, (int Columns, int Rows)? size, string endMark, IReadOnlyList<byte[]> command)
    {
        using MemoryStream text = new();
        Assign(text, "mode", mode.ToString().ToLowerInvariant());
        Assign(text, "name", hostName);
        Assign(text, "mark", endMark);
        Assign(text, "TERM", terminalType);
        text.Write("export TERM\n"u8);
        if (size is { } s && mode != CommandMode.Pipe)
        {
            text.Write(Encoding.ASCII.GetBytes($"stty columns {s.Columns} rows {s.Rows} </dev/hvc0\n"));
        }
        if (command.Count != 0)
        {
            text.Write("lodge_command() {\nunset name mode mark disks disk_modules cards card_modules shares template\nexec"u8);
            text.Write(mode == CommandMode.Terminal ? " setsid -c sh -c 'exec \"$0\" \"$@\"'"u8 : []);
            foreach (byte[] word in command)
            {
                text.WriteByte((byte)' ');
                Quote(text, word);
            }
            text.Write("\n}\n"u8);
        }
        return text.ToArray();
    }

    /// <summary>What the command service of a stored image reads from its port: assignments, an empty line, and a script, which begins with <paramref name="prologue"/>.</summary>
    public static byte[] Text(CommandMode mode, string endMark, string terminalType, IReadOnlyList<byte[]> command, bool powerOff, string prologue = "")
    {
        using MemoryStream text = new();
        Assign(text, "mode", mode.ToString().ToLowerInvariant());
        Assign(text, "mark", endMark);
        Assign(text, "power", powerOff ? "off" : "");
        Assign(text, "TERM", terminalType);
        text.Write("export TERM\n\nunset mode mark power\n"u8);
        text.Write(Encoding.ASCII.GetBytes(prologue));
        text.Write("exec"u8);
        foreach (byte[] word in command)
        {
            text.WriteByte((byte)' ');
            Quote(text, word);
        }
        text.WriteByte((byte)'\n');
        return text.ToArray();
    }

    /// <summary>The last words of this process's own command line, as bytes (they need not be UTF-8, as .NET's strings suppose).</summary>
    public static IReadOnlyList<byte[]> LastWords(IReadOnlyList<string> words)
    {
        List<byte[]> all = [];
        try
        {
            byte[] line = File.ReadAllBytes("/proc/self/cmdline");
            for (int start = 0; start < line.Length;)
            {
                int end = Array.IndexOf(line, (byte)0, start);
                end = end < 0 ? line.Length : end;
                all.Add(line[start..end]);
                start = end + 1;
            }
        }
        catch (IOException)
        {
            // No /proc: the strings must do.
        }
        List<byte[]> last = all.Count >= words.Count ? all[^words.Count..] : [];
        return last.Count == words.Count && last.Zip(words).All(p => Encoding.UTF8.GetString(p.First) == p.Second)
            ? last
            : [.. words.Select(Encoding.UTF8.GetBytes)];
    }

    private static void Assign(MemoryStream output, string name, string value)
    {
        output.Write(Encoding.ASCII.GetBytes(name));
        output.WriteByte((byte)'=');
        Quote(output, Encoding.UTF8.GetBytes(value));
        output.WriteByte((byte)'\n');
    }

    private static void Quote(MemoryStream output, byte[] word)
    {
        output.WriteByte((byte)'\'');
        foreach (byte b in word)
        {
            if (b == '\'')
            {
                output.Write("'\\''"u8);
            }
            else
            {
                output.WriteByte(b);
            }
        }
        output.WriteByte((byte)'\'');
    }
}
