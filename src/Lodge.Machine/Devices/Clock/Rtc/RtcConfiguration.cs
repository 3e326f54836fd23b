namespace Lodge.Machine.Devices.Clock.Rtc;

/// <summary>Settings of the <see cref="Rtc"/>.</summary>
/// <param name="MemorySize">Bytes of guest RAM, told in the CMOS.</param>
/// <param name="LowMemorySize">Bytes of guest RAM below 4 GiB.</param>
/// <param name="ProcessorCount">Processors, told in the CMOS.</param>
/// <param name="CmosPath">File that keeps the CMOS and the clock's offset between runs; null: they are lost.</param>
public sealed record RtcConfiguration(ulong MemorySize, ulong LowMemorySize, int ProcessorCount, string? CmosPath = null);
