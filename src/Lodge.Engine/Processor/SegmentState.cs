namespace Lodge.Engine.Processor;

/// <summary>A segment register with its hidden part (Intel SDM vol. 3, 3.4.3).</summary>
/// <param name="Selector">Visible selector.</param>
/// <param name="Base">Linear base address.</param>
/// <param name="Limit">Limit in bytes (granularity already applied).</param>
/// <param name="Attributes">As in a descriptor's bits 40-55: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15; bit 16 means unusable (null).</param>
public readonly record struct SegmentState(ushort Selector, ulong Base, uint Limit, uint Attributes);

/// <summary>GDTR or IDTR.</summary>
public readonly record struct TableRegister(ulong Base, ushort Limit);
