//! The operating system's edge: everything that Coterie asks of a Linux kernel, and nothing else.
//!
//! This crate knows interfaces, packets, routes, namespaces and descriptors. It knows no communities, members or
//! sessions, imports none of the other crates, and is the only home of `unsafe`. It has no runtime: descriptors are
//! non-blocking and readiness comes from [`poll::Poller`]; netlink calls block until the kernel has answered, which it
//! does at once.
//!
//! A packet's way through it:
//! 1. [`tun::Tun::recv`] reads a batch of packets, each with room before and behind it;
//! 2. the caller seals each packet into a reservation of a [`udp::SendBatch`];
//! 3. [`udp::UdpPort::send`] hands the batch to the kernel in one call, and counts what the kernel refused;
//! 4. [`udp::UdpPort::recv`] reads a batch of datagrams, which the caller opens in place;
//! 5. [`tun::Tun::send`] writes the packet to the inside.

#![expect(
    unsafe_code,
    reason = "the one crate that speaks to the kernel where no safe wrapper exists; each use carries its SAFETY comment"
)]

pub mod capture;
pub mod clock;
pub mod entropy;
pub mod generation;
pub mod link;
pub mod local;
pub mod lockdown;
pub mod memory;
mod netlink;
pub mod netns;
pub mod poll;
mod socket;
pub mod tcp;
pub mod tun;
pub mod udp;
