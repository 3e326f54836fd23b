namespace Lodge.Machine.Devices.Power.HotPlug;

/// <summary>How a <see cref="HotPlugController"/> is set up.</summary>
/// <param name="Name">Name of the device.</param>
/// <param name="Port">First port; four for each eight places.</param>
/// <param name="Places">Places (PCI slots, processors), a multiple of 8 up to 256.</param>
/// <param name="FirstRemovable">First place from which something can be removed.</param>
/// <param name="LastRemovable">Last such place; below the first when there is none.</param>
public sealed record HotPlugConfiguration(string Name, ushort Port, int Places, int FirstRemovable, int LastRemovable);
