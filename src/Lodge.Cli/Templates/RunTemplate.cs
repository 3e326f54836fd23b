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

    private RunTemplate(TemplateStore store, RunOptions options, TemplateKey key)
    {
        (_store, _options, _key) = (store, options, key);
        _saved = store.Open(key);
    }

    /// <summary>Whether the run is a clone.</summary>
    public bool IsClone => _saved is not null;

    /// <summary>MAC addresses of the network cards of a clone.</summary>
    public IReadOnlyList<string> CardAddresses => _saved?.CardAddresses ?? [];

    /// <summary>Name of the template.</summary>
    public string Name => _key.Name;

    /// <summary>Templates for the runs whose options say nothing that a template cannot have; null for all others.</summary>
    /// <param name="options">The options, memory filled in.</param>
    /// <param name="engine">The engine.</param>
    /// <param name="cards">The network cards; their addresses do not matter.</param>
    public static RunTemplate? Of(RunOptions options, IEngine engine, IReadOnlyList<NetworkOption> cards)
    {
        if (!options.Template || !Serves(options, engine) || !cards.All(Serves))
        {
            return null;
        }
        CpuModel model = RunMachine.Model(options, engine);
        List<string> parts =
        [
            "form 1",
            $"lodge {Program.Version} {Build()}",
            $"engine {engine.Name}",
            $"cpu {Describe(model.Save())}",
            string.Create(CultureInfo.InvariantCulture, $"processors {options.Processors}"),
            string.Create(CultureInfo.InvariantCulture, $"memory {options.Memory}"),
            $"cards {string.Join(' ', cards.Select(c => c.Kind))}",
            .. DefaultSystemParts(),
        ];
        return new RunTemplate(TemplateStore.ForUser(), options, new TemplateKey(parts));
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
            saved.Dispose();
            _saved = null;
        }
    }

    /// <summary>Throws the template away.</summary>
    public void Discard() => _store.Remove(_key.Name);

    /// <summary>
    /// Makes a template of a machine whose guest waits for what it is to run. The machine stands still meanwhile. That it cannot be made harms nobody: the next run tries again.
    /// </summary>
    /// <param name="machine">The machine.</param>
    /// <param name="cards">Its network cards.</param>
    /// <param name="asked">Whether the user asked for the template.</param>
    /// <returns>The template, or why there is none.</returns>
    public (TemplateDescription? Made, string? Problem) Make(VirtualMachine machine, IReadOnlyList<NetworkOption> cards, bool asked = false)
    {
        using TemplateDraft? draft = _store.TryBegin(_key);
        if (draft is null)
        {
            return (null, "it is there already, or another one is being made");
        }
        Thread.Sleep(Settling);
        machine.Pause();
        try
        {
            return (draft.Complete(
                new TemplateDescription
                {
                    Key = _key.Name,
                    System = _options.Image ?? "default",
                    Memory = _options.Memory,
                    Processors = _options.Processors,
                    Created = DateTimeOffset.UtcNow,
                    Asked = asked,
                    Parts = _key.Parts,
                },
                [.. cards.Select(c => c.Mac.ToString()!)],
                machine.SaveState(),
                machine.Memory.CopyTo), null);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidOperationException)
        {
            return (null, e.Message);
        }
        finally
        {
            machine.Resume();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _saved?.Dispose();

    /// <summary>What is listed here is allowed, all else is not.</summary>
    private static bool Serves(RunOptions o, IEngine engine) =>
        engine is TranslationEngine
        && o is { Image: null, Kernel: null, Initrd: null, Append: "", Keep: false, CloudInit: null, Vsock: null, Named: false, Gdb: null, DebugExitPort: null, MaximumProcessors: null, Verbose: false }
        && o.Disks.Count == 0 && o.Shares.Count == 0
        && o.Backing is { HugePages: HugePages.None, Locked: false }
        && o.Processor == ProcessorOptions.None;

    /// <summary>What happens to a card's traffic outside the machine is the run's own affair; what the guest sees of the card is not.</summary>
    private static bool Serves(NetworkOption card) =>
        card is { Kind: NetworkKind.User, Mac: null, Mtu: null, Queues: null, Vlan: 0, LinkUp: true }
        && (ReferenceEquals(card, NetworkOption.DefaultUser) || (card.User with { Forwards = [] }) == (NetworkOption.DefaultUser.User with { Forwards = [] }));

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
