//! What lies between hosts: bridges, and the wires that join them, in a network namespace of their own.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use crate::address::MacAddr;
use crate::error::{LabError, Result};
use crate::impairment::{Impairment, Pump};
use crate::namespace::Namespace;

const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// Bridges, ports and wires.
#[derive(Debug)]
pub(crate) struct Fabric {
    namespace: Mutex<Option<Arc<Namespace>>>,
    mtu: u32,
    next_port: AtomicU32,
    /// Every frame is seen on every port.
    hub: AtomicBool,
    bridges: Mutex<Vec<String>>,
    addresses: Mutex<BTreeMap<IpAddr, MacAddr>>,
    names: Mutex<Names>,
}

/// The hosts' names, and the files that tell each host of them.
#[derive(Debug, Default)]
struct Names {
    entries: Vec<(IpAddr, String)>,
    files: Vec<PathBuf>,
}

impl Fabric {
    pub(crate) fn create(mtu: u32) -> Result<Self> {
        let namespace = Namespace::create("fabric", None)?;
        // The bridges only pass frames on: they have no addresses and say nothing themselves. A kernel without IPv6 has
        // no such setting and needs none.
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            namespace.set_net("ipv6/conf/default/disable_ipv6", "1")?;
        }
        Ok(Self {
            namespace: Mutex::new(Some(Arc::new(namespace))),
            mtu,
            next_port: AtomicU32::new(1),
            hub: AtomicBool::new(false),
            bridges: Mutex::default(),
            addresses: Mutex::default(),
            names: Mutex::default(),
        })
    }

    pub(crate) fn add_bridge(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let age = if self.hub.load(Ordering::Acquire) {
            " ageing_time 0"
        } else {
            ""
        };
        self.ip(&format!(
            "link add name {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0{age}\n\
             link set dev {name} mtu {mtu} up\n",
            mtu = self.mtu
        ))?;
        lock(&self.bridges).push(name.to_owned());
        Ok(())
    }

    /// Makes every bridge, now and later, pass every frame to every port, as a hub does.
    pub(crate) fn become_hub(&self) -> Result<()> {
        self.hub.store(true, Ordering::Release);
        let mut script = String::new();
        for bridge in lock(&self.bridges).iter() {
            script += &format!("link set dev {bridge} type bridge ageing_time 0 fdb_flush\n");
        }
        self.ip(&script)
    }

    /// Puts an interface into the network namespace of the process `pid`, joined to a bridge. Returns the bridge's port.
    pub(crate) fn plug(&self, bridge: &str, pid: u32, interface: &str, mac: MacAddr) -> Result<String> {
        let port = format!("port{}", self.next_port.fetch_add(1, Ordering::Relaxed));
        let mtu = self.mtu;
        self.ip(&format!(
            "link add name {port} mtu {mtu} type veth peer name {interface} netns {pid} address {mac} mtu {mtu}\n\
             link set dev {port} master {bridge} up\n"
        ))?;
        Ok(port)
    }

    pub(crate) fn join(self: &Arc<Self>, from: &str, to: &str, impairment: Option<&Impairment>) -> Result<Wire> {
        let number = self.next_port.fetch_add(1, Ordering::Relaxed);
        let ends = [format!("wire{number}a"), format!("wire{number}b")];
        let mtu = self.mtu;
        let pump = match impairment {
            None => {
                self.ip(&format!(
                    "link add name {a} mtu {mtu} type veth peer name {b} mtu {mtu}\n\
                     link set dev {a} master {from} up\nlink set dev {b} master {to} up\n",
                    a = ends[0],
                    b = ends[1]
                ))?;
                None
            }
            Some(impairment) => {
                let mut script = String::new();
                for (end, bridge) in ends.iter().zip([from, to]) {
                    // The kernel must not hand over packets that it has joined: the pump passes on single frames.
                    script += &format!(
                        "link add name {end} mtu {mtu} type veth peer name {end}p mtu {mtu}\n\
                         link set dev {end} gso_max_segs 1\nlink set dev {end} master {bridge} up\nlink set dev {end}p up\n"
                    );
                }
                self.ip(&script)?;
                let inner = ends.clone().map(|end| format!("{end}p"));
                Some(Arc::new(self.with(|namespace| {
                    namespace.run(|| Pump::start(&inner, impairment))
                })???))
            }
        };
        Ok(Wire {
            fabric: Arc::clone(self),
            ends,
            pump,
        })
    }

    pub(crate) fn ip(&self, script: &str) -> Result<()> {
        self.with(|namespace| namespace.ip(script))?
    }

    /// Does something with the namespace, while it exists.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Namespace) -> T) -> Result<T> {
        let namespace = lock(&self.namespace).clone();
        namespace.as_deref().map(work).ok_or_else(|| LabError::Io {
            what: "change the lab's network".to_owned(),
            source: std::io::Error::other("the lab has been taken down"),
        })
    }

    pub(crate) fn learn(&self, address: IpAddr, mac: MacAddr) {
        lock(&self.addresses).insert(address, mac);
    }

    /// Waits until bridges pass frames from and to ports. The kernel sees a carrier a moment after both ends are up.
    pub(crate) fn wait_until_forwarding(&self, ports: &[String]) -> Result<()> {
        for port in ports {
            crate::wait::retry(&format!("the bridge taking {port} into service"), PORT_DEADLINE, || {
                let shown = self.with(|namespace| namespace.ask_ip(&["-d", "-j", "link", "show", "dev", port]))??;
                let links: Vec<Link> = serde_json::from_str(&shown).map_err(|error| LabError::Output {
                    program: "ip".to_owned(),
                    why: error.to_string(),
                })?;
                let state = links
                    .into_iter()
                    .next()
                    .and_then(|link| link.linkinfo.info_slave_data?.state);
                if state.as_deref() == Some("forwarding") {
                    return Ok(());
                }
                let what = format!("see {port} forward");
                Err(LabError::Io {
                    what,
                    source: std::io::Error::other(format!("its state is {state:?}")),
                })
            })?;
        }
        Ok(())
    }

    /// Makes names known to every host.
    pub(crate) fn name(&self, entries: impl IntoIterator<Item = (IpAddr, String)>, file: PathBuf) -> Result<()> {
        let mut names = lock(&self.names);
        names.entries.extend(entries);
        if !names.files.contains(&file) {
            names.files.push(file);
        }
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (address, name) in &names.entries {
            text += &format!("{address} {name}\n");
        }
        // Each is mounted on its host's, so it must stay the same file.
        for file in &names.files {
            fs::write(file, &text).map_err(LabError::io(format!("write {}", file.display())))?;
        }
        Ok(())
    }

    pub(crate) fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        lock(&self.addresses).get(&address).copied()
    }

    pub(crate) fn down(&self) {
        let namespace = lock(&self.namespace).take();
        if let Some(namespace) = namespace {
            namespace.kill_all();
        }
    }
}

/// What `ip -d -j link` says of a port.
#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    linkinfo: LinkKind,
}

#[derive(Deserialize, Default)]
struct LinkKind {
    info_slave_data: Option<Port>,
}

#[derive(Deserialize)]
struct Port {
    state: Option<String>,
}

/// A bridge: hosts on it reach one another directly.
#[derive(Debug, Clone)]
pub struct Bridge {
    pub(crate) name: String,
}

impl Bridge {
    /// Its name, which is its interface's as well.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A wire between two bridges. Clones are the same wire, which lasts as long as the lab.
#[derive(Debug, Clone)]
pub struct Wire {
    fabric: Arc<Fabric>,
    ends: [String; 2],
    pump: Option<Arc<Pump>>,
}

impl Wire {
    /// Cuts it.
    ///
    /// # Errors
    /// When the lab has been taken down.
    pub fn down(&self) -> Result<()> {
        self.set("down")
    }

    /// Mends it.
    ///
    /// # Errors
    /// When the lab has been taken down.
    pub fn up(&self) -> Result<()> {
        self.set("up")
    }

    /// What an impaired wire has done to frames so far; `None` for a plain one.
    #[must_use]
    pub fn counts(&self) -> Option<crate::impairment::WireCounts> {
        self.pump.as_deref().map(Pump::counts)
    }

    /// Changes what an impaired wire does to frames from now on.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] for a plain wire, which the kernel alone serves.
    pub fn impair(&self, impairment: &Impairment) -> Result<()> {
        let pump = self.pump.as_ref().ok_or_else(|| LabError::Unavailable {
            what: "an impairment".to_owned(),
            why: "this wire was made without one; make it with link_with".to_owned(),
        })?;
        pump.impair(impairment);
        Ok(())
    }

    fn set(&self, state: &str) -> Result<()> {
        self.fabric.ip(&format!(
            "link set dev {} {state}\nlink set dev {} {state}\n",
            self.ends[0], self.ends[1]
        ))
    }
}

/// Interfaces, host names and directories all take these.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fail = |why: &str| {
        Err(LabError::Name {
            name: name.to_owned(),
            why: why.to_owned(),
        })
    };
    if name.is_empty() || name.len() > 15 {
        fail("a name has 1 to 15 characters")
    } else if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        || name.starts_with('-')
    {
        fail("a name is made of letters, digits, '-' and '_', and starts with none of the signs")
    } else {
        Ok(())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
