//! The hand and a server, each as it is shipped.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Run, coterie, coterie_in, example};

/// A server on an address of its own, and somebody's desk beside it.
struct Site {
    directory: tempfile::TempDir,
    address: String,
    process: Child,
    /// The operator's key.
    operator: String,
}

/// `coterie-server` beside the program; a test is skipped where only this package was built.
fn program() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_coterie")).with_file_name("coterie-server");
    if beside.exists() {
        return Some(beside);
    }
    let required = std::env::var_os("COTERIE_LAB_REQUIRED").is_some();
    assert!(!required, "{} was not built", beside.display());
    eprintln!("skipped: {} was not built", beside.display());
    None
}

/// An address of the loopback network that no other test listens on.
fn own_loopback() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let [_, _, high, low] = pid.to_be_bytes();
    format!(
        "127.{}.{}.{}",
        128 | high & 0x7f,
        low,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

impl Site {
    /// Makes and starts a server; `None` where there is no program.
    fn start() -> Option<Self> {
        program().map(|program| Self::of(&program))
    }

    fn of(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("server");
        let made = Command::new(program)
            .args(["init", "--directory"])
            .arg(&state)
            .output()
            .unwrap();
        let text = String::from_utf8(made.stdout).unwrap();
        let operator = text.lines().find(|line| line.starts_with("coterie-key-1.")).unwrap();
        let address = own_loopback();
        let listen = format!("{address}:4750");
        let mut process = Command::new(program)
            .args(["serve", "--directory"])
            .arg(&state)
            .args(["--listen", &listen, "--advertise", &listen, "--name", &address])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        assert!(log.any(|line| line.contains(" ready ")), "the server ended");
        // What it says later must not fill the pipe.
        std::thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
        Self {
            directory,
            address,
            process,
            operator: operator.to_owned(),
        }
    }

    /// With tenant `acme`, whose owner is logged in.
    fn with_tenant() -> Option<Self> {
        let this = Self::start()?;
        this.login(&this.operator).ended(0);
        let key = this.run(&["tenant", "create", "acme"]).ended(0).stdout;
        this.login(key.trim()).ended(0);
        Some(this)
    }

    /// With the example applied.
    fn with_enclave() -> Option<Self> {
        let this = Self::with_tenant()?;
        this.run(&["apply", "--yes", "-f", &example()]).ended(0);
        Some(this)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coterie"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("XDG_CONFIG_HOME", self.directory.path().join("config"))
            .stdin(Stdio::null());
        for name in ["COTERIE_SERVER", "COTERIE_KEY", "COTERIE_CA", "COTERIE_ENCLAVE"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, &[], "")
    }

    /// With more of the environment, and something on standard input.
    fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Run {
        let mut child = self
            .command(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who reads nothing may have ended already.
        let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let run = self.run(&[arguments, &["-o", "json"]].concat()).ended(0);
        serde_json::from_str(&run.stdout).unwrap()
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn login(&self, key: &str) -> Run {
        self.run_with(&["login", &self.url(), "--ca", "server/ca.pem"], &[], key)
    }

    fn state_of(&self, member: &str) -> Value {
        self.json(&["get", "members", member])["state"].clone()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// Enrols a member of the example by hand.
    fn enrol(&self, member: &str) {
        let file = |what: &str| format!("{member}.{what}");
        let (keys, request, bundle) = (file("keys"), file("request"), file("bundle"));
        self.run(&["bundle", "request", member, "--keys", &keys, "-o", &request])
            .ended(0);
        self.run(&["vm", "bundle", member, "--request", &request, "-o", &bundle])
            .ended(0);
        self.run(&["bundle", "verify", &bundle, "--keys", &keys]).ended(0);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

#[test]
fn a_login_needs_a_server_that_is_known_and_a_key_that_is_good() {
    let Some(site) = Site::start() else { return };
    let url = site.url();
    let key = site.operator.clone();
    let unasked = site.run_with(&["login", &url], &[], &key).ended(2);
    assert!(
        unasked.stderr.contains("SHA-256 fingerprint") && unasked.stderr.contains("--ca"),
        "{unasked:?}"
    );
    let fingerprint = unasked
        .stderr
        .lines()
        .find(|line| line.matches(':').count() == 31)
        .unwrap()
        .trim()
        .to_owned();
    let other = fingerprint.replace(|c: char| c.is_ascii_hexdigit(), "0");
    site.run_with(&["login", &url, "--fingerprint", &other], &[], &key)
        .ended(3);
    site.run_with(&["login", &url, "--fingerprint", "00"], &[], &key)
        .ended(2);
    site.login("coterie-join-1.abc").ended(2);
    let foreign = format!("coterie-key-1.{}", "A".repeat(43));
    let refused = site.login(&foreign).ended(1);
    assert!(!refused.stderr.contains(&foreign), "an error shows no key: {refused:?}");
    site.run_with(&["login", "http://localhost"], &[], &key).ended(2);
    let config = site.directory.path().join("config");
    assert!(!config.exists(), "what failed is not kept");

    site.run_with(&["login", &url, "--fingerprint", &fingerprint], &[], &key)
        .ended(0);
    let stored = config.join("coterie/server.json");
    assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);
    site.run(&["tenant", "list"]).ended(0);
    site.write("key", &key);
    site.run(&["login", &url, "--ca", "server/ca.pem", "--key-file", "key"])
        .ended(0);
    let known = site.run(&["login", &url, "--key-file", "key"]).ended(0);
    assert!(
        !known.stderr.contains("fingerprint"),
        "whoever was asked is not asked again: {known:?}"
    );
    site.write("config/coterie/server.json", "no login");
    site.run(&["login", &url, "--key-file", "key"]).ended(2);
    site.run(&["logout"]).ended(0);
    assert!(!stored.exists());
    let unknown = site.run(&["tenant", "list"]).ended(2);
    assert!(unknown.stderr.contains("coterie login"), "{unknown:?}");
}

#[test]
fn the_environment_says_it_for_one_command_and_a_key_goes_to_its_server_alone() {
    let Some(site) = Site::with_tenant() else { return };
    let url = site.url();
    let all = [
        ("COTERIE_SERVER", url.as_str()),
        ("COTERIE_KEY", &site.operator),
        ("COTERIE_CA", "server/ca.pem"),
    ];
    let tenants = site.run_with(&["tenant", "list", "-o", "json"], &all, "").ended(0);
    assert!(tenants.stdout.contains("acme"), "{tenants:?}");
    let elsewhere = [("COTERIE_SERVER", "https://127.0.0.1:1")];
    let run = site.run_with(&["get", "enclaves"], &elsewhere, "").ended(2);
    assert!(run.stderr.contains("no key for https://127.0.0.1:1"), "{run:?}");
    let elsewhere = [elsewhere[0], all[1], all[2]];
    let run = site.run_with(&["get", "enclaves"], &elsewhere, "").ended(3);
    assert!(run.stderr.contains("127.0.0.1:1"), "{run:?}");
    // A tenant's owner is no operator.
    site.run(&["tenant", "create", "other"]).ended(4);
}

#[test]
fn a_file_is_shown_before_it_is_applied_and_applied_once() {
    let Some(site) = Site::with_tenant() else { return };
    let none = site.run(&["get", "members"]).ended(1);
    assert!(none.stderr.contains("coterie apply"), "{none:?}");
    let file = example();
    let diff = site.run(&["diff", "-f", &file]).ended(1);
    let reach = diff.stdout.find("who reaches whom").unwrap();
    assert!(reach < diff.stdout.find("members:").unwrap(), "{diff:?}");
    assert!(diff.stdout.contains("+ app-1 <-> web-1 by web-app"), "{diff:?}");
    site.run(&["apply", "-f", &file, "--dry-run"]).ended(0);
    let unasked = site.run(&["apply", "-f", &file]).ended(2);
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    assert_eq!(site.json(&["get", "enclaves"]), serde_json::json!([]));

    let made = site.json(&["apply", "--yes", "-f", &file]);
    assert_eq!((&made["created"], &made["version"]), (&true.into(), &1.into()));
    site.run(&["diff", "-f", &file]).ended(0);
    assert_eq!(site.json(&["apply", "--yes", "-f", &file])["changed"], false);

    let text = fs::read_to_string(&file).unwrap();
    site.write("slower.toml", &text.replacen("lease = \"1h\"", "lease = \"2h\"", 1));
    let diff = site.run(&["diff", "-f", "slower.toml"]).ended(1);
    assert!(diff.stdout.contains("~ enclave.lease: 1h -> 2h"), "{diff:?}");
    let applied = site.json(&["apply", "--yes", "-f", "slower.toml"]);
    assert_eq!((&applied["version"], &applied["reach_total"]), (&2.into(), &0.into()));
}

#[test]
fn a_bad_file_is_refused_here_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("bad.toml"), "version = 1\n[enclave\n").unwrap();
    for (command, code) in [
        (&["apply", "--yes", "-f", "bad.toml"][..], 1),
        (&["diff", "-f", "bad.toml"], 2),
    ] {
        let run = coterie_in(directory.path(), command).ended(code);
        assert!(run.stderr.contains("bad.toml:2:"), "{run:?}");
        assert!(!run.stderr.contains("login"), "{run:?}");
    }
    coterie_in(directory.path(), &["diff", "-f", "none.toml"]).ended(2);
}

#[test]
fn members_live_and_end() {
    let Some(site) = Site::with_enclave() else { return };
    assert_eq!(site.state_of("web-1"), "expected");
    site.enrol("web-1");
    assert_eq!(site.state_of("web-1"), "enrolled");
    let member = site.run(&["get", "member", "web-1"]).ended(0);
    assert!(member.stdout.contains("fingerprint"), "{member:?}");
    let again = ["vm", "bundle", "web-2", "--request", "web-1.request", "-o", "x.bundle"];
    let wrong = site.run(&again).ended(1);
    assert!(wrong.stderr.contains("request of web-1"), "{wrong:?}");

    let isolated = site.run(&["vm", "isolate", "web-1"]).ended(0);
    assert!(
        isolated.stdout.contains("nobody follows the server now"),
        "{isolated:?}"
    );
    assert_eq!(site.state_of("web-1"), "isolated");
    let known = site.run(&["vm", "isolate", "web-1"]).ended(0);
    assert!(known.stdout.contains("was isolated already"), "{known:?}");
    site.run(&["vm", "release", "web-1"]).ended(0);
    assert_eq!(site.state_of("web-1"), "enrolled");

    let revoked = site.json(&["vm", "revoke", "web-1"]);
    assert_eq!(revoked[0]["communities_rolled"], serde_json::json!(["web", "web-app"]));
    assert_eq!(site.state_of("web-1"), "expected");

    site.enrol("web-2");
    let ended = site.run(&["vm", "end", "web-2", "app-1"]).ended(0);
    assert_eq!(ended.stdout, "ended 1 member: web-2\nnot enrolled: app-1\n");
    site.run(&["get", "members", "nobody"]).ended(1);
    site.run(&["get", "members", "Not-A-Name"]).ended(2);
    site.run(&["vm", "isolate", "nobody"]).ended(1);

    let explained = site.run(&["explain", "web-1", "app-1:8080"]).ended(0);
    assert!(
        explained
            .stdout
            .contains("yes web-1 reaches app-1 by community web-app"),
        "{explained:?}"
    );
    assert!(explained.stdout.contains("sender web-1 does not say"), "{explained:?}");
    site.run(&["explain", "web-1", "db-1", "-e", "shop"]).ended(4);
    site.run(&["explain", "--server", "db-1"]).ended(2);
}

#[test]
fn tokens_are_shown_once() {
    let Some(site) = Site::with_enclave() else { return };
    let options = [
        "--uses",
        "2",
        "--ttl",
        "5m",
        "--ephemeral=20m",
        "--from",
        "192.0.2.7/24",
    ];
    let made = site
        .run(&[&["token", "create", "--template", "web"], &options[..]].concat())
        .ended(0);
    assert!(
        made.stdout.starts_with("coterie-join-1.") && made.stdout.lines().count() == 1,
        "{made:?}"
    );
    assert_eq!(made.stderr, "");
    let tokens = site.json(&["token", "list"]);
    let token = &tokens[0];
    for (field, value) in [
        ("uses_allowed", Value::from(2)),
        ("ephemeral_seconds", 1_200.into()),
        ("from", "192.0.2.0/24".into()),
        ("made_by", "owner".into()),
    ] {
        assert_eq!(token[field], value, "{field} of {token}");
    }
    let id = token["id"].as_str().unwrap();
    let shown = site.run(&["get", "tokens", &id[..8]]).ended(0);
    assert!(shown.stdout.contains("uses        0 of 2"), "{shown:?}");
    site.run(&["token", "revoke", &id[..8]]).ended(0);
    let list = site.run(&["token", "list"]).ended(0);
    assert!(list.stdout.contains("revoked"), "{list:?}");
    site.run(&["token", "revoke", "zz"]).ended(1);
    site.run(&["token", "create", "--template", "none"]).ended(1);
    for bad in [
        &["token", "create"][..],
        &["token", "create", "--template", "web", "--uses", "0"],
        &["token", "create", "--template", "web", "--name", "web-1", "--uses", "2"],
        &["token", "create", "--template", "web", "--from", "here"],
        &["token", "create", "--template", "web", "--ttl", "soon"],
    ] {
        site.run(bad).ended(2);
    }
}

#[test]
fn keys_of_people_and_of_communities_and_roots_are_replaced() {
    let Some(site) = Site::with_enclave() else { return };
    let key = site
        .run(&["key", "create", "ada", "--role", "auditor", "--ttl", "1h"])
        .ended(0)
        .stdout;
    site.run(&["key", "create", "ada", "--role", "auditor"]).ended(1);
    let as_ada = [("COTERIE_KEY", key.trim())];
    site.run_with(&["get", "members"], &as_ada, "").ended(0);
    site.run_with(&["token", "create", "--template", "web"], &as_ada, "")
        .ended(4);
    site.run_with(&["key", "list"], &as_ada, "").ended(4);
    site.run(&["key", "revoke", "ada"]).ended(0);
    site.run_with(&["get", "members"], &as_ada, "").ended(1);
    site.run(&["key", "revoke", "nobody"]).ended(1);

    site.enrol("web-1");
    let rolled = site.run(&["coi", "rotate-key", "web", "--removal"]).ended(0);
    assert!(rolled.stdout.starts_with("web: epoch 2 activates"), "{rolled:?}");
    site.run(&["coi", "rotate-key", "nothing"]).ended(1);
    let before = site.json(&["get", "enclaves", "shop"])["root_hash"].clone();
    site.run(&["root", "rotate"]).ended(2);
    site.run(&["root", "rotate", "--yes"]).ended(0);
    assert_ne!(site.json(&["get", "enclaves", "shop"])["root_hash"], before);
}

#[test]
fn the_log_is_followed_and_what_is_removed_is_gone() {
    let Some(site) = Site::with_enclave() else { return };
    let mut tail = site
        .command(&["audit", "tail", "-f", "-n", "1", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["action"], "enclave.create");
    let start = Instant::now();
    site.run(&["token", "create", "--template", "web"]).ended(0);
    assert_eq!(next()["action"], "token.create");
    assert!(start.elapsed() < Duration::from_secs(20), "it is told as it happens");
    tail.kill().unwrap();
    tail.wait().unwrap();
    let lines = site.run(&["audit", "tail", "-n", "2"]).ended(0).stdout;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.ends_with("uses=1\n"), "{lines}");

    site.run(&["enclave", "remove", "shop"]).ended(2);
    let operator = [("COTERIE_KEY", site.operator.as_str())];
    let full = site
        .run_with(&["tenant", "remove", "acme", "--yes"], &operator, "")
        .ended(1);
    assert!(full.stderr.contains("enclave"), "{full:?}");
    site.run(&["enclave", "remove", "shop", "--yes"]).ended(0);
    site.run(&["get", "members", "-e", "shop"]).ended(1);
    site.run_with(&["tenant", "remove", "acme", "--yes"], &operator, "")
        .ended(0);
    site.run(&["get", "enclaves"]).ended(1);
}

#[test]
fn several_enclaves_are_told_apart() {
    let Some(site) = Site::with_enclave() else { return };
    let text = fs::read_to_string(example()).unwrap();
    site.write("second.toml", &text.replacen("name = \"shop\"", "name = \"second\"", 1));
    site.run(&["apply", "--yes", "-f", "second.toml"]).ended(0);
    let which = site.run(&["get", "members"]).ended(2);
    assert!(
        which.stderr.contains("second") && which.stderr.contains("shop"),
        "{which:?}"
    );
    site.run(&["get", "members", "-e", "second"]).ended(0);
    site.run_with(&["get", "members"], &[("COTERIE_ENCLAVE", "shop")], "")
        .ended(0);
}

#[test]
fn without_a_login_it_is_said_how_to_get_one() {
    for command in [
        &["get", "enclaves"][..],
        &["token", "list"],
        &["vm", "isolate", "web-1"],
        &["audit", "tail"],
        &["key", "list"],
        &["explain", "--server", "a", "b"],
    ] {
        let run = coterie(command).ended(2);
        assert!(run.stderr.contains("coterie login"), "{run:?}");
    }
    coterie(&["logout"]).ended(0);
}
