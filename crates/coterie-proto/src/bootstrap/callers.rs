//! Whom a door has let in, so that no call is answered twice: bounded by token, and no longer than the token lives.

use std::collections::{BTreeMap, VecDeque};

use coterie_crypto::dh::PublicKey;
use coterie_model::CommunityTag;

use super::Caller;

/// Visitors that are remembered under one token. Whoever called longest ago makes room: its call of then, recorded and said
/// again after a restart of the door, would be answered again, and nothing follows from that without its keys.
pub const MAX_VISITORS_OF_TOKEN: usize = 1024;
/// Visitors that are remembered under all tokens together.
pub const MAX_VISITORS: usize = 16_384;

/// Highest counters by token and machine.
#[derive(Debug, Default)]
pub(super) struct Callers {
    tokens: BTreeMap<CommunityTag, OfToken>,
    count: usize,
}

#[derive(Debug, Default)]
struct OfToken {
    counters: BTreeMap<PublicKey, u64>,
    /// Whoever came first, first.
    order: VecDeque<PublicKey>,
}

impl Callers {
    /// The highest counter of a caller, 0 for none.
    pub(super) fn highest(&self, caller: &Caller) -> u64 {
        let counters = self.tokens.get(&caller.token).map(|of| &of.counters);
        counters.and_then(|c| c.get(&caller.static_key)).copied().unwrap_or(0)
    }

    /// Remembers a counter; gives who had to make room.
    pub(super) fn note(&mut self, caller: Caller, counter: u64) -> Option<Caller> {
        let of = self.tokens.entry(caller.token).or_default();
        if let Some(known) = of.counters.get_mut(&caller.static_key) {
            *known = counter.max(*known);
            return None;
        }
        let crowded = (of.order.len() >= MAX_VISITORS_OF_TOKEN).then_some(caller.token);
        let forgotten = match crowded {
            Some(token) => self.forget_first(token),
            None if self.count >= MAX_VISITORS => {
                let largest = self.tokens.iter().max_by_key(|(_, of)| of.order.len());
                let token = largest.map(|(token, _)| *token);
                token.and_then(|token| self.forget_first(token))
            }
            None => None,
        };
        let of = self.tokens.entry(caller.token).or_default();
        of.counters.insert(caller.static_key, counter);
        of.order.push_back(caller.static_key);
        self.count += 1;
        forgotten
    }

    /// Forgets everybody under tokens that are gone; gives who that was.
    pub(super) fn keep_tokens(&mut self, stays: impl Fn(&CommunityTag) -> bool) -> Vec<Caller> {
        let mut gone = Vec::new();
        self.tokens.retain(|token, of| {
            let keep = stays(token);
            if !keep {
                gone.extend(of.order.iter().map(|static_key| Caller {
                    token: *token,
                    static_key: *static_key,
                }));
            }
            keep
        });
        self.count -= gone.len();
        gone
    }

    fn forget_first(&mut self, token: CommunityTag) -> Option<Caller> {
        let of = self.tokens.get_mut(&token)?;
        let static_key = of.order.pop_front()?;
        of.counters.remove(&static_key);
        self.count -= 1;
        Some(Caller { token, static_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(token: u8, n: usize) -> Caller {
        let mut static_key = [0; 32];
        static_key[..8].copy_from_slice(&n.to_be_bytes());
        Caller {
            token: CommunityTag([token; 16]),
            static_key,
        }
    }

    #[test]
    fn a_token_holds_so_many_and_its_end_forgets_them() {
        let mut callers = Callers::default();
        for n in 0..MAX_VISITORS_OF_TOKEN {
            assert_eq!(callers.note(caller(1, n), 5), None);
        }
        assert_eq!(callers.note(caller(1, 0), 7), None, "known already");
        assert_eq!(callers.note(caller(2, 0), 5), None, "another token has its own room");
        assert_eq!(callers.note(caller(1, MAX_VISITORS_OF_TOKEN), 1), Some(caller(1, 0)));
        assert_eq!(callers.highest(&caller(1, 0)), 0);
        assert_eq!((callers.highest(&caller(1, 1)), callers.highest(&caller(2, 0))), (5, 5));
        assert_eq!(
            callers.keep_tokens(|token| token.0[0] == 2).len(),
            MAX_VISITORS_OF_TOKEN
        );
        assert_eq!((callers.count, callers.highest(&caller(1, 1))), (1, 0));
    }

    #[test]
    fn all_tokens_together_hold_so_many() {
        let mut callers = Callers::default();
        let mut forgotten = 0;
        for token in 0..100 {
            for n in 0..MAX_VISITORS_OF_TOKEN / 2 {
                forgotten += usize::from(callers.note(caller(token, n), 1).is_some());
            }
        }
        assert_eq!(callers.count, MAX_VISITORS);
        assert_eq!(forgotten + callers.count, 100 * MAX_VISITORS_OF_TOKEN / 2);
        assert_eq!(
            callers.highest(&caller(99, MAX_VISITORS_OF_TOKEN / 2 - 1)),
            1,
            "the newest stays"
        );
    }
}
