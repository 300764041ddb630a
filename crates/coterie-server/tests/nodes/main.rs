//! What nodes see of a server that runs as it is shipped.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of message among many"
)]

mod certificates;
mod crash;
mod doors;
mod due;
mod follow;
mod hostile;
mod machine;
mod site;
mod story;
mod strangers;
mod tls;
mod token;
