//! A server, started as it is shipped, with a tenant's enclave.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot go on fails"
)]

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coterie_api::v1;

pub(crate) use crate::machine::*;

/// Two communities and a template for each, with quick leases.
pub(crate) const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.9.0.0/16"]
lease = "10m"
[community.web]
[community.db]
[template.web]
communities = ["web"]
return = "none"
[template.app]
communities = ["web", "db"]
return = "ticket"
[template.db]
communities = ["db"]
[template.gate]
communities = ["web"]
door = true
[member.gate-1]
template = "gate"
endpoints = ["192.0.2.1"]
"#;

/// A server.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) operator: String,
    /// More of the server's environment.
    pub(crate) environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Site {
    /// Makes a server, and starts it.
    pub(crate) fn start() -> Self {
        let mut this = Self::made();
        this.up();
        this
    }

    /// Makes a server.
    pub(crate) fn made() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let out = server()
            .args(["init", "--directory"])
            .arg(directory.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        let operator = text
            .lines()
            .find(|line| line.starts_with(v1::KEY_PREFIX))
            .unwrap()
            .to_owned();
        let ip = own_loopback();
        Self {
            directory,
            address: SocketAddr::new(ip, v1::DEFAULT_PORT),
            health: SocketAddr::new(ip, 9750),
            operator,
            environment: Vec::new(),
            process: None,
        }
    }

    /// Starts the server, and waits until it says that it is ready.
    pub(crate) fn up(&mut self) {
        self.try_up().expect("the server starts");
    }

    /// The same; `None` when it ended instead.
    pub(crate) fn try_up(&mut self) -> Option<()> {
        if let Some(mut before) = self.process.take() {
            // One that killed itself is gone when its files are free.
            before.wait().unwrap();
        }
        let address = self.address.to_string();
        let mut child = server()
            .args(["serve", "--directory"])
            .arg(self.directory.path())
            .args([
                "--listen",
                &address,
                "--advertise",
                &address,
                "--name",
                &self.address.ip().to_string(),
            ])
            .args(["--health", &self.health.to_string()])
            .envs(self.environment.iter().cloned())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        loop {
            line.clear();
            if log.read_line(&mut line).unwrap() == 0 {
                child.wait().unwrap();
                return None;
            }
            if line.contains(" ready ") {
                break;
            }
            eprint!("{line}");
        }
        // What it says later is for who looks at a test that failed.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("{line}");
            }
        });
        self.process = Some(child);
        Some(())
    }

    /// Kills the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        let _gone = process.kill();
        process.wait().unwrap();
    }

    /// Whether the server, which is about to have killed itself, is dead.
    pub(crate) fn has_died(&mut self) -> bool {
        let Some(process) = &mut self.process else { return true };
        let ends = Instant::now() + Duration::from_secs(5);
        while Instant::now() < ends {
            if process.try_wait().unwrap().is_some() {
                self.process = None;
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Kills the server if it runs.
    pub(crate) fn gone(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }

    /// Asks the server to stop, and waits until it has; gives its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        process.wait().unwrap().code()
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A person with a key.
    pub(crate) async fn person(&self, key: &str) -> Person {
        self.try_person(key).await.expect("the server is there")
    }

    /// The same; `None` when the server is gone.
    pub(crate) async fn try_person(&self, key: &str) -> Option<Person> {
        let pem = std::fs::read(self.path().join("ca.pem")).unwrap();
        Person::connect(self.address, &pem, key).await
    }

    /// A tenant, by its owner.
    pub(crate) async fn tenant(&self, tenant: &str) -> Person {
        let operator = self.person(&self.operator).await;
        let made: v1::TenantMade = operator
            .post(
                "/v1/tenants",
                &v1::NewTenant {
                    name: name(tenant),
                    owner: None,
                },
            )
            .await
            .unwrap();
        self.person(made.owner.key.expose()).await
    }

    /// A tenant with the enclave of [`FILE`].
    pub(crate) async fn shop(&self) -> Person {
        let owner = self.tenant("acme").await;
        let _applied = owner.apply("shop", FILE).await.unwrap();
        owner
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _gone = process.kill();
            let _gone = process.wait();
        }
    }
}

fn server() -> Command {
    Command::new(env!("CARGO_BIN_EXE_coterie-server"))
}

/// An address of loopback that no other test has: it is made of this process and a count.
fn own_loopback() -> IpAddr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let [.., a, b] = std::process::id().to_be_bytes();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, a, b, u8::try_from(count + 1).expect("few servers in one process")).into()
}
