using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Run;
using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Management.Host;
using Lodge.Management.Images;
using Lodge.Management.Machines;
using Lodge.Management.Templates;
using Lodge.Network;
using Lodge.Storage.Disks;

namespace Lodge.Cli.Templates;

/// <summary>What a run has to do with templates: whether one can serve it, the one that does, or the one that it makes.</summary>
internal sealed class RunTemplate : IDisposable
{
    // How long a guest that waits is left alone before it becomes a template, so that what it does in the background is done.
    private static readonly TimeSpan Settling = TimeSpan.FromMilliseconds(20);

    private readonly TemplateStore _store;
    private readonly RunOptions _options;
    private readonly TemplateKey _key;
    private SavedTemplate? _saved;

    private readonly StoredImage? _image;
    private readonly TemplateDisk? _disk;

    private RunTemplate(TemplateStore store, RunOptions options, TemplateKey key, StoredImage? image)
    {
        (_store, _options, _key, _image) = (store, options, key, image);
        _saved = store.Open(key);
        if (image is not null && _saved is { Disk: null })
        {
            _saved.Dispose();
            _saved = null; // of another kind of machine
        }
        if (image is not null)
        {
            string line = ImageLine(image);
            _disk = new TemplateDisk(image, () => ImageLine(image) == line && key.Parts.Contains(line));
        }
    }

    /// <summary>Whether the run is a clone.</summary>
    public bool IsClone => _saved is not null;

    /// <summary>What the machine has to do with it.</summary>
    public TemplateUse Use => IsClone ? TemplateUse.Clone : TemplateUse.Maker;

    /// <summary>Opens the machine's system disk; null for a machine without one.</summary>
    public Func<IDisk>? OpenDisk => _disk is { } disk ? () => disk.OpenAsync(_saved).GetAwaiter().GetResult() : null;

    /// <summary>MAC addresses of the network cards of a clone.</summary>
    public IReadOnlyList<string> CardAddresses => _saved?.CardAddresses ?? [];

    /// <summary>Name of the template.</summary>
    public string Name => _key.Name;

    /// <summary>Templates for the runs whose options say nothing that a template cannot have; null for all others.</summary>
    /// <param name="options">The options, memory filled in.</param>
    /// <param name="engine">The engine.</param>
    /// <param name="cards">The network cards; their addresses do not matter.</param>
    /// <param name="kept">Whether the machine is one that is kept and is being made: it may have a name, and keeps its disk.</param>
    public static RunTemplate? Of(RunOptions options, IEngine engine, IReadOnlyList<NetworkOption> cards, bool kept = false)
    {
        if (!options.Template || !Serves(options, engine) || !cards.All(Serves) || (options.Named && !kept))
        {
            return null;
        }
        StoredImage? image = options.Image is { } name ? ImagePlan.Find(name) : null;
        // A kept machine has a seed of its own, which its guest would miss at its next boot if it had begun with another.
        if (image is null ? kept : !ImagePlan.CanWait(options, image) || (kept && ImagePlan.IsSeeded(options, image)))
        {
            return null;
        }
        CpuModel model = RunMachine.Model(options, engine);
        List<string> parts =
        [
            "form 2",
            $"lodge {Program.Version} {Build()}",
            $"engine {engine.Name}",
            $"cpu {Describe(model.Save())}",
            string.Create(CultureInfo.InvariantCulture, $"processors {options.Processors}"),
            string.Create(CultureInfo.InvariantCulture, $"memory {options.Memory}"),
            $"cards {string.Join(' ', cards.Select(c => c.Kind))}",
            .. image is null ? DefaultSystemParts() : ImageParts(options, cards, image),
        ];
        return new RunTemplate(TemplateStore.ForUser(), options, new TemplateKey(parts), image);
    }

    /// <summary>The backing of a clone's memory.</summary>
    public MemoryBacking Backing(MemoryBacking asked) => _saved is { } saved ? asked with { CopyOf = $"/proc/self/fd/{saved.Memory.DangerousGetHandle()}" } : asked;

    /// <summary>Puts a clone where its template stands.</summary>
    /// <exception cref="SavedStateException">The template is not of such a machine.</exception>
    public void Restore(VirtualMachine machine)
    {
        if (_saved is { } saved)
        {
            machine.RestoreState(saved.State);
            UseCode(saved, machine);
            saved.Dispose();
            _saved = null;
        }
    }

    /// <summary>Lets a clone take what was translated of its guest's code from the template; if that is not possible, it translates.</summary>
    /// <param name="saved">The template.</param>
    /// <param name="machine">The machine; it does not run yet.</param>
    public static void UseCode(SavedTemplate saved, VirtualMachine machine)
    {
        if (saved.Code is { } code && machine.Partition.TranslatedCode is { } translated)
        {
            translated.TryUse(code);
        }
    }

    /// <summary>
    /// Gives a machine that is being made the template's memory, state, card addresses and disk: its first start goes on with them, whatever becomes of the template and the image.
    /// </summary>
    /// <param name="folder">Its folder.</param>
    /// <returns>Whether it was possible; if not, nothing is left of it, and the machine is to boot.</returns>
    public bool TryGiveTo(MachineFolder folder)
    {
        if (_saved is not { Disk: { } overlay } saved || _image is null)
        {
            return false;
        }
        try
        {
            SystemDisk.MakeKeptAsync(_image, overlay, folder.Path).GetAwaiter().GetResult();
            saved.GiveTo(folder.Template);
            for (int i = 0; i < saved.CardAddresses.Count; i++)
            {
                AtomicFile.Write(Path.Combine(folder.Work, string.Create(CultureInfo.InvariantCulture, $"mac{i}")), $"{saved.CardAddresses[i]}\n");
            }
            AtomicFile.Write(folder.FreshIdentity, "");
            if (_key.Parts.Contains(ImageLine(_image)))
            {
                return true;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or DiskException)
        {
            // Another file system, or one of the two was removed meanwhile.
        }
        foreach (string file in Directory.EnumerateFiles(folder.Path, "base*").Concat(Directory.EnumerateFiles(folder.Work)).Append(folder.Disk))
        {
            File.Delete(file);
        }
        folder.ForgetTemplate();
        return false;
    }

    /// <summary>The machine that a clone is one of, as <see cref="MachineDefinition.ClonedFrom"/> has it: the template's name with zeros behind it.</summary>
    public Guid Identity => Guid.ParseExact(Name + "0000000000000000", "N");

    /// <summary>Throws the template away.</summary>
    public void Discard() => _store.Remove(_key.Name);

    /// <summary>
    /// Makes a template of a machine whose guest waits for what it is to run. The machine stands still meanwhile. That it cannot be made harms nobody: the next run tries again.
    /// </summary>
    /// <param name="machine">The machine.</param>
    /// <param name="cards">Its network cards.</param>
    /// <param name="disks">Its disks.</param>
    /// <param name="asked">Whether the user asked for the template.</param>
    /// <returns>The template, or why there is none.</returns>
    public (TemplateDescription? Made, string? Problem) Make(VirtualMachine machine, IReadOnlyList<NetworkOption> cards, RunDisks disks, bool asked = false)
    {
        using TemplateDraft? draft = _store.TryBegin(_key);
        if (draft is null)
        {
            return (null, "it is there already, or another one is being made");
        }
        Thread.Sleep(Settling);
        try
        {
            machine.Pause();
            // The state first: who is asked for it settles what is under way.
            byte[] state = machine.SaveState();
            disks.Flush();
            return (draft.Complete(
                new TemplateDescription
                {
                    Key = _key.Name,
                    System = _image?.Name.ToString() ?? "default",
                    Memory = _options.Memory,
                    Processors = _options.Processors,
                    Created = DateTimeOffset.UtcNow,
                    Asked = asked,
                    Parts = _key.Parts,
                },
                [.. cards.Select(c => c.Mac.ToString()!)],
                state,
                machine.Memory.CopyTo,
                machine.Partition.TranslatedCode is { } code ? code.Save : null,
                _disk is { } disk ? disk.CopyTo : null), null);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidOperationException or DiskException)
        {
            return (null, e.Message);
        }
        finally
        {
            machine.Resume();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _saved?.Dispose();
        _disk?.Dispose();
    }

    /// <summary>What is listed here is allowed, all else is not.</summary>
    private static bool Serves(RunOptions o, IEngine engine) =>
        engine is TranslationEngine
        && o is { Kernel: null, Initrd: null, Append: "", Keep: false, CloudInit: null, Vsock: null, Gdb: null, DebugExitPort: null, MaximumProcessors: null, Verbose: false }
        && o.Disks.Count == 0 && o.Shares.Count == 0
        && o.Backing is { HugePages: HugePages.None, Locked: false }
        && o.Processor == ProcessorOptions.None;

    /// <summary>What happens to a card's traffic outside the machine is the run's own affair; what the guest sees of the card is not.</summary>
    private static bool Serves(NetworkOption card) =>
        card is { Kind: NetworkKind.User, Mac: null, Mtu: null, Queues: null, Vlan: 0, LinkUp: true, IsNamed: false, Slot: null, IsPlace: false }
        && (ReferenceEquals(card, NetworkOption.DefaultUser) || (card.User with { Forwards = [] }) == (NetworkOption.DefaultUser.User with { Forwards = [] }));

    /// <summary>The machine's own name comes later: to the guest, all are the one that runs have that are given none.</summary>
    private static IReadOnlyList<string> ImageParts(RunOptions options, IReadOnlyList<NetworkOption> cards, StoredImage image) =>
        ImagePlan.Describe(options with { Name = new RunOptions().Name, MachineId = null, CardAddresses = [.. cards.Select(c => c.Kind.ToString())] }, image);

    /// <summary>Which image it is, and that of its disk's files.</summary>
    private static string ImageLine(StoredImage image) => $"disk {TemplateKey.OfFile(image.DiskPath)}";

    private static List<string> DefaultSystemParts()
    {
        SystemCache cache = SystemCache.ForUser();
        SystemFiles files = cache.Named() ?? cache.Get(DebianSystem.Make);
        return
        [
            "system default",
            $"kernel {TemplateKey.OfFile(files.Kernel)}",
            $"initramfs {TemplateKey.OfFile(files.Initramfs)}",
            $"command line {RunPlan.DefaultCommandLine(verbose: false)}",
        ];
    }

    /// <summary>Identity of Lodge's build: of each of its parts, as the compiler names it.</summary>
    private static string Build()
    {
        StringBuilder text = new();
        Span<byte> bytes = stackalloc byte[16];
        foreach (Type type in (ReadOnlySpan<Type>)
            [
                typeof(RunTemplate), typeof(TemplateStore), typeof(VirtualMachine), typeof(TranslationEngine), typeof(GuestMemory), typeof(IDisk), typeof(NetworkException),
            ])
        {
            type.Module.ModuleVersionId.TryWriteBytes(bytes);
            text.Append(CultureInfo.InvariantCulture, $" {BinaryPrimitives.ReadUInt64LittleEndian(bytes):x}{BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]):x}");
        }
        return text.ToString();
    }

    /// <summary>The processor that the guest sees, but for the frequency, which is measured anew each time.</summary>
    private static string Describe(CpuModelState model)
    {
        StringBuilder text = new(model.Name);
        text.Append(CultureInfo.InvariantCulture, $" {model.Signature:x} {model.Vendor.Ebx:x} {model.Vendor.Ecx:x} {model.Vendor.Edx:x} {model.PhysicalBits}");
        foreach (uint word in model.Features)
        {
            text.Append(CultureInfo.InvariantCulture, $" {word:x}");
        }
        foreach (int offset in model.ComponentOffsets)
        {
            text.Append(CultureInfo.InvariantCulture, $" {offset}");
        }
        foreach (CpuidResult leaf in model.Leaves)
        {
            text.Append(CultureInfo.InvariantCulture, $" {leaf.Eax:x}.{leaf.Ebx:x}.{leaf.Ecx:x}.{leaf.Edx:x}");
        }
        return text.ToString();
    }
}
