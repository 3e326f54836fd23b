namespace Lodge.Machine.Devices.Clock.Rtc;

/// <summary>Between a point in time and the bytes by which the chip tells it: BCD or binary, 12 or 24 hours.</summary>
internal static class RtcCalendar
{
    private const byte PostMeridiem = 0x80;

    /// <summary>Writes the ten time and calendar bytes.</summary>
    public static void Encode(DateTime time, byte registerB, Span<byte> cmos)
    {
        cmos[RtcRegister.Seconds] = EncodeNumber(time.Second, registerB);
        cmos[RtcRegister.Minutes] = EncodeNumber(time.Minute, registerB);
        cmos[RtcRegister.Hours] = EncodeHour(time.Hour, registerB);
        cmos[RtcRegister.DayOfWeek] = EncodeNumber((int)time.DayOfWeek + 1, registerB);
        cmos[RtcRegister.DayOfMonth] = EncodeNumber(time.Day, registerB);
        cmos[RtcRegister.Month] = EncodeNumber(time.Month, registerB);
        cmos[RtcRegister.Year] = EncodeNumber(time.Year % 100, registerB);
        cmos[RtcRegister.Century] = EncodeNumber(time.Year / 100, registerB);
    }

    /// <summary>Reads them; whatever the guest wrote there, the result is the nearest date that exists. The day of the week follows from it.</summary>
    public static DateTime Decode(ReadOnlySpan<byte> cmos, byte registerB)
    {
        int year = Math.Clamp((DecodeNumber(cmos[RtcRegister.Century], registerB) * 100) + DecodeNumber(cmos[RtcRegister.Year], registerB), 1, 9998);
        int month = Math.Clamp(DecodeNumber(cmos[RtcRegister.Month], registerB), 1, 12);
        int day = Math.Clamp(DecodeNumber(cmos[RtcRegister.DayOfMonth], registerB), 1, DateTime.DaysInMonth(year, month));
        int hour = Math.Clamp(DecodeHour(cmos[RtcRegister.Hours], registerB), 0, 23);
        int minute = Math.Clamp(DecodeNumber(cmos[RtcRegister.Minutes], registerB), 0, 59);
        int second = Math.Clamp(DecodeNumber(cmos[RtcRegister.Seconds], registerB), 0, 59);
        return new DateTime(year, month, day, hour, minute, second, DateTimeKind.Utc);
    }

    /// <summary>Whether the alarm bytes match this second of the day.</summary>
    public static bool AlarmMatches(DateTime time, ReadOnlySpan<byte> cmos, byte registerB) =>
        Matches(cmos[RtcRegister.SecondsAlarm], EncodeNumber(time.Second, registerB))
        && Matches(cmos[RtcRegister.MinutesAlarm], EncodeNumber(time.Minute, registerB))
        && Matches(cmos[RtcRegister.HoursAlarm], EncodeHour(time.Hour, registerB));

    private static bool Matches(byte alarm, byte value) => alarm >= RtcRegister.AlarmAny || alarm == value;

    private static byte EncodeNumber(int value, byte registerB) =>
        (registerB & RegisterB.BinaryMode) != 0 ? (byte)value : (byte)(((value / 10) << 4) | (value % 10));

    private static int DecodeNumber(byte value, byte registerB) =>
        (registerB & RegisterB.BinaryMode) != 0 ? value : ((value >> 4) * 10) + (value & 15);

    private static byte EncodeHour(int hour, byte registerB)
    {
        if ((registerB & RegisterB.Hours24) != 0)
        {
            return EncodeNumber(hour, registerB);
        }
        byte twelve = EncodeNumber(hour % 12 == 0 ? 12 : hour % 12, registerB);
        return hour >= 12 ? (byte)(twelve | PostMeridiem) : twelve;
    }

    private static int DecodeHour(byte value, byte registerB)
    {
        if ((registerB & RegisterB.Hours24) != 0)
        {
            return DecodeNumber(value, registerB);
        }
        int hour = DecodeNumber((byte)(value & ~PostMeridiem), registerB) % 12;
        return (value & PostMeridiem) != 0 ? hour + 12 : hour;
    }
}
