using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;

namespace Lodge.Cli.Run;

/// <summary>The verb <c>run</c>: its options, and how they become <see cref="RunOptions"/>.</summary>
internal static class RunCommand
{
    private const string About = "Run a virtual machine in the foreground";

    private const string Manual = """
        With IMAGE it is a machine with that system (see 'lodge image list'; debian is built on first use). Without IMAGE and --kernel it is a small default system (Debian's cloud kernel and busybox), fetched once through apt and kept in ~/.cache/lodge: a
        shell on the terminal, or CMD, whose input, output and exit status become this command's. Ctrl-] leaves the machine.

        Examples:
          lodge run                                   a shell in a fresh machine
          lodge run -- uname -a                       run one command
          lodge run debian                            a whole Debian with systemd; its disk is thrown away at the end
          lodge run debian -- systemctl is-system-running --wait
          lodge run ubuntu -- cat /etc/os-release     a pulled cloud image (lodge image pull ubuntu)
          lodge run debian:bookworm --name web --keep   the same with a disk that is kept
          lodge run -d debian --name web              the same in the background; see 'lodge list', 'lodge console web'
          echo hi | lodge run --cpus 4 -- sh -c 'cat; nproc'
          lodge run --memory 2G --kernel vmlinuz --initrd initrd.img --append console=ttyS0
          lodge run --kernel vmlinux --append console=ttyS0 --gdb :1234
          lodge run --disk data.qcow2 --disk scratch.img,serial=S1 -- sh -c 'mount /dev/vda /mnt && ls /mnt'
          lodge run debian --publish 8080:80 -- sh -c 'apt-get update && apt-get install -y nginx && sleep infinity'
          lodge run --net user,mac=52:54:00:12:34:56,bytes-in=10M --capture traffic.pcapng -- wget -O - http://example.org/
          lodge run debian --deny 10.0.0.0/8 --deny 192.168.0.0/16 --allow 'tcp any 80,443' -- apt-get update
          lodge run --net none -- ip address
          lodge run --share .:/work -- sh -c 'cd /work && ls'
          lodge run debian --engine kvm --cpus 2 --pin 2,3 --memory 4G --hugepages --memory-lock
          lodge run --kernel test.elf --debug-exit --timeout 30

        Exit status: the command's own; without one 0 after power-off, 200 reset, 201 triple fault, 202 kernel panic, 203 engine failure,
        204 left with Ctrl-], 205 power-off before the command ended, 124 timeout, 1 cannot start, 2 wrong usage;
        with --debug-exit (value << 1) | 1.

        """;

    /// <summary>Builds the verb.</summary>
    /// <param name="commandWords">What followed <c>--</c>, or null when there was no <c>--</c>.</param>
    /// <param name="run">Runs the machine; returns the exit status.</param>
    public static Command Create(IReadOnlyList<string>? commandWords, Func<RunOptions, int> run)
    {
        RunArguments arguments = new();
        Option<bool> detach = new("--detach", "-d") { Description = "Create a machine that is kept, start it in the background and print its name: 'create --start'" };
        Option<bool> temporary = new("--rm") { Description = "With --detach: remove the machine when it has ended" };
        Command command = new("run", About);
        arguments.AddTo(command);
        command.Add(new HelpOption { Action = new ManualAction() });
        command.Add(detach);
        command.Add(temporary);
        command.SetAction(parsed => parsed.GetValue(detach) ? Machines.DetachedRun.Start(arguments, parsed, commandWords, parsed.GetValue(temporary))
            : parsed.GetValue(temporary) ? throw new LodgeException("--rm is for --detach: what 'lodge run' runs in the foreground is not kept", ExitStatus.Usage)
            : run(arguments.Bind(parsed, commandWords)));
        return command;
    }

    /// <summary>The generated help, with what it cannot know: the command behind <c>--</c>, examples and exit statuses.</summary>
    internal sealed class ManualAction : SynchronousCommandLineAction
    {
        public override int Invoke(ParseResult parseResult)
        {
            InvocationConfiguration configuration = parseResult.InvocationConfiguration;
            TextWriter output = configuration.Output;
            using StringWriter generated = new();
            configuration.Output = generated;
            int status = new HelpAction { MaxWidth = 140 }.Invoke(parseResult);
            configuration.Output = output;
            output.WriteLine(generated.ToString().TrimEnd().Replace("[options]", "[options] [-- CMD [ARGS]]", StringComparison.Ordinal));
            output.WriteLine();
            output.Write(Manual);
            return status;
        }
    }
}
