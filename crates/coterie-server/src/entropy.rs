//! The kernel's generator, as the cores ask for it.

use coterie_crypto::Entropy;
use rustix::rand::{GetRandomFlags, getrandom};

/// Draws from the kernel, at the moment of use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the kernel refuses random bytes: nothing secret can be made then, and going on would be worse than stopping.
    fn fill(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            filled += match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => panic!("the kernel gives no random bytes: {error}"),
            };
        }
    }
}
