using System.Globalization;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Lodge.Network.User;

namespace Lodge.Cli.Machines;

/// <summary>A disk or network card as a definition has it.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Kind"><c>disk</c> or <c>card</c>.</param>
/// <param name="Option">The option that it is a value of: disk, cdrom or net.</param>
/// <param name="Index">Which value of it; below 0: none, it is what a machine has without the option.</param>
/// <param name="What">What it is connected to.</param>
/// <param name="Slot">Its PCI slot, if that is written down.</param>
/// <param name="Shared">A target of the SCSI controller that it shares with others.</param>
internal sealed record DefinitionDevice(string Name, string Kind, string Option, int Index, string What, int? Slot, bool Shared);

/// <summary>The disks and network cards in a definition, and its changes when one comes or goes.</summary>
internal static class DefinitionDevices
{
    /// <summary>All of them, in the order of their options.</summary>
    /// <exception cref="ManagementException">An option is not understood.</exception>
    public static IReadOnlyList<DefinitionDevice> Of(MachineDefinition definition)
    {
        try
        {
            List<(string Option, int Index, DiskOption Disk)> disks =
                [.. Values(definition, "disk").Select((text, i) => ("disk", i, DiskOption.Parse(text))), .. Values(definition, "cdrom").Select((text, i) => ("cdrom", i, DiskOption.ParseCdRom(text)))];
            IReadOnlyList<string> names = DevicePlaces.OfDisks([.. disks.Select(one => one.Disk)], definition.Image is null ? 0 : 1, out _);
            List<DefinitionDevice> all = [.. disks.Zip(names, (one, name) => (one, name)).Where(pair => !pair.one.Disk.IsPlace).Select(pair =>
                new DefinitionDevice(pair.name, "disk", pair.one.Option, pair.one.Index, pair.one.Disk.Path, pair.one.Disk.Slot, pair.one.Disk.Bus == DiskBus.Scsi && pair.one.Disk.Slot is null))];
            if (definition.Options.TryGetValue("net", out IReadOnlyList<string>? nets))
            {
                List<(int Index, NetworkOption Card)> cards = [.. nets.Select((text, i) => (i, NetworkOption.Parse(text))).Where(one => one.Item2.Kind != NetworkKind.None || one.Item2.IsPlace)];
                all.AddRange(cards.Zip(DevicePlaces.OfCards(cards.Select(one => one.Card)), (one, named) => new DefinitionDevice(named.Device!, "card", "net", one.Index, named.Title, named.Slot, false)).Where((_, i) => !cards[i].Card.IsPlace));
            }
            else if (UserNetwork.Problem is null)
            {
                all.Add(new DefinitionDevice(DevicePlaces.Card(0), "card", "net", -1, NetworkOption.DefaultUser.Title, null, false));
            }
            return all;
        }
        catch (FormatException e)
        {
            throw new ManagementException($"the definition has a device that is not understood: {e.Message}", e);
        }
    }

    /// <summary>The definition with one more value of an option.</summary>
    public static MachineDefinition With(MachineDefinition definition, string option, string value)
    {
        // Without the option there is the card that a machine has by itself, which stays.
        IReadOnlyList<string> before = option == "net" && !definition.Options.ContainsKey("net") ? [UserNetwork.Problem is null ? "user" : $"none,{DevicePlaces.PlaceWord}"] : Values(definition, option);
        return Changed(definition, option, [.. before.Where(one => one != DevicePlaces.Empty), value]);
    }

    /// <summary>The definition without a device. One whose slot is not written down leaves an empty place.</summary>
    public static MachineDefinition Without(MachineDefinition definition, string name)
    {
        if (Of(definition).FirstOrDefault(device => device.Name == name) is not { } device)
        {
            return definition;
        }
        string place = $"{DevicePlaces.Empty},{DevicePlaces.PlaceWord}{(device.Shared && device.Option == "disk" ? ",bus=scsi" : "")}";
        List<string> values = [.. Values(definition, device.Option)];
        if (device.Index < 0)
        {
            values.Add(place);
        }
        else if (device.Slot is not null)
        {
            values.RemoveAt(device.Index);
        }
        else
        {
            values[device.Index] = place;
        }
        return Changed(definition, device.Option, values);
    }

    /// <summary>A name and a slot that no device has.</summary>
    /// <param name="definition">The machine.</param>
    /// <param name="running">What the machine that runs says of itself; null when it does not run. Not to be believed: it gets what it says is free, and no more.</param>
    /// <param name="card">Whether it is for a card.</param>
    /// <exception cref="ManagementException">No slot is free.</exception>
    public static (string Name, int Slot) Free(MachineDefinition definition, ControlDevices? running, bool card)
    {
        IReadOnlyList<DefinitionDevice> all = Of(definition);
        HashSet<string> names = [.. all.Select(device => device.Name), .. running?.Devices.Select(device => device.Name) ?? []];
        // Those without a name of their own have the first numbers; after the disks comes the seed.
        int Unnamed(string option) => Values(definition, option).Count(value => value != DevicePlaces.Empty && !OptionWords.Split(value).Any(part => part.StartsWith("name=", StringComparison.Ordinal)));
        int number = card ? (definition.Options.ContainsKey("net") ? Unnamed("net") : 1)
            : Unnamed("disk") + Unnamed("cdrom") + (definition.Image is null ? 0 : 1) + (definition.Image is null && !definition.Options.ContainsKey("cloud-init") ? 0 : 1);
        string Name(int n) => card ? DevicePlaces.Card(n) : DevicePlaces.Disk(n);
        while (names.Contains(Name(number)))
        {
            number++;
        }
        // From the last one on, out of the way of those that take the next one.
        HashSet<int> taken = [.. all.Select(device => device.Slot).OfType<int>()];
        int slot = Enumerable.Range(1, DevicePlaces.LastSlot).LastOrDefault(slot => !taken.Contains(slot) && (running is null || running.FreeSlots.Contains(slot)));
        return slot != 0 ? (Name(number), slot) : throw new ManagementException("all PCI slots are taken");
    }

    /// <summary>The value of an option with paths that lead from anywhere, and with a name and a slot.</summary>
    public static string Written(string value, string? path, string name, int slot)
    {
        List<string> parts = OptionWords.Split(value);
        parts[0] = path ?? parts[0];
        for (int i = 1; i < parts.Count; i++)
        {
            (string option, string text) = OptionWords.Pair(parts[i]);
            if (option is "allow" or "capture" && !Lodge.Storage.Images.DiskAddresses.IsAddress(text))
            {
                parts[i] = $"{option}={Path.GetFullPath(text)}";
            }
        }
        parts.RemoveAll(part => OptionWords.Pair(part).Name is "name" or "slot");
        return string.Join(',', parts.Append($"name={name}").Append(string.Create(CultureInfo.InvariantCulture, $"slot={slot}")).Select(part => part.Replace(",", ",,", StringComparison.Ordinal)));
    }

    /// <summary>Brings to an end what a command that was killed has left half done, so that the definition and the machine that runs agree. With the machine's lock for changes.</summary>
    /// <returns>The definition as it is now.</returns>
    /// <exception cref="ManagementException">There is none, or the machine does not answer.</exception>
    public static MachineDefinition Settle(MachineFolder folder)
    {
        MachineDefinition definition = folder.ReadDefinition(out string? problem) ?? throw new ManagementException($"machine '{folder.Name}' cannot be used: {problem}");
        if (definition.Unsettled is not { Count: not 0 } open)
        {
            return definition;
        }
        // A machine that has ended meanwhile has lost what its guest was asked for, and may have what was on its way to it.
        HashSet<string>? there = folder.IsRunning() ? [.. Running(folder).Devices.Select(device => device.Name)] : null;
        MachineDefinition settled = definition;
        foreach ((string name, string what) in open)
        {
            bool stays = there?.Contains(name) ?? what == MachineDefinition.Attaching;
            settled = (stays ? settled : Without(settled, name)).WithUnsettled(name, null);
        }
        folder.WriteDefinition(settled);
        return settled;
    }

    /// <summary>What the process of a machine says of its devices.</summary>
    /// <exception cref="ManagementException">It does not answer.</exception>
    public static ControlDevices Running(MachineFolder folder)
    {
        using ControlClient client = ControlClient.Connect(folder);
        return client.GetAsync("/v1/devices", ControlJson.Default.ControlDevices).GetAwaiter().GetResult();
    }

    /// <summary>Disks and cards as <c>lodge show</c> tells of them.</summary>
    public static IReadOnlyList<MachineDevice> Report(MachineDefinition definition, ControlDevices? running)
    {
        IReadOnlyList<DefinitionDevice> kept = Of(definition);
        List<MachineDevice> all = [];
        foreach (DefinitionDevice device in kept)
        {
            ControlDevice? there = running?.Devices.FirstOrDefault(one => one.Name == device.Name);
            all.Add(new MachineDevice(device.Name, device.Kind, device.What, there?.Slot ?? device.Slot, running is null || there is not null ? "attached" : "after restart"));
        }
        all.AddRange((running?.Devices ?? []).Where(one => kept.All(device => device.Name != one.Name)).Select(one => new MachineDevice(one.Name, one.Kind, one.What, one.Slot, "until restart")));
        return all;
    }

    private static IReadOnlyList<string> Values(MachineDefinition definition, string option) => definition.Options.TryGetValue(option, out IReadOnlyList<string>? values) ? values : [];

    private static MachineDefinition Changed(MachineDefinition definition, string option, IReadOnlyList<string> values)
    {
        Dictionary<string, IReadOnlyList<string>> options = new(definition.Options, StringComparer.Ordinal);
        options[option] = values;
        if (values.Count == 0)
        {
            options.Remove(option);
            if (option == "net")
            {
                options[option] = [DevicePlaces.Empty]; // without the option it would have the default card
            }
        }
        return definition with { Options = options };
    }
}
