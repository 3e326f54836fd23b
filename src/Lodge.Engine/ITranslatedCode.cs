using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine;

/// <summary>
/// What an engine that translates has made of a guest's code, kept beside the memory that the code is of: a machine that goes on with that memory need not translate it again. Whoever
/// can write the file decides what the host executes.
/// </summary>
public interface ITranslatedCode
{
    /// <summary>Makes what is translated from now on such that it can be kept. Before anything runs.</summary>
    void Record();

    /// <summary>Writes what was translated and is still right, as far as it was recorded. All processors must be stopped.</summary>
    /// <param name="file">An empty file.</param>
    /// <returns>Bytes written; 0: there is nothing, and the file was left empty.</returns>
    /// <exception cref="IOException">The host refuses.</exception>
    long Save(SafeFileHandle file);

    /// <summary>
    /// Takes code from such a file from now on, each piece when it is reached and only while memory holds the guest's code that it was made of. Before anything runs. The file must not be
    /// changed as long as the machine lives; it may be closed and unlinked.
    /// </summary>
    /// <returns>False when it is none of this engine's files, or damaged: everything is translated then.</returns>
    /// <exception cref="IOException">The host refuses.</exception>
    bool TryUse(SafeFileHandle file);
}
