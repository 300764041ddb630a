//! The configuration server on its machine, and the administrator's desk there: everything by the commands that people type.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use coterie_api::v1::{self, Applied, AuditEntry, Community, CutOff, Explained, Member, TenantMade, TokenMade};
use coterie_lab::{Child, Host, Output};
use serde::de::DeserializeOwned;

use super::{
    policy::Policy,
    world::{Programs, ms},
};

/// The tenant.
const TENANT: &str = "acme";
/// The enclave of the example.
const ENCLAVE: &str = "shop";
/// How long the server may take until it listens.
const READY: Duration = Duration::from_secs(10);

/// The server, and who administers it.
#[derive(Debug)]
pub(super) struct Site {
    /// The machine of both.
    pub(super) config: Host,
    /// `coterie-server`.
    pub(super) server: Child,
    coterie: PathBuf,
}

/// What making a server took.
#[derive(Debug)]
pub(super) struct Founded {
    /// `coterie-server init`.
    init: Duration,
    /// From the start of `coterie-server serve` until it accepts connections.
    ready: Duration,
    /// Login, tenant, login as its owner, enclave.
    desk: Duration,
    /// What the file made.
    applied: Applied,
}

impl Site {
    /// Makes a server, starts it, and makes a tenant with the example's enclave.
    pub(super) fn found(config: Host, programs: &Programs) -> anyhow::Result<(Self, Founded)> {
        let directory = config.directory().join("server");
        let start = Instant::now();
        let made = config
            .command(&programs.server.path)
            .args(["init", "--directory"])
            .arg(&directory)
            .run()?
            .check()?;
        let init = start.elapsed();
        let operator = made.stdout.lines().find(|line| line.starts_with(v1::KEY_PREFIX));
        let operator = operator.context("`coterie-server init` printed no key")?.to_owned();

        let start = Instant::now();
        let advertise = address(&config)?;
        let server = config
            .command(&programs.server.path)
            .args(["serve", "--directory"])
            .arg(&directory)
            .args(["--advertise", &advertise.to_string(), "--name", "127.0.0.1"])
            .spawn()?;
        let this = Self {
            config,
            server,
            coterie: programs.coterie.path.clone(),
        };
        this.await_listening()?;
        let ready = start.elapsed();

        let start = Instant::now();
        this.login(&operator)?;
        let tenant: TenantMade = this.json(&["tenant", "create", TENANT])?;
        this.login(tenant.owner.key.expose())?;
        let applied = this.decide(Policy::Example)?;
        let desk = start.elapsed();
        let founded = Founded {
            init,
            ready,
            desk,
            applied,
        };
        Ok((this, founded))
    }

    /// Where nodes reach the server.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        address(&self.config)
    }

    /// Applies an enclave file.
    pub(super) fn decide(&self, policy: Policy) -> anyhow::Result<Applied> {
        let file = self.config.directory().join(format!("{ENCLAVE}.toml"));
        fs::write(&file, policy.text()?).with_context(|| format!("cannot write {}", file.display()))?;
        let file = file.to_str().context("a path that is text")?;
        self.json(&["apply", "--yes", "--file", file])
    }

    /// A join token, for one use: of the member with that name, or of whoever fits the template.
    pub(super) fn token(&self, template: &str, member: Option<&str>) -> anyhow::Result<TokenMade> {
        let mut words = vec!["token", "create", "--template", template];
        words.extend(member.iter().flat_map(|member| ["--name", member]));
        self.json(&words)
    }

    /// `coterie vm isolate`, `release` or `revoke` of one member.
    pub(super) fn cut_off(&self, act: &str, member: &str) -> anyhow::Result<CutOff> {
        let all: Vec<CutOff> = self.json(&["vm", act, member])?;
        all.into_iter().next().context("it says nothing")
    }

    /// Replaces a community's key at once.
    pub(super) fn replace_key(&self, community: &str) -> anyhow::Result<()> {
        self.coterie(&["coi", "rotate-key", community, "--removal"])?.check()?;
        Ok(())
    }

    /// The communities with their epochs.
    pub(super) fn communities(&self) -> anyhow::Result<Vec<Community>> {
        self.json(&["get", "communities"])
    }

    /// The members as the server sees them.
    pub(super) fn members(&self) -> anyhow::Result<Vec<Member>> {
        self.json(&["get", "members"])
    }

    /// Why one member reaches another, by policy and as both say at this moment.
    pub(super) fn explain(&self, from: &str, to: &str) -> anyhow::Result<Explained> {
        self.json(&["explain", "--server", from, to])
    }

    /// The newest entries of the audit log.
    pub(super) fn audit(&self) -> anyhow::Result<Vec<AuditEntry>> {
        let output = self
            .coterie(&["audit", "tail", "--lines", "100", "--output", "json"])?
            .check()?;
        let lines = output.stdout.lines().map(serde_json::from_str);
        lines
            .collect::<Result<_, _>>()
            .context("`coterie audit tail` wrote no JSON")
    }

    /// Waits until the server accepts connections.
    pub(super) fn await_listening(&self) -> anyhow::Result<()> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, v1::DEFAULT_PORT));
        let listening = self.config.wait_for("coterie-server listening", READY, || {
            if !self.server.is_running() {
                return Some(Err(anyhow::anyhow!("coterie-server ended: {}", self.said())));
            }
            match self.config.within(|| TcpStream::connect(to).is_ok()) {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error.into())),
            }
        });
        listening.with_context(|| self.said())?
    }

    /// What to type before `coterie` on the server's machine, so that it finds the administrator's login.
    pub(super) fn home(&self) -> String {
        format!("env HOME={}", self.config.directory().join("root").display())
    }

    fn login(&self, key: &str) -> anyhow::Result<()> {
        self.config
            .command(&self.coterie)
            .args(["login", "https://127.0.0.1", "--ca"])
            .arg(self.config.directory().join("server/ca.pem"))
            .input(key)
            .run()?
            .check()?;
        Ok(())
    }

    fn json<T: DeserializeOwned>(&self, words: &[&str]) -> anyhow::Result<T> {
        let words = [words, &["--output", "json"]].concat();
        let output = self.coterie(&words)?.check()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("`coterie {}` wrote other JSON", words.join(" ")))
    }

    fn coterie(&self, words: &[&str]) -> anyhow::Result<Output> {
        Ok(self.config.command(&self.coterie).args(words).run()?)
    }

    /// The end of what the server has logged.
    fn said(&self) -> String {
        let text = self.server.stderr();
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

impl Founded {
    /// Whether the enclave is what the file says, in a line.
    pub(super) fn judge(&self) -> anyhow::Result<String> {
        let Applied {
            created,
            members_added,
            tests_passed,
            reach_total,
            ..
        } = &self.applied;
        ensure!(*created, "the enclave was there already");
        ensure!(members_added.len() == 7, "it has {} members", members_added.len());
        ensure!(*tests_passed > 0, "no test of the file ran");
        if *reach_total == 0 {
            bail!("nobody reaches anybody");
        }
        Ok(format!(
            "made in {}, ready after {}, tenant {TENANT} and enclave {ENCLAVE} in {}: {} members expected, {reach_total} ways between \
             them, {tests_passed} tests of the file passed",
            ms(self.init),
            ms(self.ready),
            ms(self.desk),
            members_added.len()
        ))
    }
}

fn address(config: &Host) -> anyhow::Result<SocketAddr> {
    let ip: IpAddr = config.ipv4().context("the server's machine has no address")?;
    Ok(SocketAddr::new(ip, v1::DEFAULT_PORT))
}
