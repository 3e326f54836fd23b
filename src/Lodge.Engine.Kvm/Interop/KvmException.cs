using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>The kernel's KVM refused a call. The message is one line that names the call and the error.</summary>
public sealed class KvmException : IOException
{
    internal KvmException(string call, int error)
        : base($"{call} failed: {Marshal.GetPInvokeErrorMessage(error)} (error {error})")
    {
        Error = error;
    }

    internal KvmException(string message)
        : base(message)
    {
    }

    /// <summary>errno, or 0.</summary>
    public int Error { get; }
}
