//! Conformance: what any back end of the store must do. Each test has a database of its own, in a file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod backup;
mod crash;
#[cfg(feature = "crash-points")]
mod crash_points;
mod enrolment;
mod feed;
mod full;
mod isolation;
mod races;
mod resources;
mod seals;
mod site;
mod transactions;
