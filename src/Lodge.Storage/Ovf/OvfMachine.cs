using System.Globalization;
using System.Text;
using System.Xml;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Ovf;

/// <summary>What an exported machine is told to be.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Processors">Number of processors.</param>
/// <param name="Memory">Memory in bytes, a multiple of a MiB.</param>
/// <param name="Bus">Bus of its disks.</param>
public sealed record OvfMachine(string Name, int Processors, long Memory, OvfBus Bus = OvfBus.Sata);

/// <summary>A bus for disks.</summary>
public enum OvfBus
{
    /// <summary>AHCI.</summary>
    Sata,

    /// <summary>LSI Logic's parallel SCSI.</summary>
    Scsi,

    /// <summary>IDE.</summary>
    Ide,
}

/// <summary>A disk's file in a package to be.</summary>
internal sealed record OvfDiskFile(string Name, long FileLength, long Capacity, long Populated);

/// <summary>Writes descriptors of version 1.1 (DSP0243), which VirtualBox and VMware's products import.</summary>
internal static class OvfWriter
{
    private const string Ovf = "http://schemas.dmtf.org/ovf/envelope/1";
    private const string Resources = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
    private const string Settings = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";
    private const string StreamOptimized = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
    private const string Network = "VM Network";

    /// <summary>Disks that a controller takes.</summary>
    public static int MostDisks(OvfBus bus) => bus switch { OvfBus.Ide => 4, OvfBus.Scsi => 15, _ => 30 };

    public static byte[] Write(OvfMachine machine, IReadOnlyList<OvfDiskFile> disks)
    {
        using var stream = new MemoryStream();
        using (var xml = XmlWriter.Create(stream, new XmlWriterSettings { Indent = true, Encoding = new UTF8Encoding(false), NewLineChars = "\n" }))
        {
            try
            {
                WriteEnvelope(xml, machine, disks);
            }
            catch (ArgumentException e)
            {
                throw new DiskException(DiskError.InvalidOption, $"the name {machine.Name} cannot be written as XML", e);
            }
        }

        return stream.ToArray();
    }

    private static void WriteEnvelope(XmlWriter xml, OvfMachine machine, IReadOnlyList<OvfDiskFile> disks)
    {
        xml.WriteStartDocument();
        xml.WriteStartElement("Envelope", Ovf);
        xml.WriteAttributeString("xmlns", "ovf", null, Ovf);
        xml.WriteAttributeString("xmlns", "rasd", null, Resources);
        xml.WriteAttributeString("xmlns", "vssd", null, Settings);

        xml.WriteStartElement("References", Ovf);
        for (var index = 0; index < disks.Count; index++)
        {
            xml.WriteStartElement("File", Ovf);
            Attribute(xml, "id", $"file{index + 1}");
            Attribute(xml, "href", Uri.EscapeDataString(disks[index].Name));
            Attribute(xml, "size", disks[index].FileLength.ToString(CultureInfo.InvariantCulture));
            xml.WriteEndElement();
        }

        xml.WriteEndElement();
        Section(xml, "DiskSection", "The disks of the machine");
        for (var index = 0; index < disks.Count; index++)
        {
            xml.WriteStartElement("Disk", Ovf);
            Attribute(xml, "capacity", disks[index].Capacity.ToString(CultureInfo.InvariantCulture));
            Attribute(xml, "capacityAllocationUnits", "byte");
            Attribute(xml, "diskId", $"vmdisk{index + 1}");
            Attribute(xml, "fileRef", $"file{index + 1}");
            Attribute(xml, "format", StreamOptimized);
            Attribute(xml, "populatedSize", disks[index].Populated.ToString(CultureInfo.InvariantCulture));
            xml.WriteEndElement();
        }

        xml.WriteEndElement();
        Section(xml, "NetworkSection", "The networks of the machine");
        xml.WriteStartElement("Network", Ovf);
        Attribute(xml, "name", Network);
        xml.WriteElementString("Description", Ovf, "The machine's network");
        xml.WriteEndElement();
        xml.WriteEndElement();

        xml.WriteStartElement("VirtualSystem", Ovf);
        Attribute(xml, "id", machine.Name);
        xml.WriteElementString("Info", Ovf, "A virtual machine");
        xml.WriteElementString("Name", Ovf, machine.Name);
        xml.WriteStartElement("OperatingSystemSection", Ovf);
        Attribute(xml, "id", "101"); // "Linux 64-Bit" of CIM_OperatingSystem
        xml.WriteElementString("Info", Ovf, "The operating system");
        xml.WriteElementString("Description", Ovf, "Linux 64-Bit");
        xml.WriteEndElement();
        WriteHardware(xml, machine, disks.Count);
        xml.WriteEndElement();
        xml.WriteEndElement();
        xml.WriteEndDocument();
    }

    private static void WriteHardware(XmlWriter xml, OvfMachine machine, int disks)
    {
        Section(xml, "VirtualHardwareSection", "The hardware of the machine");
        xml.WriteStartElement("System", Ovf);
        xml.WriteElementString("ElementName", Settings, "Virtual Hardware Family");
        xml.WriteElementString("InstanceID", Settings, "0");
        xml.WriteElementString("VirtualSystemIdentifier", Settings, machine.Name);
        xml.WriteElementString("VirtualSystemType", Settings, "vmx-10");
        xml.WriteEndElement();

        // The elements of an item stand in alphabetical order.
        var memory = (machine.Memory >> 20).ToString(CultureInfo.InvariantCulture);
        var processors = machine.Processors.ToString(CultureInfo.InvariantCulture);
        Item(xml, ("AllocationUnits", "hertz * 10^6"), ("Description", "Number of virtual CPUs"), ("ElementName", $"{processors} virtual CPU(s)"), ("InstanceID", "1"), ("ResourceType", "3"), ("VirtualQuantity", processors));
        Item(xml, ("AllocationUnits", "byte * 2^20"), ("Description", "Memory size"), ("ElementName", $"{memory}MB of memory"), ("InstanceID", "2"), ("ResourceType", "4"), ("VirtualQuantity", memory));
        var controllers = machine.Bus == OvfBus.Ide && disks > 2 ? 2 : 1;
        for (var index = 0; index < controllers; index++)
        {
            var (name, subtype, type) = machine.Bus switch
            {
                OvfBus.Ide => ("IDE Controller", "PIIX4", "5"),
                OvfBus.Scsi => ("SCSI Controller", "lsilogic", "6"),
                _ => ("SATA Controller", "vmware.sata.ahci", "20"),
            };
            Item(
                xml, ("Address", Text(index)), ("Description", name), ("ElementName", $"{name} {index}"), ("InstanceID", Text(3 + index)), ("ResourceSubType", subtype), ("ResourceType", type));
        }

        for (var index = 0; index < disks; index++)
        {
            var (controller, place) = machine.Bus == OvfBus.Ide ? (index / 2, index % 2) : (0, index);
            Item(
                xml, ("AddressOnParent", Text(place)), ("ElementName", $"Hard Disk {index + 1}"), ("HostResource", $"ovf:/disk/vmdisk{index + 1}"), ("InstanceID", Text(10 + index)),
                ("Parent", Text(3 + controller)), ("ResourceType", "17"));
        }

        Item(
            xml, ("AutomaticAllocation", "true"), ("Connection", Network), ("Description", "Ethernet adapter"), ("ElementName", "Network adapter 1"), ("InstanceID", "5"),
            ("ResourceSubType", "E1000"), ("ResourceType", "10"));
        xml.WriteEndElement();
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);

    private static void Attribute(XmlWriter xml, string name, string value) => xml.WriteAttributeString("ovf", name, Ovf, value);

    private static void Section(XmlWriter xml, string name, string information)
    {
        xml.WriteStartElement(name, Ovf);
        xml.WriteElementString("Info", Ovf, information);
    }

    private static void Item(XmlWriter xml, params ReadOnlySpan<(string Name, string Value)> values)
    {
        xml.WriteStartElement("Item", Ovf);
        foreach (var (name, value) in values)
        {
            xml.WriteElementString("rasd", name, Resources, value);
        }

        xml.WriteEndElement();
    }
}
