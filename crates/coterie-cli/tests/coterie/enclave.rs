//! Enclave files and enclave directories.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::{contents, coterie, coterie_in, example, root, site};

#[test]
fn a_good_file_passes_with_its_tests() {
    let run = coterie(&["enclave", "check", &example()]).ended(0);
    assert!(
        run.stdout.contains("5 communities, 7 members, 5 tests passed"),
        "{run:?}"
    );
    assert_eq!(run.stdout.matches("passed  ").count(), 5, "{run:?}");
    let run = coterie(&["enclave", "check", &example(), "-o", "json"]).ended(0);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(json["accepted"], true);
    assert_eq!(json["tests"].as_array().unwrap().len(), 5);
}

#[test]
fn bad_files_are_refused_with_line_and_remedy_and_change_nothing() {
    let bad = root().join("crates/coterie-control/tests/enclave_file/bad");
    let site = site();
    let (enclave, fresh) = (site.path().join("enclave"), site.path().join("fresh"));
    let before = contents(site.path());
    let mut files: Vec<_> = fs::read_dir(&bad).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(files.len() >= 30, "{} bad files", files.len());
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap();
        let directories = [("init", &fresh), ("update", &enclave)];
        for (command, directory) in directories {
            let directory = directory.to_str().unwrap();
            let run = coterie_in(&bad, &["enclave", command, name, "--directory", directory]).ended(1);
            assert_eq!(
                (run.stdout.as_str(), run.stderr.as_str()),
                ("", expected.as_str()),
                "{command} {name}"
            );
        }
        let run = coterie_in(&bad, &["enclave", "check", name]).ended(1);
        assert_eq!(
            (run.stdout.as_str(), run.stderr.as_str()),
            (expected.as_str(), ""),
            "check {name}"
        );
        let run = coterie_in(&bad, &["enclave", "check", name, "-o", "json"]).ended(1);
        let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        let first = &json["diagnostics"][0];
        assert!(
            first["line"].as_u64() >= Some(1) && first["remedy"].as_str().is_some(),
            "{name}: {first}"
        );
    }
    assert_eq!(contents(site.path()), before);
}

#[test]
fn a_file_of_ten_megabytes_is_refused_at_once() {
    let site = site();
    let before = contents(&site.path().join("enclave"));
    fs::write(site.path().join("long.toml"), "# long\n".repeat(10 << 17)).unwrap();
    for arguments in [
        ["enclave", "init", "long.toml", "--directory", "fresh"],
        ["enclave", "update", "long.toml", "--directory", "enclave"],
    ] {
        let run = coterie_in(site.path(), &arguments).ended(1);
        assert!(run.stderr.contains("more than the 1048576 that are read"), "{run:?}");
    }
    assert_eq!(contents(&site.path().join("enclave")), before);
    assert!(!site.path().join("fresh").exists());
}

#[test]
fn secrets_are_their_owners_and_a_directory_is_never_overwritten() {
    let site = site();
    let enclave = site.path().join("enclave");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&enclave), 0o700);
    for secret in ["root.key", "statement.key", "epochs.key"] {
        assert_eq!(mode(&enclave.join(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(&site.path().join("web-1.keys")), 0o600);
    let before = contents(site.path());
    let again = coterie_in(site.path(), &["enclave", "init", &example(), "--directory", "enclave"]).ended(1);
    assert!(again.stderr.contains("coterie enclave update"), "{again:?}");
    let keys = ["bundle", "request", "web-1", "--keys", "web-1.keys", "-o", "other"];
    assert!(coterie_in(site.path(), &keys).ended(1).stderr.contains("--force"));
    let bundle = [
        "bundle",
        "issue",
        "--directory",
        "enclave",
        "web-1.request",
        "-o",
        "web-1.bundle",
    ];
    assert!(coterie_in(site.path(), &bundle).ended(1).stderr.contains("--force"));
    assert_eq!(contents(site.path()), before);
}

#[test]
fn show_tells_communities_members_and_bundles() {
    let site = site();
    let run = coterie_in(site.path(), &["enclave", "show", "-d", "enclave", "-o", "json"]).ended(0);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let member = |name: &str| {
        let members = json["members"].as_array().unwrap();
        members.iter().find(|member| member["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&member("web-1")["enrolled"], &member("web-1")["bundle"]),
        (&true.into(), &1.into())
    );
    assert_eq!(member("db-1")["enrolled"], false);
    assert_eq!(json["communities"].as_array().unwrap().len(), 5);
    let text = coterie_in(site.path(), &["enclave", "show", "-d", "enclave"])
        .ended(0)
        .stdout;
    assert!(
        text.lines()
            .any(|line| line.starts_with("web-1") && line.contains("web, web-app")),
        "{text}"
    );
}

#[test]
fn rolls_and_revocations_give_new_epochs() {
    let site = site();
    let run = |arguments: &[&str]| coterie_in(site.path(), arguments);
    let epochs = |community: &str| {
        let json = run(&["enclave", "show", "-d", "enclave", "-o", "json"]).ended(0).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let found = json["communities"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == community)
            .unwrap()
            .clone();
        found["epochs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|epoch| epoch["epoch"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    run(&["enclave", "roll", "web-app", "-d", "enclave", "--activates-in", "5m"]).ended(0);
    assert_eq!(epochs("web-app"), [1, 2]);
    let pending = run(&["enclave", "roll", "web-app", "-d", "enclave"]).ended(1);
    assert!(pending.stderr.contains("activates at"), "{pending:?}");
    let unused = run(&["enclave", "roll", "vault", "-d", "enclave", "--removal"]).ended(0);
    assert!(unused.stdout.contains("so it stays"), "{unused:?}");
    run(&["enclave", "roll", "nothing", "-d", "enclave"]).ended(1);

    let revoked = run(&["enclave", "revoke", "app-1", "-d", "enclave"]).ended(0);
    assert!(revoked.stdout.contains("app-db"), "{revoked:?}");
    assert_eq!(epochs("web-app").last(), Some(&3));
    assert_eq!(epochs("web"), [1]);
    run(&["enclave", "revoke", "app-1", "-d", "enclave"]).ended(1);
    let same = ["bundle", "issue", "-d", "enclave", "app-1.request", "-o", "again"];
    assert!(run(&same).ended(1).stderr.contains("revoked"));
}

#[test]
fn a_changed_file_is_taken_and_a_foreign_one_is_not() {
    let site = site();
    let run = |arguments: &[&str]| coterie_in(site.path(), arguments);
    let text = fs::read_to_string(example()).unwrap();
    let without = text.split("[member.web-2]").next().unwrap().to_owned()
        + "[member.app-1]"
        + text.split("[member.app-1]").nth(1).unwrap();
    fs::write(
        site.path().join("smaller.toml"),
        without.replace("template:web\"\nvia", "web-*\"\nvia"),
    )
    .unwrap();
    let smaller = run(&["enclave", "check", "smaller.toml"]);
    assert_eq!(
        smaller.code,
        Some(1),
        "the test of web among itself selects one member alone: {smaller:?}"
    );
    let with_guest = text + "[member.web-3]\ntemplate = \"web\"\nendpoints = [\"192.0.2.13\"]\n";
    fs::write(site.path().join("larger.toml"), &with_guest).unwrap();
    let larger = run(&["enclave", "update", "larger.toml", "-d", "enclave"]).ended(0);
    assert!(larger.stdout.contains("web-3"), "{larger:?}");
    let before = contents(&site.path().join("enclave"));
    fs::write(
        site.path().join("foreign.toml"),
        with_guest.replace("\"shop\"", "\"bank\""),
    )
    .unwrap();
    let foreign = run(&["enclave", "update", "foreign.toml", "-d", "enclave"]).ended(1);
    assert!(
        foreign.stderr.contains("`bank`") && foreign.stderr.contains("`shop`"),
        "{foreign:?}"
    );
    assert_eq!(contents(&site.path().join("enclave")), before);
}

#[test]
fn a_damaged_directory_is_named_and_left_alone() {
    let site = site();
    let run = |directory: &str| coterie_in(site.path(), &["enclave", "show", "-d", directory]).ended(1);
    assert!(run("nowhere").stderr.contains("coterie enclave init"));
    assert!(run("web-1.keys").stderr.contains("no directory"));
    fs::create_dir(site.path().join("empty")).unwrap();
    assert!(run("empty").stderr.contains("is no enclave directory"));
    let state = site.path().join("enclave/state.json");
    let good = fs::read_to_string(&state).unwrap();
    fs::write(
        &state,
        good.replacen("\"manifest\": \"AwAAAAAA", "\"manifest\": \"AwAAAAAB", 1),
    )
    .unwrap();
    let before = contents(site.path());
    let damaged = run("enclave");
    assert!(damaged.stderr.contains("state.json"), "{damaged:?}");
    let issue = ["bundle", "issue", "-d", "enclave", "--member", "web-1", "-o", "again"];
    coterie_in(site.path(), &issue).ended(1);
    assert_eq!(contents(site.path()), before);
}

#[test]
fn the_policy_explains_itself() {
    let file = example();
    let run = |from: &str, to: &str| coterie(&["explain", "--file", &file, from, to]);
    let reached = run("app-1", "db-1:5432").ended(0);
    assert!(
        reached.stdout.starts_with("app-1 reaches db-1 via app-db\n"),
        "{reached:?}"
    );
    let closed = run("web-1", "db-1").ended(4);
    assert!(closed.stdout.contains("they share no community"), "{closed:?}");
    run("web-1", "nobody").ended(1);
    run("web-1", "Not a name").ended(2);
    let json = coterie(&["explain", "--file", &file, "app-1", "db-1", "-o", "json"])
        .ended(0)
        .stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["chosen"], &json["shared"][1]["community"]),
        (&"app-db".into(), &"admin".into())
    );
}
