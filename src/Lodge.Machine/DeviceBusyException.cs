using System.Globalization;

namespace Lodge.Machine;

/// <summary>A machine cannot stand still: a device has asked the host for something that is not done yet, and the guest would take it for failed. The machine goes on.</summary>
/// <param name="device">Name of the device.</param>
/// <param name="waited">How long it was waited for.</param>
public sealed class DeviceBusyException(string device, TimeSpan waited) : InvalidOperationException(
    string.Create(CultureInfo.InvariantCulture, $"the host has not answered requests of device '{device}' for {waited.TotalSeconds:f0} s; the machine goes on, see to what the device stands on and try again"))
{
    /// <summary>Name of the device.</summary>
    public string Device => device;
}
