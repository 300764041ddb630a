//! The wall clock: certificates, leases and tokens are by it.

use std::time::{SystemTime, UNIX_EPOCH};

use coterie_model::UnixTime;

/// Now.
pub(crate) fn now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}
