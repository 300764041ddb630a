//! Requests and bundles.

use std::fs;
use std::path::Path;

use crate::{contents, coterie_in, example, site};

fn json(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&coterie_in(directory, arguments).ended(0).stdout).unwrap()
}

#[test]
fn a_bundle_opens_with_its_keys_and_says_what_is_in_it() {
    let site = site();
    let claimed = json(site.path(), &["bundle", "show", "web-1.bundle", "-o", "json"]);
    assert_eq!(
        (&claimed["claimed"]["name"], &claimed["claimed"]["serial"]),
        (&"web-1".into(), &1.into())
    );
    let opened = json(
        site.path(),
        &["bundle", "show", "web-1.bundle", "--keys", "web-1.keys", "-o", "json"],
    );
    assert_eq!(opened["addresses"], serde_json::json!(["10.77.1.1", "fd77::1:1"]));
    let communities: Vec<_> = opened["communities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(communities.len(), 2, "{communities:?}");
    assert_eq!(opened["template"]["lockdown"], true);
    let peers: Vec<_> = opened["directory"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert!(peers.contains(&"app-1") && !peers.contains(&"db-1"), "{peers:?}");
    let text = coterie_in(site.path(), &["bundle", "show", "web-1.bundle", "--keys", "web-1.keys"])
        .ended(0)
        .stdout;
    assert!(
        text.contains("web-1 in enclave shop") && text.contains("192.0.2.12:4747"),
        "{text}"
    );
}

#[test]
fn secrets_are_printed_only_when_asked_for() {
    let site = site();
    let arguments = ["bundle", "show", "app-1.bundle", "--keys", "app-1.keys", "--secrets"];
    let identity = json(site.path(), &arguments);
    assert_eq!(identity["name"], "app-1");
    assert_eq!(identity["static_private"].as_str().unwrap().len(), 64);
    assert_eq!(identity["keys"].as_array().unwrap().len(), 3);
    assert_eq!(identity["statements"].as_array().unwrap().len(), 3);
    let key = identity["keys"][0]["key"].as_str().unwrap();
    let web = identity["peers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["name"] == "web-1")
        .unwrap();
    assert_eq!(web["static"].as_str().unwrap().len(), 64);
    for more in [&[][..], &["-o", "json"]] {
        let shown = coterie_in(site.path(), &[&arguments[..5], more].concat())
            .ended(0)
            .stdout;
        assert!(!shown.contains(key) && !shown.contains(identity["static_private"].as_str().unwrap()));
    }
    coterie_in(site.path(), &["bundle", "show", "app-1.bundle", "--secrets"]).ended(2);
}

#[test]
fn bad_bundles_are_refused_with_place_and_remedy_and_change_nothing() {
    let site = site();
    let good = fs::read_to_string(site.path().join("web-1.bundle")).unwrap();
    coterie_in(site.path(), &["enclave", "init", &example(), "-d", "other"]).ended(0);
    let foreign = [
        "bundle",
        "issue",
        "-d",
        "other",
        "web-1.request",
        "-o",
        "foreign.bundle",
    ];
    coterie_in(site.path(), &foreign).ended(0);
    let root = json(site.path(), &["enclave", "show", "-d", "enclave", "-o", "json"])["root"].clone();

    let flipped = |text: &str| {
        let middle = text.len() / 2;
        let at = middle + text[middle..].find('A').unwrap();
        format!("{}B{}", &text[..at], &text[at + 1..])
    };
    let request = fs::read_to_string(site.path().join("web-1.request")).unwrap();
    let bad = [
        ("empty", String::new(), "the file is empty"),
        ("truncated", good[..good.len() / 2].to_owned(), "truncated"),
        ("edited", flipped(&good), "does not check"),
        (
            "edited-header",
            good.replace("Member: web-1", "Member: web-2"),
            "line 3, column 13",
        ),
        ("appended", good.clone() + "more\n", "nothing may follow"),
        ("no-base64", good.replacen("AA", "A!", 1), "is not base64"),
        ("no-bundle", "hello\n".to_owned(), "line 1, column 1"),
        ("a-request", request, "expected `-----BEGIN COTERIE BUNDLE-----`"),
        (
            "wrong-machine",
            fs::read_to_string(site.path().join("app-1.bundle")).unwrap(),
            "wrong machine",
        ),
        (
            "foreign",
            fs::read_to_string(site.path().join("foreign.bundle")).unwrap(),
            "foreign",
        ),
    ];
    for (name, text, _) in &bad {
        fs::write(site.path().join(name), text).unwrap();
    }
    let before = contents(site.path());
    for (name, _, expected) in &bad {
        let verify = [
            "bundle",
            "verify",
            name,
            "--keys",
            "web-1.keys",
            "--root",
            root.as_str().unwrap(),
        ];
        let run = coterie_in(site.path(), &verify).ended(1);
        assert!(
            run.stderr.contains(expected) && run.stderr.contains(name),
            "{name}: {}",
            run.stderr
        );
        assert!(run.stderr.contains("; "), "{name} has no remedy: {}", run.stderr);
        if *name != "foreign" {
            let up = ["up", "--bundle", name, "--keys", "web-1.keys", "--socket", "run/socket"];
            let run = coterie_in(site.path(), &up).ended(1);
            assert!(run.stderr.contains(expected), "{name}: {}", run.stderr);
        }
    }
    assert_eq!(contents(site.path()), before);
    coterie_in(
        site.path(),
        &["bundle", "verify", "web-1.bundle", "--keys", "web-1.keys"],
    )
    .ended(0);
}

#[test]
fn requests_are_compared_and_strangers_are_not_enrolled() {
    let site = site();
    let run = |arguments: &[&str]| coterie_in(site.path(), arguments);
    let made = run(&["bundle", "request", "db-1", "--keys", "db.keys", "-o", "db.request"])
        .ended(0)
        .stdout;
    let fingerprint = made
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint "))
        .unwrap()
        .to_owned();
    let issue = |fingerprint: &str, output: &str| {
        run(&[
            "bundle",
            "issue",
            "-d",
            "enclave",
            "db.request",
            "--fingerprint",
            fingerprint,
            "-o",
            output,
        ])
    };
    let before = contents(&site.path().join("enclave"));
    assert!(issue("0000", "bundle").ended(1).stderr.contains(&fingerprint));
    run(&["bundle", "request", "stranger", "--keys", "s.keys", "-o", "s.request"]).ended(0);
    let stranger = run(&["bundle", "issue", "-d", "enclave", "s.request", "-o", "s.bundle"]).ended(1);
    assert!(stranger.stderr.contains("no member `stranger`"), "{stranger:?}");
    assert!(!site.path().join("s.bundle").exists());
    assert_eq!(contents(&site.path().join("enclave")), before);
    issue(&fingerprint, "db.bundle").ended(0);
}

#[test]
fn keys_can_be_made_at_the_issuer_and_bundles_renewed() {
    let site = site();
    let run = |arguments: &[&str]| coterie_in(site.path(), arguments);
    run(&[
        "bundle",
        "issue",
        "-d",
        "enclave",
        "--new",
        "db-2",
        "--keys",
        "db.keys",
        "-o",
        "db.bundle",
    ])
    .ended(0);
    run(&["bundle", "verify", "db.bundle", "--keys", "db.keys"]).ended(0);
    run(&["bundle", "issue", "-d", "enclave", "--member", "db-2", "-o", "db.2"]).ended(0);
    assert_eq!(
        json(site.path(), &["bundle", "show", "db.2", "-o", "json"])["claimed"]["serial"],
        2
    );
    run(&["bundle", "issue", "-d", "enclave", "--all", "-o", "all"]).ended(0);
    let mut names: Vec<_> = fs::read_dir(site.path().join("all"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["app-1.bundle", "db-2.bundle", "web-1.bundle"]);
    run(&["bundle", "issue", "-d", "enclave", "--all", "-o", "all"]).ended(1);
    run(&["bundle", "issue", "-d", "enclave", "--member", "db-1", "-o", "x"]).ended(1);
    run(&["bundle", "issue", "-d", "enclave", "-o", "x"]).ended(2);
}
