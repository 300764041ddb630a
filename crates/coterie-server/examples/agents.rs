//! Load on a server: members that follow it, and how fast a change reaches them. Prints one JSON object.
//!
//! `agents --server ADDR:PORT --authority FILE --pid PID --streams N --groups N --changes N`, with the key of a tenant's owner in
//! `COTERIE_KEY`. It makes an enclave `load` with a community for each group, enrols the members, follows with each of them over
//! a TLS connection of its own, then isolates and releases members one after the other and measures when everybody who shares
//! a community with them has heard of it.

#[path = "../tests/nodes/machine.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod machine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use coterie_api::v1;
use coterie_control::follow::Message;
use machine::{Machine, Person, Stream, name};
use tokio::sync::{Semaphore, mpsc};

struct Settings {
    server: std::net::SocketAddr,
    authority: Vec<u8>,
    pid: u32,
    streams: usize,
    groups: usize,
    changes: usize,
}

fn main() {
    let settings = settings();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let report = runtime.block_on(run(settings));
    std::io::Write::write_all(&mut std::io::stdout(), format!("{report}\n").as_bytes()).expect("somebody reads it");
}

fn settings() -> Settings {
    let arguments: Vec<String> = std::env::args().collect();
    let of = |flag: &str| {
        let at = arguments
            .iter()
            .position(|a| a == flag)
            .unwrap_or_else(|| panic!("{flag} is missing"));
        arguments[at + 1].clone()
    };
    Settings {
        server: of("--server").parse().expect("an address"),
        authority: std::fs::read(of("--authority")).expect("the authority's file"),
        pid: of("--pid").parse().expect("a process"),
        streams: of("--streams").parse().expect("a number"),
        groups: of("--groups").parse().expect("a number"),
        changes: of("--changes").parse().expect("a number"),
    }
}

fn file(groups: usize) -> String {
    let mut text = "version = 1\n[enclave]\nname = \"load\"\npools = [\"10.0.0.0/8\"]\n".to_owned();
    for group in 0..groups {
        text.push_str(&format!(
            "[community.group-{group}]\n[template.group-{group}]\ncommunities = [\"group-{group}\"]\n"
        ));
    }
    text
}

async fn run(settings: Settings) -> serde_json::Value {
    let key = std::env::var("COTERIE_KEY").expect("COTERIE_KEY");
    let owner = Person::connect(settings.server, &settings.authority, &key)
        .await
        .expect("the server is there");
    owner
        .apply("load", &file(settings.groups))
        .await
        .expect("the file is taken");
    let before = resident(settings.pid);

    let began = Instant::now();
    let machines = enrol(&owner, &settings).await;
    let enrolled = began.elapsed();

    let (heard, mut ears) = mpsc::unbounded_channel();
    let began = Instant::now();
    let gate = Arc::new(Semaphore::new(64));
    for (n, machine) in machines.into_iter().enumerate() {
        let (heard, gate) = (heard.clone(), Arc::clone(&gate));
        tokio::spawn(async move {
            let shaking = gate.acquire_owned().await;
            let mut stream = machine.follow(0).await.expect("it follows");
            let (_, mark) = stream.until_mark().await;
            drop(shaking);
            heard.send((n, None)).expect("somebody listens");
            listen(n, &mut stream, mark, &heard).await;
        });
    }
    for _ in 0..settings.streams {
        ears.recv().await.expect("streams open");
    }
    let following = began.elapsed();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (resident_idle, cpu) = (resident(settings.pid), cpu_share(settings.pid).await);

    let mut delays = Vec::new();
    for change in 0..settings.changes {
        let victim = format!("m-{}", change % settings.streams);
        let verb = if change % 2 == 0 { "isolate" } else { "release" };
        let victim = if change % 2 == 0 {
            victim
        } else {
            format!("m-{}", (change - 1) % settings.streams)
        };
        let began = Instant::now();
        let path = format!("/v1/enclaves/load/members/{victim}/{verb}");
        let asked = owner.post::<v1::CutOff>(&path, &());
        let mut waiting = settings.streams;
        let collect = async {
            while waiting > 0 {
                let (_, at) = ears.recv().await.expect("streams live");
                if let Some(at) = at {
                    let at: Instant = at;
                    delays.push(at.duration_since(began));
                    waiting -= 1;
                }
            }
        };
        let (cut, ()) = tokio::join!(asked, collect);
        cut.expect("it is done");
    }
    delays.sort_unstable();
    let at = |percent: usize| {
        let place = delays.len().saturating_sub(1) * percent / 100;
        delays.get(place).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    };
    serde_json::json!({
        "streams": settings.streams,
        "groups": settings.groups,
        "enrolled_per_second": settings.streams as f64 / enrolled.as_secs_f64(),
        "following_per_second": settings.streams as f64 / following.as_secs_f64(),
        "resident_before_mb": before,
        "resident_idle_mb": resident_idle,
        "cpu_idle_percent": cpu,
        "changes": settings.changes,
        "heard": delays.len(),
        "delay_ms": { "p50": at(50), "p99": at(99), "max": at(100) },
    })
}

/// Tells when the stream's member hears of revocations, each time.
async fn listen(n: usize, stream: &mut Stream, _mark: u64, heard: &mpsc::UnboundedSender<(usize, Option<Instant>)>) {
    while let Some(message) = stream.next().await {
        match message {
            Message::Revocations(_) => {
                if heard.send((n, Some(Instant::now()))).is_err() {
                    return;
                }
            }
            Message::Mark(mark) => stream.ack(mark).await,
            Message::Pulse(_)
            | Message::Manifests(..)
            | Message::View(_)
            | Message::Renew
            | Message::Knocks(_)
            | Message::Explain { .. } => {}
        }
    }
}

async fn enrol(owner: &Person, settings: &Settings) -> Vec<Machine> {
    let gate = Arc::new(Semaphore::new(32));
    let mut tokens = Vec::new();
    for group in 0..settings.groups {
        let new = v1::NewToken {
            template: name(&format!("group-{group}")),
            member: None,
            uses: u32::try_from(settings.streams).expect("fewer"),
            ttl_seconds: 3600,
            ephemeral_seconds: None,
            from: None,
        };
        tokens.push(Arc::new(owner.token_of("load", &new).await));
    }
    let tasks: Vec<_> = (0..settings.streams)
        .map(|n| {
            let (gate, token) = (Arc::clone(&gate), Arc::clone(&tokens[n % settings.groups]));
            tokio::spawn(async move {
                let _turn = gate.acquire_owned().await;
                let mut machine = Machine::new(&format!("m-{n}"), &token);
                machine.enrol(&token).await.expect("it is let in");
                machine
            })
        })
        .collect();
    let mut machines = Vec::with_capacity(tasks.len());
    for task in tasks {
        machines.push(task.await.expect("no enrolment failed"));
    }
    machines
}

/// Resident memory of a process, in MB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0.0);
    kib * 1024.0 / 1e6
}

/// Processor time of a process over five seconds, in per cent of one core.
async fn cpu_share(pid: u32) -> f64 {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let of = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        of(11) + of(12)
    };
    let before = ticks();
    tokio::time::sleep(Duration::from_secs(5)).await;
    (ticks() - before) / 5.0
}
