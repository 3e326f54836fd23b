using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Templates;

/// <summary>A template that was opened to make a clone: it stays usable when its files are deleted meanwhile.</summary>
public sealed class SavedTemplate : IDisposable
{
    internal SavedTemplate(SafeFileHandle memory, ReadOnlyMemory<byte> state, IReadOnlyList<string> cardAddresses)
    {
        Memory = memory;
        State = state;
        CardAddresses = cardAddresses;
    }

    /// <summary>The memory file, open for reading.</summary>
    public SafeFileHandle Memory { get; }

    /// <summary>State of devices and processors.</summary>
    public ReadOnlyMemory<byte> State { get; }

    /// <summary>MAC addresses of the machine's network cards, which the guest's drivers have read.</summary>
    public IReadOnlyList<string> CardAddresses { get; }

    /// <inheritdoc/>
    public void Dispose() => Memory.Dispose();
}

/// <summary>
/// The file <c>state</c> of a template: a header that says for which key, which start of the host and which memory file it was made, and the state itself, with a checksum
/// over all of it against accidents. Numbers are little-endian.
/// </summary>
internal static class TemplateState
{
    private const uint Version = 1;
    private const int MaximumText = 256, MaximumCards = 64;
    private static readonly byte[] Magic = "LODGETPL"u8.ToArray();

    /// <summary>Composes the file.</summary>
    /// <param name="key">The text of the template's key.</param>
    /// <param name="start">The host's start in which the memory file is believed; empty: in any (it was written through).</param>
    /// <param name="memoryLength">Bytes of the memory file.</param>
    /// <param name="memoryTime">Time of the memory file's last change in ticks.</param>
    /// <param name="cards">Addresses of the cards.</param>
    /// <param name="state">The state.</param>
    public static byte[] Write(string key, string start, long memoryLength, long memoryTime, IReadOnlyList<string> cards, ReadOnlySpan<byte> state)
    {
        using MemoryStream output = new();
        using (BinaryWriter writer = new(output, Encoding.UTF8, leaveOpen: true))
        {
            writer.Write(Magic);
            writer.Write(Version);
            writer.Write(key);
            writer.Write(start);
            writer.Write(memoryLength);
            writer.Write(memoryTime);
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

    /// <summary>Takes the file apart; null when it is damaged, of another version, or of another key, start or memory file.</summary>
    public static (ReadOnlyMemory<byte> State, IReadOnlyList<string> Cards)? Read(byte[] file, string key, Func<string> start, long memoryLength, long memoryTime)
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
            if (!reader.ReadBytes(Magic.Length).AsSpan().SequenceEqual(Magic) || reader.ReadUInt32() != Version || reader.ReadString() != key)
            {
                return null;
            }
            string made = reader.ReadString();
            if ((made.Length != 0 && made != start()) || reader.ReadInt64() != memoryLength || reader.ReadInt64() != memoryTime)
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
