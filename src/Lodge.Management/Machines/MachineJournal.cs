using System.Text;
using System.Text.Json;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Machines;

/// <summary>
/// What happened to the machines of this store, <c>FOLDER/.events</c>: a line of JSON each, written in one piece at the end by whoever makes it happen. When it
/// is long it becomes <c>.events.1</c> and a new one begins.
/// </summary>
/// <param name="folder">The store's folder.</param>
/// <param name="open">The file, open for appending, of a process that may not open it; null for others.</param>
public sealed class MachineJournal(string folder, SafeFileHandle? open = null)
{
    private const long Limit = 4 << 20;

    private string Current => Path.Combine(folder, ".events");

    /// <summary>Adds an event. A journal that cannot be written stops nothing.</summary>
    public void Add(MachineEvent happened)
    {
        try
        {
            byte[] line = [.. JsonSerializer.SerializeToUtf8Bytes(happened, MachineLineJson.Default.MachineEvent), (byte)'\n'];
            if (open is not null)
            {
                RandomAccess.Write(open, line, 0); // it is at the end wherever one says (open(2), O_APPEND)
                return;
            }
            using FileStream file = new(Current, FileMode.Append, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete, 1);
            if (file.Length > Limit)
            {
                File.Move(Current, Current + ".1", overwrite: true);
            }
            file.Write(line);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Events are for onlookers.
        }
    }

    /// <summary>Opens the file for a process that is given it.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    internal SafeFileHandle OpenForAppending() => HostSystemCalls.OpenForAppending(Current);

    /// <summary>Events from a time on, and with <paramref name="follow"/> those that come, until cancelled.</summary>
    public async IAsyncEnumerable<MachineEvent> ReadAsync(DateTimeOffset? since, bool follow, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellation)
    {
        if (since is not null)
        {
            foreach (MachineEvent old in Lines(Current + ".1").Concat(follow ? [] : Lines(Current)).Where(e => e.Time >= since))
            {
                yield return old;
            }
        }
        if (!follow)
        {
            yield break;
        }
        FileStream? file = Open();
        if (since is null)
        {
            file?.Seek(0, SeekOrigin.End);
        }
        byte[] buffer = new byte[1 << 16];
        List<byte> rest = [];
        while (!cancellation.IsCancellationRequested)
        {
            int count = file is null ? 0 : await file.ReadAsync(buffer, CancellationToken.None).ConfigureAwait(false);
            rest.AddRange(buffer.AsSpan(0, count));
            for (int end; (end = rest.IndexOf((byte)'\n')) >= 0;)
            {
                MachineEvent? happened = Parse(Encoding.UTF8.GetString([.. rest[..end]]));
                rest.RemoveRange(0, end + 1);
                if (happened is not null && (since is null || happened.Time >= since))
                {
                    yield return happened;
                }
            }
            if (count == 0)
            {
                if (file is null || file.Position > Limit && new FileInfo(Current) is { Exists: true } now && now.Length < file.Position)
                {
                    file?.Dispose();
                    file = Open();
                }
                try
                {
                    await Task.Delay(100, cancellation).ConfigureAwait(false);
                }
                catch (OperationCanceledException)
                {
                    break;
                }
            }
        }
        file?.Dispose();
    }

    private FileStream? Open()
    {
        try
        {
            return new FileStream(Current, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
    }

    private static IEnumerable<MachineEvent> Lines(string path)
    {
        string[] lines;
        try
        {
            lines = File.ReadAllLines(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            yield break;
        }
        foreach (string line in lines)
        {
            if (Parse(line) is { } happened)
            {
                yield return happened;
            }
        }
    }

    private static MachineEvent? Parse(string line)
    {
        try
        {
            return JsonSerializer.Deserialize(line, MachineLineJson.Default.MachineEvent);
        }
        catch (JsonException)
        {
            return null; // half a line, of a process that was killed or a disk that was full
        }
    }
}
