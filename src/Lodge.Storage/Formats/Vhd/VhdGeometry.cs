namespace Lodge.Storage.Formats.Vhd;

/// <summary>Cylinders, heads and sectors of a VHD (Virtual Hard Disk Image Format Specification, "Disk Geometry" and appendix "CHS Calculation").</summary>
/// <param name="Cylinders">Up to 65535.</param>
/// <param name="Heads">Up to 16.</param>
/// <param name="SectorsPerTrack">Up to 255.</param>
internal readonly record struct VhdGeometry(ushort Cylinders, byte Heads, byte SectorsPerTrack)
{
    /// <summary>Sectors of the largest geometry.</summary>
    public const long MaximumSectors = 65535L * 16 * 255;

    public long Sectors => (long)Cylinders * Heads * SectorsPerTrack;

    /// <summary>The geometry that the specification gives to a disk; it may hold fewer sectors.</summary>
    public static VhdGeometry Of(long sectors)
    {
        sectors = Math.Min(sectors, MaximumSectors);
        long perTrack;
        long heads;
        long cylindersTimesHeads;
        if (sectors >= 65535L * 16 * 63)
        {
            perTrack = 255;
            heads = 16;
            cylindersTimesHeads = sectors / perTrack;
        }
        else
        {
            perTrack = 17;
            cylindersTimesHeads = sectors / perTrack;
            heads = Math.Max((cylindersTimesHeads + 1023) / 1024, 4);
            if (cylindersTimesHeads >= heads * 1024 || heads > 16)
            {
                perTrack = 31;
                heads = 16;
                cylindersTimesHeads = sectors / perTrack;
            }

            if (cylindersTimesHeads >= heads * 1024)
            {
                perTrack = 63;
                heads = 16;
                cylindersTimesHeads = sectors / perTrack;
            }
        }

        return new VhdGeometry((ushort)(cylindersTimesHeads / heads), (byte)heads, (byte)perTrack);
    }

    /// <summary>The geometry of the next larger disk that holds at least <paramref name="sectors"/>, for products that take the size from it.</summary>
    public static VhdGeometry AtLeast(long sectors)
    {
        var geometry = Of(sectors);
        for (var more = 1L; geometry.Sectors < sectors && geometry.Sectors < MaximumSectors; more++)
        {
            geometry = Of(sectors + more);
        }

        return geometry;
    }
}
