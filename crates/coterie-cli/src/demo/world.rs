//! Two servers, the configuration server's machine, seven machines spread over both, and somebody else's machine on the same
//! wire.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coterie_api::{Answer, CallError, Client, Request, node::Status};
use coterie_lab::{Bridge, CaptureOptions, Child, Host, Lab, LabOptions, Neighbour, OUTSIDE};
use serde::Serialize;

use super::{report::Report, sight, site::Site, stream::Stream};
use crate::{clock::milliseconds, node, output};

/// UDP port of coteried in the example.
pub(super) const PORT: u16 = 4747;
/// How long a coteried may take until it is ready.
const READY: Duration = Duration::from_secs(10);
/// How long the first packet may take, and how long until all follow the server.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where a machine is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) name: &'static str,
    /// The number of its server.
    pub(super) server: usize,
    /// The last part of its outside addresses.
    pub(super) outside: &'static str,
    /// The last part of its inside addresses, where the file says them.
    inside: &'static str,
    /// The machine that its first packet goes to.
    friend: Option<&'static str>,
}

/// The machines of the file.
const MACHINES: [Place; 7] = [
    place("web-1", 1, ("11", "1.1"), Some("app-1")),
    place("web-2", 2, ("12", "1.2"), Some("app-2")),
    place("app-1", 1, ("21", "2.1"), Some("db-1")),
    place("app-2", 2, ("22", "2.2"), Some("db-1")),
    place("app-3", 2, ("23", "2.3"), Some("db-2")),
    place("db-1", 1, ("31", "3.1"), Some("db-2")),
    place("db-2", 2, ("32", "3.2"), None),
];

/// A machine that is in no file.
pub(super) const NEWCOMER: Place = place("web-3", 2, ("13", ""), Some("app-2"));
/// A machine that would like to be another one.
pub(super) const TWIN: Place = place("twin", 1, ("77", ""), None);

const fn place(
    name: &'static str,
    server: usize,
    (outside, inside): (&'static str, &'static str),
    friend: Option<&'static str>,
) -> Place {
    Place {
        name,
        server,
        outside,
        inside,
        friend,
    }
}

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
    #[serde(rename = "coterie-server")]
    pub(super) server: Program,
    /// An ordinary user started it.
    pub(super) mapped: bool,
}

impl Programs {
    /// This program, and coteried and coterie-server beside it or on the search path.
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
            server: program(find_server()?)?,
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
    pub(super) programs: Programs,
    servers: [Bridge; 2],
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
    /// Raises all of it, and returns when every machine is a member and follows the server.
    pub(super) fn raise(programs: &Programs, report: &mut Report) -> anyhow::Result<Self> {
        let start = Instant::now();
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
        let mut hosts = Vec::new();
        for place in &MACHINES {
            report.progress(&format!(
                "machine {} of {}: {}",
                hosts.len() + 1,
                MACHINES.len(),
                place.name
            ));
            hosts.push(furnish(&lab, &servers, place)?);
        }
        let config = lab.host(
            "config",
            &servers[1],
            &["192.0.2.5/24".parse()?, "2001:db8::5/64".parse()?],
        )?;

        // Members of one community, so that what their kernels remember of each other disturbs no silence later.
        if let (Some(web), Some(app)) = (hosts.first(), hosts.get(2)) {
            report.section("Without Coterie");
            let name = format!("{} → {}, seen by mallory", web.name(), app.name());
            report.check(name, || sight::control(&neighbour, web, app));
        }
        report.section("A configuration server, and machines that a token makes members");
        report.progress("making a server");
        let (site, founded) = Site::found(config, programs)?;
        report.check("coterie-server on config, its tenant and enclave", || founded.judge());
        let mut world = Self {
            site,
            machines: Vec::new(),
            neighbour,
            canary,
            locked: neighbour_counts::Counts::new(),
            servers,
            programs: programs.clone(),
            lab,
        };
        world.populate(hosts, report)?;
        world.locked = world.neighbour.capture().kinds();
        report.say(&format!(
            "\n{} machines on 2 servers, in lockdown, with their configuration server, and mallory, a neighbour who sees every \
             frame: up in {:.1} s",
            world.machines.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(world)
    }

    /// Each machine gets a token, and nothing else.
    fn populate(&mut self, hosts: Vec<Host>, report: &mut Report) -> anyhow::Result<()> {
        report.progress("making a token for each machine");
        for (host, place) in hosts.iter().zip(&MACHINES) {
            let template = place.name.split('-').next().unwrap_or_default();
            let token = self.site.token(template, Some(place.name))?;
            host.write_file("token", token.text.expose())?;
        }
        let mut times = Vec::new();
        let mut last = Instant::now();
        // From the back, so that each finds its friend.
        for (host, place) in hosts.into_iter().zip(&MACHINES).rev() {
            report.progress(&format!("{} becomes a member", place.name));
            last = Instant::now();
            times.push(self.join(host, place)?);
        }
        self.machines.reverse();
        let title = format!("coteried with a token and nothing else, on {} machines", times.len());
        report.check(title, || {
            let ready: Vec<Duration> = times.iter().map(|(ready, _)| *ready).collect();
            let packets: Vec<Duration> = times.iter().filter_map(|(_, packet)| *packet).collect();
            let [least, median, most] = spread(&packets).context("no packet was sent")?;
            let [_, ready, _] = spread(&ready).context("no machine started")?;
            Ok(format!(
                "from its start to ready {}, to the first packet answered {} (medians; {} to {})",
                ms(ready),
                ms(median),
                ms(least),
                ms(most)
            ))
        });
        report.check("all follow the server", || {
            self.await_following(&MACHINES.map(|place| place.name))?;
            let members = self.site.members()?;
            let connected = members.iter().filter(|member| member.connected_since.is_some()).count();
            ensure!(
                connected == MACHINES.len(),
                "the server says {connected} of {}",
                members.len()
            );
            Ok(format!(
                "{connected} of {} say so, and so does the server, {} after the last one's start",
                members.len(),
                ms(last.elapsed())
            ))
        });
        Ok(())
    }

    /// Starts coteried with the token that lies on a machine: how long until it is ready, and until its friend has answered a
    /// packet.
    pub(super) fn join(&mut self, host: Host, place: &Place) -> anyhow::Result<(Duration, Option<Duration>)> {
        let friend = place.friend.map(|friend| self.machine(friend)).transpose()?;
        let millisecond = Duration::from_millis(1);
        let probe = friend.map(|friend| Stream::every(millisecond, &host, friend, &self.canary));
        let probe = probe.transpose()?;
        let start = Instant::now();
        let mut machine = Machine::start(host, place, &self.programs)?;
        let status = machine.await_ready()?;
        let ready = start.elapsed();
        let answered = probe.map(|probe| probe.answered_after(start, DEADLINE)).transpose();
        let answered = answered.with_context(|| machine.said())?;
        ensure!(
            status.identity == "enrolled",
            "its identity came from {}",
            status.identity
        );
        machine.inside = inside(&status, place)?;
        self.machines.push(machine);
        Ok((ready, answered))
    }

    /// Adds a machine that is not in the file.
    pub(super) fn add_host(&self, place: &Place) -> anyhow::Result<Host> {
        furnish(&self.lab, &self.servers, place)
    }

    /// A machine by its name.
    pub(super) fn machine(&self, name: &str) -> anyhow::Result<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.host.name() == name)
            .with_context(|| format!("no machine {name}"))
    }

    /// Waits until a machine says that another is refused.
    pub(super) fn await_revoked(&self, of: &str, peer: &str, deadline: Duration) -> anyhow::Result<()> {
        let machine = self.machine(of)?;
        let is_refused = || {
            let status = machine.status().ok()?;
            let peer = status.peers.iter().find(|other| other.name.as_str() == peer)?;
            (peer.state == "revoked").then_some(())
        };
        Ok(machine
            .host
            .wait_for(&format!("{peer} revoked"), deadline, is_refused)?)
    }

    /// Waits until machines say that they follow the server.
    pub(super) fn await_following(&self, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let machine = self.machine(name)?;
            let follows = machine.host.wait_for("following the server", DEADLINE, || {
                let server = machine.status().ok()?.server?;
                (server.state == "following" && server.mark > 0).then_some(())
            });
            follows.with_context(|| format!("{:?}; {}", machine.status().map(|s| s.server), machine.said()))?;
        }
        Ok(())
    }
}

/// `coterie-server`, beside this program or on the search path.
fn find_server() -> anyhow::Result<PathBuf> {
    const NAME: &str = "coterie-server";
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let beside = own.with_file_name(NAME);
    if beside.is_file() {
        return Ok(beside);
    }
    coterie_lab::programs::find(NAME).with_context(|| {
        format!(
            "there is no {NAME}, neither at {} nor on the search path; install it beside coterie",
            beside.display()
        )
    })
}

fn furnish(lab: &Lab, servers: &[Bridge; 2], place: &Place) -> anyhow::Result<Host> {
    let addresses = [
        format!("192.0.2.{}/24", place.outside).parse()?,
        format!("2001:db8::{}/64", place.outside).parse()?,
    ];
    let bridge = servers.get(place.server - 1).context("a server that is there")?;
    Ok(lab.host(place.name, bridge, &addresses)?)
}

/// The inside addresses that a machine has; those of the file, where that says some.
fn inside(status: &Status, place: &Place) -> anyhow::Result<[IpAddr; 2]> {
    let addresses = status.addresses.iter().map(|address| {
        let address = address.split('/').next().unwrap_or_default();
        address
            .parse::<IpAddr>()
            .with_context(|| format!("{address:?} is no address"))
    });
    let addresses = addresses.collect::<anyhow::Result<Vec<_>>>()?;
    let of_family = |is: fn(&IpAddr) -> bool| addresses.iter().copied().find(is);
    let v4 = of_family(IpAddr::is_ipv4).context("it has no inside IPv4 address")?;
    let v6 = of_family(IpAddr::is_ipv6).context("it has no inside IPv6 address")?;
    if !place.inside.is_empty() {
        let expected = [
            format!("10.77.{}", place.inside).parse::<IpAddr>()?,
            format!("fd77::{}", place.inside.replace('.', ":")).parse::<IpAddr>()?,
        ];
        ensure!([v4, v6] == expected, "it is {v4} and {v6}, not {expected:?}");
    }
    Ok([v4, v6])
}

/// The least, the median and the greatest.
pub(super) fn spread(times: &[Duration]) -> Option<[Duration; 3]> {
    let mut times = times.to_vec();
    times.sort_unstable();
    Some([*times.first()?, *times.get(times.len() / 2)?, *times.last()?])
}

/// For people.
pub(super) fn ms(time: Duration) -> String {
    milliseconds(time.as_secs_f64() * 1e3)
}

/// `coteried` on a machine that has a token; there is neither bundle nor key where it would look for them.
pub(super) fn coteried(host: &Host, programs: &Programs, token: &Path) -> coterie_lab::HostCommand {
    let nothing = host.directory().join("nothing");
    host.command(&programs.coteried.path)
        .arg("--token")
        .arg(token)
        .arg("--bundle")
        .arg(nothing.join("bundle"))
        .arg("--keys")
        .arg(nothing.join("keys"))
        .arg("--state")
        .arg(host.directory().join("state"))
        .args(["--outside", OUTSIDE, "--lockdown", "on"])
}

impl Machine {
    fn start(host: Host, place: &Place, programs: &Programs) -> anyhow::Result<Self> {
        let coteried = coteried(&host, programs, &host.directory().join("token")).spawn()?;
        Ok(Self {
            host,
            server: place.server,
            // Known when it is a member.
            inside: [IpAddr::from([0; 4]), IpAddr::from([0; 16])],
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
    pub(super) fn said(&self) -> String {
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
