using System.Buffers.Binary;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>What the health and error logs tell (NVM Express 1.4, 5.14.1.1 and 5.14.1.2).</summary>
internal sealed class NvmeHealth
{
    private const int Temperature = 303;        // Kelvin: 30 °C
    private readonly byte[] _error = new byte[64];

    public ulong SectorsRead { get; set; }

    public ulong SectorsWritten { get; set; }

    public ulong Reads { get; set; }

    public ulong Writes { get; set; }

    public ulong MediaErrors { get; set; }

    public ulong Errors { get; set; }

    /// <summary>Counts a command that succeeded.</summary>
    public void Count(NvmeOpcode opcode, uint length)
    {
        if (opcode == NvmeOpcode.Read)
        {
            Reads++;
            SectorsRead += length / 512;
        }
        else if (opcode == NvmeOpcode.Write)
        {
            Writes++;
            SectorsWritten += length / 512;
        }
    }

    /// <summary>Keeps the last error.</summary>
    public void Fail(int queue, ushort command, ushort status, ulong block, uint space)
    {
        Errors++;
        _error.AsSpan().Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(_error, Errors);
        BinaryPrimitives.WriteUInt16LittleEndian(_error.AsSpan(8), (ushort)queue);
        BinaryPrimitives.WriteUInt16LittleEndian(_error.AsSpan(10), command);
        BinaryPrimitives.WriteUInt16LittleEndian(_error.AsSpan(12), (ushort)(status << 1));
        BinaryPrimitives.WriteUInt16LittleEndian(_error.AsSpan(14), ushort.MaxValue);      // no parameter is to blame in particular
        BinaryPrimitives.WriteUInt64LittleEndian(_error.AsSpan(16), block);
        BinaryPrimitives.WriteUInt32LittleEndian(_error.AsSpan(24), space);
    }

    /// <summary>Writes the one entry of the error log.</summary>
    public void WriteError(Span<byte> data) => _error.CopyTo(data);

    /// <summary>Writes the health log (512 bytes, already zero).</summary>
    public void Write(Span<byte> data)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(data[1..], Temperature);
        data[3] = 100;      // available spare, per cent
        data[4] = 10;       // its threshold
        BinaryPrimitives.WriteUInt64LittleEndian(data[32..], (SectorsRead + 999) / 1000);
        BinaryPrimitives.WriteUInt64LittleEndian(data[48..], (SectorsWritten + 999) / 1000);
        BinaryPrimitives.WriteUInt64LittleEndian(data[64..], Reads);
        BinaryPrimitives.WriteUInt64LittleEndian(data[80..], Writes);
        BinaryPrimitives.WriteUInt64LittleEndian(data[112..], 1);       // power cycles
        BinaryPrimitives.WriteUInt64LittleEndian(data[160..], MediaErrors);
        BinaryPrimitives.WriteUInt64LittleEndian(data[176..], Errors);
    }
}
