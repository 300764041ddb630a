//! Makes interfaces dark: nothing in clear text goes out by them or comes in, whatever programs on this machine do.
//!
//! Three layers, each of which holds when another is gone:
//!
//! 1. **nftables, family `inet`**, by interface name, so that it holds for interfaces that come later too. Out: our own UDP
//!    (source port *and* socket mark), neighbour discovery, DHCP if asked for, the allowed remotes. All else is rejected
//!    towards the program that sent it and never reaches the wire. In: UDP to our port, neighbour discovery, DHCP answers,
//!    answers of allowed remotes. All else vanishes without a trace, and nothing is forwarded.
//! 2. **nftables, family `netdev`**, a hook behind the interface's queue, which packet sockets cannot go around (Linux 5.16
//!    or later; [`Installed::egress`] says whether it is in force). It checks the type in the frame itself.
//! 3. **Policy routing.** Without our mark there is no route outside, so that a flushed nftables table opens nothing, and
//!    every ordinary program gets `EACCES` at once from its own `connect` or `send`. Rules, from the first tried to the last
//!    (`P` is [`Routing::priority`]; the kernel's rule 0, addresses of this machine, comes before them):
//!    `P` mark → main table; `P+1` mark → unreachable; `P+2` → inside table; `P+3` inside prefixes → main table, without its
//!    default routes; `P+4` allowed remotes → main table; `P+5` DHCP → main table; `P+6` not mark → prohibit.
//!
//! Setting a mark takes `CAP_NET_ADMIN` (or `CAP_NET_RAW`), so ordinary programs cannot forge it. Root can undo anything;
//! [`Lockdown::check`] tells when somebody has.
//!
//! The reverse-path filter looks up routes too, for what comes in. Frames are therefore marked on the way in, and the
//! interface's `src_valid_mark` is set (it is left set by [`Lockdown::remove`]; it does nothing without marks).
//!
//! What layer 3 alone does not stop, if nftables is flushed: link-local multicast and broadcast, which need no route.
//! Multicast listener reports are not let out: a snooping switch that insists on them must be told of the interface.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::link::{Links, Protocol, read_setting, write_setting};

mod nft;
mod policy;
mod ruleset;

use nft::{Family, Nftables};

/// Which interfaces are dark, and what is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockdown {
    /// Name of the nftables tables: letters, digits, `_` and `-`. Tables of this name belong to us.
    pub table_name: String,
    /// The interfaces.
    pub outside: Vec<String>,
    /// The UDP port that we send from and receive at.
    pub port: u16,
    /// The mark of our sockets ([`crate::udp::UdpOptions::mark`]). Not 0.
    pub mark: u32,
    /// What else may be reached.
    pub allow: Vec<Allow>,
    /// Let DHCP clients of this machine work, for IPv4 and IPv6.
    pub dhcp: bool,
    /// The third layer.
    pub routing: Routing,
}

/// A remote that may be reached in clear text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// By whom.
    pub who: Who,
    /// By this interface, one of [`Lockdown::outside`].
    pub interface: String,
    /// With this protocol.
    pub protocol: Protocol,
    /// At this address and port.
    pub remote: SocketAddr,
}

/// Who may reach an allowed remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Every program of this machine.
    Everybody,
    /// Sockets with [`Lockdown::mark`] alone.
    Marked,
}

/// Where the routing rules go, and which destinations stay usable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// Priority of the first of seven rules. All rules of priorities `priority..priority + 7` belong to us.
    pub priority: u32,
    /// A table of routes that all programs may use, such as those by a TUN.
    pub inside_table: Option<u32>,
    /// Destinations that all programs may reach by the main table: prefixes of inside interfaces. The main table's default
    /// routes are not used for them, so that a vanished inside interface does not send its traffic outside.
    pub inside: Vec<IpNet>,
}

impl Routing {
    /// Rules that we own.
    pub const RULES: u32 = 7;
}

/// What [`Lockdown::install`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Installed {
    /// Packet sockets are caught (layer 2).
    pub egress: bool,
    /// Outside interfaces that do not exist yet. Layers 1 and 3 wait for them; install again when they are there.
    pub absent: Vec<String>,
}

/// A part of a lockdown that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Which layer has it.
    pub layer: Layer,
    /// What is missing or changed.
    pub what: String,
}

/// A layer of a lockdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// nftables by interface name.
    Firewall,
    /// nftables behind the interface's queue, and marks on the way in.
    Device,
    /// Routing rules.
    Routing,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = match self.layer {
            Layer::Firewall => "firewall",
            Layer::Device => "device",
            Layer::Routing => "routing",
        };
        write!(f, "{layer}: {}", self.what)
    }
}

/// What a rule that drops has dropped since the lockdown was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The rule's name: `reject-tcp`, `reject`, `drop-in`, `drop-forward`, `drop-egress`.
    pub rule: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Lockdown {
    /// Puts all layers in force, replacing an older lockdown of the same name and priority. Each layer changes at once or
    /// not at all, and no moment is more open than both before and after.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; `InvalidInput` for a value that makes no sense; `Unsupported` when the
    /// kernel lacks nftables or its ingress hook.
    pub fn install(&self) -> io::Result<Installed> {
        self.validate()?;
        let mut links = Links::open()?;
        let (present, absent) = self.partition(&mut links)?;
        let mut nftables = Nftables::open()?;
        let mut egress = true;
        match nftables.replace(&self.table_name, &ruleset::chains(self, &present, true)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                egress = false;
                nftables.replace(&self.table_name, &ruleset::chains(self, &present, false))?;
            }
            result => result?,
        }
        for interface in &present {
            write_setting("ipv4", interface, SOURCE_MARK, "1")?;
        }
        policy::install(&mut links, self)?;
        Ok(Installed { egress, absent })
    }

    /// Whether it is still in force: exactly what is missing or changed, nothing if all is well. Interfaces that do not exist
    /// are not missed; the lack of an egress hook on this kernel is.
    ///
    /// # Errors
    /// What netlink reports.
    pub fn check(&self) -> io::Result<Vec<Gap>> {
        self.validate()?;
        let mut links = Links::open()?;
        let (present, _) = self.partition(&mut links)?;
        let mut nftables = Nftables::open()?;
        let mut gaps = Vec::new();
        for chain in ruleset::chains(self, &present, true) {
            let layer = match chain.family {
                Family::Inet => Layer::Firewall,
                Family::Netdev => Layer::Device,
            };
            let found = nftables.differences(&self.table_name, &chain)?;
            gaps.extend(found.into_iter().map(|what| Gap { layer, what }));
        }
        for interface in &present {
            if read_setting("ipv4", interface, SOURCE_MARK)? != "1" {
                gaps.push(Gap {
                    layer: Layer::Device,
                    what: format!("{SOURCE_MARK} of {interface} is off"),
                });
            }
        }
        let missing = policy::missing(&mut links, self)?;
        gaps.extend(missing.into_iter().map(|what| Gap {
            layer: Layer::Routing,
            what,
        }));
        Ok(gaps)
    }

    /// Takes all layers away. What is gone already is not an error.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn remove(&self) -> io::Result<()> {
        self.validate()?;
        policy::remove(&mut Links::open()?, self)?;
        Nftables::open()?.remove(&self.table_name)
    }

    /// What has been dropped, by rule.
    ///
    /// # Errors
    /// What netlink reports.
    pub fn counters(&self) -> io::Result<Vec<Counter>> {
        Nftables::open()?.counters(&self.table_name)
    }

    fn validate(&self) -> io::Result<()> {
        let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("lockdown: {why}")));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.table_name.is_empty() || self.table_name.len() > 64 || !self.table_name.chars().all(plain) {
            return invalid(format!("{:?} cannot be a table's name", self.table_name));
        }
        if self.mark == 0 || self.port == 0 {
            return invalid("mark 0 and port 0 are everybody's; choose others".to_owned());
        }
        let usable = 1..32_766 - Routing::RULES;
        if !usable.contains(&self.routing.priority) {
            return invalid(format!("priority {} is not in {usable:?}", self.routing.priority));
        }
        let named = |name: &String| !name.is_empty() && name.len() < 16 && !name.contains(['\0', '/', ' ']);
        if self.outside.is_empty() || !self.outside.iter().all(named) {
            return invalid(format!("{:?} are not names of interfaces", self.outside));
        }
        match self.allow.iter().find(|allow| !self.outside.contains(&allow.interface)) {
            Some(allow) => invalid(format!(
                "{} is allowed by {}, which is not outside",
                allow.remote, allow.interface
            )),
            None => Ok(()),
        }
    }

    /// The outside interfaces that exist, and those that do not.
    fn partition(&self, links: &mut Links) -> io::Result<(Vec<String>, Vec<String>)> {
        let existing = links.links()?;
        let exists = |name: &String| existing.iter().any(|link| link.name == *name);
        Ok(self.outside.iter().cloned().partition(exists))
    }
}

const SOURCE_MARK: &str = "src_valid_mark";
