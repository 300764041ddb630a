//! An enclave, the machines that come to it, and what is stored of it.

use std::{collections::BTreeMap, net::SocketAddr};

use coterie_control::{
    bundle::{Bundle, Keys, Opened, Request},
    issue::{Admission, Enclave, IssueError, Part},
};
use coterie_crypto::SeededEntropy;
use coterie_model::{MemberId, Name, UnixTime};

pub(crate) const NOW: UnixTime = UnixTime(1_795_506_345);

pub(crate) const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/29", "fd77::/64"]
[community.web]
[community.db]
[template.web]
communities = ["web"]
[template.db]
communities = ["web", "db"]
door = true
[member.db-1]
template = "db"
addresses = ["10.77.0.1"]
"#;

pub(crate) struct Site {
    pub(crate) enclave: Enclave,
    pub(crate) keys: BTreeMap<u64, Keys>,
    pub(crate) entropy: SeededEntropy,
    /// Of the numbers that keys are made from.
    pub(crate) base: u64,
    /// What a store has that wrote what changed after each operation.
    pub(crate) stored: BTreeMap<(String, String), Vec<u8>>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Site {
    pub(crate) fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(1);
        Self {
            enclave: Enclave::init(FILE, NOW, &mut entropy).unwrap(),
            keys: BTreeMap::new(),
            entropy,
            base: 1000,
            stored: BTreeMap::new(),
        }
    }

    /// Writes what changed, and sees that a store has everything.
    pub(crate) fn store(&mut self) {
        for record in self.enclave.take_records() {
            let at = (record.part.kind().to_owned(), record.part.key().to_owned());
            match record.value {
                Some(value) => drop(self.stored.insert(at, value.to_vec())),
                None => drop(self.stored.remove(&at)),
            }
        }
        let records = self
            .stored
            .iter()
            .map(|((kind, key), value)| (Part::of(kind, key).unwrap(), value.clone().into()));
        let read = Enclave::from_records(records).unwrap();
        let files = |enclave: &Enclave| {
            enclave
                .to_files()
                .into_iter()
                .map(|f| f.bytes.to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(files(&read), files(&self.enclave));
    }

    /// A machine with keys of its own, by number, applies.
    pub(crate) fn apply(&mut self, template: &str, member: &str, number: u64) -> Result<Admission, IssueError> {
        self.apply_as(template, member, number, false)
    }

    pub(crate) fn apply_as(
        &mut self,
        template: &str,
        member: &str,
        number: u64,
        takeover: bool,
    ) -> Result<Admission, IssueError> {
        let (request, endpoint) = self.machine(member, number);
        let template = name(template);
        self.enclave.provision(
            &template,
            vec![endpoint],
            &request,
            takeover,
            MemberId::draw(&mut self.entropy),
            NOW,
        )
    }

    pub(crate) fn machine(&mut self, member: &str, number: u64) -> (Request, SocketAddr) {
        let keys = Keys::generate(name(member), &mut SeededEntropy::from_number(self.base + number));
        let request = Request::new(&keys).unwrap();
        self.keys.insert(number, keys);
        (request, format!("192.0.2.{number}:4747").parse().unwrap())
    }

    pub(crate) fn open(&mut self, member: &str, number: u64) -> Opened {
        let text = self.enclave.issue(&name(member), NOW, &mut self.entropy).unwrap();
        let bundle = Bundle::parse(text.as_bytes()).unwrap();
        let hash = self.enclave.root_hash();
        bundle.open(&self.keys[&number], Some(hash), NOW, 0).unwrap()
    }

    pub(crate) fn addresses(&self, member: &str) -> Vec<String> {
        let member = self.enclave.members().find(|(n, _)| n.as_str() == member);
        member.map_or_else(Vec::new, |(_, m)| m.addresses.iter().map(ToString::to_string).collect())
    }

    pub(crate) fn reloaded(&self) -> Enclave {
        let files: BTreeMap<_, _> = self
            .enclave
            .to_files()
            .into_iter()
            .map(|f| (f.path, f.bytes.to_vec()))
            .collect();
        Enclave::from_files(|path| files.get(path).cloned()).unwrap()
    }
}
