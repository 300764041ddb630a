//! Tests that need network namespaces of their own: as root directly, else inside a user namespace, else not at all.

#![expect(
    unsafe_code,
    reason = "a process must have one thread to enter a user namespace: the child between fork and exec"
)]

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use coterie_io::link::Links;
use coterie_io::netns::{NetNs, unshare_user_and_net};
use coterie_io::poll::{Interest, Poller};

/// Runs the test `name` of `module` where namespaces can be made; prints why where they cannot.
pub(crate) fn with_namespaces(module: &str, name: &str, test: fn()) {
    const INSIDE: &str = "COTERIE_TEST_IN_USER_NAMESPACE";
    let forced = std::env::var_os("COTERIE_TEST_FORCE_USER_NAMESPACE").is_some();
    if std::env::var_os(INSIDE).is_some() || (!forced && NetNs::create().is_ok()) {
        return test();
    }
    let (_, module) = module.split_once("::").expect("tests are in modules of this program");
    let name = &format!("{module}::{name}");
    let mut again = Command::new(std::env::current_exe().expect("the test's own program"));
    again
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    // SAFETY: between fork and exec the child has one thread; it makes system calls, opens files in /proc, and allocates,
    // which the C library makes safe after a fork.
    unsafe { again.pre_exec(unshare_user_and_net) };
    match again.status() {
        Ok(status) => assert!(status.success(), "{name} failed inside a user namespace"),
        Err(error) => {
            // No space is what the kernel says at its limit of user namespaces, which may be none.
            let not_allowed = [io::ErrorKind::PermissionDenied, io::ErrorKind::StorageFull];
            assert!(
                not_allowed.contains(&error.kind()),
                "{name} could not be started: {error}"
            );
            say(&format!(
                "skipped: {name} needs root or user namespaces, and this system allows neither ({error})"
            ));
        }
    }
}

/// Prints a line that is seen although the test passes.
pub(crate) fn say(line: &str) {
    writeln!(io::stderr(), "{line}").expect("somebody reads the output of tests");
}

/// Whether this user may open the TUN device, which some systems keep for root; prints it if not.
pub(crate) fn may_open_tun() -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = &opened {
        say(&format!(
            "skipped: /dev/net/tun cannot be opened by this user ({error})"
        ));
    }
    opened.is_ok()
}

/// A namespace whose loopback interface is up.
pub(crate) fn namespace() -> NetNs {
    let namespace = NetNs::create().expect("a namespace");
    inside(&namespace, || {
        Links::open().expect("netlink").set_up("lo").expect("loopback up")
    });
    namespace
}

/// Runs `work` in `namespace`.
pub(crate) fn inside<T: Send>(namespace: &NetNs, work: impl FnOnce() -> T + Send) -> T {
    namespace.run(work).expect("the namespace can be entered")
}

/// Waits until `fd` can be read; `false` when `limit` has passed before.
pub(crate) fn readable(fd: impl std::os::fd::AsFd, limit: Duration) -> bool {
    let mut poller = Poller::new().expect("an epoll");
    poller.add(fd.as_fd(), 0, Interest::Read).expect("watched");
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !poller.wait(Some(left)).expect("polled").is_empty() {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// More than anything takes that is going to happen.
pub(crate) const LONG: Duration = Duration::from_secs(10);
