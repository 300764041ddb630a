//! Bundles that are refused, each with the words that a person reads; and bytes of every kind, which never do harm.

mod bundle_site;

use bundle_site::{LEASE, NOW, Site, armour, disarm, later, name};
use coterie_control::bundle::{Bundle, BundleError, Keys, Request, to_pem};
use coterie_crypto::{Secret, sign::SigningKey};
use coterie_model::{Manifest, Signed, SignedObject, Statement, UnixTime};
use proptest::prelude::*;

/// The newest bundle of web-1, to be spoiled, and what opens it.
struct Case {
    site: Site,
    bundle: String,
    keys: &'static str,
    trust: [u8; 32],
    now: UnixTime,
    floor: u64,
}

impl Case {
    fn new() -> Self {
        let site = Site::enrolled();
        let (bundle, trust) = (site.bundles["web-1"].clone(), site.enclave.root_hash());
        Self {
            site,
            bundle,
            keys: "web-1",
            trust,
            now: NOW,
            floor: 0,
        }
    }

    fn open(&self) -> Result<(), BundleError> {
        let bundle = Bundle::parse(self.bundle.as_bytes())?;
        bundle
            .open(&self.site.keys[self.keys], Some(self.trust), self.now, self.floor)
            .map(|_opened| ())
    }

    /// The key that signs statements and bundles, out of the enclave directory.
    fn statement_key(&self) -> SigningKey {
        let files = bundle_site::stored(&self.site.enclave);
        let text = core::str::from_utf8(&files["statement.key"]).expect("it is text");
        SigningKey::from_seed(Secret::from_slice(&disarm(text).1[1..]).expect("version and seed"))
    }

    /// Puts another signed object of the same length in the place of one, and signs the bundle anew.
    fn replace<T: SignedObject + Clone>(&mut self, old: &Signed<T>, change: impl FnOnce(&mut T)) {
        let key = self.statement_key();
        let mut value = T::clone(old);
        change(&mut value);
        let new = Signed::sign(value, &key);
        assert_eq!(new.bytes().len(), old.bytes().len());
        self.spoil(|body| {
            body.truncate(body.len() - 64);
            let at = body
                .windows(old.bytes().len())
                .position(|w| w == old.bytes())
                .expect("it stands in the bundle");
            body[at..at + old.bytes().len()].copy_from_slice(new.bytes());
            let signature = key.sign("coterie/1 bundle", body);
            body.extend_from_slice(&signature);
        });
    }

    /// Changes the object inside, and leaves the file around it whole.
    fn spoil(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let (headers, mut body) = disarm(&self.bundle);
        change(&mut body);
        self.bundle = armour("COTERIE BUNDLE", &headers, &body);
    }
}

/// Opens what `spoil` made of a good bundle, and compares the error with the file of that name.
macro_rules! refused {
    ($($test:ident: $spoil:expr;)*) => {$(
        #[test]
        fn $test() {
            let mut case = Case::new();
            assert_eq!(case.open(), Ok(()), "the bundle is good before it is spoiled");
            let spoil: fn(&mut Case) = $spoil;
            spoil(&mut case);
            let error = case.open().expect_err("a spoiled bundle is refused").to_string();
            let expected = include_str!(concat!("bundle_bad/", stringify!($test), ".txt"));
            assert_eq!(error + "\n", expected);
        }
    )*};
}

refused! {
    expired: |case| case.now = later(LEASE);
    foreign: |case| case.trust = [7; 32];
    edited: |case| case.spoil(|body| {
        let middle = body.len() / 2;
        body[middle] ^= 1;
    });
    edited_authority: |case| case.spoil(|body| body[60] ^= 1);
    edited_header: |case| case.bundle = case.bundle.replace("Serial: 1\n", "Serial: 9\n");
    truncated: |case| case.bundle.truncate(case.bundle.len() / 2);
    truncated_inside: |case| case.spoil(|body| body.truncate(body.len() - 64));
    appended: |case| case.spoil(|body| body.push(0));
    wrong_machine: |case| case.keys = "db-1";
    rolled_back: |case| case.floor = 2;
    empty: |case| case.bundle = "\n".to_owned();
    not_a_bundle: |case| case.bundle = bundle_site::example();
    a_request: |case| case.bundle = case.site.requests["web-1"].to_text();
    bad_base64: |case| {
        let at = case.bundle.match_indices('\n').nth(11).expect("a bundle has more lines").0 + 30;
        case.bundle.replace_range(at..=at, "%");
    };
    missing_line: |case| {
        let lines: Vec<&str> = case.bundle.lines().collect();
        case.bundle = [&lines[..10], &[&lines[10][..20]], &lines[11..]].concat().join("\n");
    };
    unsupported_version: |case| case.spoil(|body| body[0] = 2);
}

#[test]
fn without_a_pinned_root_the_bundle_s_own_is_believed() {
    let case = Case::new();
    let bundle = Bundle::parse(case.bundle.as_bytes()).expect("it is good");
    assert_eq!(bundle.claimed_root(), case.trust);
    assert_eq!((bundle.claimed_name(), bundle.claimed_serial()), (&name("web-1"), 1));
    assert!(bundle.open(&case.site.keys["web-1"], None, NOW, 1).is_ok());
}

#[test]
fn a_bundle_of_another_enclave_with_the_same_names_is_foreign() {
    let mut case = Case::new();
    let other = coterie_control::issue::Enclave::init(
        &bundle_site::example(),
        NOW,
        &mut coterie_crypto::SeededEntropy::from_number(43),
    );
    let mut other = other.expect("the example is good");
    case.bundle = other
        .enroll(
            &case.site.requests["web-1"],
            NOW,
            &mut coterie_crypto::SeededEntropy::from_number(44),
        )
        .expect("web-1 is in the file");
    let error = case.open().expect_err("the root is another");
    assert!(
        matches!(error, BundleError::Foreign { found, .. } if found == other.root_hash()),
        "{error}"
    );
}

#[test]
fn signed_objects_that_contradict_each_other_are_refused() {
    let opened = Case::new().site.open_now("web-1");
    let (statement, manifest) = (&opened.statements[0], &opened.manifests[0]);
    let refused = |replace: &dyn Fn(&mut Case)| {
        let mut case = Case::new();
        replace(&mut case);
        match case.open() {
            Err(BundleError::Inconsistent { field, number, reason }) => format!("{field} {number} {reason}"),
            other => panic!("{other:?}"),
        }
    };
    let of_statement = |change: fn(&mut Statement)| refused(&|case| case.replace(statement, change));
    let of_manifest = |change: fn(&mut Manifest)| refused(&|case| case.replace(manifest, change));
    assert_eq!(
        of_statement(|s| s.static_key = [1; 32]),
        "statements 1 is about another member"
    );
    assert_eq!(
        of_statement(|s| s.member.0 = [1; 16]),
        "statements 1 is about another member"
    );
    assert_eq!(
        of_statement(|s| s.name = name("web-2")),
        "statements 1 has another member name"
    );
    assert_eq!(of_statement(|s| s.era = 2), "statements 1 is of another enclave or era");
    assert_eq!(
        of_statement(|s| s.enclave.0 = [1; 16]),
        "statements 1 is of another enclave or era"
    );
    let reason = of_statement(|s| s.tag.0 = [1; 16]);
    assert!(
        reason.ends_with("is of a community that the member is not stated to be in"),
        "{reason}"
    );
    assert_eq!(of_manifest(|m| m.era = 2), "manifests 1 is of another enclave or era");
    let reason = of_manifest(|m| m.commitment = [1; 32]);
    assert!(
        reason.ends_with("is not the key that its manifest commits to"),
        "{reason}"
    );
    let reason = of_manifest(|m| m.epoch = 2);
    assert!(reason.ends_with("has no manifest"), "{reason}");
    // The same change with nothing changed is a good bundle: it is the change that is refused.
    let mut case = Case::new();
    case.replace(statement, |_statement| ());
    assert_eq!(case.open(), Ok(()));
}

#[test]
fn every_flipped_byte_is_refused() {
    let mut case = Case::new();
    let good = case.bundle.clone();
    for at in 0..good.len() - 1 {
        for flip in [0x01, 0x04] {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= flip;
            let Ok(bundle) = Bundle::parse(&bytes) else { continue };
            let opened = bundle.open(&case.site.keys["web-1"], Some(case.trust), NOW, 0);
            assert!(opened.is_err(), "byte {at} flipped by {flip}");
        }
    }
    case.bundle = good.replace('\n', "\r\n");
    assert_eq!(case.open(), Ok(()), "line ends of another system carry nothing");
}

#[test]
fn other_files_are_read_by_their_own_readers_only() {
    let case = Case::new();
    let keys = &case.site.keys["web-1"];
    let files = [
        case.bundle.clone(),
        keys.to_text().to_string(),
        case.site.requests["web-1"].to_text(),
        to_pem(b"x"),
    ];
    for (index, file) in files.iter().enumerate() {
        assert_eq!(Bundle::parse(file.as_bytes()).is_ok(), index == 0, "{file}");
        assert_eq!(Keys::parse(file.as_bytes()).is_ok(), index == 1, "{file}");
        assert_eq!(Request::parse(file.as_bytes()).is_ok(), index == 2, "{file}");
    }
}

fn parse_all(bytes: &[u8]) -> [bool; 3] {
    [
        Bundle::parse(bytes).is_ok(),
        Request::parse(bytes).is_ok(),
        Keys::parse(bytes).is_ok(),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert_eq!(parse_all(&bytes), [false; 3]);
    }

    #[test]
    fn arbitrary_objects_are_refused(
        body in proptest::collection::vec(any::<u8>(), 0..4096),
        version in 0_u8..3,
        label in prop::sample::select(vec!["COTERIE BUNDLE", "COTERIE REQUEST", "COTERIE KEYS"]),
        headers in "([A-Z][a-z]{1,8}: [ -~]{0,20}\n){0,6}",
    ) {
        let length = u32::try_from(body.len() + 5).expect("it is short").to_be_bytes();
        let body = [&[version], &length[..], &body].concat();
        prop_assert_eq!(parse_all(armour(label, &headers, &body).as_bytes()), [false; 3]);
    }
}

/// Bytes that only the issuer could sign: whatever stands in them, opening is a result and no panic, and what it gives is
/// consistent.
#[test]
fn signed_nonsense_is_refused_or_harmless() {
    let case = Case::new();
    let statement_key = case.statement_key();
    let (headers, good) = disarm(&case.bundle);
    let content_at = 256;
    let signed_at = good.len() - 64;
    let mut accepted = 0;
    for at in (content_at..signed_at).step_by(3) {
        for value in [0x00, 0xff, good[at] ^ 0x01] {
            let mut body = good[..signed_at].to_vec();
            body[at] = value;
            let signature = statement_key.sign("coterie/1 bundle", &body);
            body.extend_from_slice(&signature);
            let text = armour("COTERIE BUNDLE", &headers, &body);
            let Ok(bundle) = Bundle::parse(text.as_bytes()) else {
                continue;
            };
            if let Ok(opened) = bundle.open(&case.site.keys["web-1"], Some(case.trust), NOW, 0) {
                accepted += 1;
                assert_eq!(
                    (opened.keys.len(), opened.statements.len()),
                    (2, 2),
                    "byte {at} as {value}"
                );
            }
        }
    }
    assert!(
        accepted > 0,
        "settings may be anything, so that some of these are good bundles"
    );
}
