//! The server's disk is full, takes no writes, or is an older one: the alarm is clear, and packets go on.

use std::process::Command;
use std::time::Duration;

use coterie_api::v1;
use coterie_lab::{wait_for, within_namespaces};

use crate::{
    FILE,
    flow::Flow,
    site::{DEADLINE, Site},
};

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().expect("mount is there");
    assert!(status.success(), "mount {arguments:?}");
}

/// Whether the server is ready, as its health endpoint says.
fn health(site: &Site) -> String {
    site.told("/health/ready")
}

fn try_token(site: &Site) -> Result<v1::TokenMade, String> {
    let new = v1::NewToken {
        template: crate::site::name("web"),
        member: None,
        uses: 1,
        ttl_seconds: 600,
        ephemeral_seconds: None,
        from: None,
    };
    site.owner(async |owner| {
        let made = owner.post("/v1/enclaves/shop/tokens", &new).await;
        made.map_err(|error| format!("{:?} {error}", error.code()))
    })
}

/// A server whose directory is a disk of its own, and three members: two have met, and a flow between them has begun.
fn on_small_disk() -> (Site, Flow) {
    let mut site = Site::on_disk(FILE, |directory| {
        let directory = directory.to_str().expect("a plain path");
        mount(&["-t", "tmpfs", "-o", "size=4m", "none", directory]);
    });
    for member in ["web-1", "web-2", "web-3"] {
        site.enrolled("web", member);
    }
    site.machine("web-1").ping("web-2");
    wait_for("web-3 to know of web-1", DEADLINE, || {
        site.machine("web-3").peer("web-1").map(drop)
    })
    .expect("it does");
    let flow = Flow::start(site.machine("web-1"), site.machine("web-2"), 1000);
    (site, flow)
}

/// Packets went on all the while, and two that had not met meet.
fn judge_packets(site: &Site, flow: Flow) {
    let stranger = site.machine("web-3").peer("web-1").expect("it is known");
    assert_eq!(stranger.session, None, "they have not met");
    site.machine("web-3").ping("web-1");
    flow.go_on(1000);
    let (sent, lost) = flow.end();
    assert_eq!(lost, 0, "of {sent}");
}

/// The server refuses to write, and says why wherever one looks.
fn judge_alarm(site: &Site, said: &str) {
    // The log that SQLite keeps beside has some room of its own.
    let refused = wait_for("a write that fails", DEADLINE, || try_token(site).err()).expect("nothing can be written");
    assert!(refused.contains("read-only") && refused.contains(said), "{refused}");
    assert!(health(site).contains("503"), "{}", health(site));
    let log = site.server.as_ref().expect("it runs").stderr();
    let alarm = log.lines().find(|line| line.contains("nothing was written"));
    let alarm = alarm.unwrap_or_else(|| panic!("{log}"));
    assert!(alarm.contains("ERROR") && alarm.contains(said), "{alarm}");
}

#[test]
fn a_full_disk_raises_a_clear_alarm_and_stops_no_packet() {
    within_namespaces(|| {
        let (site, flow) = on_small_disk();
        let directory = site.directory.clone();
        let mut filler = std::fs::File::create(directory.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        judge_alarm(&site, "disk is full");
        judge_packets(&site, flow);
        drop(filler);
        std::fs::remove_file(directory.join("filler")).unwrap();
        try_token(&site).expect("there is room again");
        assert!(health(&site).contains("200 OK"), "{}", health(&site));
    });
}

/// The disk takes no writes any more under a server that runs: reading goes on, and what is open for writing fails, as where the
/// kernel gives up on a disk. (It mounts no disk read-only that somebody has open for writing, so that the process is forbidden to
/// write as far as it did.)
#[test]
fn a_disk_that_takes_no_writes_any_more_raises_a_clear_alarm_and_stops_no_packet() {
    within_namespaces(|| {
        let (site, flow) = on_small_disk();
        let server = site.server.as_ref().unwrap();
        let may_write = |bytes: &str| {
            let pid = server.pid().to_string();
            // Its own log is shorter.
            let limit = format!("--fsize={bytes}:");
            let done = site.config.run("prlimit", &["--pid", &pid, &limit]);
            done.and_then(coterie_lab::Output::check).expect("the limit is set");
        };
        may_write("65536");
        judge_alarm(&site, "how its file system is mounted");
        let told = site.member("web-1");
        assert_eq!(told.state, v1::MemberState::Connected, "it reads, and is followed");
        judge_packets(&site, flow);
        may_write("unlimited");
        try_token(&site).expect("it is written again");
        assert!(health(&site).contains("200 OK"), "{}", health(&site));
    });
}

/// A server does not start on a disk that is mounted read-only, and says so; packets do without it.
#[test]
fn a_server_on_a_read_only_disk_says_so_and_stops_no_packet() {
    within_namespaces(|| {
        let (mut site, flow) = on_small_disk();
        let directory = site.directory.clone();
        let remount = |how: &str| {
            let options = format!("remount,{how}");
            mount(&["--options-mode", "ignore", "-o", &options, directory.to_str().unwrap()]);
        };
        site.kill_server();
        // The threads of SQLite close their files with the process.
        site.config.within(|| remount("ro")).unwrap();
        let server = site.serve();
        let ended = server.wait(DEADLINE).expect("it ends");
        let said = server.stderr();
        assert!(!ended.success() && said.contains("read-only"), "{said}");
        judge_packets(&site, flow);
        site.config.within(|| remount("rw")).unwrap();
        site.up();
        try_token(&site).expect("it is written again");
    });
}

/// An old backup is restored: nodes notice, nothing that they have goes back, and everything goes on.
#[test]
fn a_restored_backup_is_noticed_and_sets_nobody_back() {
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        for member in ["web-1", "web-2", "web-3"] {
            site.enrolled("web", member);
        }
        site.machine("web-1").ping("web-2");
        site.tool(&["backup"], &["backup"]);
        let _cut: v1::CutOff =
            site.owner(async |owner| owner.post("/v1/enclaves/shop/members/web-3/revoke", &()).await.unwrap());
        let epoch = |site: &Site| site.machine("web-1").status().communities[0].epoch;
        let before = wait_for("the new epoch", DEADLINE, || epoch(&site).filter(|epoch| *epoch > 1)).expect("it rolls");
        let revision = site.machine("web-1").status().revision;

        site.kill_server();
        let directory = site.directory.clone();
        for name in ["server.db", "server.db-wal", "server.db-shm"] {
            let _none = std::fs::remove_file(directory.join(name));
        }
        site.tool(&["restore"], &["backup"]);
        site.up();
        let machine = site.machine("web-1");
        wait_for("the restored state to be noticed", DEADLINE, || {
            machine.status().alarms.get("restored").copied()
        })
        .unwrap_or_else(|_late| panic!("{}", machine.daemon().stderr()));
        // Who comes first names whom it forgot, be it who was revoked; who comes later may find that it knows again.
        let names = |member: &str| {
            let said = site.machine(member).daemon().stderr();
            said.contains("forgotten=[\"").then_some(())
        };
        wait_for("whom it refused to be named", DEADLINE, || {
            ["web-1", "web-2", "web-3"].into_iter().find_map(names)
        })
        .expect("named");
        wait_for("a newer epoch", DEADLINE, || {
            epoch(&site).filter(|epoch| *epoch > before)
        })
        .expect("epochs go on");
        assert!(site.machine("web-1").status().revision > revision, "revisions go on");
        site.machine("web-1").ping("web-2");
        // Whom it refused it refuses again, because members have shown it whom.
        wait_for("the revocation to be known again", DEADLINE, || {
            (site.member("web-3").state == v1::MemberState::Isolated).then_some(())
        })
        .expect("a member shows its list");
        for member in ["web-1", "web-2"] {
            wait_for("web-3 to be refused", DEADLINE, || {
                let machine = site.machine("web-3");
                (machine.try_ping(member, Duration::from_millis(200)).is_none()).then_some(())
            })
            .expect("nobody speaks with it");
        }
        site.enrolled("web", "web-4").ping("web-1");
    });
}
