//! An issuer in miniature: communities, members, epochs with scheduled and removal rolls, statements, revocations, heads. What
//! it signs is real; how it reaches hosts is the world's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coterie_crypto::{
    Secret,
    dh::{KeyPair, PublicKey},
    sign::SigningKey,
};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EnclaveId, Epoch, EpochKey, EpochKind, Head, Manifest, MemberId, Name,
    Prefix, Revocation, Revocations, Signed, Statement, UnixTime, Unverified, commitment, signed::head_hash,
};
use coterie_proto::{Update, membership::Freshness};

use crate::{clock::Moment, rng::Rng};

/// How long after a removal the keys before it admit.
const REMOVAL_GRACE: u64 = 10;

/// The issuer. Machines are numbers: a machine keeps its number through restarts and new enrolments.
pub struct Enclave {
    id: EnclaveId,
    signer: SigningKey,
    rng: Rng,
    /// Where protocol time comes from.
    pub freshness: Freshness,
    /// How long statements last, and how long an epoch is accepted after its successor activates.
    pub lease: Duration,
    /// Grows with every change.
    pub version: u64,
    /// All communities.
    pub communities: Vec<Community>,
    /// All machines.
    pub machines: Vec<Machine>,
    revoked: Vec<Revocation>,
    revision: u64,
}

/// One community.
pub struct Community {
    /// Its id.
    pub tag: CommunityTag,
    /// Its name.
    pub name: Name,
    /// Lower is preferred.
    pub priority: u16,
    /// All epochs that ever were, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// Who was a member when.
    pub spans: Vec<Span>,
}

/// One epoch.
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    key: [u8; 32],
    /// From when initiators use it.
    pub activates: UnixTime,
    /// From when nobody admits it.
    pub retires: UnixTime,
    kind: EpochKind,
    /// Machines that were given the key.
    pub holders: BTreeSet<usize>,
}

/// A machine's time in a community.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The machine.
    pub machine: usize,
    /// First moment.
    pub from: Moment,
    /// The end, with the version of the enclave that told it.
    pub until: Option<(Moment, u64)>,
}

/// One machine.
pub struct Machine {
    /// Its name.
    pub name: Name,
    /// Its inside addresses.
    pub inside: Vec<IpAddr>,
    /// Where the directory says it is.
    pub endpoint: SocketAddr,
    /// Its enrolments, the last one current.
    pub enrolments: Vec<Enrolment>,
    /// Revoked by an administrator, not to come back.
    pub expelled: bool,
}

/// One enrolment of a machine: a static key and what was said about it.
pub struct Enrolment {
    member: MemberId,
    private: [u8; 32],
    /// The static key.
    pub public: PublicKey,
    /// The revision of the revocations that refuses it.
    pub revoked_in: Option<u64>,
    statements: BTreeMap<usize, Signed<Statement>>,
}

/// What the issuer tells one machine; unlike an update it can be copied.
#[derive(Clone, Default)]
pub struct Knowledge {
    /// The enclave's version when it was told.
    pub version: u64,
    /// Protocol time when it was told.
    pub issued: UnixTime,
    manifests: Vec<Signed<Manifest>>,
    keys: Vec<(CommunityTag, Epoch, [u8; 32])>,
    statements: Vec<Signed<Statement>>,
    directory: Vec<DirectoryEntry>,
    /// The revision, and the list as signed.
    pub revocations: Option<(u64, Signed<Revocations>)>,
    /// The pulse.
    pub head: Option<Signed<Head>>,
    /// Members that must not be able to hear what the machine starts, where that is told anew.
    pub exclude: Option<Vec<Name>>,
}

impl Knowledge {
    /// Only exclusions.
    #[must_use]
    pub fn exclusions(names: Vec<Name>) -> Self {
        Self {
            exclude: Some(names),
            ..Self::default()
        }
    }

    /// True when this is all that there is: what it does not name is over.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.version > 0
    }

    /// A time that protocol time is not behind, as every host knows that reads a bundle.
    #[must_use]
    pub fn time(&self) -> Option<UnixTime> {
        self.is_complete().then_some(self.issued)
    }

    /// The update for a node.
    ///
    /// # Panics
    /// Never: what was signed parses.
    #[must_use]
    pub fn to_update(&self) -> Update {
        let keys = self.keys.iter().map(|(tag, epoch, key)| EpochKey {
            tag: *tag,
            epoch: *epoch,
            key: Secret::new(*key),
        });
        Update {
            manifests: self.manifests.clone(),
            keys: keys.collect(),
            statements: self.statements.clone(),
            directory: self.directory.clone(),
            views: Vec::new(),
            revocations: self
                .revocations
                .as_ref()
                .map(|(_, list)| Unverified::parse(list.bytes()).expect("a signed list parses")),
            head: self
                .head
                .as_ref()
                .map(|head| Unverified::parse(head.bytes()).expect("a signed head parses")),
            exclude: self.exclude.clone(),
            complete: self.is_complete(),
            time: self.time(),
        }
    }
}

impl Enclave {
    /// An enclave of `machines`, each in the communities that it names.
    #[must_use]
    pub fn new(
        mut rng: Rng,
        freshness: Freshness,
        lease: Duration,
        communities: usize,
        machines: &[Vec<usize>],
    ) -> Self {
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let mut id = [0; 16];
        rng.fill(&mut id);
        let mut this = Self {
            id: EnclaveId(id),
            signer: SigningKey::from_seed(Secret::new(seed)),
            rng,
            freshness,
            lease,
            version: 1,
            communities: Vec::new(),
            machines: Vec::new(),
            revoked: Vec::new(),
            revision: u64::from(freshness == Freshness::Heads),
        };
        for n in 0..communities {
            let mut tag = [0; 16];
            this.rng.fill(&mut tag);
            this.communities.push(Community {
                tag: CommunityTag(tag),
                name: Name::new(&format!("c{n}")).expect("a letter and a number"),
                priority: u16::try_from(this.rng.below(3)).unwrap_or(0) * 10,
                epochs: Vec::new(),
                spans: Vec::new(),
            });
        }
        for (n, communities) in machines.iter().enumerate() {
            this.add_machine(n, communities);
        }
        for n in 0..communities {
            let holders = this.members(n);
            this.push_epoch(n, Moment::START.unix(), EpochKind::Scheduled, holders);
        }
        this
    }

    fn add_machine(&mut self, n: usize, communities: &[usize]) {
        let low = u8::try_from(n + 1).unwrap_or(u8::MAX);
        self.machines.push(Machine {
            name: Name::new(&format!("m{n}")).expect("a letter and a number"),
            inside: vec![
                IpAddr::from([10, 77, 0, low]),
                IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(low)]),
            ],
            endpoint: SocketAddr::from(([192, 0, 2, low], 4747)),
            enrolments: Vec::new(),
            expelled: false,
        });
        for c in communities {
            self.communities[*c].spans.push(Span {
                machine: n,
                from: Moment::START,
                until: None,
            });
        }
        self.enrol(n, Moment::START);
    }

    /// The authority, as the root signed it.
    #[must_use]
    pub fn authority(&self) -> Signed<Authority> {
        let authority = Authority {
            era: 1,
            enclave: self.id,
            name: Name::new("shop").expect("a name"),
            statement_key: self.signer.verifying_key(),
            not_after: UnixTime(u64::MAX),
        };
        Signed::sign(authority, &self.signer)
    }

    /// Current members of a community.
    #[must_use]
    pub fn members(&self, community: usize) -> BTreeSet<usize> {
        self.communities[community]
            .spans
            .iter()
            .filter(|s| s.until.is_none())
            .map(|s| s.machine)
            .collect()
    }

    /// True while `machine` is a member.
    #[must_use]
    pub fn is_member(&self, community: usize, machine: usize) -> bool {
        self.communities[community]
            .spans
            .iter()
            .any(|s| s.machine == machine && s.until.is_none())
    }

    /// The communities of `machine` now.
    #[must_use]
    pub fn communities_of(&self, machine: usize) -> Vec<usize> {
        (0..self.communities.len())
            .filter(|c| self.is_member(*c, machine))
            .collect()
    }

    /// The index of a community.
    #[must_use]
    pub fn community(&self, tag: CommunityTag) -> Option<usize> {
        self.communities.iter().position(|c| c.tag == tag)
    }

    /// The machine's current enrolment.
    ///
    /// # Panics
    /// Never: every machine is enrolled when it is made.
    #[must_use]
    pub fn enrolment(&self, machine: usize) -> &Enrolment {
        self.machines[machine]
            .enrolments
            .last()
            .expect("every machine is enrolled when it is made")
    }

    /// The static key pair of an enrolment.
    #[must_use]
    pub fn keys(&self, machine: usize, enrolment: usize) -> KeyPair {
        KeyPair::from_private(Secret::new(self.machines[machine].enrolments[enrolment].private))
    }

    /// Who has a static key: machine and enrolment.
    #[must_use]
    pub fn owner(&self, key: &PublicKey) -> Option<(usize, usize)> {
        self.machines
            .iter()
            .enumerate()
            .find_map(|(n, m)| m.enrolments.iter().position(|e| e.public == *key).map(|e| (n, e)))
    }

    /// Enrols a machine anew: a static key that never was; the one before is revoked.
    pub fn enrol(&mut self, machine: usize, now: Moment) {
        self.version += 1;
        if let Some(last) = self.machines[machine].enrolments.len().checked_sub(1) {
            self.revoke_enrolment(machine, last);
        }
        let (mut private, mut member) = ([0; 32], [0; 16]);
        self.rng.fill(&mut private);
        self.rng.fill(&mut member);
        let public = *KeyPair::from_private(Secret::new(private)).public();
        self.machines[machine].enrolments.push(Enrolment {
            member: MemberId(member),
            private,
            public,
            revoked_in: None,
            statements: BTreeMap::new(),
        });
        self.renew(machine, now);
    }

    /// Signs new statements for every community of `machine`.
    pub fn renew(&mut self, machine: usize, now: Moment) {
        self.version += 1;
        let not_after = now.unix().plus(self.lease);
        for c in self.communities_of(machine) {
            let m = &self.machines[machine];
            let e = self.enrolment(machine);
            let statement = Statement {
                era: 1,
                enclave: self.id,
                tag: self.communities[c].tag,
                member: e.member,
                name: m.name.clone(),
                static_key: e.public,
                addresses: m.inside.iter().filter_map(|a| Prefix::host(*a)).collect(),
                serial: self.version,
                not_after,
            };
            let signed = Signed::sign(statement, &self.signer);
            if let Some(e) = self.machines[machine].enrolments.last_mut() {
                e.statements.insert(c, signed);
            }
        }
    }

    /// When the newest statement of any enrolment of `machine` in a community ends.
    #[must_use]
    pub fn statement_ends(&self, community: usize, machine: usize, enrolment: usize) -> Option<UnixTime> {
        self.machines[machine].enrolments[enrolment]
            .statements
            .get(&community)
            .map(|s| s.not_after)
    }

    /// A planned roll: the next epoch activates in `ahead`; the ones before retire one lease after that.
    pub fn roll(&mut self, community: usize, now: Moment, ahead: Duration) {
        let last = self.communities[community]
            .epochs
            .last()
            .map_or(UnixTime(0), |e| e.activates);
        let activates = now.unix().plus(ahead).max(last.plus(Duration::from_secs(1)));
        let retires = activates.plus(self.lease);
        self.retire(community, retires);
        let holders = self.members(community);
        self.push_epoch(community, activates, EpochKind::Scheduled, holders);
    }

    /// Takes `machine` out of a community: a new key, which it never had, at once; the ones before retire after ten seconds.
    pub fn remove(&mut self, community: usize, machine: usize, now: Moment) {
        let version = self.version + 1;
        for span in &mut self.communities[community].spans {
            if span.machine == machine && span.until.is_none() {
                span.until = Some((now, version));
            }
        }
        let activates = now.unix();
        self.retire(community, UnixTime(activates.0 + REMOVAL_GRACE));
        let holders = self.members(community);
        self.push_epoch(community, activates, EpochKind::Removal, holders);
    }

    /// Makes sure that a community has an epoch that is active and will be for an hour.
    pub fn ensure_live(&mut self, community: usize, now: Moment) {
        let time = now.unix();
        let hour = time.plus(Duration::from_secs(3600));
        let live = self.communities[community]
            .epochs
            .iter()
            .any(|e| e.activates <= time && hour < e.retires);
        if !live {
            self.roll(community, now, Duration::ZERO);
        }
    }

    /// The directory learns where a machine is.
    pub fn moved(&mut self, machine: usize, endpoint: SocketAddr) {
        self.version += 1;
        self.machines[machine].endpoint = endpoint;
    }

    /// Refuses a machine everywhere: revocation first, then new keys.
    pub fn revoke(&mut self, machine: usize, now: Moment) {
        let last = self.machines[machine].enrolments.len() - 1;
        self.revoke_enrolment(machine, last);
        self.machines[machine].expelled = true;
        for c in self.communities_of(machine) {
            self.remove(c, machine, now);
        }
    }

    /// Takes `machine` into a community: it is given the current key and what comes later.
    pub fn add(&mut self, community: usize, machine: usize, now: Moment) {
        self.version += 1;
        self.communities[community].spans.push(Span {
            machine,
            from: now,
            until: None,
        });
        let time = now.unix();
        let epochs = &mut self.communities[community].epochs;
        let current = epochs.iter().rposition(|e| e.activates <= time).unwrap_or(0);
        for epoch in &mut epochs[current..] {
            if epoch.retires > time {
                epoch.holders.insert(machine);
            }
        }
        self.renew(machine, now);
    }

    fn revoke_enrolment(&mut self, machine: usize, enrolment: usize) {
        self.version += 1;
        self.revision += 1;
        let revision = self.revision;
        let e = &mut self.machines[machine].enrolments[enrolment];
        if e.revoked_in.is_some() {
            return;
        }
        e.revoked_in = Some(revision);
        let until = e.statements.values().map(|s| s.not_after).max().unwrap_or_default();
        let entry = Revocation {
            member: e.member,
            static_key: e.public,
            until,
        };
        let at = self.revoked.partition_point(|r| r.static_key < entry.static_key);
        self.revoked.insert(at, entry);
    }

    fn retire(&mut self, community: usize, at: UnixTime) {
        for epoch in &mut self.communities[community].epochs {
            epoch.retires = epoch.retires.min(at);
        }
    }

    fn push_epoch(&mut self, community: usize, activates: UnixTime, kind: EpochKind, holders: BTreeSet<usize>) {
        self.version += 1;
        let mut key = [0; 32];
        self.rng.fill(&mut key);
        let epochs = &mut self.communities[community].epochs;
        let epoch = epochs.last().map_or(1, |e| e.epoch + 1);
        let retires = activates.plus(Duration::from_secs(30 * 86_400));
        epochs.push(EpochRecord {
            epoch,
            key,
            activates,
            retires,
            kind,
            holders,
        });
    }

    /// The revocations, if there ever was a list.
    fn list(&self) -> Option<(u64, Signed<Revocations>)> {
        let list = Revocations {
            era: 1,
            enclave: self.id,
            revision: self.revision,
            entries: self.revoked.clone(),
        };
        (self.revision > 0).then(|| (self.revision, Signed::sign(list, &self.signer)))
    }

    /// Only the revocations: they go out before everything else.
    #[must_use]
    pub fn tell_revocations(&self, now: Moment) -> Knowledge {
        Knowledge {
            version: 0,
            issued: now.unix(),
            revocations: self.list(),
            ..Knowledge::default()
        }
    }

    /// Only the pulse.
    #[must_use]
    pub fn tell_head(&self, now: Moment) -> Knowledge {
        Knowledge {
            version: 0,
            issued: now.unix(),
            head: self.head(now),
            ..Knowledge::default()
        }
    }

    fn head(&self, now: Moment) -> Option<Signed<Head>> {
        if self.freshness == Freshness::Offline {
            return None;
        }
        let (revision, list) = self.list()?;
        let head = Head {
            era: 1,
            enclave: self.id,
            revision,
            time: now.unix(),
            hash: head_hash(&list),
        };
        Some(Signed::sign(head, &self.signer))
    }

    /// Everything that `machine` may know now. With `lazily`, without statements of others: it must ask them itself.
    #[must_use]
    pub fn tell(&self, machine: usize, now: Moment, lazily: bool) -> Knowledge {
        let own = self.communities_of(machine);
        let time = now.unix();
        let mut told = Knowledge {
            version: self.version,
            issued: time,
            revocations: self.list(),
            head: self.head(now),
            ..Knowledge::default()
        };
        for c in &own {
            let community = &self.communities[*c];
            for e in &community.epochs {
                let key = Secret::new(e.key);
                let manifest = Manifest {
                    era: 1,
                    enclave: self.id,
                    tag: community.tag,
                    name: community.name.clone(),
                    priority: community.priority,
                    epoch: e.epoch,
                    commitment: commitment(community.tag, e.epoch, &key),
                    activates: e.activates,
                    retires: e.retires,
                    kind: e.kind,
                    holders: u32::try_from(e.holders.len()).unwrap_or(u32::MAX),
                };
                told.manifests.push(Signed::sign(manifest, &self.signer));
                if e.retires > time && e.holders.contains(&machine) {
                    told.keys.push((community.tag, e.epoch, e.key));
                }
            }
            told.statements
                .extend(self.enrolment(machine).statements.get(c).cloned());
        }
        let others = (0..self.machines.len()).filter(|o| *o != machine && self.ever_shared(machine, *o));
        told.directory = others.map(|o| self.entry(o, &own, lazily)).collect();
        told
    }

    fn entry(&self, machine: usize, viewer: &[usize], lazily: bool) -> DirectoryEntry {
        let m = &self.machines[machine];
        let shared: Vec<usize> = viewer.iter().copied().filter(|c| self.is_member(*c, machine)).collect();
        // Who enrolled anew has a statement that no question to the old static key would find.
        let with_statements = !lazily || m.enrolments.len() > 1;
        let statements = shared
            .iter()
            .filter(|_| with_statements)
            .filter_map(|c| self.enrolment(machine).statements.get(c));
        DirectoryEntry {
            name: m.name.clone(),
            communities: shared.iter().map(|c| self.communities[*c].tag).collect(),
            addresses: m.inside.iter().filter_map(|a| Prefix::host(*a)).collect(),
            endpoints: vec![m.endpoint],
            statements: statements.cloned().collect(),
        }
    }

    fn ever_shared(&self, a: usize, b: usize) -> bool {
        self.communities
            .iter()
            .any(|c| c.spans.iter().any(|s| s.machine == a) && c.spans.iter().any(|s| s.machine == b))
    }

    /// When two machines were last in a community together: `None` when they never were, `now` when they are.
    #[must_use]
    pub fn last_shared(&self, a: usize, b: usize, now: Moment) -> Option<Moment> {
        (0..self.communities.len())
            .filter_map(|c| self.last_shared_in(c, a, b, now))
            .max()
    }

    /// The same for one community.
    #[must_use]
    pub fn last_shared_in(&self, community: usize, a: usize, b: usize, now: Moment) -> Option<Moment> {
        let spans = |machine| {
            self.communities[community]
                .spans
                .iter()
                .filter(move |s| s.machine == machine)
        };
        let overlap = |x: &Span, y: &Span| {
            let end = |s: &Span| s.until.map_or(now, |(at, _)| at);
            let (start, end) = (x.from.max(y.from), end(x).min(end(y)));
            (start <= end).then_some(end)
        };
        spans(a).flat_map(|x| spans(b).filter_map(move |y| overlap(x, y))).max()
    }
}
