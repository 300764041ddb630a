//! What the service manager is told, if there is one.

use std::time::Duration;

use sd_notify::NotifyState;

/// How long a daemon that cannot start waits before it ends, so that a unit that is started again and again does not fill the
/// journal. One that was killed is started again at once.
const BREATH: Duration = Duration::from_secs(2);

/// Tells the service manager.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    // Without a service manager this does nothing; with one that is gone there is nobody to tell.
    let _gone = sd_notify::notify(states);
}

/// Takes a breath before the daemon ends with an error, where a service manager will start it again.
pub fn breathe() {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        std::thread::sleep(BREATH);
    }
}
