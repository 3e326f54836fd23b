using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Management.Images;

public sealed partial class CloudImagePuller
{
    /// <summary>Fetches an image, takes its kernel out, and describes it for the store.</summary>
    /// <exception cref="ManagementException">It cannot be fetched or is not what its distribution vouches for, or no disk image.</exception>
    public async Task<ImageManifest> PullAsync(CloudImage image, ImageName stored, string? mirror, bool requireSignature, string folder)
    {
        (string file, string sum) = await FetchAsync(image, mirror, requireSignature, folder).ConfigureAwait(false);
        try
        {
            // Official images have no parent: nothing beside the fetched file is opened.
            await using IImage disk = await ImageOpener.OpenAsync(
                Path.Combine(folder, file), new ImageOpenOptions { ReadOnly = true, Format = "qcow2", OpenBacking = false }).ConfigureAwait(false);
            if (disk.Describe().BackingName is { } parent)
            {
                throw new ManagementException($"the image of {image.Name} names a parent, '{parent}', which an official image does not");
            }
            step("Looking for the kernel");
            GuestKernel? kernel = await GuestKernel.TakeAsync(disk, folder).ConfigureAwait(false);
            return new ImageManifest
            {
                Name = stored.Name,
                Tag = stored.Tag,
                Description = $"{image.Name.Name} {image.Name.Tag}, official cloud image",
                Source = $"{(mirror ?? image.Site).TrimEnd('/')}/{image.Path}",
                Created = DateTimeOffset.UtcNow,
                Disk = file,
                Format = "qcow2",
                Sha256 = image.Algorithm == "SHA256" ? sum : "",
                VirtualSize = disk.Length,
                Kernel = kernel?.Kernel,
                Initrd = kernel?.Initrd,
                Root = kernel?.Root ?? "",
                CommandLine = "rw",
                HasCloudInit = true,
            };
        }
        catch (DiskException e)
        {
            throw new ManagementException($"what was fetched for {image.Name} is not a usable disk: {e.Message}", e);
        }
    }
}
