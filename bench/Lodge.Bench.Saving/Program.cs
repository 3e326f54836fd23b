using System.Diagnostics;
using System.Globalization;
using Lodge.Bench.Saving;
using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Saving;

// Measures saving with one guest: saving MEBIBYTES FOLDER. Lines "name value": milliseconds, bytes.
if (args is not [string mebibytes, string folder] || !uint.TryParse(mebibytes, CultureInfo.InvariantCulture, out uint size) || size is < 32 or > 3072)
{
    return 2;
}
string path = Path.Combine(folder, "saved");
var points = new GuestPoints();

VirtualMachine Create(bool restored, bool anonymous = false)
{
    IEngine engine = new TranslationEngine();
    return new VirtualMachine(
        new MachineConfiguration
        {
            MemorySize = (ulong)size << 20,
            Backing = new MemoryBacking(Mergeable: anonymous),
            IsRestored = restored,
            Model = CpuModel.Create(CpuModelName.V2, 1, engine.CpuOffer),
            Boot = WritingGuest.Boot,
            DebugConsole = points,
        },
        engine);
}

void Say(string name, double value) => Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name} {value:F2}"));

VirtualMachine machine = Create(restored: false);
machine.Start();
points.WaitFilled();
// Live: the first snapshot leaves the memory file, the second forks.
foreach (string kind in new[] { "file", "fork" })
{
    points.Wait((int)size); // a whole round, so that all is written
    MachineSnapshot snapshot = MachineImage.BeginSnapshot(machine, path);
    SaveResult written = await snapshot.Written;
    Say($"snapshot-{kind}-pause", snapshot.Pause.TotalMilliseconds);
    Say($"snapshot-{kind}-write", written.Duration.TotalMilliseconds);
}
machine.Pause();
SaveResult saved = MachineImage.Save(machine, path);
machine.Dispose();
Say("save", saved.Duration.TotalMilliseconds);
Say("memory-bytes", saved.MemoryBytes);
Say("file-bytes", saved.FileLength);
foreach (MemoryLoading loading in new[] { MemoryLoading.Eager, MemoryLoading.Automatic })
{
    string name = loading == MemoryLoading.Eager ? "restore-eager" : "restore-lazy";
    long begin = Stopwatch.GetTimestamp();
    using VirtualMachine restored = Create(restored: true);
    using SavedMachine file = SavedMachine.Open(path);
    MachineRestore restore = file.RestoreInto(restored, loading);
    if (loading == MemoryLoading.Automatic && !restore.IsLazy)
    {
        Console.Error.WriteLine($"not lazy: {restore.Reason}");
        continue;
    }
    restored.Start();
    Say($"{name}-started", Stopwatch.GetElapsedTime(begin).TotalMilliseconds);
    points.Wait(1);
    Say($"{name}-first-mebibyte", Stopwatch.GetElapsedTime(begin).TotalMilliseconds);
    await restore.Loaded;
    Say($"{name}-all", Stopwatch.GetElapsedTime(begin).TotalMilliseconds);
    points.Wait((int)size); // all pages are right
}
return 0;
