using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.Image;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Lodge.Network;
using Lodge.Network.Packets;
using Lodge.Storage.Disks;
using Lodge.Storage.Images;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>attach</c>.</summary>
internal static class AttachCommand
{
    private const string Manual = """

        The machine has the disk or network card from now on, also after a restart; one that runs has it at once. Each gets a name, which is printed and by which 'lodge detach' takes it away; give another with name=NAME.
        Files and taps are opened with your rights, not the machine's. Options are those of 'lodge run --disk' and 'lodge run --net'.

        Examples:
          lodge attach web --disk data.qcow2
          lodge attach web --disk /dev/sdb,bus=nvme,name=scratch --disk more.raw
          lodge attach web --net lab
          lodge detach web scratch

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Option<string[]> disks = Repeatable("--disk", "A disk; repeatable. Options as of 'lodge run --disk'", "PATH[,OPTION=VALUE...]");
        Option<string[]> cards = Repeatable("--net", "A network card; repeatable. Kinds and options as of 'lodge run --net'", "KIND[,OPTION=VALUE...]");
        Command command = new("attach", "Add disks and network cards to a machine, at once when it runs") { name, disks, cards };
        command.SetAction(parsed =>
        {
            string machine = parsed.GetValue(name)!;
            // All are understood before the first is attached.
            List<Func<string>> all =
            [
                .. (parsed.GetValue(disks) ?? []).Select(text => (text, Option: Understood(() => DiskOption.Parse(text)))).ToList().ConvertAll(one => (Func<string>)(() => AttachDisk(machine, one.text, one.Option))),
                .. (parsed.GetValue(cards) ?? []).Select(text => (text, Option: Understood(() => NetworkOption.Parse(text)))).ToList().ConvertAll(one => (Func<string>)(() => AttachCard(machine, one.text, one.Option))),
            ];
            if (all.Count == 0)
            {
                throw new LodgeException("there is nothing to attach; give --disk PATH or --net KIND", ExitStatus.Usage);
            }
            _ = MachineStore.ForUser().Get(machine);
            foreach (Func<string> attach in all)
            {
                MachineCommands.Print(attach() + "\n");
            }
            return 0;
        });
        ImageManual.AddTo(command, Manual);
        return command;
    }

    private static Option<string[]> Repeatable(string name, string description, string value) =>
        new(name) { Description = description, HelpName = value, Arity = ArgumentArity.OneOrMore, AllowMultipleArgumentsPerToken = false };

    /// <summary>Adds a disk.</summary>
    /// <returns>Its name.</returns>
    private static string AttachDisk(string machine, string text, DiskOption option)
    {
        if (option.IsPlace)
        {
            throw new LodgeException($"disk '{text}' is an empty place and no disk", ExitStatus.Usage);
        }
        bool address = DiskAddresses.IsAddress(option.Path);
        string? path = address ? null : Path.GetFullPath(option.Path);
        return Attach(machine, "disk", option.Device, option.Slot, (name, slot) => DefinitionDevices.Written(text, path, name, slot), (attachment, running) =>
        {
            if (address)
            {
                return running ? throw new ManagementException($"a disk at an address ('{option.Path}') comes with the machine's next start only: add it with 'lodge edit', or while it does not run") : null;
            }
            try
            {
                ImageHandover files = ImageHandover.OpenAsync(path!, RunDisks.Opening(option)).AsTask().GetAwaiter().GetResult();
                return new Handover(
                    attachment with
                    {
                        Disk = DefinitionDevices.Written(text, path, attachment.Name, attachment.Slot),
                        Images = [.. files.Images.Select(image => new ControlImage(image.Name, image.Format, image.Parts, image.Backing))],
                        Files = files.Handles.Count,
                    },
                    files.Handles, files.Taken, files);
            }
            catch (DiskException e)
            {
                throw new ManagementException($"the disk cannot be opened: {e.Message}", e);
            }
        });
    }

    /// <summary>Adds a network card.</summary>
    /// <returns>Its name.</returns>
    private static string AttachCard(string machine, string text, NetworkOption option)
    {
        if (option.Kind == NetworkKind.None)
        {
            throw new LodgeException("--net none is no network card; 'lodge detach' takes one away", ExitStatus.Usage);
        }
        // Written down: the network knows the machine by it.
        MacAddress mac = option.Mac ?? MacAddress.Random();
        string withAddress = option.Mac is null ? $"{text},mac={mac}" : text;
        return Attach(machine, "net", option.Device, option.Slot, (name, slot) => DefinitionDevices.Written(withAddress, null, name, slot), (attachment, running) =>
        {
            if (!running)
            {
                return null;
            }
            if (option.Capture is not null)
            {
                throw new ManagementException("capture= of a network card comes with the machine's next start only: leave it out, or attach the card while the machine does not run");
            }
            attachment = attachment with { Card = withAddress };
            if (option.Kind == NetworkKind.User)
            {
                return new Handover(attachment, [], static () => { }, new MemoryStream());
            }
            try
            {
                return HostCard.Open(option with { Mac = mac }, machine, MachineStore.ForUser().Get(machine).ReadStatus()?.Process) is var card
                    ? new Handover(attachment with { Tap = card.Tap, Files = card.Handles.Count }, card.Handles, () => card.Taken(null), card)
                    : null;
            }
            catch (NetworkException e)
            {
                throw new ManagementException($"the network cannot be used: {e.Message}", e);
            }
        });
    }

    /// <summary>What is handed to the process of a machine that runs.</summary>
    /// <param name="Attachment">What it is told.</param>
    /// <param name="Files">What is open.</param>
    /// <param name="Taken">Called when the files are its own.</param>
    /// <param name="Owner">Closes the files.</param>
    private sealed record Handover(ControlAttachment Attachment, IReadOnlyList<SafeFileHandle> Files, Action Taken, IDisposable Owner) : IDisposable
    {
        public void Dispose() => Owner.Dispose();
    }

    /// <summary>Adds a device to the definition and, when the machine runs, to the machine. The definition has it, with a note, before the machine gets it: whatever is killed in between, the next command sees what is so.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="kind">The option.</param>
    /// <param name="givenName">The name that the user wants.</param>
    /// <param name="givenSlot">The slot that the user wants.</param>
    /// <param name="write">Makes the option's value.</param>
    /// <param name="open">Opens what it consists of, to see that it is there and, when the machine runs, to be handed over.</param>
    private static string Attach(string machine, string kind, string? givenName, int? givenSlot, Func<string, int, string> write, Func<ControlAttachment, bool, Handover?> open) =>
        MachineStore.ForUser().Changing(machine, folder =>
        {
            MachineDefinition definition = DefinitionDevices.Settle(folder);
            ControlDevices? running = folder.IsRunning() ? DefinitionDevices.Running(folder) : null;
            if (running is null && File.Exists(folder.Saved))
            {
                throw new ManagementException($"machine '{machine}' is saved and goes on with what it has; let it go on first (lodge restore {machine}), or let it boot (lodge start --fresh {machine})");
            }
            (string name, int slot) = Place(definition, running, kind != "disk", givenName, givenSlot, machine);
            using Handover? handed = open(new ControlAttachment { Name = name, Slot = slot }, running is not null);
            MachineDefinition changed = DefinitionDevices.With(definition, kind, write(name, slot));
            HostResources.Check(DefinitionOptions.Read(changed, folder));
            if (running is null)
            {
                folder.WriteDefinition(changed);
                MachineStore.ForUser().Journal.Add(new MachineEvent(DateTimeOffset.Now, machine, definition.Id, "attached", name));
                return name;
            }
            folder.WriteDefinition(changed.WithUnsettled(name, MachineDefinition.Attaching));
            try
            {
                using ControlClient client = ControlClient.Connect(folder);
                client.HandAsync("/v1/devices", handed!.Attachment, ControlJson.Default.ControlAttachment, handed.Files, ControlJson.Default.ControlDevice).GetAwaiter().GetResult();
                handed.Taken();
            }
            catch (ControlRefusedException)
            {
                folder.WriteDefinition(definition);
                throw;
            }
            folder.WriteDefinition(changed);
            return name;
        });

    private static (string Name, int Slot) Place(MachineDefinition definition, ControlDevices? running, bool card, string? givenName, int? givenSlot, string machine)
    {
        (string name, int slot) = DefinitionDevices.Free(definition, running, card);
        IReadOnlyList<DefinitionDevice> all = DefinitionDevices.Of(definition);
        if (givenName is not null)
        {
            name = all.Any(device => device.Name == givenName) || running?.Devices.Any(device => device.Name == givenName) == true
                ? throw new ManagementException($"machine '{machine}' has a device '{givenName}' already; see: lodge show {machine}")
                : givenName;
        }
        if (givenSlot is { } given)
        {
            slot = all.Any(device => device.Slot == given) || running?.FreeSlots.Contains(given) == false ? throw new ManagementException($"PCI slot {given} of machine '{machine}' is taken") : given;
        }
        return (name, slot);
    }

    private static T Understood<T>(Func<T> parse)
    {
        try
        {
            return parse();
        }
        catch (FormatException e)
        {
            throw new LodgeException(e.Message, ExitStatus.Usage);
        }
    }
}
