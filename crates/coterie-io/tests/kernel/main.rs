//! What the crate asks of the kernel, asked of a real one: in network namespaces that each test makes for itself.

mod links;
mod lockdown;
mod locked;
mod memory;
mod namespace;
mod packets;
mod wire;
