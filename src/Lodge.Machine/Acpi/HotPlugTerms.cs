using System.Globalization;
using Lodge.Machine.Devices.Power.HotPlug;

namespace Lodge.Machine.Acpi;

/// <summary>
/// The terms of the DSDT that use the registers of the <see cref="HotPlugController"/>s: PCI slots with <c>_EJ0</c> (ACPI 6.5, 6.3) and processors with
/// <c>_STA</c>, <c>_MAT</c> and <c>_EJ0</c>, and for each kind a method that notifies the operating system of what came (device check) and what shall go
/// (ejection request). The registers are bitmaps, so that a method needs no lock against others.
/// </summary>
internal static class HotPlugTerms
{
    /// <summary>Ports of the slots' controller.</summary>
    public const byte SlotPorts = 32 / 8 * 4;

    /// <summary>Ports of the processors' controller.</summary>
    public const byte ProcessorPorts = 256 / 8 * 4;

    /// <summary>Name of the methods that notify.</summary>
    public const string Scan = "SCAN";

    private const int DeviceCheck = 1, EjectionRequest = 3;

    /// <summary>For the scope of the PCI root: an object for each slot, although most are empty.</summary>
    public static IEnumerable<byte[]> Slots(IReadOnlyList<int> slots)
    {
        yield return Aml.PortRegion("PLUG", PortMap.PciHotPlug, SlotPorts);
        yield return Fields(32, [.. slots]);
        foreach (int slot in slots)
        {
            yield return Aml.Device(Name('S', slot),
                Aml.Name("_ADR", Aml.Integer((ulong)slot << 16)),
                Aml.Name("_SUN", Aml.Integer((ulong)slot)),
                Eject(slot));
        }
        yield return Notifications('S', slots);
    }

    /// <summary>For the scope of the system bus. Processor 0 cannot be ejected.</summary>
    public static IEnumerable<byte[]> Processors(int count)
    {
        int[] processors = [.. Enumerable.Range(0, count)];
        yield return Aml.PortRegion("PLUG", PortMap.ProcessorHotPlug, ProcessorPorts);
        yield return Fields(256, [.. processors]);
        // A processor local APIC structure (5.2.12.2): processor, APIC ID, and flags of which bit 0 says enabled.
        yield return Aml.Method("APIC", 2,
            Aml.Store(Aml.Buffer([0x00, 0x08, 0, 0, 0, 0, 0, 0]), Aml.Local(0)),
            Aml.Store(Aml.Argument(0), Aml.Element(Aml.Local(0), 2)),
            Aml.Store(Aml.Argument(0), Aml.Element(Aml.Local(0), 3)),
            Aml.Store(Aml.Argument(1), Aml.Element(Aml.Local(0), 4)),
            Aml.Return(Aml.Local(0)));
        foreach (int i in processors)
        {
            byte[] present = Aml.Path(Name('P', i));
            yield return Aml.Device(Name('C', i),
            [
                Aml.Name("_HID", Aml.Text("ACPI0007")),
                Aml.Name("_UID", Aml.Integer((ulong)i)),
                Aml.Method("_STA", 0, Aml.If(present, Aml.Return(Aml.Integer(0x0F))), Aml.Return(Aml.Integer(0))),
                Aml.Method("_MAT", 0, Aml.Return([.. Aml.Path("APIC"), .. Aml.Integer((ulong)i), .. present])),
                .. i == 0 ? Array.Empty<byte[]>() : [Eject(i)],
            ]);
        }
        yield return Notifications('C', processors[1..]);
    }

    private static string Name(char kind, int place) => kind + place.ToString("X3", CultureInfo.InvariantCulture);

    /// <summary>A bit for each place in each bitmap: P000 (present), A000 (arrived), L000 (leaving), X000 (eject), and so on.</summary>
    private static byte[] Fields(int places, HashSet<int> used)
    {
        var bits = new List<string?>();
        foreach (HotPlugRegister register in Enum.GetValues<HotPlugRegister>())
        {
            char kind = register switch
            {
                HotPlugRegister.Present => 'P',
                HotPlugRegister.Arrived => 'A',
                HotPlugRegister.Leaving => 'L',
                _ => 'X',
            };
            bits.AddRange(Enumerable.Range(0, places).Select(place => used.Contains(place) ? Name(kind, place) : null));
        }
        return Aml.BitFields("PLUG", bits);
    }

    private static byte[] Eject(int place) => Aml.Method("_EJ0", 1, Aml.Store(Aml.Integer(1), Aml.Path(Name('X', place))));

    private static byte[] Notifications(char kind, IReadOnlyList<int> places)
    {
        var terms = new List<byte[]>();
        foreach (int place in places)
        {
            foreach ((char register, int notification) in ((char, int)[])[('A', DeviceCheck), ('L', EjectionRequest)])
            {
                byte[] flag = Aml.Path(Name(register, place));
                terms.Add(Aml.If(flag, Aml.Store(Aml.Integer(1), flag), Aml.Notify(Name(kind, place), notification)));
            }
        }
        return Aml.Method(Scan, 0, terms);
    }
}
