//! Who this machine is: its bundle and its keys, and how both come back after kill -9, restart or upgrade.
//!
//! Under systemd a sealed memfd with both lies in the service manager's descriptor store, so that the key file may be
//! removed from disk. Without systemd a private file in the state directory does the same. What was given on the command
//! line wins when it is newer, so that a new bundle is a matter of replacing the file.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use coterie_control::bundle::{Bundle, Keys, Opened, TemplateSettings};
use coterie_crypto::{aead::Suite, dh::PublicKey, sign::VerifyingKey};
use coterie_io::memory::Sealed;
use coterie_model::{EnclaveId, Era, Instant, Name, Reader, Revocations, UnixTime, Unverified, Writer};
use coterie_proto::{Config, Node, Update, handshake::payload::Suites, membership::Freshness};
use zeroize::Zeroizing;

use crate::{
    disk::{remove_private, write_private},
    entropy::SystemEntropy,
    hex,
    journal::Journal,
    network,
    options::Options,
};

/// The name of the sealed memfd in the descriptor store.
pub const STORE_NAME: &str = "coterie-identity";
/// The name of the private file in the state directory.
const FILE_NAME: &str = "identity";
/// Most bytes of a bundle or key file.
const MAX_FILE: u64 = 2 * 1024 * 1024;

/// Bundle and keys, as they were read.
pub struct Identity {
    /// The bundle file's bytes.
    pub bundle: Zeroizing<Vec<u8>>,
    /// The key file's bytes.
    pub keys: Zeroizing<Vec<u8>>,
    /// Where they came from.
    pub origin: Origin,
    /// The boot that they end with, where a token made them: the old keys alone let no machine back in.
    pub boot: Option<String>,
    /// What time it was, as far as the process before knew.
    pub known: Option<KnownTime>,
}

/// Protocol time as a process knew it, for the next one of the same boot: a restart gives no membership more time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTime {
    /// The boot whose running time it is.
    pub boot: String,
    /// When.
    pub at: Instant,
    /// What time it was then.
    pub time: UnixTime,
}

/// Where an identity came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The files of the command line.
    Files,
    /// A sealed memfd or the private file, from before a restart.
    Recovered,
    /// A token, just now.
    Enrolled,
}

impl Origin {
    /// The word that status uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "bundle",
            Self::Recovered => "recovered",
            Self::Enrolled => "enrolled",
        }
    }
}

impl Identity {
    /// Reads the files of the command line and what was kept from before. Of one machine's two bundles the newer one counts: a
    /// server's is not lost to an older file. Files with other keys win.
    ///
    /// # Errors
    /// When neither is there or readable.
    pub fn load(options: &Options, kept: &Kept) -> anyhow::Result<Self> {
        Self::find(options, kept)?.with_context(|| {
            format!(
                "no identity: {} or {} is missing; make keys and a request with `coterie bundle request`, have a bundle issued \
                 with `coterie bundle issue`, and put both there; or give a join token with --token",
                options.bundle.display(),
                options.keys.display()
            )
        })
    }

    /// The same; `None` when neither is there.
    ///
    /// # Errors
    /// When something is there that cannot be read.
    pub fn find(options: &Options, kept: &Kept) -> anyhow::Result<Option<Self>> {
        let kept = kept.read(options)?;
        let bundle = read_if_there(&options.bundle)?;
        let keys = read_if_there(&options.keys)?;
        Ok(match (bundle, keys, kept) {
            (Some(bundle), Some(keys), Some(kept)) if !same_machine(&keys, &kept.keys) => {
                Some(Self::of_files(bundle, keys))
            }
            (Some(bundle), keys, Some(kept)) => {
                // A file that is no bundle is to be complained of, and not passed over.
                let older = serial(&bundle).is_some_and(|file| Some(file) <= serial(&kept.bundle));
                Some(match older {
                    true => kept,
                    false => Self {
                        bundle,
                        keys: keys.unwrap_or(kept.keys),
                        ..kept
                    },
                })
            }
            (Some(bundle), Some(keys), None) => Some(Self::of_files(bundle, keys)),
            (_, _, kept) => kept,
        })
    }

    fn of_files(bundle: Zeroizing<Vec<u8>>, keys: Zeroizing<Vec<u8>>) -> Self {
        Self {
            bundle,
            keys,
            origin: Origin::Files,
            boot: None,
            known: None,
        }
    }

    /// Protocol time now, as far as can be known: what the process before knew, or the wall clock.
    #[must_use]
    pub fn time(&self, wall: UnixTime, now: Instant) -> UnixTime {
        let known = self.known.as_ref().filter(|known| boot().as_ref() == Some(&known.boot));
        known.map_or(wall, |known| known.time.plus(now.since(known.at)))
    }

    /// Opens the bundle with the keys.
    ///
    /// # Errors
    /// What is wrong with either, and what to do.
    pub fn open(&self, options: &Options, now: UnixTime, floor: u64) -> anyhow::Result<Opened> {
        let keys = self.parse_keys(options)?;
        let bundle = Bundle::parse(&self.bundle).with_context(|| format!("{}", options.bundle.display()))?;
        let trust = options.root.as_deref().map(parse_root).transpose()?;
        bundle
            .open(&keys, trust, now, floor)
            .with_context(|| format!("{}", options.bundle.display()))
    }

    /// The keys.
    ///
    /// # Errors
    /// What is wrong with the key file.
    pub fn parse_keys(&self, options: &Options) -> anyhow::Result<Keys> {
        Keys::parse(&self.keys).with_context(|| format!("{}", options.keys.display()))
    }
}

/// Whether two key files are of one machine: renewals change the key that opens bundles, and nothing else.
fn same_machine(one: &[u8], other: &[u8]) -> bool {
    let public = |text| Keys::parse(text).ok().map(|keys| *keys.static_key().public());
    one == other || public(one).is_some_and(|key| public(other) == Some(key))
}

/// What a bundle claims.
fn serial(bundle: &[u8]) -> Option<u64> {
    Bundle::parse(bundle).ok().map(|bundle| bundle.claimed_serial())
}

/// Where the identity is kept for the next start and for a reload: in a sealed memory file, which the service manager holds too,
/// if there is one; else in a private file. What is replaced is wiped with it.
#[derive(Debug, Default)]
pub struct Kept {
    sealed: Mutex<Option<Sealed>>,
}

impl Kept {
    /// What the service manager passed, if it did.
    #[must_use]
    pub fn new(sealed: Option<Sealed>) -> Self {
        Self {
            sealed: Mutex::new(sealed),
        }
    }

    fn read(&self, options: &Options) -> anyhow::Result<Option<Identity>> {
        let sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*sealed {
            Some(sealed) => {
                let bytes = sealed.read().context("cannot read the identity that was kept")?;
                let kept = decode(&Zeroizing::new(bytes));
                kept.map(Some)
                    .with_context(|| format!("descriptor {STORE_NAME} of the service manager"))
            }
            None => {
                let path = options.state.join(FILE_NAME);
                let kept = read_if_there(&path)?.map(|bytes| decode(&bytes)).transpose();
                let kept = kept.with_context(|| format!("{}", path.display()))?;
                Ok(kept.filter(|kept| kept.boot.is_none() || kept.boot == boot()))
            }
        }
    }

    /// Keeps an identity, and what time it is, in the place of the one before.
    ///
    /// # Errors
    /// What the system reports.
    pub fn keep(&self, options: &Options, identity: &Identity) -> anyhow::Result<()> {
        let bytes = encode(identity);
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            let fresh = Sealed::new(STORE_NAME, &bytes).context("cannot make a sealed memfd")?;
            coterie_io::memory::forget_descriptor(STORE_NAME).context("cannot speak to the service manager")?;
            coterie_io::memory::store_descriptor(STORE_NAME, &fresh).context("cannot speak to the service manager")?;
            *sealed = Some(fresh);
            return Ok(());
        }
        let path = options.state.join(FILE_NAME);
        write_private(&path, &bytes).with_context(|| format!("cannot keep the identity in {}", path.display()))
    }

    /// Forgets what was kept: the machine was forked, or its membership is over for good.
    ///
    /// # Errors
    /// What the system reports.
    pub fn forget(&self, options: &Options) -> anyhow::Result<()> {
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        if sealed.take().is_some() {
            coterie_io::memory::forget_descriptor(STORE_NAME).context("cannot speak to the service manager")?;
        }
        let path = options.state.join(FILE_NAME);
        remove_private(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// What a running core does not change. When a newer bundle does, a new core takes over, and its sessions are made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    static_key: PublicKey,
    /// Whose word counts. Which root signed it, and until when, may change while the core runs.
    authority: (Era, EnclaveId, VerifyingKey),
    name: Name,
    is_served: bool,
    suites: (Suites, Suite),
    roaming: bool,
    port: u16,
    /// Where the outside port is.
    pub outside: SocketAddr,
}

impl Fixed {
    /// What `opened` and `keys` fix.
    #[must_use]
    pub fn of(options: &Options, opened: &Opened, keys: &Keys) -> Self {
        Self {
            static_key: *keys.static_key().public(),
            authority: (
                opened.authority.era,
                opened.authority.enclave,
                opened.authority.statement_key,
            ),
            name: opened.name.clone(),
            is_served: opened.freshness == coterie_control::bundle::Freshness::Heads,
            suites: suites(&opened.template),
            roaming: opened.template.roaming,
            port: opened.port,
            outside: network::outside(options, opened),
        }
    }

    /// The suites that may be used, and the one that is preferred.
    #[must_use]
    pub fn suites(&self) -> (Suites, Suite) {
        self.suites
    }

    /// Whether there is a server that tells heads.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.is_served
    }
}

/// What the core is made from.
#[must_use]
pub fn config(opened: Opened, keys: &Keys, journal: &Journal, time: UnixTime) -> Config {
    let (suites, preferred) = suites(&opened.template);
    let time = opened.issued.max(time);
    Config {
        keys: keys.static_key(),
        name: opened.name.clone(),
        authority: opened.authority.clone(),
        freshness: match opened.freshness {
            coterie_control::bundle::Freshness::Offline => Freshness::Offline,
            coterie_control::bundle::Freshness::Heads => Freshness::Heads,
        },
        time,
        suites,
        preferred,
        lanes: 1,
        exclude: opened.template.exclude.clone(),
        roaming: opened.template.roaming,
        may_ask_cookie: false,
        port: opened.port,
        counter: journal.counter(),
        accepted: journal.accepted(),
        answered: journal.answered(),
        resume: journal.live(),
        update: update(opened, time),
    }
}

/// The core, as it begins. What was learnt of revocations since the bundle was issued counts too: nobody is let in who was
/// refused. It is told second, as it was learnt, because the head in the bundle pins the bundle's own list, and a core that has
/// no head makes no session as long as no server is there to tell one.
#[must_use]
pub fn node(config: Config, journal: &Journal, now: Instant) -> Node {
    let later = later_revocations(&config, journal);
    let mut node = Node::new(config, Box::new(SystemEntropy), now);
    if let Some(list) = later {
        let update = Update {
            revocations: Some(list),
            ..Update::default()
        };
        node.handle_update(update, now);
    }
    node
}

fn later_revocations(config: &Config, journal: &Journal) -> Option<Unverified<Revocations>> {
    let authority = &config.authority;
    let kept = journal.revocations(&authority.enclave)?;
    let kept = kept.verify(&authority.statement_key).ok()?;
    let is_ours = (kept.era, kept.enclave) == (authority.era, authority.enclave);
    let known = config.update.revocations.as_ref().map(|list| list.claimed().revision);
    (is_ours && Some(kept.revision) > known)
        .then(|| Unverified::parse(kept.bytes()).expect("a list that was verified parses"))
}

/// What a bundle tells the core, where it is at least `time` as far as this machine knows.
#[must_use]
pub fn update(opened: Opened, time: UnixTime) -> Update {
    Update {
        manifests: opened.manifests,
        keys: opened.keys,
        statements: opened.statements,
        directory: opened.directory,
        views: Vec::new(),
        revocations: opened
            .revocations
            .map(|r| Unverified::parse(r.bytes()).expect("a list that was verified parses")),
        head: opened
            .head
            .map(|h| Unverified::parse(h.bytes()).expect("a head that was verified parses")),
        exclude: Some(opened.template.exclude),
        complete: true,
        time: Some(time),
    }
}

/// What a bundle that came while the core runs tells it. Revocations and heads are the stream's, which may be ahead of the
/// bundle; who is in which community too.
#[must_use]
pub fn renewal(opened: Opened, time: UnixTime) -> Update {
    Update {
        revocations: None,
        head: None,
        ..update(opened, time)
    }
}

/// The suites that the template allows, and the one that this CPU is fast at.
fn suites(template: &TemplateSettings) -> (Suites, Suite) {
    if template.forkable {
        return (
            Suites::new(&[Suite::Aes256GcmSiv]).expect("one suite"),
            Suite::Aes256GcmSiv,
        );
    }
    let all = Suites::new(&template.suites)
        .unwrap_or_else(|| Suites::new(&[Suite::Aes256Gcm, Suite::ChaCha20Poly1305]).expect("two suites"));
    let fast = if has_aes() {
        Suite::Aes256Gcm
    } else {
        Suite::ChaCha20Poly1305
    };
    let first = Suite::ALL
        .into_iter()
        .find(|s| all.has(*s))
        .expect("a set of suites is not empty");
    let own = if all.has(fast) { fast } else { first };
    let preferred = template.preferred.filter(|s| all.has(*s)).unwrap_or(own);
    (all, preferred)
}

pub(crate) fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn parse_root(text: &str) -> anyhow::Result<[u8; 32]> {
    hex::decode(text).context("--root takes 64 hexadecimal digits, as `coterie bundle show` prints them")
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    if meta.len() > MAX_FILE {
        bail!(
            "{} is larger than any bundle or key file; is it the right file?",
            path.display()
        );
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(Zeroizing::new(bytes)))
}

fn encode(identity: &Identity) -> Zeroizing<Vec<u8>> {
    let mut w = Writer::new();
    w.u8(3).counted(identity.boot.as_deref().unwrap_or_default().as_bytes());
    match &identity.known {
        Some(known) => w.counted(known.boot.as_bytes()).u64(nanos(known.at)).u64(known.time.0),
        None => w.counted(&[]).u64(0).u64(0),
    };
    w.u32(u32::try_from(identity.bundle.len()).unwrap_or(u32::MAX))
        .bytes(&identity.bundle);
    let front = Zeroizing::new(w.into_bytes());
    // Room for everything at once: a buffer that grows leaves copies of secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(front.len() + identity.keys.len()));
    bytes.extend_from_slice(&front);
    bytes.extend_from_slice(&identity.keys);
    bytes
}

fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

fn decode(bytes: &[u8]) -> anyhow::Result<Identity> {
    let mut r = Reader::new(bytes);
    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes).into_owned()).filter(|text| !text.is_empty());
    let mut read = || {
        let version = r.u8("version")?;
        // Version 1 knew no tokens, version 2 no time.
        let boot = if version == 1 {
            None
        } else {
            text(r.counted(64, "boot")?)
        };
        let known = if version < 3 {
            None
        } else {
            let (boot, at) = (text(r.counted(64, "boot")?), Instant::from_nanos(r.u64("instant")?));
            let time = UnixTime(r.u64("time")?);
            boot.map(|boot| KnownTime { boot, at, time })
        };
        let len = usize::try_from(r.u32("bundle length")?).unwrap_or(usize::MAX);
        let bundle = Zeroizing::new(r.take(len, "bundle")?.to_vec());
        let keys = Zeroizing::new(r.take(r.remaining(), "keys")?.to_vec());
        Ok::<_, coterie_model::Malformed>((version, boot, known, bundle, keys))
    };
    let (version, boot, known, bundle, keys) =
        read().context("the identity that was kept is damaged; remove it and start from the bundle")?;
    if version > 3 {
        bail!("the identity that was kept is of another version; remove it and start from the bundle");
    }
    Ok(Identity {
        bundle,
        keys,
        origin: Origin::Recovered,
        boot,
        known,
    })
}

/// Which boot of the machine this is.
pub(crate) fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}
