//! The server's disk is full, or its state an older one: the alarm is clear, and packets go on.

use std::process::Command;
use std::time::Duration;

use coterie_api::v1;
use coterie_lab::{wait_for, within_namespaces};

use crate::{
    FILE,
    site::{DEADLINE, Site},
};

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().expect("mount is there");
    assert!(status.success(), "mount {arguments:?}");
}

/// What the health endpoint answers.
fn health(site: &Site) -> String {
    let asked = site.config.within(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9750").expect("health is told");
        stream
            .write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .expect("asked");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        text
    });
    asked.expect("the host is there")
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

#[test]
fn a_full_disk_raises_a_clear_alarm_and_stops_no_packet() {
    within_namespaces(|| {
        let mut site = Site::on_disk(FILE, |directory| {
            mount(&["-t", "tmpfs", "-o", "size=4m", "none", directory.to_str().unwrap()]);
        });
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        let directory = site.directory.clone();
        let mut filler = std::fs::File::create(directory.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        // The log that SQLite keeps beside has some room of its own.
        let refused =
            wait_for("a write that does not fit", DEADLINE, || try_token(&site).err()).expect("the disk is full");
        assert!(
            refused.contains("read-only") && refused.contains("disk is full"),
            "{refused}"
        );
        assert!(health(&site).contains("503"), "{}", health(&site));
        let log = site.server.as_ref().unwrap().stderr();
        assert!(log.contains("nothing was written"), "{log}");
        site.machine("web-1").ping("web-2");
        drop(filler);
        std::fs::remove_file(directory.join("filler")).unwrap();
        try_token(&site).expect("there is room again");
        assert!(health(&site).contains("200 OK"), "{}", health(&site));
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
        // Who comes first names whom it forgot; who comes later may find that it knows again.
        let names = |member: &str| {
            let said = site.machine(member).daemon().stderr();
            said.contains("forgotten=[\"").then_some(())
        };
        wait_for("whom it refused to be named", DEADLINE, || {
            names("web-1").or_else(|| names("web-2"))
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
