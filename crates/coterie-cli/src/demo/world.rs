//! Two servers, seven machines spread over both, and somebody else's machine on the same wire.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use coterie_api::{Answer, CallError, Client, Request, node::Status};
use coterie_lab::{Bridge, CaptureOptions, Child, Host, Lab, LabOptions, Neighbour, OUTSIDE};
use serde::Serialize;

use super::{
    policy::Policy,
    report::Report,
    sight,
    site::{self, Site},
};
use crate::{node, output};

/// UDP port of coteried in the example.
pub(super) const PORT: u16 = 4747;
/// How long a coteried may take until it is ready.
const READY: Duration = Duration::from_secs(10);

/// Machines, the number of their server, and the last part of their outside and inside addresses.
const MACHINES: [(&str, usize, &str, &str); 7] = [
    ("web-1", 1, "11", "1.1"),
    ("web-2", 2, "12", "1.2"),
    ("app-1", 1, "21", "2.1"),
    ("app-2", 2, "22", "2.2"),
    ("app-3", 2, "23", "2.3"),
    ("db-1", 1, "31", "3.1"),
    ("db-2", 2, "32", "3.2"),
];

/// A program that takes part.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
}

/// The programs under demonstration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Programs {
    pub(super) coterie: Program,
    pub(super) coteried: Program,
    /// An ordinary user started it.
    pub(super) mapped: bool,
}

impl Programs {
    /// This program, and coteried beside it or on the search path.
    pub(super) fn find() -> anyhow::Result<Self> {
        let program = |path: PathBuf| {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok::<_, anyhow::Error>(Program {
                sha256: output::hex(&coterie_crypto::hash::sha256(&[&bytes])),
                path,
            })
        };
        Ok(Self {
            coterie: program(std::env::current_exe().context("cannot find this program's file")?)?,
            coteried: program(node::up::find_coteried()?)?,
            mapped: coterie_lab::ensure_privileges()?.is_mapped(),
        })
    }
}

/// A machine of the enclave.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) server: usize,
    /// Inside addresses, IPv4 and IPv6.
    pub(super) inside: [IpAddr; 2],
    pub(super) coteried: Child,
}

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) site: Site,
    pub(super) machines: Vec<Machine>,
    pub(super) neighbour: Neighbour,
    /// What every flow carries.
    pub(super) canary: String,
    /// Frames of each kind by machine when the last lockdown had come into force.
    pub(super) locked: neighbour_counts::Counts,
    // Last, so that what lives in the lab ends before it.
    pub(super) lab: Lab,
}

/// Frames by sender and kind.
pub(super) mod neighbour_counts {
    use std::collections::BTreeMap;

    use coterie_lab::{Kind, MacAddr};

    /// Frames and bytes.
    pub(in crate::demo) type Counts = BTreeMap<(MacAddr, Kind), (u64, u64)>;
}

impl World {
    /// Raises all of it, and returns when every machine is ready.
    pub(super) fn raise(programs: &Programs, report: &mut Report) -> anyhow::Result<Self> {
        let start = std::time::Instant::now();
        report.progress("raising two servers");
        let lab = Lab::new(LabOptions::default())?;
        let servers = [lab.bridge("server-1")?, lab.bridge("server-2")?];
        lab.link(&servers[0], &servers[1])?;
        let mut secret = [0; 8];
        coterie_io::entropy::fill(&mut secret)?;
        let canary = format!("canary{}", &output::hex(&secret)[..10]);
        let options = CaptureOptions::default()
            .canary(canary.as_bytes())
            .canary(sight::CONTROL);
        let addresses = ["192.0.2.66/24".parse()?, "2001:db8::66/64".parse()?];
        let neighbour = lab.neighbour("mallory", &servers[0], &addresses, options)?;

        report.progress("founding the enclave");
        let site = Site::found(lab.directory().join("site"), programs)?;
        let mut hosts = Vec::new();
        for (number, place) in MACHINES.iter().enumerate() {
            report.progress(&format!("machine {} of {}: {}", number + 1, MACHINES.len(), place.0));
            let host = furnish(&lab, &servers, place)?;
            site.enrol(&host)?;
            hosts.push((host, place));
        }
        // Once more, now that all are enrolled, so that each knows the keys of all.
        site.reissue(hosts.iter().map(|(host, _)| host))?;

        // Members of one community, so that what their kernels remember of each other disturbs no silence later.
        if let (Some((web, _)), Some((app, _))) = (hosts.first(), hosts.get(2)) {
            report.section("Without Coterie");
            let name = format!("{} → {}, seen by mallory", web.name(), app.name());
            report.check(name, || sight::control(&neighbour, web, app));
        }

        report.progress("starting coteried in each machine");
        let machines = hosts
            .into_iter()
            .map(|(host, place)| Machine::start(host, place, programs));
        let machines = machines.collect::<anyhow::Result<Vec<_>>>()?;
        for machine in &machines {
            machine.await_ready()?;
        }
        let locked = neighbour.capture().kinds();
        report.say(&format!(
            "\n{} machines on 2 servers, in lockdown, and mallory, a neighbour who sees every frame: up in {:.1} s",
            machines.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(Self {
            site,
            machines,
            neighbour,
            canary,
            locked,
            lab,
        })
    }

    /// A machine by its name.
    pub(super) fn machine(&self, name: &str) -> anyhow::Result<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.host.name() == name)
            .with_context(|| format!("no machine {name}"))
    }

    /// Changes the policy, brings every machine its new bundle, and has coteried read it.
    pub(super) fn decide(&self, policy: Policy) -> anyhow::Result<()> {
        self.site.decide(policy)?;
        self.site.reissue(self.machines.iter().map(|machine| &machine.host))?;
        for machine in &self.machines {
            machine.coteried.signal(coterie_lab::Signal::HUP);
        }
        Ok(())
    }
}

fn furnish(lab: &Lab, servers: &[Bridge; 2], place: &(&str, usize, &str, &str)) -> anyhow::Result<Host> {
    let (name, server, outside, _) = place;
    let addresses = [
        format!("192.0.2.{outside}/24").parse()?,
        format!("2001:db8::{outside}/64").parse()?,
    ];
    let bridge = servers.get(server - 1).context("a server that is there")?;
    Ok(lab.host(name, bridge, &addresses)?)
}

impl Machine {
    fn start(host: Host, place: &(&str, usize, &str, &str), programs: &Programs) -> anyhow::Result<Self> {
        let (_, server, _, inside) = place;
        let inside = [
            format!("10.77.{inside}").parse()?,
            format!("fd77::{}", inside.replace('.', ":")).parse()?,
        ];
        let coteried = host
            .command(&programs.coteried.path)
            .arg("--bundle")
            .arg(site::bundle(&host))
            .arg("--keys")
            .arg(site::keys(&host))
            .arg("--state")
            .arg(host.directory().join("state"))
            .arg("--socket")
            .arg(socket(&host))
            .args(["--outside", OUTSIDE, "--lockdown", "on"])
            .spawn()?;
        Ok(Self {
            host,
            server: *server,
            inside,
            coteried,
        })
    }

    /// Waits until coteried answers.
    pub(super) fn await_ready(&self) -> anyhow::Result<Status> {
        let ready = self.host.wait_for("coteried ready", READY, || {
            if !self.coteried.is_running() {
                return Some(Err(anyhow::anyhow!(
                    "coteried on {} ended: {}",
                    self.host.name(),
                    self.said()
                )));
            }
            self.status().ok().map(Ok)
        });
        ready.with_context(|| self.said())?
    }

    /// The end of what coteried has logged.
    fn said(&self) -> String {
        let text = self.coteried.stderr();
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }

    /// Asks coteried.
    pub(super) fn call(&self, request: &Request) -> Result<Answer, CallError> {
        Client::connect(&socket(&self.host))?.call(request)
    }

    /// The state of its coteried.
    pub(super) fn status(&self) -> anyhow::Result<Status> {
        let answer = match self.call(&Request::Status) {
            Err(_) if !self.coteried.is_running() => {
                anyhow::bail!("coteried on {} ended: {}", self.host.name(), self.said())
            }
            answer => answer?,
        };
        let Answer::Status(status) = answer else {
            return Err(node::unexpected(&answer));
        };
        Ok(*status)
    }

    /// The machine's name.
    pub(super) fn name(&self) -> &str {
        self.host.name()
    }
}

/// Where coteried of a host listens: `/run/coterie/coteried.sock`, seen from there.
fn socket(host: &Host) -> PathBuf {
    host.directory().join("run/coterie/coteried.sock")
}
