namespace Lodge.Machine.Devices.Virtio.Scsi;

/// <summary>Constants of the SCSI host device (virtio 1.2, 5.6): features, configuration, queues, requests, events.</summary>
internal static class VirtioScsiRequests
{
    /// <summary>VIRTIO_SCSI_F_HOTPLUG.</summary>
    public const ulong FeatureHotplug = 1UL << 1;

    /// <summary>VIRTIO_SCSI_F_CHANGE.</summary>
    public const ulong FeatureChange = 1UL << 2;

    /// <summary>Configuration: num_queues, le32.</summary>
    public const int QueueCount = 0;

    /// <summary>Configuration: seg_max, le32.</summary>
    public const int SegMax = 4;

    /// <summary>Configuration: max_sectors, le32.</summary>
    public const int MaxSectors = 8;

    /// <summary>Configuration: cmd_per_lun, le32.</summary>
    public const int CommandsPerLun = 12;

    /// <summary>Configuration: event_info_size, le32.</summary>
    public const int EventInfoSize = 16;

    /// <summary>Configuration: sense_size, le32; the driver writes it.</summary>
    public const int SenseSize = 20;

    /// <summary>Configuration: cdb_size, le32; the driver writes it.</summary>
    public const int CdbSize = 24;

    /// <summary>Configuration: max_target, le16. max_channel (28) and max_lun (32) are 0.</summary>
    public const int MaxTarget = 30;

    /// <summary>Bytes of configuration.</summary>
    public const int ConfigurationLength = 36;

    public const int ControlQueue = 0;
    public const int EventQueue = 1;
    public const int FirstRequestQueue = 2;
    public const ushort ControlQueueSize = 64;
    public const ushort RequestQueueSize = 256;
    public const int MaximumRequestQueues = 16;
    public const int MaximumTargets = 255;

    /// <summary>Most bytes in flight; see the block device.</summary>
    public const long MaximumBytesInFlight = 256 << 20;

    /// <summary>Power-on value and upper bound of sense_size.</summary>
    public const int MaximumSenseSize = 96;

    /// <summary>Power-on value and upper bound of cdb_size.</summary>
    public const int MaximumCdbSize = 32;

    /// <summary>Bytes of a request before the CDB: lun (8), id (8), task_attr, prio, crn.</summary>
    public const int RequestHeader = 19;

    /// <summary>Bytes of a response before the sense data: sense_len le32, residual le32, status_qualifier le16, status, response.</summary>
    public const int ResponseHeader = 12;

    /// <summary>VIRTIO_SCSI_S_OK.</summary>
    public const byte ResponseOk = 0;

    /// <summary>VIRTIO_SCSI_S_BAD_TARGET.</summary>
    public const byte ResponseBadTarget = 3;

    /// <summary>VIRTIO_SCSI_T_TMF.</summary>
    public const uint TaskManagement = 0;

    /// <summary>VIRTIO_SCSI_T_AN_QUERY.</summary>
    public const uint NotificationQuery = 1;

    /// <summary>VIRTIO_SCSI_T_AN_SUBSCRIBE.</summary>
    public const uint NotificationSubscribe = 2;

    /// <summary>VIRTIO_SCSI_S_FUNCTION_COMPLETE.</summary>
    public const byte FunctionComplete = 0;

    /// <summary>VIRTIO_SCSI_S_FUNCTION_SUCCEEDED.</summary>
    public const byte FunctionSucceeded = 10;

    /// <summary>VIRTIO_SCSI_S_FUNCTION_REJECTED.</summary>
    public const byte FunctionRejected = 11;

    /// <summary>VIRTIO_SCSI_T_NO_EVENT.</summary>
    public const uint EventNone = 0;

    /// <summary>VIRTIO_SCSI_T_TRANSPORT_RESET.</summary>
    public const uint EventTransportReset = 1;

    /// <summary>VIRTIO_SCSI_T_PARAM_CHANGE.</summary>
    public const uint EventParameterChange = 3;

    /// <summary>VIRTIO_SCSI_T_EVENTS_MISSED.</summary>
    public const uint EventsMissed = 0x8000_0000;

    /// <summary>VIRTIO_SCSI_EVT_RESET_RESCAN.</summary>
    public const uint ReasonRescan = 1;

    /// <summary>VIRTIO_SCSI_EVT_RESET_REMOVED.</summary>
    public const uint ReasonRemoved = 2;

    /// <summary>Bytes of an event: event le32, lun (8), reason le32.</summary>
    public const int EventLength = 16;

    /// <summary>Events that are kept until the driver has buffers for them.</summary>
    public const int MaximumEvents = 64;
}

/// <summary>Subtypes of task management (5.6.6.2).</summary>
internal enum ScsiTaskFunction : uint
{
    AbortTask = 0,
    AbortTaskSet = 1,
    ClearAca = 2,
    ClearTaskSet = 3,
    NexusReset = 4,
    LogicalUnitReset = 5,
    QueryTask = 6,
    QueryTaskSet = 7,
}
