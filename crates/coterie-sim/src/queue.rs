//! What is under way in a world, in the order of true time.

use std::collections::BTreeMap;

use crate::clock::Moment;

/// Things that are to happen; those of one moment in the order in which they were put in.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: BTreeMap<(Moment, u64), T>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Puts something in that is to happen `at` a moment.
    pub fn push(&mut self, at: Moment, thing: T) {
        self.sequence += 1;
        self.waiting.insert((at, self.sequence), thing);
    }

    /// Takes out what comes next, and when, if that is not after `end`.
    pub fn pop_until(&mut self, end: Moment) -> Option<(Moment, T)> {
        let next = self.waiting.first_entry().filter(|next| next.key().0 <= end)?;
        let ((at, _), thing) = next.remove_entry();
        Some((at, thing))
    }
}
