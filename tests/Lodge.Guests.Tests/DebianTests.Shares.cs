using Xunit;

namespace Lodge.Guests.Tests;

/// <content>Shared folders in a whole Debian.</content>
public sealed partial class DebianTests
{
    [Fact]
    public void SharesAreMountedBySystemdAndPassFileSystemExercisers()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        string work = Directory.CreateDirectory(Path.Combine(image.Folder, "work")).FullName, data = Directory.CreateDirectory(Path.Combine(image.Folder, "data")).FullName;
        File.WriteAllText(Path.Combine(data, "file"), "data\n");
        (int status, string output, string error) = image.Run(
            "run", "debian", "--cpus", "2", "--net", "none", "--share", $"{work}:/work", "--share", $"{data}:/srv/data:ro", "--", "sh", "-c", """
            systemctl is-active work.mount srv-data.mount
            findmnt --noheadings --output FSTYPE,SOURCE /work | tr -s ' '
            cat /srv/data/file
            touch /srv/data/new 2>/dev/null && exit 1
            cd /work
            fio --name=v --directory=/work --size=8M --rw=randrw --bsrange=512-64k --verify=crc32c --verify_fatal=1 --ioengine=psync --minimal >/dev/null || exit 2
            fio --name=m --directory=/work --size=8M --rw=randrw --bs=4k --verify=crc32c --verify_fatal=1 --ioengine=mmap --minimal >/dev/null || exit 3
            for stressor in rename chmod utime open getdent fallocate seek hdd mmap xattr; do
                stress-ng --temp-path /work --$stressor 2 --$stressor-ops 100 --timeout 20 --verify >stress.log 2>&1 || { cat stress.log; exit 4; }
            done
            echo done
            """);
        Assert.True(status == 0, $"status {status}: {output}{error}");
        Assert.Equal("active\nactive\nvirtiofs share0\ndata\ndone\n", output);
    }
}
