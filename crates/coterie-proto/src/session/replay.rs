//! The replay window (RFC 6479): which of the last 8,192 counters of a lane were opened.

/// Counters that a window remembers.
pub const WINDOW: u64 = 8192;

const WORDS: usize = 8192 / 64 + 1;

/// One lane's window. Moves only when [`Window::accept`] is called, that is for authentic packets.
#[derive(Debug)]
pub struct Window {
    /// One above the highest accepted counter; 0 when there was none.
    next: u64,
    bits: [u64; WORDS],
}

/// Where a counter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Never accepted, and within or above the window.
    New,
    /// Accepted before.
    Seen,
    /// So far below that nobody knows: refused like one that was seen.
    TooOld,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            bits: [0; WORDS],
        }
    }
}

impl Window {
    /// Looks, changes nothing.
    #[must_use]
    pub fn place(&self, counter: u64) -> Place {
        if counter >= self.next {
            return Place::New;
        }
        if self.next - counter > WINDOW {
            return Place::TooOld;
        }
        let (word, bit) = slot(counter);
        if self.bits[word] & bit == 0 {
            Place::New
        } else {
            Place::Seen
        }
    }

    /// Marks an authentic packet's counter, which [`Window::place`] called new.
    pub fn accept(&mut self, counter: u64) {
        if counter >= self.next {
            let first = self.next / 64 + u64::from(!self.next.is_multiple_of(64));
            let last = counter / 64;
            // Words that the window moves into still hold an older lap.
            for lap in first..=last.min(first + WORDS as u64) {
                self.bits[word_of(lap)] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = slot(counter);
        self.bits[word] |= bit;
    }
}

fn word_of(lap: u64) -> usize {
    usize::try_from(lap % WORDS as u64).expect("a remainder of 129 fits")
}

fn slot(counter: u64) -> (usize, u64) {
    (word_of(counter / 64), 1 << (counter % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_of_the_window() {
        let mut w = Window::default();
        assert_eq!(w.place(0), Place::New);
        w.accept(0);
        assert_eq!(w.place(0), Place::Seen);
        w.accept(WINDOW);
        assert_eq!(w.place(0), Place::TooOld);
        assert_eq!(w.place(1), Place::New);
        w.accept(1);
        assert_eq!(w.place(1), Place::Seen);
        w.accept(u64::from(u32::MAX));
        assert_eq!(w.place(WINDOW), Place::TooOld);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn equals_the_naive_set(steps in prop::collection::vec((0u8..8, 0u64..20_000), 1..400)) {
            let (mut window, mut seen, mut highest) = (Window::default(), BTreeSet::new(), 0u64);
            for (kind, n) in steps {
                let counter = match kind {
                    0 => highest + n,
                    1..=4 => highest + n % 70,
                    _ => highest.saturating_sub(n % 9000),
                };
                let expected = if highest >= WINDOW && counter <= highest - WINDOW && !seen.is_empty() {
                    Place::TooOld
                } else if seen.contains(&counter) {
                    Place::Seen
                } else {
                    Place::New
                };
                prop_assert_eq!(window.place(counter), expected);
                if expected == Place::New {
                    window.accept(counter);
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
