namespace Lodge.Engine.Translation.Processor;

internal sealed unsafe partial class Vcpu
{
    /// <summary>Whether the program may access <paramref name="size"/> bytes of ports from <paramref name="port"/> on (Intel SDM vol. 1, 19.5).</summary>
    /// <exception cref="GuestFault">#GP(0).</exception>
    internal void CheckPortAccess(ushort port, int size)
    {
        if (!ProtectedMode || (!Virtual8086 && B->Cpl <= (B->SystemFlags >> 12 & 3)))
        {
            return;
        }
        // The bitmap's offset is at 102 of a 32- or 64-bit TSS; two bytes are read always, so that one of all ones must end the map.
        if (B->Tr.Unusable || (B->Tr.Type & 0xD) != TypeTss32 || B->Tr.Limit < 103)
        {
            GuestFault.GeneralProtection();
        }
        uint at = (uint)ReadLinear(TableAddress(B->Tr.Base, 102), 2, false) + (port / 8u);
        if (at + 1 > B->Tr.Limit)
        {
            GuestFault.GeneralProtection();
        }
        ulong bits = ReadLinear(TableAddress(B->Tr.Base, at), 2, false) >> (port & 7);
        if ((bits & ((1UL << size) - 1)) != 0)
        {
            GuestFault.GeneralProtection();
        }
    }
}
