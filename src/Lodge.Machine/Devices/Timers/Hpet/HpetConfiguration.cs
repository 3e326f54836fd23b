using Lodge.Machine.Interrupts;

namespace Lodge.Machine.Devices.Timers.Hpet;

/// <summary>How the HPET is wired.</summary>
/// <param name="Lines">
/// For each timer (3), the I/O APIC inputs that it can be routed to, each with a line of its own. Becomes Tn_INT_ROUTE_CAP.
/// </param>
/// <param name="LegacyTimer">Line of timer 0 under legacy replacement (IRQ 0).</param>
/// <param name="LegacyClock">Line of timer 1 under legacy replacement (IRQ 8).</param>
/// <param name="Replaced">Lines of the 8254 and the RTC, cut under legacy replacement.</param>
/// <param name="Messages">Where FSB interrupts go.</param>
public sealed record HpetConfiguration(
    IReadOnlyList<IReadOnlyDictionary<int, IInterruptLine>> Lines,
    IInterruptLine LegacyTimer,
    IInterruptLine LegacyClock,
    IReadOnlyList<GatedInterruptLine> Replaced,
    IMessageInterruptTarget Messages)
{
    /// <summary>First of the I/O APIC inputs that any timer can be routed to in a PC.</summary>
    public const int FirstRoute = 20;

    /// <summary>Number of those inputs.</summary>
    public const int Routes = 4;

    /// <summary>The wiring of a PC: inputs 20 to 23, IRQ 0 and IRQ 8.</summary>
    public static HpetConfiguration Create(InterruptLines lines, IReadOnlyList<GatedInterruptLine> replaced, IMessageInterruptTarget messages)
    {
        var routes = new IReadOnlyDictionary<int, IInterruptLine>[HpetRegisters.TimerCount];
        for (int i = 0; i < routes.Length; i++)
        {
            routes[i] = Enumerable.Range(FirstRoute, Routes).ToDictionary(gsi => gsi, lines.CreateSource);
        }
        return new HpetConfiguration(routes, lines.CreateIsaSource(0), lines.CreateIsaSource(InterruptMap.Rtc), replaced, messages);
    }
}
