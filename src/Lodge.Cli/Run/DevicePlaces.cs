using System.Globalization;
using Lodge.Machine;

namespace Lodge.Cli.Run;

/// <summary>
/// Names and PCI slots of disks and network cards. One without <c>name=</c> is called by its place in the list (<c>disk0</c>, <c>net0</c>), one without <c>slot=</c> takes the next slot in the order of the list;
/// so both stay the same as long as the list does. What is attached later has its name and slot written down, and what is detached of the others leaves an empty place (<c>none,place</c>).
/// </summary>
internal static class DevicePlaces
{
    /// <summary>Stands for a path or network in an empty place.</summary>
    public const string Empty = "none";

    /// <summary>The option that says so.</summary>
    public const string PlaceWord = "place";

    /// <summary>Last PCI slot that a device can have; after it comes the chipset.</summary>
    public const int LastSlot = 30;

    /// <summary>Names of the disks of a list.</summary>
    /// <param name="options">The list.</param>
    /// <param name="first">How many disks come before it: the system disk.</param>
    /// <param name="after">The number that a disk after it has: the cloud-init seed.</param>
    public static IReadOnlyList<string> OfDisks(IReadOnlyList<DiskOption> options, int first, out int after)
    {
        HashSet<string> given = [.. options.Select(option => option.Device).OfType<string>()];
        int number = first;
        string[] names = [.. options.Select(option => option.Device ?? Disk(Next()))];
        after = Next();
        return names;

        int Next()
        {
            while (given.Contains(Disk(number)))
            {
                number++;
            }
            return number++;
        }
    }

    /// <summary>The cards of a list with their names.</summary>
    public static IReadOnlyList<NetworkOption> OfCards(IEnumerable<NetworkOption> options)
    {
        List<NetworkOption> cards = [.. options];
        HashSet<string> given = [.. cards.Select(card => card.Device).OfType<string>()];
        int number = 0;
        return cards.ConvertAll(card => card.Device is null ? card with { Device = Next() } : card);

        string Next()
        {
            while (given.Contains(Card(number)))
            {
                number++;
            }
            return Card(number++);
        }
    }

    /// <summary>A disk's name by number.</summary>
    public static string Disk(int number) => string.Create(CultureInfo.InvariantCulture, $"disk{number}");

    /// <summary>A card's name by number.</summary>
    public static string Card(int number) => string.Create(CultureInfo.InvariantCulture, $"net{number}");

    /// <summary>The serial number of a disk that was given none.</summary>
    public static string Serial(string name)
    {
        const int longest = 20;
        string text = name.StartsWith("disk", StringComparison.Ordinal) && int.TryParse(name.AsSpan(4), NumberStyles.None, CultureInfo.InvariantCulture, out int number)
            ? string.Create(CultureInfo.InvariantCulture, $"LODGE-{number:d4}")
            : $"LODGE-{name}";
        return text.Length <= longest ? text : text[..longest];
    }

    /// <summary>Refuses what is no name of a device.</summary>
    /// <exception cref="FormatException">It is none.</exception>
    public static string CheckName(string value) =>
        value.Length is > 0 and <= 32 && char.IsAsciiLetterLower(value[0]) && value.All(c => char.IsAsciiLetterLower(c) || char.IsAsciiDigit(c) || c is '-' or '_')
            ? value
            : throw new FormatException($"name '{value}' of a device is not possible; give a lower-case letter, then lower-case letters, digits, - and _, 32 characters at most");

    /// <summary>Refuses what is no PCI slot.</summary>
    /// <exception cref="FormatException">It is none.</exception>
    public static int CheckSlot(string value) =>
        int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int slot) && slot is >= 1 and <= LastSlot
            ? slot
            : throw new FormatException($"PCI slot '{value}' of a device is not possible; give 1 to {LastSlot}");

    /// <summary>Refuses a slot that another device of a machine that is being made has.</summary>
    /// <exception cref="LodgeException">It is taken.</exception>
    public static void RequireFree(Chipset chipset, int slot, string name)
    {
        if (chipset.Pci.Functions.FirstOrDefault(function => function.Address.Device == slot) is { } other)
        {
            throw new LodgeException($"PCI slot {slot} of {name} is taken by {other.Name}; give another (slot=N)");
        }
    }
}
