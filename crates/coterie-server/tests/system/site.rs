//! A configuration server and machines in the lab, all of them the programs as they are shipped.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and one that measures says what"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coterie_api::{
    Answer, Client, Request,
    node::{Peer, Pong, Session, Status},
    v1,
};
use coterie_lab::{Bridge, Child, Host, Lab, LabOptions, wait_for};
use coterie_model::Name;

pub(crate) use crate::machine::{Person, name};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Where the server is, in the clear network of the lab.
const SERVER: &str = "192.0.2.1:4750";
const HEALTH: &str = "127.0.0.1:9750";

/// A lab with a server.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) bridge: Bridge,
    pub(crate) config: Host,
    /// The server's.
    pub(crate) directory: PathBuf,
    pub(crate) server: Option<Child>,
    pub(crate) machines: Vec<Machine>,
    owner: String,
}

/// A machine that runs `coteried`.
pub(crate) struct Machine {
    pub(crate) name: Name,
    pub(crate) host: Host,
    pub(crate) daemon: Option<Child>,
}

impl Site {
    /// Raises the server with a tenant that has the enclave of `file`, which is named `shop`.
    pub(crate) fn new(file: &str) -> Self {
        Self::on_disk(file, |_directory| {})
    }

    /// The same, with a disk of its own for the server's directory.
    pub(crate) fn on_disk(file: &str, mount: impl FnOnce(&Path)) -> Self {
        let lab = Lab::new(LabOptions::default()).expect("a lab");
        let bridge = lab.bridge("rack-1").expect("a bridge");
        // Before there is a host, so that it sees what is mounted here.
        let directory = lab.directory().join("server");
        std::fs::create_dir(&directory).expect("a directory");
        mount(&directory);
        let address = ["192.0.2.1/17".parse().expect("an address")];
        let config = lab.host("config", &bridge, &address).expect("a host");
        let made = config
            .command(env!("CARGO_BIN_EXE_coterie-server"))
            .args(["init", "--directory"])
            .arg(&directory)
            .run()
            .and_then(coterie_lab::Output::check)
            .expect("a server is made");
        let text = made.stdout;
        let operator = text
            .lines()
            .find(|line| line.starts_with(v1::KEY_PREFIX))
            .expect("a key")
            .to_owned();
        let mut this = Self {
            lab,
            bridge,
            config,
            directory,
            server: None,
            machines: Vec::new(),
            owner: String::new(),
        };
        this.up();
        let new = v1::NewTenant {
            name: name("acme"),
            owner: None,
        };
        let made: v1::TenantMade = this.call(&operator, async |operator| {
            operator.post("/v1/tenants", &new).await.unwrap()
        });
        this.owner = made.owner.key.expose().to_owned();
        this.apply(file);
        this
    }

    /// Starts the server, and waits until it is ready.
    pub(crate) fn up(&mut self) {
        let server = self.serve();
        wait_for("the server to be ready", DEADLINE, || {
            assert!(server.is_running(), "{}", server.stderr());
            server.stderr().contains(" ready ").then_some(())
        })
        .unwrap_or_else(|_late| panic!("{}", server.stderr()));
        self.server = Some(server);
    }

    /// Starts the server. A write that goes beyond what its process may write fails, and is not its end.
    pub(crate) fn serve(&self) -> Child {
        self.config
            .command("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_coterie-server"))
            .args([
                "serve",
                "--listen",
                SERVER,
                "--advertise",
                SERVER,
                "--name",
                "192.0.2.1",
                "--health",
                HEALTH,
            ])
            .arg("--directory")
            .arg(&self.directory)
            .spawn()
            .expect("the server starts")
    }

    /// Runs one of the server's other commands on its directory, with files beside that.
    pub(crate) fn tool(&self, command: &[&str], files: &[&str]) {
        let mut tool = self
            .config
            .command(env!("CARGO_BIN_EXE_coterie-server"))
            .args(command.iter().copied())
            .arg("--directory")
            .arg(&self.directory);
        for file in files {
            tool = tool.arg(self.config.directory().join(file));
        }
        tool.run().and_then(coterie_lab::Output::check).expect("it is done");
    }

    /// What the server answers at a path of its health listener, with the head.
    pub(crate) fn told(&self, path: &str) -> String {
        let asked = self.config.within(|| {
            let mut stream = std::net::TcpStream::connect(HEALTH).expect("health is told");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("asked");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("answered");
            text
        });
        asked.expect("the host is there")
    }

    /// Kills the server as a power cut would.
    pub(crate) fn kill_server(&mut self) {
        self.server.take().expect("it runs").kill().expect("it is killed");
    }

    /// Calls the server from its own host, as its tenant's owner.
    pub(crate) fn owner<T: Send>(&self, work: impl AsyncFnOnce(Person) -> T + Send) -> T {
        self.call(&self.owner, work)
    }

    fn call<T: Send>(&self, key: &str, work: impl AsyncFnOnce(Person) -> T + Send) -> T {
        let authority = std::fs::read(self.directory.join("ca.pem")).expect("the authority");
        let within = self.config.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let address: SocketAddr = SERVER.parse().expect("an address");
                let person = Person::connect(address, &authority, key)
                    .await
                    .expect("the server is there");
                work(person).await
            })
        });
        within.expect("the host is there")
    }

    /// Takes an enclave file.
    pub(crate) fn apply(&self, file: &str) -> v1::Applied {
        self.owner(async |owner| owner.apply("shop", file).await.unwrap())
    }

    /// A token's text, bound to a name.
    pub(crate) fn token(&self, template: &str, member: &str) -> String {
        let new = v1::NewToken {
            template: name(template),
            member: Some(name(member)),
            uses: 1,
            ttl_seconds: 3600,
            ephemeral_seconds: None,
            from: None,
        };
        let made: v1::TokenMade = self.owner(async |owner| owner.post("/v1/enclaves/shop/tokens", &new).await.unwrap());
        made.text.expose().to_owned()
    }

    /// A machine at the next outside address, which has nothing.
    pub(crate) fn bare(&mut self, member: &str) -> usize {
        let number = self.machines.len() + 10;
        let (high, low) = (number / 250, number % 250 + 2);
        let address = [format!("192.0.{}.{low}/17", 2 + high).parse().expect("an address")];
        let host = self.lab.host(member, &self.bridge, &address).expect("a host");
        self.machines.push(Machine {
            name: name(member),
            host,
            daemon: None,
        });
        self.machines.len() - 1
    }

    /// A machine that has enrolled by token and is ready.
    pub(crate) fn enrolled(&mut self, template: &str, member: &str) -> &Machine {
        let place = self.bare(member);
        let token = self.token(template, member);
        self.machines[place].start(&token);
        self.machines[place].wait_ready();
        &self.machines[place]
    }

    /// The same for many at once.
    pub(crate) fn enrolled_all(&mut self, template: &str, members: &[String]) {
        let first = self.machines.len();
        for member in members {
            let place = self.bare(member);
            let token = self.token(template, member);
            self.machines[place].start(&token);
        }
        self.machines[first..].iter().for_each(Machine::wait_ready);
    }

    /// Closes (`add`) or opens (`del`) the way between a machine and the server, both ways: neither hears of the other's end.
    pub(crate) fn way(&self, member: &str, verb: &str) {
        let host = &self.machine(member).host;
        for (at, other) in [(host, &self.config), (&self.config, host)] {
            let address = other.ipv4().expect("it has one");
            at.ip(&format!("route {verb} blackhole {address}/32")).expect("a route");
        }
    }

    pub(crate) fn machine(&self, member: &str) -> &Machine {
        let found = self.machines.iter().find(|m| m.name.as_str() == member);
        found.expect("a machine of this name")
    }

    pub(crate) fn machine_mut(&mut self, member: &str) -> &mut Machine {
        let found = self.machines.iter_mut().find(|m| m.name.as_str() == member);
        found.expect("a machine of this name")
    }

    /// A member as the server has it.
    pub(crate) fn member(&self, member: &str) -> v1::Member {
        let path = format!("/v1/enclaves/shop/members/{member}");
        self.owner(async |owner| owner.get(&path).await.unwrap())
    }
}

impl Machine {
    /// Starts `coteried` with a token.
    pub(crate) fn start(&mut self, token: &str) {
        self.host.write_file("token", token).expect("a file");
        self.start_again();
    }

    /// Starts `coteried` with whatever the machine has.
    pub(crate) fn start_again(&mut self) {
        let at = |file: &str| self.host.directory().join(file);
        let mut command = self.host.command(coteried()).args([
            "--log",
            "debug",
            "--name",
            self.name.as_str(),
            "--listen",
            "0.0.0.0:4747",
        ]);
        for (option, file) in [
            ("--bundle", "bundle"),
            ("--keys", "keys"),
            ("--state", "state"),
            ("--socket", "coteried.sock"),
            ("--token", "token"),
        ] {
            command = command.arg(option).arg(at(file));
        }
        self.daemon = Some(command.spawn().expect("coteried starts"));
    }

    pub(crate) fn daemon(&self) -> &Child {
        self.daemon.as_ref().expect("coteried was started")
    }

    fn socket(&self) -> PathBuf {
        self.host.directory().join("coteried.sock")
    }

    pub(crate) fn wait_ready(&self) {
        let ready = wait_for("coteried to be ready", DEADLINE, || {
            assert!(
                self.daemon().is_running(),
                "{} ended: {}",
                self.name,
                self.daemon().stderr()
            );
            Client::connect(&self.socket()).ok()
        });
        assert!(ready.is_ok(), "{}: {}", self.name, self.daemon().stderr());
    }

    pub(crate) fn status(&self) -> Status {
        let answer = Client::connect(&self.socket())
            .expect("a socket")
            .call(&Request::Status);
        let Ok(Answer::Status(status)) = answer else {
            panic!("no status: {answer:?}");
        };
        *status
    }

    pub(crate) fn peer(&self, other: &str) -> Option<Peer> {
        self.status().peers.into_iter().find(|peer| peer.name.as_str() == other)
    }

    /// Its live session with another, which there is.
    pub(crate) fn session(&self, other: &str) -> Session {
        let session = self.peer(other).and_then(|peer| peer.session);
        session.unwrap_or_else(|| panic!("{} has no session with {other}", self.name))
    }

    pub(crate) fn try_ping(&self, other: &str, patience: Duration) -> Option<Pong> {
        let request = Request::Ping {
            destination: other.into(),
            timeout_ms: u64::try_from(patience.as_millis()).expect("a short time"),
        };
        match Client::connect(&self.socket()).expect("a socket").call(&request) {
            Ok(Answer::Pong(pong)) => Some(pong),
            _ => None,
        }
    }

    pub(crate) fn ping(&self, other: &str) -> Pong {
        let began = Instant::now();
        loop {
            if let Some(pong) = self.try_ping(other, Duration::from_secs(2)) {
                return pong;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "{} does not reach {other}: {:#?}\n{}",
                self.name,
                self.status(),
                self.daemon().stderr()
            );
        }
    }

    /// Its first inside address.
    pub(crate) fn inside(&self) -> IpAddr {
        let status = self.status();
        let text = status.addresses.first().expect("an address");
        text.split('/').next().unwrap_or_default().parse().expect("an address")
    }
}

/// `coteried`, built beside the server.
fn coteried() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_coterie-server")).with_file_name("coteried");
    assert!(
        path.exists(),
        "{} is missing: build the workspace first (`make build`)",
        path.display()
    );
    path
}
