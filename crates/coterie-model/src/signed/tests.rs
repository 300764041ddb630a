use coterie_crypto::Secret;

use super::*;
use crate::{CommunityTag, EnclaveId, MemberId, Name, Prefix, UnixTime};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(Secret::new([n; 32]))
}

fn statement() -> Statement {
    Statement {
        era: 1,
        enclave: EnclaveId([1; 16]),
        tag: CommunityTag([2; 16]),
        member: MemberId([3; 16]),
        name: Name::new("web-1").unwrap(),
        static_key: [4; 32],
        addresses: vec![
            Prefix::host("10.77.1.1".parse().unwrap()).unwrap(),
            Prefix::new("fd77::".parse().unwrap(), 64).unwrap(),
        ],
        serial: 7,
        not_after: UnixTime(1000),
    }
}

#[test]
fn a_signed_object_comes_back_and_only_under_its_key() {
    let signed = Signed::sign(statement(), &key(1));
    let parsed = Unverified::<Statement>::parse(signed.bytes()).unwrap();
    assert_eq!(parsed.clone().verify(&key(1).verifying_key()).unwrap(), signed);
    assert!(parsed.verify(&key(2).verifying_key()).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let signed = Signed::sign(statement(), &key(1));
    for bit in 0..signed.bytes().len() * 8 {
        let mut bytes = signed.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let accepted = Unverified::<Statement>::parse(&bytes).is_ok_and(|u| u.verify(&key(1).verifying_key()).is_ok());
        assert!(!accepted, "bit {bit}");
    }
}

#[test]
fn cut_and_extended_objects_are_malformed() {
    let signed = Signed::sign(statement(), &key(1));
    for len in 0..signed.bytes().len() {
        assert!(Unverified::<Statement>::parse(&signed.bytes()[..len]).is_err());
    }
    let mut longer = signed.bytes().to_vec();
    longer.push(0);
    assert!(Unverified::<Statement>::parse(&longer).is_err());
}

#[test]
fn all_kinds_round_trip() {
    let enclave = EnclaveId([1; 16]);
    let authority = Authority {
        era: 1,
        enclave,
        name: Name::new("shop").unwrap(),
        statement_key: key(2).verifying_key(),
        not_after: UnixTime(9),
    };
    let manifest = Manifest {
        era: 1,
        enclave,
        tag: CommunityTag([2; 16]),
        name: Name::new("web").unwrap(),
        priority: 10,
        epoch: 3,
        commitment: [5; 32],
        activates: UnixTime(1),
        retires: UnixTime(2),
        kind: EpochKind::Removal,
        holders: 4,
    };
    let revocations = Signed::sign(
        Revocations {
            era: 1,
            enclave,
            revision: 2,
            entries: vec![Revocation {
                member: MemberId([9; 16]),
                static_key: [8; 32],
                until: UnixTime(5),
            }],
        },
        &key(1),
    );
    let head = Head {
        era: 1,
        enclave,
        revision: 2,
        time: UnixTime(3),
        hash: head_hash(&revocations),
    };
    round_trip(authority);
    round_trip(manifest);
    round_trip(revocations.clone().into_value());
    round_trip(head);
}

fn round_trip<T: SignedObject + PartialEq + core::fmt::Debug + Clone>(value: T) {
    let signed = Signed::sign(value.clone(), &key(1));
    let back = Unverified::<T>::parse(signed.bytes())
        .unwrap()
        .verify(&key(1).verifying_key())
        .unwrap();
    assert_eq!(back.into_value(), value);
}

#[test]
fn unsorted_or_repeated_revocations_are_malformed() {
    let e = |n| Revocation {
        member: MemberId([n; 16]),
        static_key: [n; 32],
        until: UnixTime(5),
    };
    for entries in [vec![e(2), e(1)], vec![e(1), e(1)]] {
        let signed = Signed::sign(
            Revocations {
                era: 1,
                enclave: EnclaveId([1; 16]),
                revision: 1,
                entries,
            },
            &key(1),
        );
        assert!(Unverified::<Revocations>::parse(signed.bytes()).is_err());
    }
}
