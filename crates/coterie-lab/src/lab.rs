//! The lab itself: what there is, and the end of it.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ipnet::IpNet;

use crate::address::MacAddr;
use crate::capture::{Capture, CaptureOptions};
use crate::command::{ORDINARY_NAME, ORDINARY_USER};
use crate::error::{LabError, Result};
use crate::event::{Event, Listeners};
use crate::fabric::{Bridge, Fabric, Wire, check_name, lock};
use crate::host::{Host, OUTSIDE};
use crate::impairment::Impairment;
use crate::neighbour::Neighbour;
use crate::privilege::Inside;

/// What a lab is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabOptions {
    /// The largest packet of every interface, in bytes.
    pub mtu: u32,
    /// The hosts' `/etc/resolv.conf`; `None` leaves the machine's.
    pub resolv_conf: Option<String>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            mtu: 1500,
            resolv_conf: None,
        }
    }
}

/// A network of hosts on this machine, which exists as long as this value, and never longer than the program.
#[derive(Debug)]
pub struct Lab {
    inside: Inside,
    options: LabOptions,
    directory: PathBuf,
    fabric: Arc<Fabric>,
    listeners: Arc<Listeners>,
    hosts: Mutex<Vec<Host>>,
    wires: Mutex<Vec<Wire>>,
}

impl Lab {
    /// A lab with nothing in it yet.
    ///
    /// # Errors
    /// [`LabError::NotInside`] unless [`crate::ensure_privileges`] or [`crate::within_namespaces`] came before.
    pub fn new(options: LabOptions) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let inside = Inside::detect().ok_or(LabError::NotInside)?;
        let directory = inside
            .directory
            .join(format!("lab-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&directory).map_err(LabError::io(format!("create {}", directory.display())))?;
        let fabric = Arc::new(Fabric::create(options.mtu)?);
        Ok(Self {
            inside,
            options,
            directory,
            fabric,
            listeners: Arc::default(),
            hosts: Mutex::default(),
            wires: Mutex::default(),
        })
    }

    /// Calls `listener` for everything that happens from now on, on the thread where it happens.
    pub fn on_event(&self, listener: impl Fn(&Event) + Send + Sync + 'static) {
        self.listeners.add(Box::new(listener));
    }

    /// A directory on a private tmpfs, which is gone with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How the program is inside the lab's namespaces.
    #[must_use]
    pub fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Adds a bridge.
    ///
    /// # Errors
    /// [`LabError::Name`]; [`LabError::Command`] when there is one of this name already.
    pub fn bridge(&self, name: &str) -> Result<Bridge> {
        self.fabric.add_bridge(name)?;
        self.listeners.tell(&Event::Bridge { name: name.to_owned() });
        Ok(Bridge { name: name.to_owned() })
    }

    /// Joins two bridges by a wire. The lab looks for no loops, and frames in one never end.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn link(&self, from: &Bridge, to: &Bridge) -> Result<Wire> {
        self.join(from, to, None)
    }

    /// Joins two bridges by a wire with faults.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn link_with(&self, from: &Bridge, to: &Bridge, impairment: &Impairment) -> Result<Wire> {
        self.join(from, to, Some(impairment))
    }

    /// Adds a host, with the interface [`OUTSIDE`] on a bridge.
    ///
    /// # Errors
    /// [`LabError::Name`]; when the system refuses a namespace or an address.
    pub fn host(&self, name: &str, bridge: &Bridge, addresses: &[IpNet]) -> Result<Host> {
        check_name(name)?;
        let mut hosts = lock(&self.hosts);
        if hosts.iter().any(|host| host.name() == name) {
            return Err(LabError::Name {
                name: name.to_owned(),
                why: "there is a host of this name already".to_owned(),
            });
        }
        let number = u16::try_from(hosts.len() + 1).map_err(|_| LabError::Name {
            name: name.to_owned(),
            why: "the lab has 65535 hosts already".to_owned(),
        })?;
        let directory = self.directory.join(name);
        self.furnish(&directory)
            .map_err(LabError::io(format!("furnish {}", directory.display())))?;
        let host = Host::create(
            name,
            number,
            directory,
            self.inside.mapped,
            &self.fabric,
            &self.listeners,
        )?;
        host.attach(OUTSIDE, bridge, addresses)?;
        hosts.push(host.clone());
        drop(hosts);
        self.listeners.tell(&Event::Host {
            name: name.to_owned(),
            bridge: bridge.name.clone(),
        });
        Ok(host)
    }

    /// Adds a host that belongs to somebody else, who listens to everything and sends what he likes. From now on every
    /// bridge passes every frame to every port, so that he sees as much as anybody on any wire could. He starts to capture
    /// at once, and looks for the canaries in the options.
    ///
    /// # Errors
    /// As [`Self::host`].
    pub fn neighbour(
        &self,
        name: &str,
        bridge: &Bridge,
        addresses: &[IpNet],
        options: CaptureOptions,
    ) -> Result<Neighbour> {
        self.fabric.become_hub()?;
        let host = self.host(name, bridge, addresses)?;
        Neighbour::start(host, Arc::clone(&self.fabric), options)
    }

    /// Captures all that passes a bridge.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn capture(&self, bridge: &Bridge, options: CaptureOptions) -> Result<Capture> {
        self.fabric
            .with(|namespace| namespace.run(|| Capture::start(&bridge.name, options)))??
    }

    /// The hosts, in the order in which they were added.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        lock(&self.hosts).clone()
    }

    /// The hardware address of the interface that was given an address.
    #[must_use]
    pub fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.fabric.mac_of(address)
    }

    /// The machine's number of a process of the lab, for a user who looks from outside.
    #[must_use]
    pub fn outer_pid(&self, pid: u32) -> Option<u32> {
        let outer = self.inside.directory.join("outer-proc");
        let own = fs::read_link("/proc/self/ns/pid").ok()?;
        fs::read_dir(&outer).ok()?.find_map(|entry| {
            let process = entry.ok()?.path();
            let outside: u32 = process.file_name()?.to_str()?.parse().ok()?;
            let status = fs::read_to_string(process.join("status")).ok()?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            let here = numbers.split_whitespace().next_back()?.parse() == Ok(pid);
            (here && fs::read_link(process.join("ns/pid")).ok()? == own).then_some(outside)
        })
    }

    /// What to type outside the lab, as the user who started it, to be on a host: a command goes behind it.
    ///
    /// # Errors
    /// When the lab has been taken down.
    pub fn enter_command(&self, host: &Host) -> Result<String> {
        let holder = host.holder()?;
        let pid = self.outer_pid(holder).ok_or_else(|| LabError::Io {
            what: format!("find the process of {} outside the lab", host.name()),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let user = if self.inside.mapped {
            " --user --preserve-credentials"
        } else {
            ""
        };
        Ok(format!("nsenter --target {pid}{user} --net --mount --uts --pid --"))
    }

    fn join(&self, from: &Bridge, to: &Bridge, impairment: Option<&Impairment>) -> Result<Wire> {
        let wire = self.fabric.join(&from.name, &to.name, impairment)?;
        lock(&self.wires).push(wire.clone());
        self.listeners.tell(&Event::Link {
            from: from.name.clone(),
            to: to.name.clone(),
        });
        Ok(wire)
    }

    /// Makes what [`Host::directory`] promises, and the files that the host will see below `/etc`.
    fn furnish(&self, directory: &Path) -> std::io::Result<()> {
        fs::create_dir(directory)?;
        for name in ["run", "etc", "log", "root", "home", "tmp"] {
            fs::create_dir(directory.join(name))?;
        }
        let tenant = ORDINARY_USER;
        let home = directory.join("home");
        let passwd = format!("{ORDINARY_NAME}:x:{tenant}:{tenant}::{}:/bin/sh\n", home.display());
        let group = format!("{ORDINARY_NAME}:x:{tenant}:\n");
        for (file, first) in [("passwd", passwd), ("group", group)] {
            let systems = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
            fs::write(directory.join("etc").join(file), first + &systems)?;
        }
        fs::write(directory.join("etc/hosts"), "")?;
        if let Some(contents) = &self.options.resolv_conf {
            fs::write(directory.join("etc/resolv.conf"), contents)?;
        }
        if !self.inside.mapped {
            std::os::unix::fs::chown(&home, Some(tenant), Some(tenant))?;
        }
        fs::set_permissions(directory.join("root"), fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(directory.join("tmp"), fs::Permissions::from_mode(0o1777))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.listeners.tell(&Event::Down);
        for host in lock(&self.hosts).iter() {
            host.inner().down();
        }
        lock(&self.wires).clear();
        self.fabric.down();
        // What cannot be removed goes with the tmpfs that it is on, at the latest when the program ends.
        let _: std::io::Result<()> = fs::remove_dir_all(&self.directory);
    }
}
