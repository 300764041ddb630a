//! True time, which only the world knows, and the clocks of hosts, which are wrong in their own ways: they start anywhere, run
//! fast or slow, stand still while the machine is suspended, or leap when it comes back.

use std::time::Duration;

use coterie_model::{Instant, UnixTime};

/// What the wall clock of a host without an error shows at [`Moment::START`].
pub const EPOCH: UnixTime = UnixTime(1_800_000_000);

/// A point in true time: nanoseconds since the world began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The beginning.
    pub const START: Self = Self(0);

    /// Nanoseconds since the world began.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// `self - earlier`, or zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// What a perfect wall clock shows.
    #[must_use]
    pub const fn unix(self) -> UnixTime {
        EPOCH.plus(Duration::from_nanos(self.0))
    }
}

impl core::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl core::fmt::Display for Moment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// One machine's clocks: BOOTTIME, which never runs backwards, and the wall clock, which may.
#[derive(Debug, Clone)]
pub struct HostClock {
    /// BOOTTIME was `boot` at `anchor`.
    anchor: Moment,
    boot: u64,
    /// Millionths by which it runs fast (or slow, when negative).
    drift: i64,
    standing: bool,
    /// Seconds by which the wall clock is ahead of true time.
    wall_error: i64,
}

impl HostClock {
    /// A clock that shows `boot` at the beginning and runs `drift` millionths fast.
    #[must_use]
    pub fn new(boot: Duration, drift: i64, wall_error: i64) -> Self {
        Self {
            anchor: Moment::START,
            boot: Instant::from_boot(boot).nanos(),
            drift,
            standing: false,
            wall_error,
        }
    }

    /// What BOOTTIME shows at `now`.
    #[must_use]
    pub fn boot(&self, now: Moment) -> Instant {
        Instant::from_nanos(
            self.boot
                + if self.standing {
                    0
                } else {
                    self.local(now.since(self.anchor))
                },
        )
    }

    /// The first moment, not before `now`, at which BOOTTIME shows `at` or more; `None` while the clock stands.
    #[must_use]
    pub fn when(&self, at: Instant, now: Moment) -> Option<Moment> {
        if self.standing {
            return None;
        }
        let ahead = i128::from(at.nanos().saturating_sub(self.boot));
        let truth = ahead * 1_000_000 / i128::from(1_000_000 + self.drift);
        let mut moment = self.anchor + Duration::from_nanos(u64::try_from(truth).unwrap_or(u64::MAX));
        while self.boot(moment) < at {
            moment = moment + Duration::from_nanos(1);
        }
        Some(moment.max(now))
    }

    /// What the wall clock shows.
    #[must_use]
    pub const fn wall(&self, now: Moment) -> UnixTime {
        UnixTime(now.unix().0.saturating_add_signed(self.wall_error))
    }

    /// BOOTTIME leaps forward by `by`.
    pub fn leap(&mut self, now: Moment, by: Duration) {
        self.settle(now);
        self.boot = self
            .boot
            .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The wall clock is set `by` seconds forward or back.
    pub const fn set_wall(&mut self, by: i64) {
        self.wall_error = self.wall_error.saturating_add(by);
    }

    /// The machine is suspended.
    pub fn stand(&mut self, now: Moment) {
        self.settle(now);
        self.standing = true;
    }

    /// The machine is resumed.
    pub fn resume(&mut self, now: Moment) {
        self.settle(now);
        self.standing = false;
    }

    fn settle(&mut self, now: Moment) {
        self.boot = self.boot(now).nanos();
        self.anchor = now;
    }

    fn local(&self, truth: Duration) -> u64 {
        let nanos = i128::try_from(truth.as_nanos()).unwrap_or(i128::MAX);
        u64::try_from(nanos + nanos * i128::from(self.drift) / 1_000_000).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_is_read_and_inverted() {
        let second = Duration::from_secs(1);
        for drift in [-200, 0, 333] {
            let mut c = HostClock::new(Duration::from_secs(50), drift, -3);
            for n in 1..50u32 {
                let now = Moment::START + second * n;
                let at = c.boot(now) + second;
                let when = c.when(at, now).unwrap();
                assert!(c.boot(when) >= at);
                assert!(when.since(now).abs_diff(second) < Duration::from_millis(1));
            }
            let now = Moment::START + second * 60;
            let before = c.boot(now);
            c.leap(now, second * 9);
            assert_eq!(c.boot(now).since(before), second * 9);
            c.stand(now);
            assert_eq!(c.boot(now + second), c.boot(now));
            assert_eq!(c.when(c.boot(now) + second, now), None);
            c.resume(now + second);
            assert_eq!(c.boot(now + second), c.boot(now));
            assert_eq!(c.wall(now), UnixTime(EPOCH.0 + 57));
        }
    }
}
