//! Each primitive agrees with itself, and refuses what was touched. Agreement with others: `wycheproof.rs`.

use coterie_crypto::{Secret, SeededEntropy, aead, dh, hash, hpke, kem, sign, wrap};

#[test]
fn aead_refuses_every_flipped_bit() {
    for suite in aead::Suite::ALL {
        let key = aead::Key::new(suite, &Secret::new([7; 32]));
        let mut sealed = b"attack at dawn".to_vec();
        let tag = key.seal([1; 12], b"header", &mut sealed);
        sealed.extend_from_slice(&tag);
        assert_eq!(
            key.open([1; 12], b"header", &mut sealed.clone()).unwrap(),
            b"attack at dawn"
        );
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open([1; 12], b"header", &mut bad).is_err());
        }
        assert!(key.open([2; 12], b"header", &mut sealed.clone()).is_err());
        assert!(key.open([1; 12], b"headeR", &mut sealed.clone()).is_err());
        assert!(key.open([1; 12], b"header", &mut sealed[..15].to_vec()).is_err());
    }
}

#[test]
fn dh_agrees_and_refuses_low_order_points() {
    let mut entropy = SeededEntropy::from_number(1);
    let (a, b) = (dh::KeyPair::generate(&mut entropy), dh::KeyPair::generate(&mut entropy));
    assert_eq!(a.agree(b.public()).unwrap(), b.agree(a.public()).unwrap());
    assert!(a.agree(&[0; 32]).is_err());
}

#[test]
fn kem_agrees_and_forgeries_give_another_secret() {
    let mut entropy = SeededEntropy::from_number(2);
    let (key, public) = kem::DecapsulationKey::generate(&mut entropy);
    let (mut ciphertext, shared) = kem::encapsulate(&public, &mut entropy).unwrap();
    assert_eq!(key.decapsulate(&ciphertext), shared);
    ciphertext[0] ^= 1;
    assert_ne!(key.decapsulate(&ciphertext), shared);
    assert!(kem::encapsulate(&[0xff; kem::ENCAPSULATION_KEY_LEN], &mut entropy).is_err());
}

#[test]
fn signatures_are_bound_to_their_label() {
    let key = sign::SigningKey::from_seed(Secret::new([3; 32]));
    let signature = key.sign("coterie/1 statement", b"x");
    assert!(
        key.verifying_key()
            .verify("coterie/1 statement", b"x", &signature)
            .is_ok()
    );
    assert!(
        key.verifying_key()
            .verify("coterie/1 manifest", b"x", &signature)
            .is_err()
    );
    assert!(
        key.verifying_key()
            .verify("coterie/1 statement", b"y", &signature)
            .is_err()
    );
}

#[test]
fn wrap_and_hpke_open_only_under_the_right_key() {
    let mut entropy = SeededEntropy::from_number(4);
    let (kek, key) = (Secret::draw(&mut entropy), Secret::draw(&mut entropy));
    let mut wrapped = wrap::wrap(&kek, &key);
    assert_eq!(wrap::unwrap(&kek, &wrapped).unwrap(), key);
    assert!(wrap::unwrap(&key, &wrapped).is_err());
    wrapped[39] ^= 1;
    assert!(wrap::unwrap(&kek, &wrapped).is_err());

    let opening = hpke::OpeningKey::generate(&mut entropy);
    let (enc, sealed) = hpke::seal(&opening.sealing_key(), b"info", b"aad", b"kek", &mut entropy).unwrap();
    assert_eq!(enc.len(), hpke::ENCAPSULATED_LEN);
    assert_eq!(opening.sealing_key().len(), hpke::SEALING_KEY_LEN);
    assert_eq!(opening.open(b"info", b"aad", &enc, &sealed).unwrap(), b"kek");
    assert!(opening.open(b"info", b"bad", &enc, &sealed).is_err());
    let mut other = opening.sealing_key();
    hpke::check_sealing_key(&other).unwrap();
    hpke::check_sealing_key(&other[1..]).unwrap_err();
    // Coefficients above the modulus of ML-KEM.
    other[..3].fill(0xff);
    hpke::check_sealing_key(&other).unwrap_err();
    hpke::seal(&other, b"info", b"aad", b"kek", &mut entropy).unwrap_err();
    assert!(
        hpke::OpeningKey::generate(&mut entropy)
            .open(b"info", b"aad", &enc, &sealed)
            .is_err()
    );
}

#[test]
fn a_digest_under_many_keys_has_the_hmac_that_it_has_under_one() {
    let mut entropy = SeededEntropy::from_number(7);
    for _ in 0..1000 {
        let (key, digest) = (Secret::<32>::draw(&mut entropy), Secret::<32>::draw(&mut entropy));
        let expected = hash::MacKey::new(key.expose()).mac(digest.expose());
        assert_eq!(hash::DigestMac::new(key.expose()).mac(digest.expose()), expected);
    }
}

#[test]
fn hkdf_matches_rfc_5869_case_1() {
    let mut out = [0; 42];
    let salt: Vec<u8> = (0..=12).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    hash::hkdf(&salt, &[0x0b; 22], &[&info], &mut out);
    assert_eq!(out[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
}
