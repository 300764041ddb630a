//! A site for tests: an enclave, its issuer, and machines in the lab that run `coteried`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coterie_api::{
    Answer, Client, Request,
    node::{Pong, Status},
};
use coterie_control::{
    bundle::{self, Keys},
    issue::{Enclave, Roll},
};
use coterie_lab::{Bridge, Child, Host, HostCommand, Lab, LabOptions, wait_for};
use coterie_model::{Name, UnixTime};
use coterie_node::entropy::SystemEntropy;

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

const SOCKET: &str = "coteried.sock";

/// What is common to all enclaves of these tests.
const HEAD: &str =
    "version = 1\n[enclave]\nname = \"shop\"\npools = [\"10.77.0.0/16\", \"fd77::/48\"]\nlease = \"1d\"\n";

pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) bridge: Bridge,
    text: String,
    pub(crate) issuer: Enclave,
    pub(crate) machines: Vec<Machine>,
}

pub(crate) struct Machine {
    pub(crate) name: Name,
    pub(crate) host: Host,
    pub(crate) keys: Keys,
    pub(crate) inside: IpAddr,
    pub(crate) daemon: Option<Child>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(crate) fn now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs(),
    )
}

impl Site {
    /// Raises the machines of `members` (name and communities), number 1 first: outside 192.0.2.N, inside 10.77.0.N and fd77::N.
    pub(crate) fn new(members: &[(&str, &[&str])]) -> Self {
        let lab = Lab::new(LabOptions::default()).expect("a lab");
        let bridge = lab.bridge("rack-1").expect("a bridge");
        let text = enclave_file(members);
        let mut issuer = Enclave::init(&text, now(), &mut SystemEntropy).expect("an enclave");
        let mut machines = Vec::new();
        for (number, (member, _)) in (1..).zip(members) {
            let addresses = [
                format!("192.0.2.{number}/24").parse().expect("an address"),
                format!("2001:db8::{number}/64").parse().expect("an address"),
            ];
            let host = lab.host(member, &bridge, &addresses).expect("a host");
            let keys = Keys::generate(name(member), &mut SystemEntropy);
            let request = bundle::Request::new(&keys).expect("a request");
            issuer.admit(&request, now(), &mut SystemEntropy).expect("admitted");
            let inside = IpAddr::from([10, 77, 0, u8::try_from(number).expect("few machines")]);
            machines.push(Machine {
                name: name(member),
                host,
                keys,
                inside,
                daemon: None,
            });
        }
        let mut site = Self {
            lab,
            bridge,
            text,
            issuer,
            machines,
        };
        site.issue();
        site
    }

    /// Issues everybody's bundle anew and puts it in place.
    pub(crate) fn issue(&mut self) {
        let names: Vec<Name> = self.machines.iter().map(|m| m.name.clone()).collect();
        for name in names {
            self.issue_to(name.as_str());
        }
    }

    /// Issues one member's bundle anew and puts it in place.
    pub(crate) fn issue_to(&mut self, member: &str) {
        let bundle = self
            .issuer
            .issue(&name(member), now(), &mut SystemEntropy)
            .expect("a bundle");
        let machine = self.machine(member);
        machine.host.write_file("bundle", bundle).expect("a file");
        machine
            .host
            .write_file("keys", machine.keys.to_text().as_bytes())
            .expect("a file");
    }

    /// Rolls a community's key by plan.
    pub(crate) fn roll(&mut self, community: &str, activates_in: Duration) {
        let kind = Roll::Scheduled { activates_in };
        self.issuer
            .roll(&name(community), kind, now(), &mut SystemEntropy)
            .expect("a new epoch");
    }

    /// Changes the enclave file and issues everybody's bundle anew.
    pub(crate) fn change(&mut self, from: &str, to: &str) {
        let text = self.text.replace(from, to);
        assert_ne!(text, self.text, "{from:?} stands in the file");
        self.issuer
            .update(&text, now(), &mut SystemEntropy)
            .expect("a good file");
        self.text = text;
        self.issue();
    }

    /// Starts everybody and waits until they are ready.
    pub(crate) fn start(&mut self) {
        for machine in &mut self.machines {
            machine.start();
        }
        for machine in &self.machines {
            machine.wait_ready();
        }
    }

    pub(crate) fn machine(&self, member: &str) -> &Machine {
        self.machines
            .iter()
            .find(|m| m.name.as_str() == member)
            .expect("a machine of this name")
    }

    pub(crate) fn machine_mut(&mut self, member: &str) -> &mut Machine {
        self.machines
            .iter_mut()
            .find(|m| m.name.as_str() == member)
            .expect("a machine of this name")
    }
}

impl Machine {
    pub(crate) fn start(&mut self) {
        self.daemon = Some(self.command().spawn().expect("coteried starts"));
    }

    /// `coteried` with everything in the machine's own directory.
    pub(crate) fn command(&self) -> HostCommand {
        let at = |file: &str| self.host.directory().join(file);
        let mut command = self
            .host
            .command(env!("CARGO_BIN_EXE_coteried"))
            .args(["--log", "debug"]);
        for (option, file) in [
            ("--bundle", "bundle"),
            ("--keys", "keys"),
            ("--state", "state"),
            ("--socket", SOCKET),
        ] {
            command = command.arg(option).arg(at(file));
        }
        command
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.host.directory().join(SOCKET)
    }

    pub(crate) fn daemon(&self) -> &Child {
        self.daemon.as_ref().expect("coteried was started")
    }

    pub(crate) fn wait_ready(&self) {
        let ready = wait_for("coteried to be ready", DEADLINE, || {
            assert!(self.daemon().is_running(), "coteried ended: {}", self.daemon().stderr());
            Client::connect(&self.socket()).ok()
        });
        assert!(ready.is_ok(), "{}", self.daemon().stderr());
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

    pub(crate) fn ping(&self, member: &str) -> Pong {
        let request = Request::Ping {
            destination: member.into(),
            timeout_ms: 5000,
        };
        let answer = Client::connect(&self.socket()).expect("a socket").call(&request);
        let Ok(Answer::Pong(pong)) = answer else {
            panic!("no pong: {answer:?}");
        };
        pong
    }

    pub(crate) fn reload(&self) {
        let answer = Client::connect(&self.socket())
            .expect("a socket")
            .call(&Request::Reload);
        assert_eq!(answer.expect("an answer"), Answer::Done);
    }
}

fn enclave_file(members: &[(&str, &[&str])]) -> String {
    let mut text = HEAD.to_owned();
    let mut communities: Vec<&str> = members.iter().flat_map(|(_, c)| c.iter().copied()).collect();
    communities.sort_unstable();
    communities.dedup();
    for community in communities {
        text += &format!("[community.{community}]\n");
    }
    for (number, (member, communities)) in (1..).zip(members) {
        text += &format!("[template.{member}]\ncommunities = {communities:?}\n");
        text += &format!(
            "[member.{member}]\ntemplate = \"{member}\"\naddresses = [\"10.77.0.{number}\", \"fd77::{number}\"]\n"
        );
        text += &format!("endpoints = [\"192.0.2.{number}\"]\n");
    }
    text
}
