using System.Globalization;
using System.Text;

namespace Lodge.Machine.Debugging;

/// <summary>The target description that a debugger asks for with <c>qXfer:features:read:target.xml</c> (gdb manual, appendix G).</summary>
internal static class TargetDescription
{
    // Intel SDM vol. 3, 2.5 and 2.2.1.
    private static readonly (string Name, int Bit)[] Cr0 =
        [("PE", 0), ("MP", 1), ("EM", 2), ("TS", 3), ("ET", 4), ("NE", 5), ("WP", 16), ("AM", 18), ("NW", 29), ("CD", 30), ("PG", 31)];

    private static readonly (string Name, int Bit)[] Cr4 =
    [
        ("VME", 0), ("PVI", 1), ("TSD", 2), ("DE", 3), ("PSE", 4), ("PAE", 5), ("MCE", 6), ("PGE", 7), ("PCE", 8), ("OSFXSR", 9), ("OSXMMEXCPT", 10), ("UMIP", 11), ("LA57", 12),
        ("VMXE", 13), ("SMXE", 14), ("FSGSBASE", 16), ("PCIDE", 17), ("OSXSAVE", 18), ("SMEP", 20), ("SMAP", 21), ("PKE", 22),
    ];

    private static readonly (string Name, int Bit)[] Efer = [("SCE", 0), ("LME", 8), ("LMA", 10), ("NXE", 11)];

    /// <summary>The document for a set of registers.</summary>
    public static string Build(RegisterSet registers)
    {
        StringBuilder text = new();
        text.Append("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n<architecture>i386:x86-64</architecture>\n");
        int number = 0;
        foreach (IGrouping<string, RegisterDefinition> feature in registers.Registers.GroupBy(r => r.Feature))
        {
            text.Append(CultureInfo.InvariantCulture, $"<feature name=\"{feature.Key}\">\n");
            AppendTypes(text, feature.Key);
            foreach (RegisterDefinition register in feature)
            {
                string group = register.Feature == RegisterSet.SystemRegisters ? " group=\"system\"" : register.Type == "int" ? " group=\"float\"" : "";
                text.Append(CultureInfo.InvariantCulture, $"<reg name=\"{register.Name}\" bitsize=\"{register.Bits}\" type=\"{register.Type}\" regnum=\"{number++}\"{group}/>\n");
            }
            text.Append("</feature>\n");
        }
        return text.Append("</target>\n").ToString();
    }

    private static void AppendTypes(StringBuilder text, string feature)
    {
        switch (feature)
        {
            case RegisterSet.Core:
                AppendFlags(text, "i386_eflags", 4,
                    [("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21)]);
                break;
            case RegisterSet.Sse:
                text.Append("""
                    <vector id="v4f" type="ieee_single" count="4"/>
                    <vector id="v2d" type="ieee_double" count="2"/>
                    <vector id="v16i8" type="int8" count="16"/>
                    <vector id="v8i16" type="int16" count="8"/>
                    <vector id="v4i32" type="int32" count="4"/>
                    <vector id="v2i64" type="int64" count="2"/>
                    <union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>

                    """);
                AppendFlags(text, "i386_mxcsr", 4,
                    [("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7), ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15)]);
                break;
            case RegisterSet.SystemRegisters:
                AppendFlags(text, "lodge_cr0", 8, Cr0);
                AppendFlags(text, "lodge_cr4", 8, Cr4);
                AppendFlags(text, "lodge_efer", 8, Efer);
                break;
        }
    }

    private static void AppendFlags(StringBuilder text, string id, int size, ReadOnlySpan<(string Name, int Bit)> flags)
    {
        text.Append(CultureInfo.InvariantCulture, $"<flags id=\"{id}\" size=\"{size}\">");
        foreach ((string name, int bit) in flags)
        {
            text.Append(CultureInfo.InvariantCulture, $"<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>");
        }
        text.Append("</flags>\n");
    }
}
