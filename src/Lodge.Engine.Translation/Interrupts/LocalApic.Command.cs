namespace Lodge.Engine.Translation.Interrupts;

// Interprocessor interrupts (11.6).
internal sealed partial class LocalApic
{
    private void SendCommand(uint destination, uint broadcast)
    {
        uint command = _interruptCommandLow;
        var mode = (DeliveryMode)((command >> 8) & 7);
        byte vector = (byte)command;
        bool asserted = (command & (1 << 14)) != 0, levelTriggered = (command & (1 << 15)) != 0;
        if (mode == DeliveryMode.Init && levelTriggered && !asserted)
        {
            return; // INIT level de-assert: synchronized arbitration IDs of APICs long gone
        }
        if (mode is DeliveryMode.SystemManagement or DeliveryMode.External or (DeliveryMode)3)
        {
            return; // there is no system management mode; ExtINT and mode 3 are not for IPIs
        }
        if (mode is DeliveryMode.Fixed or DeliveryMode.LowestPriority && vector < 16)
        {
            ReportError(ApicErrors.SendIllegalVector);
            return;
        }
        var message = new InterruptMessage(destination, (command & (1 << 11)) != 0, mode, vector, Level: false);
        switch ((command >> 18) & 3)
        {
            case 0 when destination == broadcast:
                _partition.Broadcast(message, except: null);
                break;
            case 0:
                _partition.Route(message);
                break;
            case 1:
                Deliver(message);
                break;
            case 2:
                _partition.Broadcast(message, except: null);
                break;
            default:
                _partition.Broadcast(message, except: this);
                break;
        }
    }
}
