using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>What must be shown as an ordinary user on a machine without <c>/dev/kvm</c>: a mount namespace with a <c>/dev</c> that has only the usual nodes.</summary>
[Collection("guests")]
public sealed class OrdinaryUserTests : IDisposable
{
    // In the namespace: /dev of a few nodes bound in; then, when the outer user is root, the user nobody. $1: a folder for its home, which has the cache. Then lodge's arguments.
    private const string Confined = """
        set -e
        home=$1; shift
        mkdir -p "$home/dev"
        mount -t tmpfs none "$home/dev"
        for node in null zero full random urandom tty; do
            : >"$home/dev/$node"
            mount --bind "/dev/$node" "$home/dev/$node"
        done
        mkdir "$home/dev/shm"; chmod 1777 "$home/dev/shm"
        ln -s /proc/self/fd "$home/dev/fd"
        mount --rbind "$home/dev" /dev
        [ ! -e /dev/kvm ] && [ -c /dev/urandom ] || exit 99
        cd /
        export HOME="$home" XDG_CACHE_HOME="$home/cache"
        unset XDG_STATE_HOME
        if [ "$lodge_outer_user" = 0 ]; then
            exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" "$@"
        fi
        exec "$0" "$@"
        """;

    private readonly string _home = Directory.CreateTempSubdirectory("lodge-user.").FullName;

    public void Dispose()
    {
        Directory.Delete(_home, recursive: true);
    }

    private (int Status, string Output, string Error) Run(params string[] arguments) => LodgeProcess.Script(
        $"export lodge_outer_user=$(id -u); exec unshare $([ $lodge_outer_user = 0 ] || echo --user --map-root-user) --mount sh -c '{Confined}' \"$0\" \"$@\"", [_home, .. arguments]);

    [Fact]
    public void The_default_system_runs_commands_without_KVM_and_without_root()
    {
        (int status, _, string error) = LodgeProcess.Script("exec unshare $([ $(id -u) = 0 ] || echo --user --map-root-user) --mount mount -t tmpfs none /mnt");
        if (status != 0)
        {
            Assert.Skip($"mount namespaces are not possible here (unshare, mount: package util-linux; or not permitted): {error.Trim()}");
        }
        Assert.Equal(0, LodgeProcess.Run(["run", "--", "true"]).Status); // the cache is there now
        Assert.Equal(0, LodgeProcess.Script("""
            mkdir "$1/cache" && cp -r "${XDG_CACHE_HOME:-$HOME/.cache}/lodge" "$1/cache"
            [ $(id -u) != 0 ] || chown -R 65534:65534 "$1"
            """, _home).Status);
        if (LodgeProcess.Script("[ $(id -u) != 0 ] || exec setpriv --reuid=65534 --regid=65534 --clear-groups test -x \"$0\"").Status != 0)
        {
            Assert.Skip($"'{LodgeProcess.Program}' lies where an ordinary user cannot execute it");
        }
        (status, string output, error) = Run("run", "--", "uname", "-a");
        Assert.Equal("", error);
        Assert.Matches("^Linux lodge [0-9].* x86_64 GNU/Linux\n$", output);
        Assert.Equal(0, status);
        Assert.Equal((0, "4\n"), Run("run", "--cpus", "4", "--", "nproc") is var (processors, text, _) ? (processors, text) : default);
        Assert.Equal(7, Run("run", "--", "sh", "-c", "exit 7").Status);
    }
}
