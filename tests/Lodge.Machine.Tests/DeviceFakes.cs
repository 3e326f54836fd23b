using System.Text;
using Lodge.Engine.State;

namespace Lodge.Machine.Tests;

/// <summary>A wire that remembers its level and counts rising edges.</summary>
internal sealed class FakeLine : IInterruptLine
{
    public bool Level { get; private set; }

    public int Edges { get; private set; }

    public void Set(bool asserted)
    {
        Edges += asserted && !Level ? 1 : 0;
        Level = asserted;
    }
}

/// <summary>A backend that collects output and accepts as much as it is told to.</summary>
internal sealed class FakeBackend : ICharacterBackend
{
    private readonly Lock _gate = new();
    private readonly List<byte> _output = [];

    public ICharacterReceiver Receiver { get; private set; } = null!;

    public int Accepts { get; set; } = int.MaxValue;

    public int Calls { get; private set; }

    public int InputReadyCalls { get; private set; }

    public string Text
    {
        get
        {
            lock (_gate)
            {
                return Encoding.Latin1.GetString([.. _output]);
            }
        }
    }

    public void Connect(ICharacterReceiver receiver) => Receiver = receiver;

    public int Write(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            Calls++;
            int taken = Math.Min(data.Length, Accepts);
            Accepts = Accepts == int.MaxValue ? Accepts : Accepts - taken;
            _output.AddRange(data[..taken]);
            return taken;
        }
    }

    public void InputReady() => InputReadyCalls++;
}

/// <summary>Counts what devices ask of the machine.</summary>
internal sealed class FakeControl : IMachineControl
{
    public int PowerOffs { get; private set; }

    public int Resets { get; private set; }

    public List<bool> Panics { get; } = [];

    public List<int> Exits { get; } = [];

    public void RequestPowerOff() => PowerOffs++;

    public void RequestReset() => Resets++;

    public void ReportPanic(bool crashKernelLoaded) => Panics.Add(crashKernelLoaded);

    public void RequestExit(int code) => Exits.Add(code);
}

/// <summary>Port accesses to a device's claims as a guest makes them.</summary>
internal static class DevicePorts
{
    public static ulong In(this IDevice device, int port, int width = 1) => In(device.Claims, port, width);

    public static void Out(this IDevice device, int port, ulong value, int width = 1) => Out(device.Claims, port, value, width);

    public static ulong In(this IEnumerable<RegionClaim> claims, int port, int width = 1)
    {
        RegionClaim claim = Find(claims, port);
        Span<byte> data = stackalloc byte[8];
        data.Clear();
        if (claim.Handler.Read((ulong)port - claim.Base, data[..width]) != IoResult.Done)
        {
            data[..width].Fill(0xFF);
        }
        return BitConverter.ToUInt64(data);
    }

    public static void Out(this IEnumerable<RegionClaim> claims, int port, ulong value, int width = 1)
    {
        RegionClaim claim = Find(claims, port);
        claim.Handler.Write((ulong)port - claim.Base, BitConverter.GetBytes(value).AsSpan(0, width));
    }

    /// <summary>The device's saved state.</summary>
    public static byte[] Saved(this IDevice device)
    {
        var writer = new StateWriter();
        device.Save(writer);
        return writer.ToArray();
    }

    public static void Restore(this IDevice device, byte[] state) => device.Restore(new StateReader(state));

    private static RegionClaim Find(IEnumerable<RegionClaim> claims, int port) =>
        claims.Single(claim => claim.Space == RegionSpace.Port && (ulong)port >= claim.Base && (ulong)port < claim.Base + claim.Length);
}
