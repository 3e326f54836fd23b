namespace Lodge.Machine;

/// <summary>
/// What a device may ask of the machine as a whole. Every member returns at once and may be called on any thread, a vCPU's among them, with the
/// device's own lock held: the machine only notes the request, stops its processors, and acts on a thread of its own.
/// </summary>
public interface IMachineControl
{
    /// <summary>The guest turned the power off (sleep state S5).</summary>
    void RequestPowerOff();

    /// <summary>The guest reset the machine.</summary>
    void RequestReset();

    /// <summary>The guest says that it panicked.</summary>
    /// <param name="crashKernelLoaded">A crash kernel is about to take over: the panic is told of but does not end the run.</param>
    void ReportPanic(bool crashKernelLoaded);

    /// <summary>A test program ended itself through the debug exit port.</summary>
    void RequestExit(int code);
}
