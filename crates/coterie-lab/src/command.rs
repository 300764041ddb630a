//! Programs on a host: started, waited for, signalled, and started again.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::error::{LabError, Result};
use crate::event::Event;
use crate::host::Host;
use crate::privilege::{not_started, search_path};

/// The user and group that programs run as when they must not be root.
pub(crate) const ORDINARY_USER: u32 = 64_999;

/// The name of [`ORDINARY_USER`].
pub(crate) const ORDINARY_NAME: &str = "tenant";

/// How long [`HostCommand::run`] waits when it is not told.
const DEADLINE: Duration = Duration::from_secs(10);

/// What of the caller's environment programs get to see; all else is the lab's, so that a proxy or a locale of the user
/// changes no result.
const PASSED_ON: [&str; 5] = ["RUST_LOG", "RUST_BACKTRACE", "LLVM_PROFILE_FILE", "TERM", "NO_COLOR"];

/// Who a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// User 0 of the lab: may do everything to the host, and nothing to the machine.
    #[default]
    Root,
    /// An ordinary user named `tenant`, for programs that refuse to be root.
    Ordinary,
}

/// A program that is to run on a host.
#[derive(Debug, Clone)]
pub struct HostCommand {
    host: Host,
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Vec<u8>,
    deadline: Duration,
    identity: Identity,
}

impl HostCommand {
    pub(crate) fn new(host: Host, program: &OsStr) -> Self {
        Self {
            host,
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: Vec::new(),
            deadline: DEADLINE,
            identity: Identity::Root,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the program reads from its standard input; nothing unless set.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// How long [`Self::run`] lets it run; 10 seconds unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Who it runs as; [`Identity::Root`] unless set.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it is not installed; [`LabError::Deadline`] when it ran too long, and was killed.
    pub fn run(&self) -> Result<Output> {
        let scratch = |what| {
            self.host
                .inner()
                .scratch_file()
                .map_err(LabError::io(format!("create a file for {what}")))
        };
        let (mut stdout, mut stderr) = (scratch("output")?, scratch("errors")?);
        let clone = |file: &File| file.try_clone().map_err(LabError::io("duplicate a descriptor"));
        let start = Instant::now();
        let mut process = self.start(clone(&stdout)?, clone(&stderr)?)?;
        let ended = process.wait(self.deadline)?;
        let took = start.elapsed();
        if ended.is_none() {
            process.signal_group(Signal::KILL);
        }
        let text = |file: &mut File| -> std::io::Result<String> {
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let stdout = text(&mut stdout).map_err(LabError::io("read what a program wrote"))?;
        let stderr = text(&mut stderr).map_err(LabError::io("read what a program wrote"))?;
        match ended {
            Some(status) => Ok(Output {
                command: self.to_string(),
                status,
                stdout,
                stderr,
                took,
            }),
            None => Err(LabError::Deadline {
                what: format!("the end of {self}"),
                deadline: self.deadline,
                last: format!("; it wrote {:?}", format!("{stdout}{stderr}").trim()),
            }),
        }
    }

    /// Starts it, to run until it ends, is killed, or the lab is taken down. What it writes goes to two files; see
    /// [`Child::stdout`] and [`Child::stderr`].
    ///
    /// # Errors
    /// [`LabError::Missing`] when it is not installed.
    pub fn spawn(&self) -> Result<Child> {
        let name = Path::new(&self.program)
            .file_name()
            .unwrap_or(&self.program)
            .to_string_lossy()
            .into_owned();
        let log = self.host.inner().next_log(&name);
        let logs = [log.with_extension("out"), log.with_extension("err")];
        let process = self.start(append(&logs[0])?, append(&logs[1])?)?;
        let child = Child(Arc::new(ChildInner {
            command: self.clone(),
            name,
            logs,
            process: Mutex::new(process),
        }));
        child.tell_started();
        Ok(child)
    }

    fn start(&self, stdout: File, stderr: File) -> Result<Process> {
        let inner = self.host.inner();
        let program = crate::programs::find(&self.program).ok_or_else(|| {
            let program = self.program.to_string_lossy().into_owned();
            let package = crate::programs::package_of(&program).to_owned();
            LabError::Missing { program, package }
        })?;
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &inner.holder()?.to_string(),
            "--net",
            "--mount",
            "--uts",
            "--",
        ]);
        let id = ORDINARY_USER.to_string();
        match (self.identity, inner.mapped) {
            (Identity::Root, _) => {}
            (Identity::Ordinary, false) => {
                command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
            }
            // The user namespace has no second user, so root becomes the ordinary user of one more below it.
            (Identity::Ordinary, true) => {
                command.args([
                    "unshare",
                    "--user",
                    &format!("--map-user={id}"),
                    &format!("--map-group={id}"),
                    "--",
                ]);
            }
        }
        command.arg(&program).args(&self.arguments).env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("PATH", search_path())
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", inner.home(self.identity))
            .env("TMPDIR", inner.directory.join("tmp"))
            .env(
                "USER",
                if self.identity == Identity::Root {
                    "root"
                } else {
                    ORDINARY_NAME
                },
            )
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(self.stdin()?)
            .stdout(stdout)
            .stderr(stderr);
        let child = command.spawn().map_err(|error| not_started("nsenter", error))?;
        Process::new(child)
    }

    fn stdin(&self) -> Result<Stdio> {
        if self.input.is_empty() {
            return Ok(Stdio::null());
        }
        let mut file = self
            .host
            .inner()
            .scratch_file()
            .map_err(LabError::io("create a file for input"))?;
        file.write_all(&self.input)
            .and_then(|()| file.rewind())
            .map_err(LabError::io("write a program's input"))?;
        Ok(file.into())
    }
}

impl std::fmt::Display for HostCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", Path::new(&self.program).display(), self.host.name())?;
        for argument in &self.arguments {
            write!(f, " {}", Path::new(argument).display())?;
        }
        Ok(())
    }
}

/// What a program that has ended left.
#[derive(Debug, Clone)]
pub struct Output {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From before its start to its end.
    pub took: Duration,
}

impl Output {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// Itself if it ended with status 0.
    ///
    /// # Errors
    /// [`LabError::Command`] with the status and what the program said.
    pub fn check(self) -> Result<Self> {
        if self.is_success() {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() {
            self.stdout
        } else {
            self.stderr
        };
        Err(LabError::Command {
            command: self.command,
            status: self.status.to_string(),
            stderr: said.trim().to_owned(),
        })
    }
}

/// A program that runs on a host. Clones are the same program.
#[derive(Debug, Clone)]
pub struct Child(Arc<ChildInner>);

#[derive(Debug)]
struct ChildInner {
    command: HostCommand,
    name: String,
    logs: [PathBuf; 2],
    process: Mutex<Process>,
}

impl Child {
    /// The program's file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.command.host
    }

    /// Its process id, inside the lab, so that `/proc/PID` is its own. [`crate::Lab::outer_pid`] tells the machine's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().child.id()
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.process().child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it still runs then; it is left running.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let ended = self.process().wait(deadline)?;
        let status = ended.ok_or_else(|| LabError::Deadline {
            what: format!("the end of {}", self.0.command),
            deadline,
            last: format!("; it wrote {:?}", self.stderr().trim()),
        })?;
        self.host().inner().tell(&Event::Ended {
            host: self.host().name().to_owned(),
            program: self.0.name.clone(),
            status: status.to_string(),
        });
        Ok(status)
    }

    /// Sends SIGINT to it and to the processes of its group.
    pub fn interrupt(&self) {
        self.process().signal_group(Signal::INT);
    }

    /// Sends SIGTERM to it and to the processes of its group.
    pub fn terminate(&self) {
        self.process().signal_group(Signal::TERM);
    }

    /// Sends any signal to it alone.
    pub fn signal(&self, signal: Signal) {
        let process = self.process();
        crate::namespace::kill(process.child.id(), signal);
    }

    /// Kills it and the processes of its group with SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when the kernel does not let go of it.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.process().signal_group(Signal::KILL);
        self.wait(DEADLINE)
    }

    /// Starts it again as it was started first, after killing it if it still runs.
    ///
    /// # Errors
    /// As [`Self::kill`] and [`HostCommand::spawn`].
    pub fn restart(&self) -> Result<()> {
        if self.is_running() {
            self.kill()?;
        }
        let process = self
            .0
            .command
            .start(append(&self.0.logs[0])?, append(&self.0.logs[1])?)?;
        *self.process() = process;
        self.tell_started();
        Ok(())
    }

    /// What it has written to standard output, since its first start.
    #[must_use]
    pub fn stdout(&self) -> String {
        read_log(&self.0.logs[0])
    }

    /// What it has written to standard error, since its first start.
    #[must_use]
    pub fn stderr(&self) -> String {
        read_log(&self.0.logs[1])
    }

    fn tell_started(&self) {
        self.host().inner().tell(&Event::Started {
            host: self.host().name().to_owned(),
            program: self.0.name.clone(),
            pid: self.pid(),
        });
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.0.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A started process, and a descriptor that tells of its end.
#[derive(Debug)]
struct Process {
    child: std::process::Child,
    ended: OwnedFd,
}

impl Process {
    fn new(child: std::process::Child) -> Result<Self> {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id is positive");
        let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| LabError::Io {
            what: "watch a process".to_owned(),
            source: error.into(),
        })?;
        Ok(Self { child, ended })
    }

    /// Its status, or `None` when it still runs after `deadline`.
    fn wait(&mut self, deadline: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().map_err(LabError::io("wait for a process"))? {
                return Ok(Some(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec::try_from(left).map_err(|error| LabError::Io {
                what: format!("wait for {left:?}"),
                source: std::io::Error::other(error),
            })?;
            match poll(&mut [PollFd::new(&self.ended, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(LabError::Io {
                        what: "wait for a process".to_owned(),
                        source: error.into(),
                    });
                }
            }
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Nobody of the group may be left, which is no failure.
            let _: rustix::io::Result<()> = kill_process_group(pid, signal);
        }
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(LabError::io(format!("open {}", path.display())))
}

fn read_log(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
