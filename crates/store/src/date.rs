//! Dates as people read them, from seconds since 1970-01-01 UTC.

/// A date and time of day, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    year: i64,
    month: u32,
    day: u32,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Date {
    /// Proleptic Gregorian calendar; days are counted from 1 March, so that leap days end a year.
    pub(crate) fn from_unix(seconds: u64) -> Self {
        let days = (seconds / 86_400) as i64 + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let second_of_day = seconds % 86_400;
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u32,
            day: (of_year - (153 * from_march + 2) / 5 + 1) as u32,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    /// `20261122-162431`.
    pub(crate) fn compact(self) -> String {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }

    /// `2026-11-22`.
    pub(crate) fn day(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `16:24:31`.
    pub(crate) fn time(self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn known_dates_come_out() {
        for (seconds, day, time) in [
            (0, "1970-01-01", "00:00:00"),
            (951_782_400, "2000-02-29", "00:00:00"),
            (1_000_000_000, "2001-09-09", "01:46:40"),
            (1_709_251_199, "2024-02-29", "23:59:59"),
            (4_107_542_400, "2100-03-01", "00:00:00"),
        ] {
            let date = Date::from_unix(seconds);
            assert_eq!((date.day(), date.time()), (day.into(), time.into()));
        }
    }
}
