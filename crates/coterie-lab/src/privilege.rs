//! How a program comes to be root of its own small world, whoever starts it.
//!
//! 1. The program that the user started calls [`ensure_privileges`] first thing. It stays behind as a supervisor: it
//!    forwards signals, waits, and ends with the status of what follows.
//! 2. `unshare` makes the namespaces: mount, network and process ids; and a user namespace in which the user is root, when
//!    the caller is not root already.
//! 3. A shell is process 1 in there: it mounts `/proc` and a private tmpfs, starts the program anew, adopts orphans, and
//!    ends when the program ends. Then the kernel kills whatever is left, and with the last process every namespace, link
//!    and file of the lab is gone.
//!
//! A parent-death signal ties each step to the one before it, so that killing any of them, with any signal, ends all.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{LabError, Result};

/// Says that a program is inside: `PID:DIRECTORY`. The process id keeps a child that inherits it from believing it.
pub(crate) const INSIDE: &str = "COTERIE_LAB_INSIDE";

/// Where TUN interfaces come from.
const TUN: &str = "/dev/net/tun";

/// Makes a test fail, rather than pass with a note, where namespaces cannot be made.
const REQUIRED: &str = "COTERIE_LAB_REQUIRED";

/// Where administrators' programs live, which is not on every user's path.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories that exist and are empty nearly everywhere: the private tmpfs is mounted on the first that is, which nobody
/// outside can see and which leaves nothing to remove.
const MOUNT_POINTS: [&str; 6] = ["/mnt", "/media", "/srv", "/var/opt", "/var/local", "/usr/local/games"];

/// What process 1 does. `$1` is the mount point; the program and its arguments follow.
const FIRST_PROCESS: &str = r#"
set -e
base=$1; shift
mount -t tmpfs -o mode=755 coterie-lab "$base"
mkdir "$base/outer-proc"
mount --rbind /proc "$base/outer-proc"
mount -t proc proc /proc
ip link set lo up
set +e
sh -c 'export COTERIE_LAB_INSIDE="$$:$0"; exec "$@"' "$base" "$@"
exit "$?"
"#;

/// What the program is inside the lab's namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// A tmpfs that exists only in here.
    pub(crate) directory: PathBuf,
    /// Root of a user namespace that knows no other user, rather than root of the machine.
    pub(crate) mapped: bool,
}

impl Inside {
    /// Whether the program is root only in a user namespace: an ordinary user started it.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// Whether programs in here can make TUN interfaces.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] with the reason and the remedy.
    pub fn check_tun(&self) -> Result<()> {
        let Err(error) = fs::OpenOptions::new().read(true).write(true).open(TUN) else {
            return Ok(());
        };
        let remedy = if error.kind() == io::ErrorKind::PermissionDenied && self.mapped {
            "it is usually open to all users: `chmod 666 /dev/net/tun` as root, or run this as root"
        } else {
            "load the kernel module tun (`modprobe tun`), or give the container the device /dev/net/tun"
        };
        Err(LabError::Unavailable {
            what: "a TUN interface".to_owned(),
            why: format!("{TUN}: {error}; {remedy}"),
        })
    }

    /// This program's place, when [`ensure_privileges`] has put it inside.
    pub(crate) fn detect() -> Option<Self> {
        let value = env::var(INSIDE).ok()?;
        let (pid, directory) = value.split_once(':')?;
        if pid.parse() != Ok(std::process::id()) {
            return None;
        }
        Some(Self {
            directory: directory.into(),
            mapped: is_mapped(),
        })
    }
}

/// Moves the program into namespaces in which it is root. Call it first thing in `main`: outside it starts the program
/// anew inside, waits, and exits with its status, so it returns only inside.
///
/// The program inside has a process group of its own. SIGINT, SIGTERM, SIGHUP and SIGQUIT that the supervisor gets are
/// forwarded to it; the second one kills it.
///
/// # Errors
/// [`LabError::Privileges`] when neither root nor a user namespace can be had, with the reason and the remedy;
/// [`LabError::Missing`] without `unshare`, `setpriv` or `ip`.
pub fn ensure_privileges() -> Result<Inside> {
    if let Some(inside) = Inside::detect() {
        return Ok(inside);
    }
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).map_err(LabError::io("watch for signals"))?;
    let status = Supervised::start(&arguments, Stdio::inherit)?.wait(Some(signals))?;
    std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
}

/// Runs the body of a `#[test]` inside the lab's namespaces: in a new process that runs this one test, whose failure
/// fails it here. Where namespaces cannot be made the test passes with the reason on standard error, or fails if
/// the environment has `COTERIE_LAB_REQUIRED`.
///
/// # Panics
/// When the test failed inside.
pub fn within_namespaces<F: FnOnce()>(body: F) {
    if Inside::detect().is_some() {
        return body();
    }
    let path = std::any::type_name::<F>();
    let path = path.strip_suffix("::{{closure}}").unwrap_or(path);
    let test = path.split_once("::").map_or(path, |(_, rest)| rest);
    let arguments = ["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"].map(OsString::from);
    let outcome = Supervised::start(&arguments, Stdio::piped).and_then(Supervised::output);
    match outcome {
        Ok((status, output)) => {
            eprint!("{output}");
            assert!(status.success(), "{test} failed inside the lab ({status})");
            assert!(
                output.contains("1 passed"),
                "{test} did not run inside the lab; is its body not the test's own?"
            );
        }
        Err(error) if error.is_skip() && env::var_os(REQUIRED).is_none() => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// The program inside, seen from outside.
struct Supervised {
    unshare: Child,
    /// A mount point that had to be made, for want of an empty directory.
    made: Option<PathBuf>,
}

impl Supervised {
    fn start(arguments: &[OsString], stdio: fn() -> Stdio) -> Result<Self> {
        let namespaces = allowed_namespaces()?;
        let (base, made) = mount_point()?;
        let program = env::current_exe().map_err(LabError::io("find this program's file"))?;
        let unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare"])
            .args(namespaces)
            .args(["--", "sh", "-c", FIRST_PROCESS, "coterie-lab"])
            .arg(&base)
            .arg(program)
            .args(arguments)
            .env("PATH", search_path())
            .env_remove(INSIDE)
            .stdout(stdio())
            .stderr(stdio())
            .process_group(0)
            .spawn()
            .map_err(|error| not_started("setpriv", error))?;
        Ok(Self { unshare, made })
    }

    /// Waits for the end, and forwards signals meanwhile.
    fn wait(mut self, signals: Option<Signals>) -> Result<ExitStatus> {
        let supervisor = self.unshare.id();
        let ended = AtomicBool::new(false);
        let status = std::thread::scope(|scope| {
            let handle = signals.as_ref().map(Signals::handle);
            if let Some(mut signals) = signals {
                let ended = &ended;
                scope.spawn(move || {
                    let mut count = 0_u32;
                    for signal in signals.forever().take_while(|_| !ended.load(Ordering::Acquire)) {
                        count += 1;
                        forward(supervisor, signal, count);
                    }
                });
            }
            let status = self.unshare.wait();
            ended.store(true, Ordering::Release);
            if let Some(handle) = handle {
                handle.close();
            }
            status
        });
        self.remove_mount_point();
        status.map_err(LabError::io("wait for the program inside the lab"))
    }

    /// Waits for the end, and returns all that was written.
    fn output(mut self) -> Result<(ExitStatus, String)> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let (Some(mut out), Some(mut err)) = (self.unshare.stdout.take(), self.unshare.stderr.take()) {
            let read = std::thread::scope(|scope| {
                let out = scope.spawn(|| out.read_to_end(&mut stdout));
                let err = err.read_to_end(&mut stderr);
                out.join().expect("reading does not panic").and(err)
            });
            read.map_err(LabError::io("read what the program inside the lab wrote"))?;
        }
        let status = self.wait(None)?;
        stdout.extend_from_slice(&stderr);
        Ok((status, String::from_utf8_lossy(&stdout).into_owned()))
    }

    fn remove_mount_point(&mut self) {
        if let Some(made) = self.made.take()
            && let Err(error) = fs::remove_dir(&made)
        {
            eprintln!("cannot remove {}: {error}", made.display());
        }
    }
}

/// Passes a signal on to the program: the child of the shell that is the child of `unshare`. The second one kills.
fn forward(unshare: u32, signal: i32, count: u32) {
    let program = child_of(unshare).and_then(child_of);
    let (target, signal) = match (program, Signal::from_named_raw(signal)) {
        (Some(program), Some(signal)) if count == 1 => (program, signal),
        (Some(_) | None, Some(_) | None) => (unshare, Signal::KILL),
    };
    if let Some(pid) = i32::try_from(target).ok().and_then(Pid::from_raw) {
        // It may have ended by itself just now, which is what the signal was for.
        let _: rustix::io::Result<()> = kill_process(pid, signal);
    }
}

/// The first child of a process.
fn child_of(parent: u32) -> Option<u32> {
    let mut processes: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    processes.sort_unstable();
    processes.into_iter().find(|pid| parent_of(*pid) == Some(parent))
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields are counted from the last closing one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The options of `unshare` that this machine lets the caller use.
fn allowed_namespaces() -> Result<Vec<&'static str>> {
    let as_root = vec!["--net", "--mount", "--pid", "--fork", "--kill-child=KILL"];
    let as_user: Vec<_> = ["--user", "--map-root-user"]
        .into_iter()
        .chain(as_root.iter().copied())
        .collect();
    let is_root = rustix::process::geteuid().is_root();
    if is_root && try_namespaces(&as_root)?.is_none() {
        return Ok(as_root);
    }
    match try_namespaces(&as_user)? {
        None => Ok(as_user),
        Some(refusal) => Err(privileges_error(&refusal)),
    }
}

/// `None` when namespaces could be made, else what `unshare` said.
fn try_namespaces(options: &[&str]) -> Result<Option<String>> {
    let output = Command::new("unshare")
        .args(options)
        .args(["--", "sh", "-c", "mount -t proc proc /proc && ip link set lo up"])
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started("unshare", error))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        Ok(None)
    } else if said.contains("ip: not found") {
        Err(LabError::Missing {
            program: "ip".to_owned(),
            package: "iproute2".to_owned(),
        })
    } else {
        Ok(Some(said))
    }
}

fn privileges_error(refusal: &str) -> LabError {
    let setting = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    let is = |name: &str, value: &str| setting(name).is_some_and(|text| text.trim() == value);
    let root = "or run this as root";
    let remedy = if is("user/max_user_namespaces", "0") {
        format!("This system allows no user namespaces: `sysctl -w user.max_user_namespaces=15000`, {root}")
    } else if is("kernel/unprivileged_userns_clone", "0") {
        format!("Only root may make user namespaces here: `sysctl -w kernel.unprivileged_userns_clone=1`, {root}")
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        format!(
            "AppArmor restricts user namespaces here: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, {root}"
        )
    } else if refusal.contains("mount") {
        "Parts of /proc are masked, as in a container: run this on the machine itself, or start the container with all \
         of /proc visible (podman: --security-opt unmask=ALL, docker: --privileged)"
            .to_owned()
    } else {
        "A container or a security policy may forbid it: run this as root on the machine itself, or give the container \
         CAP_SYS_ADMIN and a seccomp profile that allows unshare(2) (docker: --privileged)"
            .to_owned()
    };
    LabError::Privileges {
        reason: if refusal.is_empty() {
            "unshare failed".to_owned()
        } else {
            refusal.to_owned()
        },
        remedy,
    }
}

/// A directory to mount the tmpfs on, and whether it had to be made.
fn mount_point() -> Result<(PathBuf, Option<PathBuf>)> {
    let is_empty = |path: &&&str| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if let Some(found) = MOUNT_POINTS.iter().find(is_empty) {
        return Ok((PathBuf::from(found), None));
    }
    let path = env::temp_dir().join(format!("coterie-lab-{}", std::process::id()));
    fs::create_dir(&path).map_err(LabError::io(format!("create {}", path.display())))?;
    Ok((path.clone(), Some(path)))
}

/// The user's path, and behind it the directories of the system's programs.
pub(crate) fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}

pub(crate) fn not_started(program: &str, error: io::Error) -> LabError {
    if error.kind() == io::ErrorKind::NotFound {
        LabError::Missing {
            program: program.to_owned(),
            package: crate::programs::package_of(program).to_owned(),
        }
    } else {
        LabError::Io {
            what: format!("start {program}"),
            source: error,
        }
    }
}

/// Whether this user namespace lacks the users that an ordinary identity needs.
fn is_mapped() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let (first, count) = (fields.next().unwrap_or(0), fields.nth(1).unwrap_or(0));
        (first..first + count).contains(&u64::from(crate::command::ORDINARY_USER))
    })
}
