//! The system's own coteried, where systemd runs it.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, bail};

/// The unit, as it is packaged.
pub(crate) const UNIT: &str = "coteried.service";
/// Where the unit expects the bundle.
pub(crate) const BUNDLE: &str = "/etc/coterie/bundle";
/// Where the unit expects the keys.
pub(crate) const KEYS: &str = "/etc/coterie/keys";
/// Where the unit takes further options of coteried from.
pub(crate) const OPTIONS: &str = "/etc/coterie/options";

/// Whether systemd runs this machine and knows coteried.
pub(crate) fn has_unit() -> bool {
    Path::new("/run/systemd/system").is_dir() && systemctl(&["cat", UNIT]).is_ok_and(|output| output.status.success())
}

/// Whether systemd runs coteried now.
pub(crate) fn is_active() -> bool {
    has_unit() && systemctl(&["is-active", "--quiet", UNIT]).is_ok_and(|output| output.status.success())
}

/// Whether systemd runs coteried, or tries to again and again.
pub(crate) fn is_trying() -> bool {
    has_unit()
        && systemctl(&["show", "--property=ActiveState", "--value", UNIT]).is_ok_and(|output| {
            let state = String::from_utf8_lossy(&output.stdout);
            output.status.success() && !matches!(state.trim(), "inactive" | "failed")
        })
}

/// Whether the machine is being switched off, and not started anew.
pub(crate) fn powers_off() -> bool {
    let said = |arguments: &[&str]| {
        let output = systemctl(arguments).ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // It ends with an error while the system stops, and says what it is asked for all the same.
    let stopping = said(&["is-system-running"]).is_some_and(|state| state.trim() == "stopping");
    stopping && said(&["list-jobs", "--plain", "--no-legend"]).is_some_and(|jobs| !starts_again(&jobs))
}

/// Whether one of systemd's jobs starts the machine, or its user space, again.
fn starts_again(jobs: &str) -> bool {
    const AGAIN: [&str; 3] = ["reboot.target", "kexec.target", "soft-reboot.target"];
    jobs.lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .any(|unit| AGAIN.contains(&unit))
}

/// Does something with the unit.
pub(crate) fn act(what: &[&str]) -> anyhow::Result<()> {
    let output = systemctl(&[what, &[UNIT]].concat()).context("cannot run systemctl")?;
    if !output.status.success() {
        bail!(
            "`systemctl {} {UNIT}` failed: {}; see `journalctl -u {UNIT}`",
            what.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn systemctl(arguments: &[&str]) -> std::io::Result<Output> {
    Command::new("systemctl").args(arguments).output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_starts_again_is_not_switched_off() {
        let off = "101 poweroff.target start waiting\n102 systemd-poweroff.service start waiting\n";
        assert!(!starts_again(off));
        assert!(starts_again(
            "101 reboot.target start waiting\n102 shutdown.target start waiting\n"
        ));
        assert!(!starts_again(""));
    }
}
