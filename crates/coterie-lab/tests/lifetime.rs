//! A lab leaves nothing behind, however it ends: no process, namespace, link, mount or directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use coterie_lab::{Signal, wait_for};
use rustix::process::{Pid, kill_process};

const DEADLINE: Duration = Duration::from_secs(20);

/// A user whom nothing on the machine belongs to.
const NOBODY: &str = "54321";

/// Who starts the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Own,
    Ordinary,
}

/// The users that this test can be.
fn users() -> Vec<User> {
    if rustix::process::geteuid().is_root() {
        vec![User::Own, User::Ordinary]
    } else {
        vec![User::Own]
    }
}

fn example() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a file");
    let pair = own
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests are in deps")
        .join("examples/pair");
    assert!(
        pair.exists(),
        "{} is missing: `cargo build -p coterie-lab --examples` makes it",
        pair.display()
    );
    pair
}

fn pair(user: User, arguments: &[&str]) -> Child {
    let pair = example();
    let mut command = match user {
        User::Own => Command::new(pair),
        User::Ordinary => {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
                .arg(pair);
            command
        }
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().expect("started")
}

/// A program that would stay when a test fails.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

/// Everything that the machine shows of labs, other than processes.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    directories: BTreeSet<PathBuf>,
}

impl Machine {
    fn look() -> Self {
        let links = Command::new("ip")
            .args(["-o", "link"])
            .output()
            .expect("ip runs")
            .stdout;
        let links = String::from_utf8_lossy(&links)
            .lines()
            .filter_map(|line| line.split(": ").nth(1).map(str::to_owned))
            .collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let mounts = mounts
            .lines()
            .filter(|line| line.contains("coterie-lab") || line.contains(" nsfs "))
            .map(str::to_owned)
            .collect();
        let mut directories: BTreeSet<PathBuf> = ["/mnt", "/media", "/srv", "/var/opt", "/var/local", "/run/netns"]
            .iter()
            .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        let temporary = fs::read_dir(std::env::temp_dir())
            .expect("readable")
            .flatten()
            .map(|entry| entry.path());
        directories.extend(temporary.filter(|path| path.to_string_lossy().contains("coterie-lab")));
        Self {
            links,
            mounts,
            directories,
        }
    }
}

/// The processes of a lab that is up, as the machine sees them, and their namespaces.
#[derive(Debug)]
struct Footprint {
    /// By number and start time, so that a number that is used again is not taken for the same process.
    processes: BTreeSet<(u32, String)>,
    namespaces: BTreeSet<String>,
}

impl Footprint {
    fn of(supervisor: u32) -> Self {
        let mut family = BTreeSet::from([supervisor]);
        loop {
            let more: BTreeSet<u32> = processes()
                .filter(|pid| parent(*pid).is_some_and(|parent| family.contains(&parent)))
                .collect();
            let before = family.len();
            family.extend(more);
            if family.len() == before {
                break;
            }
        }
        let namespaces_of = |pid: &dyn std::fmt::Display| {
            ["net", "mnt", "pid", "user", "uts"]
                .map(|kind| {
                    fs::read_link(format!("/proc/{pid}/ns/{kind}")).map(|link| link.to_string_lossy().into_owned())
                })
                .into_iter()
                .flatten()
                .collect::<BTreeSet<String>>()
        };
        let own = namespaces_of(&"self");
        let namespaces = family
            .iter()
            .flat_map(|pid| namespaces_of(pid))
            .filter(|link| !own.contains(link))
            .collect();
        let processes = family.iter().filter_map(|pid| Some((*pid, started(*pid)?))).collect();
        Self { processes, namespaces }
    }

    /// What of it is still there.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = self
            .processes
            .iter()
            .filter(|(pid, start)| started(*pid).as_ref() == Some(start))
            .map(|(pid, _)| {
                format!(
                    "process {pid}: {}",
                    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
                )
            })
            .collect();
        // A namespace lives on in processes and in open descriptors; mounts are compared elsewhere.
        for pid in processes() {
            for directory in ["ns", "fd"] {
                for entry in fs::read_dir(format!("/proc/{pid}/{directory}"))
                    .into_iter()
                    .flatten()
                    .flatten()
                {
                    let target = fs::read_link(entry.path())
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    if self.namespaces.contains(&target) {
                        left.push(format!("{target} held by process {pid}"));
                    }
                }
            }
        }
        left
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("readable")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A field of `/proc/PID/stat`, counted from the one behind the name.
fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(field)
        .map(str::to_owned)
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid, 1)?.parse().ok()
}

/// When it was started; `None` for one that has ended, waited for or not.
fn started(pid: u32) -> Option<String> {
    if stat(pid, 0)? == "Z" { None } else { stat(pid, 19) }
}

fn children(of: u32) -> Vec<u32> {
    processes().filter(|pid| parent(*pid) == Some(of)).collect()
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id is positive");
    kill_process(pid, signal).expect("it is there");
}

fn assert_nothing_left(before: &Machine, footprint: Option<&Footprint>, how: &str) {
    let mut seen = String::new();
    let gone = wait_for("the end of everything", DEADLINE, || {
        let left = footprint.map(Footprint::left).unwrap_or_default();
        let now = Machine::look();
        seen = format!("{left:#?}\n{now:?}");
        (left.is_empty() && now == *before).then_some(())
    });
    assert!(gone.is_ok(), "{how}: left are {seen}\nbefore there was {before:?}");
}

/// Lets the example come up and stay, does something to it, and expects it to end and to leave nothing.
fn ends_by(user: User, how: &str, act: impl FnOnce(&mut Child)) -> ExitStatus {
    let before = Machine::look();
    let mut supervisor = Kept(pair(user, &["--keep"]));
    let stdout = supervisor.0.stdout.take().expect("a pipe");
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let said: Vec<String> = lines.take_while(|line| !line.starts_with("up")).collect();
    assert!(
        said.first().is_some_and(|line| line.starts_with("3 of 3 echoes")),
        "{said:?}"
    );
    // The supervisor, setpriv become unshare, the first process, the program, the fabric and two hosts, a sleeper, and two
    // more with their shell, which may still be starting.
    let footprint = wait_for("all processes of the lab", DEADLINE, || {
        Some(Footprint::of(supervisor.0.id())).filter(|footprint| footprint.processes.len() >= 11)
    });
    let footprint = footprint.expect("they start");
    // Of the lab, the fabric and two hosts.
    assert!(
        footprint
            .namespaces
            .iter()
            .filter(|link| link.starts_with("net"))
            .count()
            == 4,
        "{footprint:?}"
    );
    assert!(!footprint.left().is_empty());
    act(&mut supervisor.0);
    let status = wait_for(&format!("the end by {how}"), DEADLINE, || {
        supervisor.0.try_wait().expect("waited")
    });
    assert_nothing_left(&before, Some(&footprint), &format!("{user:?}, {how}"));
    status.expect("it ends")
}

#[test]
fn after_success_nothing_is_left() {
    for user in users() {
        let before = Machine::look();
        let output = pair(user, &[]).wait_with_output().expect("waited");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.starts_with("3 of 3 echoes"),
            "{user:?}: {said}"
        );
        assert_nothing_left(&before, None, "success");
    }
}

#[test]
fn after_a_failure_nothing_is_left() {
    for user in users() {
        let before = Machine::look();
        let output = pair(user, &["--fail"]).wait_with_output().expect("waited");
        assert_eq!(
            output.status.code(),
            Some(101),
            "{user:?}: the status of a panic comes through"
        );
        assert_nothing_left(&before, None, "failure");
    }
}

#[test]
fn after_an_interrupt_or_a_request_to_end_nothing_is_left() {
    for user in users() {
        for (signal, name) in [
            (Signal::INT, "SIGINT"),
            (Signal::TERM, "SIGTERM"),
            (Signal::HUP, "SIGHUP"),
        ] {
            let status = ends_by(user, name, |supervisor| send(supervisor.id(), signal));
            assert_eq!(status.code(), Some(128 + signal.as_raw()), "{user:?}, {name}");
        }
    }
}

#[test]
fn after_any_of_its_processes_is_killed_nothing_is_left() {
    for user in users() {
        let status = ends_by(user, "SIGKILL of the supervisor", |supervisor| {
            send(supervisor.id(), Signal::KILL)
        });
        assert_eq!(status.signal(), Some(9));
        for (depth, name) in ["unshare", "the first process", "the program"].into_iter().enumerate() {
            let status = ends_by(user, &format!("SIGKILL of {name}"), |supervisor| {
                let descend = |pid: u32, _| *children(pid).first().expect("it has a child");
                send((0..=depth).fold(supervisor.id(), descend), Signal::KILL);
            });
            assert!(!status.success(), "{user:?}, {name}: {status}");
        }
    }
}

#[test]
fn the_line_to_enter_a_host_works_for_who_started_the_lab() {
    for user in users() {
        let mut supervisor = Kept(pair(user, &["--keep"]));
        let stdout = supervisor.0.stdout.take().expect("a pipe");
        let lines = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.starts_with("up"));
        let entries: Vec<String> = lines
            .filter_map(|line| Some(line.strip_prefix("to be on ")?.split_once(": ")?.1.to_owned()))
            .collect();
        let names: Vec<String> = entries.iter().map(|entry| visit(user, entry)).collect();
        send(supervisor.0.id(), Signal::TERM);
        supervisor.0.wait().expect("waited");
        assert_eq!(
            names,
            ["web-1\nlo eth0 \n", "app-1\nlo eth0 \n"],
            "{user:?}: {entries:?}"
        );
    }
}

/// What a host says of itself to somebody who enters it by a line that ends in `sh`.
fn visit(user: User, line: &str) -> String {
    let look =
        "uname -n; ip -o link | while read -r _ name _; do name=${name%:}; printf '%s ' \"${name%@*}\"; done; echo";
    let mut words = line.split_whitespace();
    let mut command = match user {
        User::Own => Command::new(words.next().expect("a program")),
        User::Ordinary => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
            command
        }
    };
    let output = command.args(words).args(["-c", look]).output().expect("started");
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_lab_inside_a_lab_is_as_good_as_any() {
    coterie_lab::within_namespaces(|| {
        let output = Command::new(example()).output().expect("started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with("3 of 3 echoes"), "{said}");
    });
}

#[test]
fn where_namespaces_are_forbidden_the_error_names_the_setting() {
    // A user namespace that allows none below it, and in it a root without any capability.
    let forbid =
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --bounding-set=-all \"$0\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--", "sh", "-c", forbid])
        .arg(example())
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("max_user_namespaces") && said.contains("as root"),
        "{said}"
    );
}
