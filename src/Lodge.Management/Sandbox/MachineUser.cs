namespace Lodge.Management.Sandbox;

/// <summary>
/// The user of a machine's process where root starts it: a number of its own, without a name or an entry anywhere, from a range that distributions leave free (systemd, UIDS-GIDS: above its containers' and below
/// its "foreign" range). What keeps it is the owner of the machine's own files (decision 0011).
/// </summary>
public static class MachineUser
{
    /// <summary>First of the range.</summary>
    public const uint First = 0x7000_0000;

    /// <summary>How many there are.</summary>
    public const uint Count = 0x0800_0000;

    /// <summary>Whether this process' user namespace has the range: root of a container without a daemon has a few users only (user_namespaces(7)).</summary>
    public static bool IsPossible => Maps("/proc/self/uid_map") && Maps("/proc/self/gid_map");

    /// <summary>Whether a user is of the range.</summary>
    public static bool IsOne(uint user) => user - First < Count;

    /// <summary>A user for a machine: the same each time, unless another machine has it already.</summary>
    /// <param name="id">The machine's identity.</param>
    /// <param name="taken">Users that machines have.</param>
    public static uint Choose(Guid id, IReadOnlySet<uint> taken)
    {
        Span<byte> bytes = stackalloc byte[16];
        id.TryWriteBytes(bytes);
        uint number = System.Buffers.Binary.BinaryPrimitives.ReadUInt32LittleEndian(bytes) % Count;
        while (taken.Contains(First + number))
        {
            number = (number + 1) % Count;
        }
        return First + number;
    }

    /// <summary>Lines of first number here, first number outside, and how many.</summary>
    internal static bool Maps(string file)
    {
        try
        {
            return File.ReadLines(file).Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries)).Any(words => words.Length == 3
                && ulong.TryParse(words[0], out ulong first) && ulong.TryParse(words[2], out ulong count) && first <= First && first + count >= First + (ulong)Count);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }
}
