//! Entropy of a host whose memory can be copied: what the operating system's generator gives is a function of the memory
//! image, so forks draw the same; what the processor's generator mixes in is not.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use coterie_crypto::{Entropy, SeededEntropy};

/// Which physical instance of a machine draws. Shared with the generator inside the node; zero until a fork.
#[derive(Debug, Clone, Default)]
pub struct InstanceHandle(Arc<AtomicU64>);

impl InstanceHandle {
    /// After a fork: from here on what is drawn is this instance's alone.
    pub fn set(&self, instance: u64) {
        self.0.store(instance, Ordering::Relaxed);
    }

    /// The instance; zero for one that was never forked.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A seeded generator with a processor's generator mixed in (as `coterie-io` does), by XOR.
pub struct HostEntropy {
    memory: SeededEntropy,
    instance: InstanceHandle,
    processor: Option<(u64, SeededEntropy)>,
}

impl HostEntropy {
    /// The stream of `seed`; `instance` tells forks apart.
    #[must_use]
    pub fn new(seed: u64, instance: InstanceHandle) -> Self {
        Self {
            memory: SeededEntropy::from_number(seed),
            instance,
            processor: None,
        }
    }
}

impl Entropy for HostEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        self.memory.fill(out);
        let instance = self.instance.get();
        if instance == 0 {
            return;
        }
        if self.processor.as_ref().is_none_or(|(of, _)| *of != instance) {
            self.processor = Some((instance, SeededEntropy::from_number(instance.rotate_left(32) ^ 0x5a17)));
        }
        let Some((_, processor)) = self.processor.as_mut() else {
            return;
        };
        let mut mask = vec![0; out.len()];
        processor.fill(&mut mask);
        out.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_draw_the_same_until_the_processor_tells_them_apart() {
        let (a, b) = (InstanceHandle::default(), InstanceHandle::default());
        let (mut x, mut y) = (HostEntropy::new(7, a.clone()), HostEntropy::new(7, b.clone()));
        assert_eq!(x.salt(), y.salt());
        a.set(1);
        b.set(2);
        assert_ne!(x.salt(), y.salt());
        let (mut long_x, mut long_y) = ([0; 64], [0; 64]);
        x.fill(&mut long_x);
        y.fill(&mut long_y);
        assert_ne!(long_x, long_y);
    }
}
