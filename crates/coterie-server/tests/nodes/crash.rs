//! Killed at every point at which the server writes: what was acknowledged is there, and nothing is there by half.
//!
//! The build for tests knows its write points (`coterie-store`, feature `crash-points`): with `COTERIE_CRASH_AT=n` the process
//! kills itself at the n-th, and `COTERIE_CRASH_COUNT` names a file that gets a byte longer at each. Each step of a story is done once
//! unharmed, which tells what there was before it, what there is after it, and at how many points it writes. Then it is done
//! again from the same state with a server that dies at one of them: after that there is what was before or what is after, to the
//! last entry of the audit log, and what is after if the step was acknowledged.
//!
//! `COTERIE_CRASH_STRIDE` says how many points are passed over between two that are tried; each step is tried once at least, and
//! with `1` at each of its points. Which ones that are is the same in each run.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that tries many things says how many"
)]

use std::path::Path;
use std::process::Command;

use crate::site::Site;
use crate::story::{DUE, Known, QUIET, Seen, again, prepare, seen, stands, take};

/// What people do.
const OF_PEOPLE: [&str; 15] = [
    "tenant",
    "apply",
    "change",
    "principal",
    "principal gone",
    "token web",
    "token gone",
    "by hand",
    "rotate",
    "roll due",
    "root",
    "move",
    "end many",
    "delete enclave",
    "delete tenant",
];

/// What machines do, and what is done to them.
const OF_MACHINES: [&str; 16] = [
    "ready tenant",
    "token web",
    "enrol web-1",
    "enrol web-2",
    "isolate",
    "release",
    "revoke",
    "renew",
    "removal",
    "token app",
    "enrol app-1",
    "return app-1",
    "bye",
    "end",
    "ready brief",
    "expire",
];

#[tokio::test(flavor = "multi_thread")]
async fn of_what_people_do_nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    tell(&OF_PEOPLE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_machines_do_nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    tell(&OF_MACHINES).await;
}

async fn tell(steps: &[&'static str]) {
    let stride: u64 = std::env::var("COTERIE_CRASH_STRIDE").map_or(23, |n| n.parse().unwrap());
    let mut site = Site::made();
    let kept = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    let (mut points, mut tried) = (0, 0);
    for (place, step) in steps.iter().copied().enumerate() {
        let before = prepared(&mut site, &mut known, step).await;
        copy(site.path(), kept.path());
        let (next, after, first, last) = unharmed(&mut site, &known, step, &before).await;
        if step.starts_with(QUIET) {
            known = next;
            continue;
        }
        let follows = tempfile::tempdir().unwrap();
        copy(site.path(), follows.path());
        let count = last - first;
        assert!(count > 0, "`{step}` writes nothing");
        points += count;
        for n in 0..count.div_ceil(stride) {
            let point = first + 1 + (u64::try_from(place).unwrap() * 5 + n * stride) % count;
            site.gone();
            copy(kept.path(), site.path());
            killed(&mut site, &known, step, point, (&before, &after)).await;
            tried += 1;
        }
        site.gone();
        copy(follows.path(), site.path());
        known = next;
    }
    println!(
        "killed at {tried} of {points} write points of {} steps (COTERIE_CRASH_STRIDE={stride})",
        steps.len()
    );
    assert!(tried >= 12);
}

/// Makes the state in which a step is done, with a server that is down; gives what there is then.
async fn prepared(site: &mut Site, known: &mut Known, step: &'static str) -> Seen {
    site.environment.clear();
    site.up();
    prepare(known, step);
    let before = seen(site, known).await;
    site.kill();
    if DUE.contains(&step) {
        crate::story::have_done_now(site, step).await;
    }
    before
}

/// Does a step with a server that is killed as soon as it has acknowledged it: what is known after it, what there is, and the
/// number of the last point before the step and of the last one in it.
async fn unharmed(site: &mut Site, known: &Known, step: &'static str, before: &Seen) -> (Known, Seen, u64, u64) {
    let counted = site.path().join("points");
    let count = || -> u64 { std::fs::metadata(&counted).map_or(0, |file| file.len()) };
    site.environment = vec![("COTERIE_CRASH_COUNT".to_owned(), counted.display().to_string())];
    site.up();
    // What is due is done, and what a server does first is tried, from the first point on.
    let first = if step == "tenant" || DUE.contains(&step) {
        0
    } else {
        count()
    };
    let next = take(site, known, step).await;
    let next = next.unwrap_or_else(|| panic!("nothing comes in the way of `{step}`"));
    site.kill();
    let last = count();
    std::fs::remove_file(&counted).unwrap();
    site.environment.clear();
    site.up();
    let after = seen(site, known).await;
    assert_ne!(
        after.beside(before),
        before.beside(before),
        "`{step}` is something that can be seen"
    );
    site.kill();
    (next, after, first, last)
}

/// Does a step with a server that dies at a point, starts it anew, and sees what is left.
async fn killed(site: &mut Site, known: &Known, step: &'static str, point: u64, (before, after): (&Seen, &Seen)) {
    site.environment = vec![("COTERIE_CRASH_AT".to_owned(), point.to_string())];
    let acknowledged = match site.try_up() {
        Some(()) => take(site, known, step).await,
        None => None,
    };
    // Without a word it died; what came between may have moved the point behind the step.
    assert!(
        acknowledged.is_some() || site.has_died(),
        "`{step}` at point {point} is refused"
    );
    site.gone();
    site.environment.clear();
    site.up();
    let at = format!("`{step}` at point {point}, acknowledged: {}", acknowledged.is_some());
    let (was, done) = (before.beside(before), after.beside(before));
    if DUE.contains(&step) {
        crate::story::until(site, known, &done, before, &at).await;
    } else {
        let now = seen(site, known).await.beside(before);
        let is_whole = now == done || (acknowledged.is_none() && now == was);
        assert!(is_whole, "{at}:\n{now:#?}\nbefore:\n{was:#?}\nafter:\n{done:#?}");
    }
    match &acknowledged {
        Some(gained) => stands(site, step, gained, &at).await,
        None => again(site, known, step, (before, after), &at).await,
    }
    site.stop();
    let check = Command::new(env!("CARGO_BIN_EXE_coterie-server"))
        .args(["check", "--directory"])
        .arg(site.path())
        .output()
        .unwrap();
    assert!(check.status.success(), "{at}: {check:?}");
}

/// Copies what a server that is down has on its disk, in the place of all that is there: a log of another state would be replayed.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(to).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
