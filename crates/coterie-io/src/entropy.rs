//! Random bytes that two forks of one virtual machine do not share.
//!
//! A machine restored twice from one snapshot starts twice from the same kernel random pool. Until the kernel learns of
//! the fork and reseeds (which takes it an interrupt, and needs a hypervisor that tells it), `getrandom` gives both the
//! same bytes. The processor's own generator (RDRAND) is not part of a machine's state, so bytes from it are mixed in.
//!
//! On aarch64 there is no mixing: [`has_cpu_generator`] is `false`, and [`fill`] and [`salt`] are `getrandom` alone. There
//! the protection of twins rests on [`crate::generation`] only.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `bytes` from `getrandom`, each eight bytes XORed with a value of the processor's generator where there is one.
///
/// XOR cannot weaken: if either source is good, so is the result. If the processor's generator fails at run time (ten
/// tries without a value, as its maker recommends), that word is `getrandom` alone.
///
/// # Errors
/// Whatever `getrandom(2)` reports; on a kernel of 3.17 or later, nothing.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for chunk in bytes.chunks_mut(8) {
        let Some(word) = cpu_word() else { return Ok(()) };
        for (byte, mask) in chunk.iter_mut().zip(word.to_ne_bytes()) {
            *byte ^= mask;
        }
    }
    Ok(())
}

/// A salt that tells two forks of one machine apart: 32 bits of the processor's generator, or of `getrandom` where the
/// processor has none. Costs about 0.1 to 1 µs. Not a secret, and not for keys.
#[must_use]
pub fn salt() -> u32 {
    if let Some(word) = cpu_word() {
        return u32::try_from(word >> 32).expect("a u64 shifted by 32 fits 32 bits");
    }
    let mut bytes = [0_u8; 4];
    fill(&mut bytes).expect("getrandom gives up to 256 bytes without failing once the kernel has started");
    u32::from_ne_bytes(bytes)
}

/// Whether the processor's generator is used.
#[must_use]
pub fn has_cpu_generator() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("rdrand");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

fn cpu_word() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if has_cpu_generator() {
        // SAFETY: the processor has RDRAND, checked in the line above.
        return unsafe { rdrand() };
    }
    None
}

/// All bits set is refused like a failure: some processors answer so, and call it success, after a suspend.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "rdrand")]
fn rdrand() -> Option<u64> {
    const TRIES: usize = 10;
    (0..TRIES).find_map(|_| {
        let mut word = 0;
        let ready = std::arch::x86_64::_rdrand64_step(&mut word) == 1;
        (ready && word != u64::MAX).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_length_is_filled_and_never_twice_alike() {
        let mut seen = BTreeSet::new();
        for length in [16, 17, 31, 32, 255, 256, 257, 4_096] {
            let mut first = vec![0; length];
            fill(&mut first).expect("getrandom works here");
            assert!(
                first[length - 8..].iter().any(|&byte| byte != 0),
                "the end of {length} bytes stayed empty"
            );
            assert!(seen.insert(first));
        }
    }

    #[test]
    fn bits_are_balanced() {
        let mut bytes = vec![0; 1 << 16];
        fill(&mut bytes).expect("getrandom works here");
        let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
        // 524,288 bits, standard deviation 362: ten deviations either way.
        assert!((258_000..=266_000).contains(&ones), "{ones} ones of 524,288 bits");
    }

    #[test]
    fn salts_differ() {
        let salts: BTreeSet<u32> = (0..64).map(|_| salt()).collect();
        assert!(salts.len() >= 63, "64 salts, {} different", salts.len());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_cpu_generator_is_found_where_the_kernel_lists_it() {
        let listed = std::fs::read_to_string("/proc/cpuinfo")
            .expect("proc is mounted")
            .contains(" rdrand");
        assert_eq!(has_cpu_generator(), listed);
        assert_eq!(cpu_word().is_some(), listed);
    }
}
