using System.Globalization;
using Lodge.Cli.Run;
using Lodge.Management.Control;
using Lodge.Management.GuestAgent;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

// What the guest's agent does for others: commands, files, and what it tells of its system.
internal sealed partial class MachineControl
{
    private GuestAgentClient Agent() => process.State == MachineStates.Running
        ? consoles.Agent ?? throw new ControlException(409, "it has no guest agent: that is for machines of a stored image (lodge create debian)")
        : throw new ControlException(409, $"it is {process.State}: its guest agent cannot answer");

    private async Task<ControlReply> AgentAsync(ControlRequest request)
    {
        GuestAgentClient agent = Agent();
        TimeSpan time = request.Query.TryGetValue("wait", out string? text) && double.TryParse(text, CultureInfo.InvariantCulture, out double seconds) && seconds is >= 0 and <= 3600 ? TimeSpan.FromSeconds(seconds) : AgentTime;
        try
        {
            await agent.SynchronizeAsync(time, request.Cancellation).ConfigureAwait(false);
        }
        catch (GuestAgentException e) when (e.Failure == GuestAgentFailure.NoAnswer)
        {
            throw new ControlException(503, $"{e.Message}; while its guest boots wait for it: lodge wait {process.Folder.Name} --for agent");
        }
        GuestAgentInfo info = await agent.InfoAsync(request.Cancellation).ConfigureAwait(false);
        IReadOnlyList<string> addresses = [];
        try
        {
            addresses = [.. (await agent.NetworkInterfacesAsync(request.Cancellation).ConfigureAwait(false))
                .Where(one => one.Name != "lo").SelectMany(one => one.Addresses).Select(one => $"{one.Address}/{one.Prefix}")];
        }
        catch (GuestAgentException)
        {
            // An agent need not tell.
        }
        return ControlReply.Of(new ControlAgent(info.Version, addresses), ControlJson.Default.ControlAgent);
    }

    private async Task<ControlReply> ExecAsync(ControlRequest request)
    {
        ControlExec wanted = request.Read(ControlJson.Default.ControlExec);
        if (wanted.Command is not [{ Length: > 0 }, ..])
        {
            throw new ControlException(400, "there is no command");
        }
        if (wanted.Environment.FirstOrDefault(one => one.IndexOf('=', StringComparison.Ordinal) <= 0) is { } wrong)
        {
            throw new ControlException(400, $"'{wrong}' sets no variable; write NAME=VALUE");
        }
        IReadOnlyList<string> words = wanted.Environment.Count == 0 ? wanted.Command : ["env", .. wanted.Environment, .. wanted.Command];
        GuestProcessStatus status = await Agent().RunAsync(
            new GuestCommand("/bin/sh") { Arguments = ["-c", AgentCommand.Script, "sh", .. words], Input = wanted.Input }, request.Cancellation).ConfigureAwait(false);
        int code = status.Signal is { } signal ? 128 + (signal & 0x7F) : (status.ExitCode ?? 0) & 0xFF;
        return ControlReply.Of(new ControlExecEnd(code, status.Output ?? [], status.Error ?? [], status.OutputTruncated || status.ErrorTruncated), ControlJson.Default.ControlExecEnd);
    }

    private async Task<ControlReply> ReadFileAsync(ControlRequest request)
    {
        GuestAgentClient agent = Agent();
        long handle = await agent.OpenFileAsync(PathOf(request), "r", request.Cancellation).ConfigureAwait(false);
        byte[] first;
        try
        {
            first = await agent.ReadFileAsync(handle, GuestAgentClient.LargestTransfer / 2, request.Cancellation).ConfigureAwait(false); // a folder can be opened, and not read
        }
        catch
        {
            await CloseAsync(agent, handle).ConfigureAwait(false);
            throw;
        }
        return new ControlReply
        {
            Type = "application/octet-stream",
            Writer = async (body, cancellation) =>
            {
                try
                {
                    for (byte[] part = first; part.Length != 0; part = await agent.ReadFileAsync(handle, GuestAgentClient.LargestTransfer / 2, cancellation).ConfigureAwait(false))
                    {
                        await body.WriteAsync(part, cancellation).ConfigureAwait(false);
                    }
                }
                finally
                {
                    await CloseAsync(agent, handle).ConfigureAwait(false);
                }
            },
        };
    }

    private async Task<ControlReply> WriteFileAsync(ControlRequest request)
    {
        GuestAgentClient agent = Agent();
        bool append = request.Query.GetValueOrDefault("append") == "true";
        long handle = await agent.OpenFileAsync(PathOf(request), append ? "a" : "w", request.Cancellation).ConfigureAwait(false);
        try
        {
            for (ReadOnlyMemory<byte> left = request.Body; !left.IsEmpty;)
            {
                int part = Math.Min(left.Length, GuestAgentClient.LargestTransfer / 2);
                await agent.WriteFileAsync(handle, left[..part], request.Cancellation).ConfigureAwait(false);
                left = left[part..];
            }
        }
        finally
        {
            await CloseAsync(agent, handle).ConfigureAwait(false);
        }
        return ControlReply.Done;
    }

    private static string PathOf(ControlRequest request) => request.Query.GetValueOrDefault("path") is { Length: > 0 } path ? path : throw new ControlException(400, "there is no path");

    private static async Task CloseAsync(GuestAgentClient agent, long handle)
    {
        try
        {
            await agent.CloseFileAsync(handle, CancellationToken.None).ConfigureAwait(false);
        }
        catch (GuestAgentException)
        {
            // The guest keeps it open until its agent ends.
        }
    }
}
