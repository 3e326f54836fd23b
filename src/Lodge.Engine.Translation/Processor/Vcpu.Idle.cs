using System.Diagnostics;

namespace Lodge.Engine.Translation.Processor;

/// <summary>What a processor does when its guest does next to nothing: of the host's memory its translated code takes more than such a guest. What runs again is translated again.</summary>
internal sealed unsafe partial class Vcpu
{
    // A processor that halts for this part of this time, while it translates no more than so many blocks, gives code back that takes more than so many bytes. What is in a file is soon there again.
    private static readonly TimeSpan IdleWindow = TimeSpan.FromSeconds(30), KeptIdleWindow = TimeSpan.FromSeconds(10);
    private const double IdlePart = 0.9;
    private const int IdleCode = 6 << 20, KeptIdleCode = 1 << 20, IdleTranslations = 2000;
    private long _idleSince = Stopwatch.GetTimestamp(), _idleTicks, _idleTranslated;
    private bool _givesBack;

    /// <summary>At each halt: looks once in a while what the processor did since the last time.</summary>
    private void NoteHalt(long now)
    {
        if (Stopwatch.GetElapsedTime(_idleSince, now) < (Blocks.HasKept ? KeptIdleWindow : IdleWindow))
        {
            return;
        }
        double part = (double)_idleTicks / Math.Max(1, now - _idleSince);
        _givesBack = part > IdlePart && Blocks.Used > (Blocks.HasKept ? KeptIdleCode : IdleCode) && Blocks.Translated - _idleTranslated < IdleTranslations;
        (_idleSince, _idleTicks, _idleTranslated) = (now, 0, Blocks.Translated);
    }

    /// <summary>Does what <see cref="NoteHalt"/> found right, at a place where nothing stands in the code.</summary>
    private void GiveCodeBack()
    {
        if (_givesBack)
        {
            _givesBack = false;
            Blocks.Trim();
            _ = Task.Run(static () => GC.Collect(2, GCCollectionMode.Aggressive, blocking: true, compacting: true));
        }
    }
}
