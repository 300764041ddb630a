//! A host: a network, mount and UTS namespace, with interfaces, files and programs of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;

use crate::address::MacAddr;
use crate::capture::{Capture, CaptureOptions};
use crate::command::{Child, HostCommand, Identity, Output};
use crate::error::{LabError, Result};
use crate::event::{Event, Listeners};
use crate::fabric::{Bridge, Fabric, lock};
use crate::namespace::Namespace;

/// The interface that a host gets first.
pub const OUTSIDE: &str = "eth0";

/// A machine of the lab. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Host(Arc<HostInner>);

#[derive(Debug)]
pub(crate) struct HostInner {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) mapped: bool,
    number: u16,
    fabric: Arc<Fabric>,
    listeners: Arc<Listeners>,
    namespace: Mutex<Option<Arc<Namespace>>>,
    interfaces: Mutex<Vec<Interface>>,
    next_log: AtomicU32,
}

#[derive(Debug, Clone)]
struct Interface {
    name: String,
    port: String,
    mac: MacAddr,
    addresses: Vec<IpNet>,
}

/// Which frames of an interface nftables is to lose or send twice, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Loss,
    Duplication,
}

impl Host {
    pub(crate) fn create(
        name: &str,
        number: u16,
        directory: PathBuf,
        mapped: bool,
        fabric: &Arc<Fabric>,
        listeners: &Arc<Listeners>,
    ) -> Result<Self> {
        let namespace = Namespace::create(name, Some(&directory))?;
        Ok(Self(Arc::new(HostInner {
            name: name.to_owned(),
            directory,
            mapped,
            number,
            fabric: Arc::clone(fabric),
            listeners: Arc::clone(listeners),
            namespace: Mutex::new(Some(Arc::new(namespace))),
            interfaces: Mutex::default(),
            next_log: AtomicU32::new(1),
        })))
    }

    pub(crate) fn inner(&self) -> &HostInner {
        &self.0
    }

    /// Its name, which is its host name as well.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its directory, under the same path inside and outside the host. `run` in it is the host's `/run`, `log` has what
    /// programs wrote, `root` and `home` are the homes of root and of the ordinary user, and `tmp` is `TMPDIR`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The hardware address of its first interface.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        MacAddr::of(self.0.number, 0)
    }

    /// The addresses that it was given, of all interfaces, without link-local ones.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        lock(&self.0.interfaces)
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(IpNet::addr))
            .collect()
    }

    /// Its first IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.addresses().into_iter().find(IpAddr::is_ipv4)
    }

    /// Its first IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.addresses().into_iter().find(IpAddr::is_ipv6)
    }

    /// The process that holds its namespaces, inside the lab: `/proc/PID/ns` and `/proc/PID/root` are the host's.
    /// [`crate::Lab::enter_command`] makes a command line of it.
    ///
    /// # Errors
    /// When the lab has been taken down.
    pub fn holder(&self) -> Result<u32> {
        self.0.holder()
    }

    /// Adds an interface on a bridge. [`crate::Lab::host`] has done so for [`OUTSIDE`].
    ///
    /// All hosts know its addresses by its name. IPv6 addresses are usable at once: nobody else can have them, so the kernel does not look for others first.
    ///
    /// # Errors
    /// When `ip` refuses a name or an address.
    pub fn attach(&self, interface: &str, bridge: &Bridge, addresses: &[IpNet]) -> Result<()> {
        let mut interfaces = lock(&self.0.interfaces);
        let number = u8::try_from(interfaces.len()).map_err(|_| LabError::Name {
            name: interface.to_owned(),
            why: "the host has 256 interfaces already".to_owned(),
        })?;
        let mac = MacAddr::of(self.0.number, number);
        let port = self.0.fabric.plug(&bridge.name, self.holder()?, interface, mac)?;
        let mut script = format!("link set dev {interface} up\n");
        // A kernel without IPv6 refuses the addresses that it is given, but is asked for none of its own.
        if Path::new("/proc/sys/net/ipv6").exists() {
            script = format!(
                "link set dev {interface} addrgenmode none up\n\
                 addr add {}/64 dev {interface} scope link nodad\n",
                mac.link_local()
            );
        }
        for address in addresses {
            let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
            script += &format!("addr add {address} dev {interface}{nodad}\n");
            self.0.fabric.learn(address.addr(), mac);
        }
        self.0.fabric.learn(mac.link_local().into(), mac);
        self.0.ip(&script)?;
        self.0.fabric.wait_until_forwarding(std::slice::from_ref(&port))?;
        let names = addresses.iter().map(|address| (address.addr(), self.name().to_owned()));
        self.0.fabric.name(names, self.directory().join("etc/hosts"))?;
        interfaces.push(Interface {
            name: interface.to_owned(),
            port,
            mac,
            addresses: addresses.to_vec(),
        });
        Ok(())
    }

    /// Runs `ip` with one command a line, in the host, for what has no method here.
    ///
    /// # Errors
    /// [`LabError::Command`] with what `ip` refused.
    pub fn ip(&self, script: &str) -> Result<()> {
        self.0.ip(script)
    }

    /// Writes a setting below `/proc/sys/net`, such as `ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the kernel has no such setting or refuses the value.
    pub fn set_net(&self, path: &str, value: &str) -> Result<()> {
        self.0.with(|namespace| namespace.set_net(path, value))?
    }

    /// Runs `work` on a thread of its own whose sockets are the host's.
    ///
    /// # Errors
    /// When the lab has been taken down.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.0.with(|namespace| namespace.run(work))?
    }

    /// A program to run here, in the directory `/`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> HostCommand {
        HostCommand::new(self.clone(), program.as_ref())
    }

    /// Runs a program to its end, 10 seconds at most, whatever its status.
    ///
    /// # Errors
    /// As [`HostCommand::run`].
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<Output> {
        self.command(program).args(arguments).run()
    }

    /// Starts a program that runs until the lab ends.
    ///
    /// # Errors
    /// As [`HostCommand::spawn`].
    pub fn spawn(&self, program: impl AsRef<OsStr>, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Child> {
        let command = self.command(program).args(arguments);
        environment
            .iter()
            .fold(command, |command, (name, value)| command.env(name, value))
            .spawn()
    }

    /// Writes a file below [`Self::directory`], with the directories that it needs, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.directory().join(path);
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, contents)
        };
        write().map_err(LabError::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Waits until `look` returns a value; see [`crate::wait_for`]. The error names the host.
    ///
    /// # Errors
    /// [`LabError::Deadline`].
    pub fn wait_for<T>(&self, what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> Result<T> {
        crate::wait::wait_for(&format!("{}: {what}", self.name()), deadline, look)
    }

    /// Takes an interface's carrier away, as pulling its cable would.
    ///
    /// # Errors
    /// When the host has no such interface.
    pub fn link_down(&self, interface: &str) -> Result<()> {
        self.set_port(interface, "down")
    }

    /// Gives an interface its carrier back.
    ///
    /// # Errors
    /// When the host has no such interface.
    pub fn link_up(&self, interface: &str) -> Result<()> {
        self.set_port(interface, "up")
    }

    /// Loses a share of the frames that arrive at an interface; 0 loses none again.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `nft`.
    pub fn add_loss(&self, interface: &str, percent: u8) -> Result<()> {
        self.add_fault(interface, Fault::Loss, percent)
    }

    /// Sends a share of the frames that leave an interface twice; 0 sends none twice again.
    ///
    /// # Errors
    /// [`LabError::Missing`] without `nft`; [`LabError::Command`] on a kernel before 5.16, which has no egress hook.
    pub fn add_duplication(&self, interface: &str, percent: u8) -> Result<()> {
        self.add_fault(interface, Fault::Duplication, percent)
    }

    /// Captures what one of its Ethernet interfaces receives and sends.
    ///
    /// # Errors
    /// When the host has no such interface.
    pub fn capture(&self, interface: &str, options: CaptureOptions) -> Result<Capture> {
        let own = lock(&self.0.interfaces)
            .iter()
            .find(|own| own.name == interface)
            .cloned();
        let (mac, addresses) = own.map_or((None, Vec::new()), |own| {
            let mut addresses: Vec<IpAddr> = own.addresses.iter().map(IpNet::addr).collect();
            addresses.push(own.mac.link_local().into());
            (Some(own.mac), addresses)
        });
        let options = options.about(mac, addresses);
        self.within(|| Capture::start(interface, options))?
    }

    fn set_port(&self, interface: &str, state: &str) -> Result<()> {
        let port = lock(&self.0.interfaces)
            .iter()
            .find(|own| own.name == interface)
            .map(|own| own.port.clone());
        let port = port.ok_or_else(|| LabError::Name {
            name: interface.to_owned(),
            why: format!("the lab gave {} no such interface", self.name()),
        })?;
        self.0.fabric.ip(&format!("link set dev {port} {state}\n"))
    }

    fn add_fault(&self, interface: &str, fault: Fault, percent: u8) -> Result<()> {
        let (table, hook, verdict) = match fault {
            Fault::Loss => (format!("lab_loss_{interface}"), "ingress", "drop".to_owned()),
            Fault::Duplication => (
                format!("lab_dup_{interface}"),
                "egress",
                format!("dup to \"{interface}\""),
            ),
        };
        let mut rules = format!("table netdev {table}\ndelete table netdev {table}\n");
        if percent > 0 {
            rules += &format!(
                "table netdev {table} {{\n chain frames {{\n  type filter hook {hook} device \"{interface}\" priority 0\n  \
                 numgen random mod 100 < {percent} {verdict}\n }}\n}}\n"
            );
        }
        self.0.with(|namespace| namespace.feed("nft", &["-f", "-"], &rules))??;
        Ok(())
    }
}

impl HostInner {
    pub(crate) fn holder(&self) -> Result<u32> {
        self.with(Namespace::pid)
    }

    pub(crate) fn home(&self, identity: Identity) -> PathBuf {
        self.directory.join(match identity {
            Identity::Root => "root",
            Identity::Ordinary => "home",
        })
    }

    /// A file without a name, gone when it is closed.
    pub(crate) fn scratch_file(&self) -> std::io::Result<File> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.directory, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A path for the logs of a program, without its ending.
    pub(crate) fn next_log(&self, program: &str) -> PathBuf {
        let number = self.next_log.fetch_add(1, Ordering::Relaxed);
        self.directory.join("log").join(format!("{number}-{program}.log"))
    }

    pub(crate) fn tell(&self, event: &Event) {
        self.listeners.tell(event);
    }

    pub(crate) fn down(&self) {
        // Taken first: the lock must not be held while processes die.
        let namespace = lock(&self.namespace).take();
        if let Some(namespace) = namespace {
            namespace.kill_all();
        }
    }

    fn ip(&self, script: &str) -> Result<()> {
        self.with(|namespace| namespace.ip(script))?
    }

    fn with<T>(&self, work: impl FnOnce(&Namespace) -> T) -> Result<T> {
        let namespace = lock(&self.namespace).clone();
        namespace.as_deref().map(work).ok_or_else(|| LabError::Io {
            what: format!("use the host {}", self.name),
            source: std::io::Error::other("the lab has been taken down"),
        })
    }
}
