using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Acpi;

/// <summary>SMBIOS tables (DMTF DSP0134 3.6): what inventory tools and some drivers read. Both entry points point to one structure table.</summary>
public static class ManagementTables
{
    private const ulong EntryPoint64 = MemoryMap.ManagementTablesBase;
    private const ulong EntryPoint32 = MemoryMap.ManagementTablesBase + 0x20;
    private const ulong Structures = MemoryMap.ManagementTablesBase + 0x40;
    private const ushort NoHandle = 0xFFFF;
    private const ushort NoErrorInformation = 0xFFFE;

    /// <summary>Writes entry points and structures.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="processorCount">Processors.</param>
    /// <param name="oemStrings">Strings for the guest's software (type 11), for example systemd's credentials; at most 255.</param>
    public static void Write(GuestMemory memory, int processorCount, IReadOnlyList<string> oemStrings)
    {
        var table = new List<byte>();
        int count = 0;
        int largest = 0;

        Add(0, 0, ["Lodge", "1", "01/01/2026"], static s => s.String(1).String(2).UInt16(0xE000).String(3).UInt8(0)
            .UInt64(1 << 3) // characteristics are not supported
            .UInt8(0).UInt8(0x18) // virtual machine, UEFI no; targeted content distribution
            .UInt8(0xFF).UInt8(0xFF).UInt8(0xFF).UInt8(0xFF));
        Add(1, 0x100, ["Lodge", "Virtual Machine", "1"], static s => s.String(1).String(2).String(3).String(0)
            .UInt64(0).UInt64(0).UInt8(6).String(0).String(0)); // no UUID; woken by the power switch
        Add(3, 0x300, ["Lodge"], static s => s.String(1).UInt8(1).String(0).String(0).String(0)
            .UInt8(3).UInt8(3).UInt8(3).UInt8(2).UInt32(0).UInt8(0).UInt8(0).UInt8(0).UInt8(0).String(0));
        int cores = processorCount;
        Add(4, 0x400, ["CPU 0", "Lodge"], s => s.String(1).UInt8(3).UInt8(2).String(2).UInt64(0).String(0)
            .UInt8(0).UInt16(0).UInt16(0).UInt16(0).UInt8(0x41).UInt8(1).UInt16(NoHandle).UInt16(NoHandle).UInt16(NoHandle)
            .String(0).String(0).String(0).UInt8(Math.Min(cores, 255)).UInt8(Math.Min(cores, 255)).UInt8(Math.Min(cores, 255))
            .UInt16(4).UInt16(2).UInt16(cores).UInt16(cores).UInt16(cores)); // 64-bit capable; family unknown
        if (oemStrings.Count != 0)
        {
            Add(11, 0xB00, [.. oemStrings], s => s.UInt8(oemStrings.Count));
        }
        ulong size = memory.Size;
        Add(16, 0x1000, [], s => s.UInt8(1).UInt8(3).UInt8(3)
            .UInt32(size < 1UL << 41 ? (uint)(size >> 10) : 0x8000_0000).UInt16(NoErrorInformation).UInt16(1)
            .UInt64(size < 1UL << 41 ? 0 : size));
        ulong mebibytes = size >> 20;
        Add(17, 0x1100, ["DIMM 0"], s => s.UInt16(0x1000).UInt16(NoErrorInformation).UInt16(64).UInt16(64)
            .UInt16(mebibytes < 0x7FFF ? (int)mebibytes : 0x7FFF).UInt8(9).UInt8(0).String(1).String(0).UInt8(7).UInt16(2)
            .UInt16(0).String(0).String(0).String(0).String(0).UInt8(0)
            .UInt32(mebibytes < 0x7FFF ? 0 : (uint)mebibytes).UInt16(0).UInt16(0).UInt16(0).UInt16(0));
        ushort handle = 0x1300;
        foreach (MemorySlot slot in memory.Slots)
        {
            ulong last = slot.Address + slot.Length - 1;
            bool extended = last >> 10 >= uint.MaxValue;
            Add(19, handle++, [], s => s.UInt32(extended ? uint.MaxValue : (uint)(slot.Address >> 10)).UInt32(extended ? uint.MaxValue : (uint)(last >> 10))
                .UInt16(0x1000).UInt8(1).UInt64(extended ? slot.Address : 0).UInt64(extended ? last : 0));
        }
        Add(127, 0x7F00, [], static s => s);

        memory.TryWrite(Structures, table.ToArray());
        memory.TryWrite(EntryPoint64, Entry64(table.Count));
        memory.TryWrite(EntryPoint32, Entry32(table.Count, count, largest));

        void Add(byte type, ushort structureHandle, string[] strings, Func<Structure, Structure> fields)
        {
            byte[] bytes = fields(new Structure(type, structureHandle)).ToArray(strings);
            table.AddRange(bytes);
            count++;
            largest = Math.Max(largest, bytes.Length);
        }
    }

    /// <summary>SMBIOS 3.0 entry point (5.2.2).</summary>
    private static byte[] Entry64(int length)
    {
        byte[] entry = new byte[24];
        "_SM3_"u8.CopyTo(entry);
        entry[6] = 24;
        (entry[7], entry[8], entry[9]) = (3, 6, 0);
        entry[10] = 1;
        BinaryPrimitives.WriteInt32LittleEndian(entry.AsSpan(12), length);
        BinaryPrimitives.WriteUInt64LittleEndian(entry.AsSpan(16), Structures);
        entry[5] = AcpiTable.Checksum(entry);
        return entry;
    }

    /// <summary>SMBIOS 2.1 entry point (5.2.1), for readers that know no other.</summary>
    private static byte[] Entry32(int length, int count, int largest)
    {
        byte[] entry = new byte[31];
        "_SM_"u8.CopyTo(entry);
        entry[5] = 31;
        (entry[6], entry[7]) = (2, 8);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(8), (ushort)largest);
        "_DMI_"u8.CopyTo(entry.AsSpan(16));
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(22), (ushort)length);
        BinaryPrimitives.WriteUInt32LittleEndian(entry.AsSpan(24), (uint)Structures);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(28), (ushort)count);
        entry[30] = 0x28;
        entry[21] = AcpiTable.Checksum(entry.AsSpan(16));
        entry[4] = AcpiTable.Checksum(entry);
        return entry;
    }

    /// <summary>One structure: header, formatted fields, string set (6.1).</summary>
    private sealed class Structure
    {
        private readonly List<byte> _bytes = [];

        public Structure(byte type, ushort handle) => UInt8(type).UInt8(0).UInt16(handle);

        public Structure String(int number) => UInt8(number);

        public Structure UInt8(int value)
        {
            _bytes.Add((byte)value);
            return this;
        }

        public Structure UInt16(int value) => UInt8(value).UInt8(value >> 8);

        public Structure UInt32(uint value) => UInt16((ushort)value).UInt16((ushort)(value >> 16));

        public Structure UInt64(ulong value) => UInt32((uint)value).UInt32((uint)(value >> 32));

        public byte[] ToArray(string[] strings)
        {
            _bytes[1] = (byte)_bytes.Count;
            foreach (string text in strings)
            {
                _bytes.AddRange(Encoding.ASCII.GetBytes(text));
                _bytes.Add(0);
            }
            if (strings.Length == 0)
            {
                _bytes.Add(0);
            }
            _bytes.Add(0);
            return [.. _bytes];
        }
    }
}
