//! The two clocks that the kernel offers and Coterie uses.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Time since the machine started, suspend included (`CLOCK_BOOTTIME`).
///
/// It never goes back. It continues over suspend and over a restore of the machine from a snapshot, so that leases run
/// out while the machine is away.
#[must_use]
pub fn boottime() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

/// Time since 1970-01-01 00:00 UTC (`CLOCK_REALTIME`), zero if the clock stands before it. Anybody who sets the clock
/// changes it, in both directions.
#[must_use]
pub fn realtime() -> Duration {
    duration(clock_gettime(ClockId::Realtime))
}

fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_advances_and_realtime_is_after_the_kernel_was_built() {
        let first = boottime();
        while boottime() == first {}
        assert!(boottime() > first);
        assert!(realtime() > Duration::from_secs(1_600_000_000));
    }
}
