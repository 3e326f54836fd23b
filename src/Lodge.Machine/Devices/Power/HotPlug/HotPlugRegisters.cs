namespace Lodge.Machine.Devices.Power.HotPlug;

/// <summary>
/// The registers of a <see cref="HotPlugController"/>, Lodge's own: four bitmaps one after the other, bit n of a bitmap (bit n mod 8 of its byte n / 8)
/// for place n. The DSDT's methods use them.
/// </summary>
internal enum HotPlugRegister
{
    /// <summary>Something is in the place. Read only.</summary>
    Present,

    /// <summary>Something came and has not been looked at yet. Written ones clear.</summary>
    Arrived,

    /// <summary>What is there is asked to go, and the guest has not been told yet. Written ones clear.</summary>
    Leaving,

    /// <summary>Written ones eject what is there. Reads as zeros.</summary>
    Eject,
}
