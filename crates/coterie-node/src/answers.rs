//! The core's values in the words of the contract.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coterie_api::{Failure, node as api};
use coterie_model::{CommunityTag, Name};
use coterie_proto::{
    DropReason,
    node::{Explanation, PeerStatus, Status},
};

/// What the daemon knows beside the core.
pub struct Surroundings<'a> {
    /// The inside interface.
    pub interface: &'a str,
    /// UDP port outside.
    pub port: u16,
    /// Seconds since start.
    pub uptime: f64,
    /// How the identity came.
    pub identity: &'a str,
    /// Lockdown in words.
    pub lockdown: String,
    /// The way to the server.
    pub server: Option<api::Server>,
    /// What it does as a door.
    pub door: Option<api::Door>,
    /// Whether a token made it a member.
    pub by_token: bool,
    /// Alarms by kind.
    pub alarms: BTreeMap<String, u64>,
}

/// The node's state.
#[must_use]
pub fn status(status: &Status, around: &Surroundings<'_>) -> api::Status {
    let names: BTreeMap<CommunityTag, Name> = status.communities.iter().map(|c| (c.tag, c.name.clone())).collect();
    api::Status {
        name: status.name.clone(),
        enclave: status.enclave.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        interface: around.interface.into(),
        addresses: status.addresses.iter().map(ToString::to_string).collect(),
        port: around.port,
        uptime: around.uptime,
        protocol_time: status.time.0,
        membership_ends: status.communities.iter().map(|c| c.not_after.0).min().unwrap_or(0),
        membership: membership(status, around.server.as_ref()),
        server: around.server.clone(),
        by_token: around.by_token,
        door: around.door,
        alarms: around.alarms.clone(),
        forked: status.forked,
        identity: around.identity.into(),
        lockdown: around.lockdown.clone(),
        revision: status.revision,
        communities: status
            .communities
            .iter()
            .map(|c| api::Community {
                name: c.name.clone(),
                priority: c.priority,
                holders: c.holders,
                epoch: c.epoch,
                not_after: c.not_after.0,
            })
            .collect(),
        peers: status.peers.iter().map(|p| peer(p, &names)).collect(),
        counters: counters(status),
    }
}

/// Whether this node is a member still, and if not, why.
fn membership(status: &Status, server: Option<&api::Server>) -> String {
    if status.forked {
        return "ended: this machine was forked or restored, and its keys are gone".to_owned();
    }
    if status.refused {
        return "ended: this machine is isolated, or its membership was revoked".to_owned();
    }
    if status.communities.iter().any(|c| c.not_after > status.time) {
        return "current".to_owned();
    }
    match server {
        None => "ended: the bundle ran out; have a new one issued".to_owned(),
        Some(server) => match &server.trouble {
            Some(trouble) => format!("ended: the lease ran out, and the server renewed it not: {trouble}"),
            None if server.state == "following" => {
                "ended: the lease ran out, and the server has not renewed it yet".to_owned()
            }
            None => "ended: the lease ran out while no server answered".to_owned(),
        },
    }
}

fn peer(peer: &PeerStatus, names: &BTreeMap<CommunityTag, Name>) -> api::Peer {
    let state = match (peer.revoked, &peer.session, peer.connecting) {
        (true, ..) => "revoked",
        (_, Some(_), _) => "up",
        (_, None, true) => "connecting",
        (_, None, false) => "silent",
    };
    api::Peer {
        name: peer.name.clone(),
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        endpoint: peer.endpoint,
        state: state.into(),
        session: peer.session.as_ref().and_then(|s| {
            Some(api::Session {
                community: names.get(&s.tag)?.clone(),
                epoch: s.epoch,
                suite: s.suite.into(),
                age: s.age.as_secs_f64(),
                initiator: s.initiator,
            })
        }),
        sent: peer.sent,
        delivered: peer.delivered,
    }
}

fn counters(status: &Status) -> api::Counters {
    let counts = &status.counts;
    api::Counters {
        sent_packets: counts.sent,
        sent_bytes: counts.sent_bytes,
        delivered_packets: counts.delivered,
        delivered_bytes: counts.delivered_bytes,
        initiated: counts.initiated,
        responded: counts.responded,
        drops: counts
            .drops
            .iter()
            .map(|(reason, n)| (reason.name().to_owned(), n))
            .collect(),
    }
}

/// Why a destination is reached as it is.
#[must_use]
pub fn explanation(destination: IpAddr, e: &Explanation) -> api::Explanation {
    let installed = e
        .installed
        .and_then(|tag| e.candidates.iter().find(|(c, _)| c.tag == tag));
    api::Explanation {
        destination,
        member: e.peer.clone(),
        candidates: e
            .candidates
            .iter()
            .map(|(c, verdict)| api::Candidate {
                community: c.community.clone(),
                priority: c.priority,
                holders: c.holders,
                verdict: verdict.to_string(),
            })
            .collect(),
        chosen: coterie_model::choose::chosen(&e.candidates).map(|c| c.community.clone()),
        installed: installed.map(|(c, _)| c.community.clone()),
        refused: e.refused.map(|r| r.name().to_owned()),
    }
}

/// A refusal with what to do about it.
#[must_use]
pub fn failure(reason: DropReason, destination: &str) -> Failure {
    let (message, remedy) = if reason == DropReason::NoMember {
        (
            format!("nobody in this node's directory has {destination}"),
            "`coterie status` lists the members that this node may know",
        )
    } else if reason == DropReason::NoCommonCommunity {
        (
            format!("this node shares no usable community with {destination}"),
            "`coterie explain` shows the communities and why each was left out",
        )
    } else if reason == DropReason::NoEndpoint {
        (
            format!("the outside address of {destination} is not known"),
            "give the member an endpoint in the enclave file; where there is no server, issue this node's bundle anew",
        )
    } else if reason == DropReason::Revoked {
        (
            format!("{destination} is isolated, or its membership was revoked"),
            "whoever runs the enclave knows why: `coterie audit tail`, or the enclave's directory",
        )
    } else if reason == DropReason::MembershipEnded {
        (
            "this node's membership has ended".to_owned(),
            "`coterie status` says why; have a new bundle issued with `coterie bundle issue` and reload, or ask whoever runs the \
             enclave's server",
        )
    } else {
        (
            format!("nothing can be sent to {destination}: {}", reason.name()),
            "`coterie status` has more",
        )
    };
    Failure {
        code: reason.name().into(),
        message,
        remedy: remedy.into(),
    }
}
