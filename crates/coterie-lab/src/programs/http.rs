//! HTTP: busybox or Python serves, curl asks.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use crate::command::Child;
use crate::error::{LabError, Result};
use crate::host::Host;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpProgram {
    /// `busybox httpd`.
    Busybox,
    /// `python3 -m http.server`.
    Python,
}

impl HttpProgram {
    fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Python => "python3",
        }
    }

    /// Whether it is installed and can serve: distributions build busybox with and without its web server.
    #[must_use]
    pub fn is_installed(self) -> bool {
        let Some(program) = super::find(self.name()) else {
            return false;
        };
        match self {
            Self::Busybox => Command::new(program).arg("--list").output().is_ok_and(|output| {
                output
                    .stdout
                    .split(|byte| *byte == b'\n')
                    .any(|applet| applet == b"httpd")
            }),
            Self::Python => true,
        }
    }
}

/// A web server that serves files, on every address of its host.
#[derive(Debug, Clone)]
pub struct HttpServer {
    child: Child,
    port: u16,
}

impl HttpServer {
    /// Starts whichever program is installed, to serve the given files, by path without a leading slash, and waits until
    /// it listens.
    ///
    /// # Errors
    /// [`LabError::Missing`] when neither `busybox` nor `python3` is installed; when the port is taken.
    pub fn start(host: &Host, port: u16, files: &[(&str, &[u8])]) -> Result<Self> {
        let both = [HttpProgram::Busybox, HttpProgram::Python];
        let installed = both.into_iter().find(|program| program.is_installed());
        Self::start_with(installed.unwrap_or(HttpProgram::Busybox), host, port, files)
    }

    /// As [`Self::start`], with a given program.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it is not installed; when the port is taken.
    pub fn start_with(program: HttpProgram, host: &Host, port: u16, files: &[(&str, &[u8])]) -> Result<Self> {
        if !program.is_installed() {
            let (program, package) = (program.name(), super::package_of(program.name()));
            return Err(LabError::Missing {
                program: program.to_owned(),
                package: package.to_owned(),
            });
        }
        let root = host.directory().join(format!("http-{port}"));
        std::fs::create_dir_all(&root).map_err(LabError::io(format!("create {}", root.display())))?;
        for (path, contents) in files {
            host.write_file(root.join(path), contents)?;
        }
        let port_text = port.to_string();
        let command = host.command(program.name());
        let command = match program {
            HttpProgram::Busybox => command.args(["httpd", "-f", "-p", &port_text, "-h"]).arg(&root),
            HttpProgram::Python => command
                .args(["-m", "http.server", "--bind", "::", "--directory"])
                .arg(&root)
                .arg(&port_text),
        };
        let child = command.spawn()?;
        super::wait_until_listening(&child, port)?;
        Ok(Self { child, port })
    }

    /// The server's process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The URL of a file at an address of the server.
    #[must_use]
    pub fn url(&self, address: IpAddr, path: &str) -> String {
        format!("http://{}:{}/{path}", super::in_url(address), self.port)
    }
}

/// A request by curl.
#[derive(Debug, Clone)]
pub struct Fetch {
    url: String,
    timeout: Duration,
    header: Option<String>,
}

impl Fetch {
    /// Asks for a URL, for 5 seconds at most.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            timeout: Duration::from_secs(5),
            header: None,
        }
    }

    /// How long curl waits for all of it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A header line that goes with the request, for instance to carry a canary.
    #[must_use]
    pub fn header(mut self, line: impl Into<String>) -> Self {
        self.header = Some(line.into());
        self
    }

    /// Asks from a host.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `curl`. That nobody answers is no error: see [`Fetched`].
    pub fn from(&self, host: &Host) -> Result<Fetched> {
        let timeout = format!("{:.3}", self.timeout.as_secs_f64());
        // The status goes to standard error's place, behind whatever the page is.
        let mut command = host
            .command("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                &timeout,
                "--write-out",
                "%{stderr}status=%{http_code}\n",
            ])
            .deadline(self.timeout + Duration::from_secs(5));
        if let Some(header) = &self.header {
            command = command.args(["--header", header]);
        }
        let output = command.arg(&self.url).run()?;
        let status = output
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix("status=")?.parse().ok());
        let said: Vec<_> = output
            .stderr
            .lines()
            .filter(|line| !line.starts_with("status="))
            .collect();
        Ok(Fetched {
            exit: output.status.code(),
            status: status.filter(|status| *status != 0),
            body: output.stdout,
            said: said.join("\n"),
            took: output.took,
        })
    }
}

/// What curl got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// curl's exit status; `None` when a signal ended it.
    pub exit: Option<i32>,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The page.
    pub body: String,
    /// What curl said went wrong.
    pub said: String,
    /// From curl's start to its end.
    pub took: Duration,
}

impl Fetched {
    /// Whether the page came, with status 200.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.exit == Some(0) && self.status == Some(200)
    }

    /// Whether curl was told that it cannot connect, rather than left waiting.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.exit == Some(7)
    }

    /// Whether curl gave up waiting.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.exit == Some(28)
    }
}
