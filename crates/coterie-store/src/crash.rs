//! Where a process can be made to die, for tests of what is left then: before a transaction begins, after each statement
//! that writes, before a commit, and after it. Nothing of it is in builds without the feature `crash-points`.

/// Passes a point. In builds with the feature, the process kills itself at the one whose number `COTERIE_CRASH_AT` is.
#[inline]
pub(crate) fn write_point() {
    #[cfg(feature = "crash-points")]
    counted::pass();
}

#[cfg(feature = "crash-points")]
pub use counted::write_points;

#[cfg(feature = "crash-points")]
mod counted {
    use std::ffi::OsString;
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    /// A text that is no number is a point that is never passed.
    static CRASH_AT: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var("COTERIE_CRASH_AT").ok()?.parse().ok());
    /// A file that gets a byte longer at each point, for who counts them from without.
    static COUNT: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("COTERIE_CRASH_COUNT"));

    /// How many points this process has passed in all its databases: with `COTERIE_CRASH_AT` set to one of these numbers
    /// (the first is 1), one that does the same dies there by SIGKILL.
    #[must_use]
    pub fn write_points() -> u64 {
        PASSED.load(Ordering::SeqCst)
    }

    pub(super) fn pass() {
        let point = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(path) = &*COUNT {
            // Who counts notices where there are none.
            let file = File::options().append(true).create(true).open(path);
            let _ = file.and_then(|mut file| file.write_all(b"."));
        }
        if Some(point) == *CRASH_AT {
            // If the system refuses, which it has no reason to, the process dies all the same.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
    }
}
