//! `coteried` and its server, also where the server is away, set back, mute, or somebody else.

use std::path::PathBuf;

use coterie_api::{
    Answer, CallError, Client, Failure, Request,
    node::{Peer, Status},
};
use coterie_control::follow::message;
use coterie_lab::{Child, Host, HostCommand, programs::Ping, wait_for, within_namespaces};
use coterie_model::Revocations;

use crate::{
    server::{Keeper, SECOND, SERVER, Served},
    site::{DEADLINE, name, now},
};

const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/16"]
lease = "10m"
[community.all]
[template.web]
communities = ["all"]
return = "ticket"
"#;

/// A machine that has a token.
struct Machine {
    name: &'static str,
    host: Host,
    daemon: Option<Child>,
}

impl Machine {
    fn new(served: &Served, name: &'static str, number: u8) -> Self {
        let address = [format!("192.0.2.{number}/24").parse().expect("an address")];
        let host = served.lab.host(name, &served.bridge, &address).expect("a host");
        host.write_file("token", served.keeper().token.to_text().as_bytes())
            .expect("a file");
        Self {
            name,
            host,
            daemon: None,
        }
    }

    /// One that has enrolled and follows.
    fn up(served: &Served, name: &'static str, number: u8) -> Self {
        let mut this = Self::new(served, name, number);
        this.start();
        this.follows();
        this
    }

    fn at(&self, file: &str) -> PathBuf {
        self.host.directory().join(file)
    }

    fn command(&self) -> HostCommand {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_coteried")).args([
            "--log",
            "coterie_node=debug",
            "--name",
            self.name,
            "--lockdown",
            "on",
        ]);
        for option in ["bundle", "keys", "state", "socket", "token"] {
            command = command.arg(format!("--{option}")).arg(self.at(option));
        }
        command
    }

    fn start(&mut self) {
        self.daemon = Some(self.command().spawn().expect("coteried starts"));
        let ready = wait_for("coteried to be ready", DEADLINE, || {
            assert!(self.daemon().is_running(), "{}: {}", self.name, self.daemon().stderr());
            Client::connect(&self.at("socket")).ok()
        });
        assert!(ready.is_ok(), "{}: {}", self.name, self.daemon().stderr());
    }

    fn kill(&self) {
        self.daemon().kill().expect("killed");
    }

    fn daemon(&self) -> &Child {
        self.daemon.as_ref().expect("it was started")
    }

    fn call(&self, request: &Request) -> Result<Answer, Failure> {
        match Client::connect(&self.at("socket")).and_then(|mut client| client.call(request)) {
            Ok(answer) => Ok(answer),
            Err(CallError::Refused(failure)) => Err(failure),
            Err(other) => panic!("{other}"),
        }
    }

    fn status(&self) -> Status {
        let Ok(Answer::Status(status)) = self.call(&Request::Status) else {
            panic!("no status");
        };
        *status
    }

    fn ping(&self, destination: &str) -> Result<(), Failure> {
        let request = Request::Ping {
            destination: destination.into(),
            timeout_ms: 5000,
        };
        self.call(&request).map(drop)
    }

    fn peers(&self) -> Vec<Peer> {
        self.status().peers
    }

    fn inside(&self) -> String {
        let addresses = self.status().addresses;
        let first = addresses.first().and_then(|text| text.split('/').next());
        first.expect("an address").to_owned()
    }

    /// Waits until something is so.
    fn wait(&self, what: &str, is_so: impl Fn(&Status) -> bool) {
        let came = wait_for(what, 2 * DEADLINE, || is_so(&self.status()).then_some(()));
        assert!(came.is_ok(), "{what}: {:?}\n{}", self.status(), self.daemon().stderr());
    }

    fn follows(&self) {
        self.wait("it to follow", is_following);
    }

    /// What a boot leaves of the state: nothing of what was kept, but for what is on disk for good.
    fn boots(&self) {
        self.kill();
        std::fs::remove_file(self.at("state/identity")).expect("it was kept");
    }
}

fn is_following(status: &Status) -> bool {
    status.server.as_ref().is_some_and(|server| server.state == "following")
}

/// Waits until the server has seen something.
fn seen(served: &Served, what: &str, is_so: impl Fn(&Keeper) -> bool) {
    let came = wait_for(what, DEADLINE, || is_so(&served.keeper()).then_some(()));
    assert!(came.is_ok(), "{what}");
}

#[test]
fn a_member_follows_renews_and_acknowledges() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        let one = Machine::up(&served, "one", 11);
        seen(&served, "ready", |keeper| keeper.ready == 1);
        let status = one.status();
        assert_eq!((status.membership.as_str(), status.by_token), ("current", true));
        let before = status.server.expect("a server").serial;
        served.keeper().tell_all(&[message::renew()]);
        one.wait("a new bundle", |status| {
            status.server.as_ref().is_some_and(|server| server.serial > before)
        });
        one.wait("the mark", |status| {
            status.server.as_ref().is_some_and(|server| server.mark == 2)
        });
        seen(&served, "an acknowledgement", |keeper| keeper.acknowledged.contains(&2));
        // Two meet by what the server tells, and a member that it takes away is gone.
        let two = Machine::up(&served, "two", 12);
        let entry = {
            let mut keeper = served.keeper();
            let entry = keeper
                .enclave
                .entry(&name("two"), &name("all"), now())
                .expect("a member");
            let tag = keeper.enclave.tag(&name("all")).expect("a community");
            keeper.tell_all(&message::change(tag, &[entry], &[]));
            tag
        };
        one.wait("the other", |status| status.peers.len() == 1);
        one.ping("two").expect("it answers");
        served.keeper().tell_all(&message::change(entry, &[], &[name("two")]));
        one.wait("nobody", |status| status.peers.is_empty());
        assert!(is_following(&two.status()));
    });
}

#[test]
fn who_a_member_is_lies_beside_its_socket_for_other_programs() {
    within_namespaces(|| {
        use coterie_control::bundle::{subject_of, to_pem};
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        use std::os::unix::fs::PermissionsExt as _;

        let served = Served::new(FILE, "web");
        let one = Machine::up(&served, "one", 11);
        let root = std::fs::read_to_string(one.at("root.pem")).expect("it is there");
        assert_eq!(root, to_pem(served.keeper().enclave.root_certificate()));
        let identity = || CertificateDer::from_pem_file(one.at("identity.pem")).expect("a certificate");
        let before = identity();
        let (enclave, member, key) = subject_of(&before).expect("an identity");
        assert_eq!((enclave, &member), (name("shop"), &name("one")));
        assert_eq!(served.keeper().enclave.identity_key(&member), Some(&key));
        for file in ["identity.pem", "root.pem"] {
            let mode = std::fs::metadata(one.at(file))
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o644, "{file}");
        }
        served.keeper().tell_all(&[message::renew()]);
        let newer = wait_for("a new certificate", DEADLINE, || (identity() != before).then_some(()));
        assert!(newer.is_ok(), "{}", one.daemon().stderr());
        assert_eq!(one.call(&Request::Down), Ok(Answer::Done));
        let gone = wait_for("nothing to be left", DEADLINE, || {
            ["identity.pem", "root.pem"]
                .iter()
                .all(|file| !one.at(file).exists())
                .then_some(())
        });
        assert!(gone.is_ok(), "{}", one.daemon().stderr());
    });
}

#[test]
fn a_server_that_was_set_back_is_not_believed_and_that_is_said() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        let one = Machine::up(&served, "one", 11);
        let (old, first) = {
            let mut keeper = served.keeper();
            let first = keeper
                .enclave
                .issue(&name("one"), now(), &mut coterie_node::entropy::SystemEntropy)
                .expect("a bundle");
            let old = message::revocations(keeper.enclave.revocations().expect("a list"));
            keeper
                .enclave
                .isolate(&name("one"), now())
                .and_then(|_| keeper.enclave.release(&name("one"), now()))
                .expect("isolated and released");
            let new = message::revocations(keeper.enclave.revocations().expect("a list"));
            keeper.tell_all(&[new]);
            (old, first)
        };
        let revision = |machine: &Machine| machine.status().revision;
        let known = served
            .keeper()
            .enclave
            .revocations()
            .map(|list: &coterie_model::Signed<Revocations>| list.revision);
        one.wait("the new revocations", |status| Some(status.revision) == known);
        served.keeper().tell_all(&[old]);
        one.wait("an alarm", |status| status.alarms.get("rollback") == Some(&1));
        assert_eq!(Some(revision(&one)), known, "it goes not back");
        // A bundle with a serial below the one in use.
        served.keeper().tell_all(&[message::renew()]);
        let serial = one.status().server.expect("a server").serial;
        one.wait("a bundle", |status| {
            status.server.as_ref().is_some_and(|server| server.serial > serial)
        });
        served.keeper().manners.gives = Some(first);
        served.keeper().tell_all(&[message::renew()]);
        one.wait("another alarm", |status| status.alarms.get("rollback") == Some(&2));
        let Ok(Answer::Metrics(metrics)) = one.call(&Request::Metrics) else {
            panic!("no metrics");
        };
        assert!(
            metrics.contains("coterie_alarms_total{kind=\"rollback\"} 2"),
            "{metrics}"
        );
        let trouble = one.status().server.and_then(|server| server.trouble);
        assert!(trouble.is_some_and(|why| why.contains("serial")), "status says it");
        assert_eq!(one.status().membership, "current");
    });
}

#[test]
fn killed_while_the_server_is_away_it_knows_its_peers_and_goes_on_from_the_mark() {
    within_namespaces(|| {
        let mut served = Served::new(FILE, "web");
        let one = Machine::up(&served, "one", 11);
        let two = Machine::up(&served, "two", 12);
        let change = {
            let mut keeper = served.keeper();
            let entries: Vec<_> = ["one", "two"]
                .iter()
                .filter_map(|member| keeper.enclave.entry(&name(member), &name("all"), now()))
                .collect();
            let tag = keeper.enclave.tag(&name("all")).expect("a community");
            let mut change = message::change(tag, &entries, &[]);
            // The newest bundle is one without views.
            change.push(message::renew());
            keeper.tell_all(&change);
            keeper.revision
        };
        for machine in [&one, &two] {
            machine.wait("everything", |status| {
                status
                    .server
                    .as_ref()
                    .is_some_and(|server| server.mark == change && server.serial > 1)
                    && status.peers.len() == 1
            });
        }
        served.down();
        one.kill();
        let mut one = one;
        one.start();
        assert_eq!(one.status().identity, "recovered");
        assert_eq!(one.peers().len(), 1, "known without a server");
        one.ping("two").expect("it answers");
        assert!(!is_following(&one.status()));
        served.keeper().follows.clear();
        served.up();
        one.follows();
        let asked = served.keeper().follows.last().copied().expect("it followed");
        assert_eq!(asked.mark, change, "told already");
        assert!(
            asked.serial > 1 && asked.revocations == one.status().revision,
            "{asked:?}"
        );
    });
}

#[test]
fn a_server_that_says_nothing_is_left_for_another() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        let one = Machine::up(&served, "one", 11);
        let address = |status: &Status| status.server.as_ref().and_then(|server| server.address);
        assert_eq!(address(&one.status()), SERVER.parse().ok());
        served.keeper().manners.is_mute = true;
        one.wait("the other server", |status| {
            is_following(status) && address(status) == SECOND.parse().ok()
        });
        assert!(served.keeper().follows.len() >= 2);
    });
}

#[test]
fn a_refusal_of_one_is_a_hint_and_of_all_an_end() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        served.keeper().manners.refuses_at = Some(4750);
        let one = Machine::up(&served, "one", 11);
        assert_eq!(one.status().identity, "enrolled", "by the second one");
        // The token of another enclave, or one that was spent: every server says so.
        let two = Machine::new(&served, "two", 12);
        served.another_token();
        let ended = two.command().deadline(2 * DEADLINE).run().expect("coteried runs");
        assert_eq!(ended.status.code(), Some(77), "{ended:?}");
        assert!(ended.stderr.contains("refuses this machine"), "{}", ended.stderr);
    });
}

#[test]
fn a_ticket_lets_a_machine_in_again_and_a_fresh_token_comes_first() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        let mut one = Machine::up(&served, "one", 11);
        let ticket = |served: &Served| served.keeper().ticket.as_ref().map(|ticket| *ticket.expose());
        let first = ticket(&served);
        assert_eq!(served.keeper().shown, [None]);
        std::fs::remove_file(one.at("token")).expect("spent, and taken away");
        // kill -9 alone takes neither token nor ticket.
        one.kill();
        one.start();
        assert_eq!(one.status().identity, "recovered");
        one.boots();
        one.start();
        assert_eq!(one.status().identity, "enrolled");
        assert_eq!(served.keeper().shown, [None, first], "the one that was given before");
        let second = ticket(&served);
        assert_ne!(first, second);
        one.follows();
        // The hypervisor's event brings another token.
        let fresh = served.another_token();
        one.host
            .write_file("token", fresh.to_text().as_bytes())
            .expect("a file");
        one.boots();
        one.start();
        assert_eq!(one.status().identity, "enrolled");
        assert_eq!(served.keeper().shown.len(), 3);
        one.follows();
    });
}

#[test]
fn enrolling_only_writes_bundle_and_keys_with_which_coteried_starts() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        let mut one = Machine::new(&served, "one", 11);
        let ended = one
            .command()
            .arg("--enrol-only")
            .deadline(DEADLINE)
            .run()
            .expect("coteried runs");
        assert!(ended.is_success(), "{ended:?}");
        let tables = one.host.run("nft", &["list", "tables"]).expect("nft runs");
        assert!(!tables.stdout.contains("coterie"), "no lockdown: {tables:?}");
        for file in ["bundle", "keys"] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(one.at(file))
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        std::fs::remove_file(one.at("token")).expect("used");
        one.start();
        assert_eq!(one.status().identity, "bundle");
        one.follows();
        // Both files are older than what the server gave since, which is not lost to them.
        served.keeper().tell_all(&[message::renew()]);
        one.wait("a new bundle", |status| {
            status.server.as_ref().is_some_and(|server| server.serial > 1)
        });
        one.kill();
        one.start();
        assert_eq!(one.status().identity, "recovered");
        assert!(one.status().server.is_some_and(|server| server.serial > 1));
        assert_eq!(one.call(&Request::Reload), Ok(Answer::Done), "it is the newest");
        one.follows();
    });
}

#[test]
fn enrolling_only_knows_where_to_write_before_it_uses_the_token() {
    within_namespaces(|| {
        let served = Served::new(FILE, "web");
        let one = Machine::new(&served, "one", 11);
        let enrol = |bundle: &str, keys: &str| {
            let in_its_directory = one.host.command("sh").arg("-c").arg("cd \"$0\" && exec \"$@\"");
            let command = in_its_directory.arg(one.host.directory()).args([
                env!("CARGO_BIN_EXE_coteried"),
                "--enrol-only",
                "--name",
                "one",
                "--token",
                "token",
                "--state",
                "state",
                "--bundle",
                bundle,
                "--keys",
                keys,
            ]);
            command.deadline(DEADLINE).run().expect("coteried runs")
        };
        for (bundle, keys) in [("none/bundle", "keys"), ("bundle", "none/keys"), (".", "keys")] {
            let ended = enrol(bundle, keys);
            assert!(
                !ended.is_success() && ended.stderr.contains("cannot write"),
                "{ended:?}"
            );
        }
        assert!(served.keeper().shown.is_empty(), "nobody was asked");
        let ended = enrol("bundle", "keys");
        assert!(ended.is_success(), "{ended:?}");
        for file in ["bundle", "keys", "state/ticket"] {
            assert!(one.at(file).exists(), "{file}");
        }
    });
}

#[test]
fn members_that_no_view_names_are_found_by_asking() {
    within_namespaces(|| {
        let mut served = Served::new(FILE, "web");
        served.keeper().manners.tells_nobody = true;
        // Its bundle names nobody who is not there yet.
        let one = Machine::up(&served, "one", 11);
        let two = Machine::up(&served, "two", 12);
        let three = Machine::up(&served, "three", 13);
        one.wait("nobody", |status| status.peers.is_empty() && is_following(status));
        one.ping("two").expect("found by its name");
        assert_eq!(one.peers().len(), 1);
        let failure = one.ping("nobody").expect_err("there is none");
        assert_eq!(failure.code, "unknown-member");
        // A packet waits for the answer, and goes through.
        let three = three.inside().parse().expect("an address");
        let pinged = Ping::new(three).count(3).from(&one.host).expect("ping runs");
        assert_eq!(pinged.received, 3, "{pinged:?}");
        let nobody = "10.77.200.200".parse().expect("an address");
        let pinged = Ping::new(nobody).count(2).from(&one.host).expect("ping runs");
        assert!(pinged.is_prohibited(), "its program is told: {pinged:?}");
        // Who asks the server how one reaches another is answered by the node.
        served.keeper().tell_all(&[message::explain(7, &two.inside())]);
        seen(&served, "an explanation", |keeper| {
            keeper.explained.iter().any(|told| {
                told.id == 7
                    && told
                        .explanation
                        .as_ref()
                        .is_some_and(|e| e.installed == Some(name("all")))
            })
        });
        served.keeper().tell_all(&[message::explain(8, "nobody")]);
        seen(&served, "a failure", |keeper| {
            keeper
                .explained
                .iter()
                .any(|told| told.id == 8 && told.failure.is_some())
        });
        served.down();
        one.wait("it to be away", |status| !is_following(status));
        let nobody = "10.77.200.201".parse().expect("an address");
        let pinged = Ping::new(nobody).count(1).from(&one.host).expect("ping runs");
        assert!(pinged.is_prohibited(), "nobody can be asked: {pinged:?}");
    });
}

#[test]
fn a_machine_that_goes_for_good_says_so() {
    within_namespaces(|| {
        let mut served = Served::new(FILE, "web");
        let one = Machine::up(&served, "one", 11);
        assert_eq!(one.call(&Request::Leave), Ok(Answer::Done));
        assert_eq!(served.keeper().byes, [name("one")]);
        served.down();
        one.wait("it to be away", |status| !is_following(status));
        let failure = one.call(&Request::Leave).expect_err("nobody is told");
        assert_eq!(failure.code, "server");
    });
}
