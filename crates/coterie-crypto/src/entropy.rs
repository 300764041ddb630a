use crate::hash::hkdf;

/// Where random bytes come from. Handed in by the host: the kernel's and the CPU's generators in a daemon, a seed in
/// the simulator. Ephemeral keys, KEM seeds and salts are drawn here at the moment of use and never ahead, because a
/// fork of the virtual machine would hand both twins what was drawn ahead.
pub trait Entropy {
    /// Fills `out` with bytes that nobody else can predict.
    fn fill(&mut self, out: &mut [u8]);

    /// A 4-byte salt for one batch of sealed packets (WIRE section 6.2).
    fn salt(&mut self) -> [u8; 4] {
        let mut salt = [0; 4];
        self.fill(&mut salt);
        salt
    }
}

/// A generator that is a function of its seed: for tests, the simulator, and derivations that must be repeatable.
pub struct SeededEntropy {
    seed: [u8; 32],
    block: u64,
}

impl SeededEntropy {
    /// Starts the stream of `seed`.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, block: 0 }
    }

    /// Starts the stream of a small number, for tests and the simulator.
    #[must_use]
    pub fn from_number(n: u64) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        Self::new(seed)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(1024) {
            hkdf(b"coterie/1 seeded", &self.seed, &[&self.block.to_be_bytes()], chunk);
            self.block += 1;
        }
    }
}

impl Drop for SeededEntropy {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}
