//! Namespaces of their own, each held by a process that does nothing and dies with the lab.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use coterie_io::netns::NetNs;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{LabError, Result};
use crate::fabric::lock;
use crate::privilege::{INSIDE, not_started, search_path};

/// Mounts what a host has of its own, then waits for its input to end, which is the lab's end. `$1` is the host's directory.
const HOLDER: &str = r#"
set -e
if [ -n "$1" ]; then
    mount --bind "$1/run" /run
    for file in hosts passwd group; do mount --bind "$1/etc/$file" "/etc/$file"; done
    if [ -f "$1/etc/resolv.conf" ]; then mount --bind "$1/etc/resolv.conf" /etc/resolv.conf; fi
    mount -t sysfs sysfs /sys 2>/dev/null || :
fi
ip link set lo up
echo ready
exec cat >/dev/null
"#;

/// A network, mount and UTS namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pid: u32,
    holder: Mutex<Child>,
    net: NetNs,
}

impl Namespace {
    /// Makes one. `directory`: what to mount from, for a host.
    pub(crate) fn create(name: &str, directory: Option<&Path>) -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--", "sh", "-c", HOLDER, name])
            .arg(directory.unwrap_or_else(|| Path::new("")))
            .env("PATH", search_path())
            .env_remove(INSIDE)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| not_started("unshare", error))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("standard output is a pipe");
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_err() || line.trim() != "ready" {
            let output = holder.wait_with_output().map_err(LabError::io("wait for unshare"))?;
            return Err(LabError::Command {
                command: format!("unshare --net --mount --uts (for {name})"),
                status: output.status.to_string(),
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        let process = Path::new("/proc").join(holder.id().to_string());
        let net = NetNs::open(&process.join("ns/net")).map_err(LabError::io("open a network namespace"))?;
        let namespace = Self {
            pid: holder.id(),
            holder: Mutex::new(holder),
            net,
        };
        namespace.set_host_name(name)?;
        Ok(namespace)
    }

    /// The holder's process id, inside the lab.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs `work` on a thread whose sockets are in the namespace's network.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.net.run(work).map_err(LabError::io("enter a network namespace"))
    }

    /// Runs `ip` with one command a line.
    pub(crate) fn ip(&self, script: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], script).map(|_| ())
    }

    /// Asks `ip` something, and returns what it wrote.
    pub(crate) fn ask_ip(&self, arguments: &[&str]) -> Result<String> {
        self.feed("ip", arguments, "")
    }

    /// Runs a program of the system in the network namespace, with an input, to the end, and returns what it wrote.
    pub(crate) fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .env("PATH", search_path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| not_started(program, error))?;
            let mut stdin = child.stdin.take().expect("standard input is a pipe");
            // A program that ends without having read everything says why on standard error.
            let _: std::io::Result<()> = stdin.write_all(input.as_bytes());
            drop(stdin);
            child
                .wait_with_output()
                .map_err(LabError::io(format!("wait for {program}")))
        })??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Command {
            command: format!("{program} {} with the input:\n{input}", arguments.join(" ")),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Sets a `net.*` setting. `path` starts below `/proc/sys/net`.
    pub(crate) fn set_net(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(path);
        self.run(|| fs::write(&file, value))?
            .map_err(LabError::io(format!("write {value} to {}", file.display())))
    }

    fn set_host_name(&self, name: &str) -> Result<()> {
        let link =
            fs::File::open(format!("/proc/{}/ns/uts", self.pid)).map_err(LabError::io("open a UTS namespace"))?;
        let set = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    use std::os::fd::AsFd;
                    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::HostNameAndNISDomainName))?;
                    rustix::system::sethostname(name.as_bytes())
                })
                .join()
                .expect("setting a host name does not panic")
        });
        set.map_err(|error| LabError::Io {
            what: format!("name a host {name}"),
            source: error.into(),
        })
    }

    /// Kills every process in the namespace, whoever started it, and then the holder.
    pub(crate) fn kill_all(&self) {
        let own = std::process::id();
        if let Ok(namespace) = fs::read_link(format!("/proc/{}/ns/net", self.pid)) {
            // A process may fork while we look, so it is done when a look finds nobody.
            for _ in 0..100 {
                let found: Vec<u32> = processes()
                    .filter(|pid| *pid != own && *pid != self.pid)
                    .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link == namespace))
                    .collect();
                for pid in &found {
                    kill(*pid, Signal::KILL);
                }
                if found.is_empty() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        // Both fail only when the holder has ended and been waited for.
        let mut holder = lock(&self.holder);
        let _: std::io::Result<()> = holder.kill();
        let _: std::io::Result<_> = holder.wait();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// The processes of the lab.
fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Sends a signal to a process that may have ended.
pub(crate) fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _: rustix::io::Result<()> = kill_process(pid, signal);
    }
}
