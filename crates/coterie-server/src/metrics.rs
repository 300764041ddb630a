//! Counts, for Prometheus; and whether the server is ready.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use coterie_model::Name;
use coterie_store::TenantId;

use crate::keeper::State;

/// Refusals of who holds a token that the audit log takes a second. More are counted only.
const NOTED: u32 = 20;
/// Refusals of strangers that it takes at once, and one more each time so long has passed: whoever comes without a token, and
/// goes on for days, fills no disk.
const OF_STRANGERS: (u32, Duration) = (20, Duration::from_secs(30));

/// What the audit log was told of refusals.
struct Noted {
    /// Since when the second runs, and how many it had.
    second: (Instant, u32),
    /// How many of strangers it takes, and since when.
    strangers: (Instant, u32),
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfEnclave {
    tenant: String,
    enclave: String,
}

impl OfEnclave {
    fn new(tenant: TenantId, enclave: &Name) -> Self {
        Self {
            tenant: tenant.to_string(),
            enclave: enclave.to_string(),
        }
    }
}

/// Counts.
pub(crate) struct Metrics {
    registry: Registry,
    deeds: Counter,
    batches: Histogram,
    refused: Counter,
    strangers: Counter,
    failures: Counter,
    rollbacks: Counter,
    members: Family<OfEnclave, Gauge>,
    connected: Family<OfEnclave, Gauge>,
    revision: Family<OfEnclave, Gauge<u64, AtomicU64>>,
    failing: AtomicBool,
    noted: Mutex<Noted>,
}

impl Metrics {
    /// Counts from nothing.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("coterie_server");
        let this = |registry: &mut Registry| Self {
            registry: Registry::default(),
            deeds: counted(registry, "deeds", "Deeds done or refused by the keepers of enclaves"),
            batches: {
                let buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
                let histogram = Histogram::new(buckets);
                registry.register(
                    "batch_seconds",
                    "How long a batch of deeds took, its commit included",
                    histogram.clone(),
                );
                histogram
            },
            refused: counted(registry, "enrolments_refused", "Applications that were refused"),
            strangers: counted(
                registry,
                "calls_refused",
                "Calls of people with no key, or one that nobody has, or that ended",
            ),
            failures: counted(registry, "store_failures", "Batches that the database did not take"),
            rollbacks: counted(
                registry,
                "rollbacks_noticed",
                "Nodes that knew newer revocations than this server: an older state was restored",
            ),
            members: of_enclave(registry, "members", "Members that are enrolled"),
            connected: of_enclave(registry, "connected", "Members that follow this server"),
            revision: {
                let family = Family::default();
                registry.register("revision", "The newest change of an enclave", family.clone());
                family
            },
            failing: AtomicBool::new(false),
            noted: Mutex::new(Noted {
                second: (Instant::now(), 0),
                strangers: (Instant::now(), OF_STRANGERS.0),
            }),
        };
        let mut all = this(&mut registry);
        all.registry = registry;
        all
    }

    /// A batch of deeds was done.
    pub(crate) fn batch(&self, deeds: usize, took: Duration) {
        self.deeds.inc_by(u64::try_from(deeds).unwrap_or(u64::MAX));
        self.batches.observe(took.as_secs_f64());
    }

    /// A batch was committed: the database works.
    pub(crate) fn store_works(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// The database did not take a batch.
    pub(crate) fn store_failed(&self) {
        self.failures.inc();
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether the last batch was taken.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// An application was refused.
    pub(crate) fn enrolment_refused(&self) {
        self.refused.inc();
    }

    /// Whether the audit log takes another refusal now.
    pub(crate) fn may_note_refusal(&self, of_a_stranger: bool) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if of_a_stranger {
            let (most, pause) = OF_STRANGERS;
            let (since, left) = &mut noted.strangers;
            let passed = u32::try_from(since.elapsed().as_secs() / pause.as_secs()).unwrap_or(most);
            *since += pause * passed;
            *left = left.saturating_add(passed).min(most);
            let may = *left > 0;
            *left = left.saturating_sub(1);
            return may;
        }
        if noted.second.0.elapsed() >= Duration::from_secs(1) {
            noted.second = (Instant::now(), 0);
        }
        noted.second.1 += 1;
        noted.second.1 <= NOTED
    }

    /// A node knew more than this server.
    pub(crate) fn rollback_noticed(&self) {
        self.rollbacks.inc();
    }

    /// A call by nobody who is known.
    pub(crate) fn call_refused(&self) {
        self.strangers.inc();
    }

    /// An enclave is gone.
    pub(crate) fn forget(&self, tenant: TenantId, enclave: &Name) {
        let labels = OfEnclave::new(tenant, enclave);
        self.members.remove(&labels);
        self.connected.remove(&labels);
        self.revision.remove(&labels);
    }

    /// An enclave as it is now.
    pub(crate) fn enclave(&self, state: &State, connected: usize) {
        let labels = OfEnclave::new(state.tenant, state.enclave.name());
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.members
            .get_or_create(&labels)
            .set(number(state.enclave.enrolled().count()));
        self.connected.get_or_create(&labels).set(number(connected));
        self.revision.get_or_create(&labels).set(state.revision);
    }

    /// All of it, as Prometheus reads it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes what it is given");
        text
    }
}

fn counted(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn of_enclave(registry: &mut Registry, name: &str, help: &str) -> Family<OfEnclave, Gauge> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_of_strangers_little_is_noted_and_of_who_holds_a_token_still_something() {
        let metrics = Metrics::new();
        let noted = |of_a_stranger| (0..1_000).filter(|_| metrics.may_note_refusal(of_a_stranger)).count();
        assert_eq!(noted(true), 20);
        assert_eq!(noted(true), 0, "nor in the next second");
        assert!(noted(false) >= 20);
        // A pause of half a minute gives room for one, and the longest for no more than there was.
        let back = |seconds| {
            let mut noted = metrics.noted.lock().unwrap();
            noted.strangers.0 = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        };
        back(31);
        assert_eq!(noted(true), 1);
        back(3_600);
        assert_eq!(noted(true), 20);
    }
}
