//! The kernel's and the CPU's generators, as the core asks for them.

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
