//! The kernel's and the CPU's generators, as the core asks for them.

use std::time::Duration;

use coterie_crypto::Entropy;

/// Draws from `coterie-io`, at the moment of use.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the kernel refuses random bytes: nothing secret can be made then, and going on would be worse than stopping.
    fn fill(&mut self, out: &mut [u8]) {
        coterie_io::entropy::fill(out).expect("the kernel gives random bytes");
    }

    fn salt(&mut self) -> [u8; 4] {
        coterie_io::entropy::salt().to_be_bytes()
    }
}

/// A random time up to `longest`.
pub(crate) fn up_to(longest: Duration, entropy: &mut dyn Entropy) -> Duration {
    let mut random = [0; 2];
    entropy.fill(&mut random);
    longest * u32::from(u16::from_be_bytes(random)) / u32::from(u16::MAX)
}

/// A half to one and a half times as long: a thousand machines do not call in step.
pub(crate) fn jittered(wait: Duration, entropy: &mut dyn Entropy) -> Duration {
    wait / 2 + up_to(wait, entropy)
}
