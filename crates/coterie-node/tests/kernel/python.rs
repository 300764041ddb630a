//! A second implementation, written from `docs/WIRE.md` alone, talks to `coteried` in both roles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coterie_lab::{programs::Ping, wait_for, within_namespaces};

use crate::site::{DEADLINE, Site, name, now};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository")
}

/// Where its packages are, or why the test cannot run.
fn packages() -> Result<PathBuf, String> {
    let path =
        std::env::var_os("COTERIE_PYTHON_PACKAGES").map_or_else(|| repository().join("target/python"), PathBuf::from);
    if path.join("cryptography").is_dir() {
        return Ok(path);
    }
    Err(format!(
        "skipped: the Python peer's packages are not in {}; `make python` installs them",
        path.display()
    ))
}

/// What the peer holds, as `coterie bundle show --secrets -o json` prints it.
fn identity(site: &mut Site, member: &str) -> String {
    use coterie_control::bundle::Bundle;
    let text = site
        .issuer
        .issue(&name(member), now(), &mut coterie_node::entropy::SystemEntropy)
        .expect("a bundle");
    let keys = &site.machine(member).keys;
    let bundle = Bundle::parse(text.as_bytes()).expect("a bundle");
    let opened = bundle.open(keys, None, now(), 0).expect("opened");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let list = |all: Vec<String>| format!("[{}]", all.join(","));
    let keys_json = opened
        .keys
        .iter()
        .map(|k| {
            format!(
                r#"{{"tag":"{}","epoch":{},"key":"{}"}}"#,
                k.tag,
                k.epoch,
                hex(k.key.expose())
            )
        })
        .collect();
    let peers = opened
        .directory
        .iter()
        .map(|p| {
            format!(
                r#"{{"name":"{}","static":"{}","addresses":{:?},"endpoints":{:?},"statements":{:?}}}"#,
                p.name,
                hex(&p.statements[0].static_key),
                p.addresses.iter().map(|a| a.addr().to_string()).collect::<Vec<_>>(),
                p.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
                p.statements.iter().map(|s| hex(s.bytes())).collect::<Vec<_>>()
            )
        })
        .collect();
    format!(
        r#"{{"static_private":"{}","authority":"{}","root_key":"{}","keys":{},"manifests":{:?},"statements":{:?},"peers":{},"revocations":null,"head":null,"counter":0}}"#,
        hex(keys.static_key().private().expose()),
        hex(opened.authority.bytes()),
        hex(&opened.root.0),
        list(keys_json),
        opened.manifests.iter().map(|m| hex(m.bytes())).collect::<Vec<_>>(),
        opened.statements.iter().map(|s| hex(s.bytes())).collect::<Vec<_>>(),
        list(peers)
    )
}

#[test]
fn the_python_peer_calls_and_is_called() {
    within_namespaces(|| {
        let packages = match packages() {
            Ok(packages) => packages,
            Err(reason) => return eprintln!("{reason}"),
        };
        let mut site = Site::new(&[("rust", &["both"]), ("python", &["both"])]);
        let identity = identity(&mut site, "python");
        site.machine_mut("rust").start();
        site.machine("rust").wait_ready();
        let python = site.machine("python");
        python.host.write_file("identity.json", identity).expect("a file");
        let script = repository().join("tests/python_peer/peer.py");
        let peer = |arguments: &[&str]| {
            let common = ["--listen", "192.0.2.2:4747", "--identity"];
            python
                .host
                .command("python3")
                .arg(&script)
                .args(arguments)
                .args(common)
                .arg(python.host.directory().join("identity.json"))
                .env("PYTHONPATH", &packages)
                .deadline(Duration::from_secs(30))
        };
        for suite in ["aes-256-gcm", "chacha20-poly1305", "aes-256-gcm-siv"] {
            let called = peer(&["ping", "--peer", "rust", "--count", "3", "--rekey", "--prefer", suite])
                .run()
                .expect("runs");
            assert!(called.is_success(), "{suite}: {}{}", called.stdout, called.stderr);
            assert_eq!(called.stdout.matches(r#""echo""#).count(), 3, "{}", called.stdout);
            assert!(
                called.stdout.contains(suite) && called.stdout.contains(r#""rekey": "done""#),
                "{}",
                called.stdout
            );
        }
        let served = peer(&["serve", "--seconds", "20"]).spawn().expect("starts");
        wait_for("the peer to listen", DEADLINE, || {
            served.stdout().contains("listening").then_some(())
        })
        .expect("listens");
        let pinged = Ping::new(python.inside)
            .count(3)
            .from(&site.machine("rust").host)
            .expect("ping runs");
        assert_eq!(pinged.received, 3, "{pinged:?} {}", served.stdout());
    });
}
