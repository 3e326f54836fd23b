using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Text;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Templates;

/// <summary>A template that was opened to make a clone: it stays usable when its files are deleted meanwhile.</summary>
public sealed class SavedTemplate : IDisposable
{
    private const string MemoryFile = "memory", StateFile = "state", CodeFile = "code";
    private readonly byte[] _file;

    private SavedTemplate(SafeFileHandle memory, SafeFileHandle? disk, SafeFileHandle? code, byte[] file, ReadOnlyMemory<byte> state, IReadOnlyList<string> cardAddresses)
    {
        Memory = memory;
        Disk = disk;
        Code = code;
        _file = file;
        State = state;
        CardAddresses = cardAddresses;
    }

    /// <summary>The memory file, open for reading.</summary>
    public SafeFileHandle Memory { get; }

    /// <summary>What the machine has written to its system disk, an overlay on the image's (qcow2), open for reading; null for a machine without one.</summary>
    public SafeFileHandle? Disk { get; }

    /// <summary>What the engine has translated of the guest's code, open for reading; null for none.</summary>
    public SafeFileHandle? Code { get; }

    /// <summary>State of devices and processors.</summary>
    public ReadOnlyMemory<byte> State { get; }

    /// <summary>MAC addresses of the machine's network cards, which the guest's drivers have read.</summary>
    public IReadOnlyList<string> CardAddresses { get; }

    /// <summary>Gives a machine that is being made memory, code and state by hard links: its first start goes on with them, whatever becomes of the template.</summary>
    /// <param name="folder">A folder that is not there yet.</param>
    /// <exception cref="IOException">The host refuses, for example because the folder is on another file system or the template was removed.</exception>
    public void GiveTo(string folder)
    {
        Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        HostLink.Create(Memory, Path.Combine(folder, MemoryFile));
        if (Code is not null)
        {
            HostLink.Create(Code, Path.Combine(folder, CodeFile));
        }
        File.WriteAllBytes(Path.Combine(folder, StateFile), _file);
    }

    /// <summary>Opens what <see cref="GiveTo"/> has left in a folder; null when there is nothing, or nothing that can be used.</summary>
    public static SavedTemplate? OpenGiven(string folder) => Read(folder, null, null, TemplateStore.HostStart);

    /// <summary>Opens the files of a template; null when there are none, or they are not to be believed.</summary>
    /// <param name="folder">Its folder.</param>
    /// <param name="key">The text of the key that it must have; null: any.</param>
    /// <param name="disk">Name of the overlay's file, which need not be there; null: none is looked for.</param>
    /// <param name="start">Which start of the host this is.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <exception cref="UnauthorizedAccessException">Likewise.</exception>
    internal static SavedTemplate? Read(string folder, string? key, string? disk, Func<string> start)
    {
        string stateFile = Path.Combine(folder, StateFile);
        if (!File.Exists(stateFile))
        {
            return null;
        }
        SafeFileHandle? Open(string name) => File.Exists(Path.Combine(folder, name)) ? File.OpenHandle(Path.Combine(folder, name), share: FileShare.ReadWrite | FileShare.Delete) : null;
        SafeFileHandle memory = File.OpenHandle(Path.Combine(folder, MemoryFile), share: FileShare.ReadWrite | FileShare.Delete);
        SafeFileHandle? overlay = null, code = null;
        try
        {
            byte[] file = File.ReadAllBytes(stateFile);
            overlay = disk is not null ? Open(disk) : null;
            code = Open(CodeFile);
            if (TemplateState.Read(file, key, start, TemplateFile.Of(memory), TemplateFile.Of(code), disk is null ? null : TemplateFile.Of(overlay)) is { } found)
            {
                SavedTemplate saved = new(memory, overlay, code, file, found.State, found.Cards);
                (memory, overlay, code) = (null!, null, null);
                return saved;
            }
            return null;
        }
        finally
        {
            memory?.Dispose();
            overlay?.Dispose();
            code?.Dispose();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Memory.Dispose();
        Disk?.Dispose();
        Code?.Dispose();
    }
}

/// <summary>By what a template knows a file of its own again.</summary>
/// <param name="Length">Its bytes; -1: there is none.</param>
/// <param name="Time">Time of its last change in ticks.</param>
internal readonly record struct TemplateFile(long Length, long Time)
{
    /// <summary>The file that is open; none for null.</summary>
    public static TemplateFile Of(SafeFileHandle? file) => file is null ? new(-1, 0) : new(RandomAccess.GetLength(file), File.GetLastWriteTimeUtc(file).Ticks);
}

/// <summary>
/// The file <c>state</c> of a template: a header that says for which key, which start of the host and which memory file, overlay and code it was made, and the state itself, with a checksum
/// over all of it against accidents. Numbers are little-endian.
/// </summary>
internal static class TemplateState
{
    private const uint Version = 3;
    private const int MaximumText = 256, MaximumCards = 64;
    private static readonly byte[] Magic = "LODGETPL"u8.ToArray();

    /// <summary>Composes the file.</summary>
    /// <param name="key">The text of the template's key.</param>
    /// <param name="start">The host's start in which the memory file is believed; empty: in any (it was written through).</param>
    /// <param name="memory">The memory file.</param>
    /// <param name="code">The translated code.</param>
    /// <param name="disk">The overlay.</param>
    /// <param name="cards">Addresses of the cards.</param>
    /// <param name="state">The state.</param>
    public static byte[] Write(string key, string start, TemplateFile memory, TemplateFile code, TemplateFile disk, IReadOnlyList<string> cards, ReadOnlySpan<byte> state)
    {
        using MemoryStream output = new();
        using (BinaryWriter writer = new(output, Encoding.UTF8, leaveOpen: true))
        {
            writer.Write(Magic);
            writer.Write(Version);
            writer.Write(key);
            writer.Write(start);
            writer.Write(memory.Length);
            writer.Write(memory.Time);
            writer.Write(code.Length);
            writer.Write(code.Time);
            writer.Write(disk.Length);
            writer.Write(disk.Time);
            writer.Write(cards.Count);
            foreach (string card in cards)
            {
                writer.Write(card);
            }
            writer.Write(state.Length);
            writer.Write(state);
        }
        byte[] contents = output.ToArray();
        byte[] file = new byte[contents.Length + sizeof(uint)];
        contents.CopyTo(file, 0);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(contents.Length), Checksum(contents));
        return file;
    }

    /// <summary>Takes the file apart; null when it is damaged, of another version, or of another key (null: any is right), start, memory file, code or overlay (null: any).</summary>
    public static (ReadOnlyMemory<byte> State, IReadOnlyList<string> Cards)? Read(byte[] file, string? key, Func<string> start, TemplateFile memory, TemplateFile code, TemplateFile? disk)
    {
        int length = file.Length - sizeof(uint);
        if (length < Magic.Length || Checksum(file.AsSpan(0, length)) != BinaryPrimitives.ReadUInt32LittleEndian(file.AsSpan(length)))
        {
            return null;
        }
        try
        {
            using MemoryStream input = new(file, 0, length);
            using BinaryReader reader = new(input, Encoding.UTF8);
            if (!reader.ReadBytes(Magic.Length).AsSpan().SequenceEqual(Magic) || reader.ReadUInt32() != Version || reader.ReadString() is var made && key is not null && made != key)
            {
                return null;
            }
            string hostStart = reader.ReadString();
            if ((hostStart.Length != 0 && hostStart != start())
                || new TemplateFile(reader.ReadInt64(), reader.ReadInt64()) != memory
                || new TemplateFile(reader.ReadInt64(), reader.ReadInt64()) != code
                || new TemplateFile(reader.ReadInt64(), reader.ReadInt64()) is var written && disk is { } overlay && written != overlay)
            {
                return null;
            }
            int count = reader.ReadInt32();
            List<string> cards = [];
            for (int i = 0; i < count && i < MaximumCards; i++)
            {
                cards.Add(reader.ReadString() is { Length: <= MaximumText } card ? card : "");
            }
            int bytes = reader.ReadInt32();
            return count == cards.Count && bytes >= 0 && bytes == length - input.Position ? (file.AsMemory((int)input.Position, bytes), cards) : null;
        }
        catch (Exception e) when (e is IOException or FormatException or ArgumentException)
        {
            return null;
        }
    }

    /// <summary>CRC-32C.</summary>
    private static uint Checksum(ReadOnlySpan<byte> data)
    {
        uint crc = uint.MaxValue;
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(data);
        foreach (ulong word in words)
        {
            crc = BitOperations.Crc32C(crc, word);
        }
        foreach (byte b in data[(words.Length * sizeof(ulong))..])
        {
            crc = BitOperations.Crc32C(crc, b);
        }
        return ~crc;
    }
}
