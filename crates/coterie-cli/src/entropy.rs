//! Random bytes for keys, from the kernel and the processor.

use coterie_crypto::Entropy;

/// The generators of this machine.
#[derive(Debug, Default)]
pub(crate) struct MachineEntropy;

impl Entropy for MachineEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        coterie_io::entropy::fill(out).expect("getrandom does not fail on a kernel of 3.17 or later");
    }
}
