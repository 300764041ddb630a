//! A story that people and machines do with a server step by step, what is known after each, and what can be seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coterie_api::v1;
use coterie_control::{
    bundle::{Bundle, Keys, Request},
    enrol::{Ticket, Token},
};
use coterie_crypto::Secret;
use coterie_store::Store;
use http::{HeaderMap, Method};

use crate::site::{FILE, Kernel, Machine, Person, Site, name, now};

/// Steps that make ready for the next one, and are not looked at themselves.
pub(crate) const QUIET: &str = "ready ";
/// Steps that nobody asks for: the server does them when they are due, and after its death all the same.
pub(crate) const DUE: [&str; 2] = ["roll due", "expire"];
/// How long an ephemeral member stays.
const BRIEF: u64 = 3;

/// What the server acknowledged.
#[derive(Default, Clone)]
pub(crate) struct Known {
    owner: Option<String>,
    second: Option<KeyOfPrincipal>,
    tokens: BTreeMap<&'static str, Arc<Token>>,
    machines: BTreeMap<&'static str, Arc<Machine>>,
    /// Of the machine that a step enrols.
    keys: BTreeMap<&'static str, Arc<Keys>>,
    epochs: BTreeMap<&'static str, u64>,
    root: Option<String>,
}

/// Id and key.
type KeyOfPrincipal = (String, String);

/// The machine that a step enrols.
fn enrols(step: &'static str) -> Option<&'static str> {
    ["enrol ", "return "].iter().find_map(|what| step.strip_prefix(what))
}

/// Draws what a step needs, so that it can be done again with the same.
pub(crate) fn prepare(known: &mut Known, step: &'static str) {
    if let Some(named) = enrols(step) {
        let keys = Keys::generate(name(named), &mut Kernel);
        known.keys.insert(step, Arc::new(keys));
    }
}

/// Does a step; what is known then, if it was acknowledged.
pub(crate) async fn take(site: &Site, known: &Known, step: &'static str) -> Option<Known> {
    let mut known = known.clone();
    if step == "tenant" || step == "ready tenant" {
        let operator = site.try_person(&site.operator).await?;
        let new = v1::NewTenant {
            name: name("acme"),
            owner: None,
        };
        let made: v1::TenantMade = operator.post("/v1/tenants", &new).await.ok()?;
        known.owner = Some(made.owner.key.expose().to_owned());
    }
    if step == "delete tenant" {
        let operator = site.try_person(&site.operator).await?;
        operator.delete("/v1/tenants/acme").await.ok()?;
        return Some(known);
    }
    let owner = site.try_person(known.owner.as_ref().unwrap()).await?;
    if let Some(named) = enrols(step) {
        let token = Arc::clone(&known.tokens[&named[..named.len() - 2]]);
        let mut machine = Machine::new(named, &token);
        machine.keys = known.keys[step].for_delivery(&mut Kernel);
        if step.starts_with("return ") {
            machine.ticket = known.machines[named].ticket.as_ref().map(Ticket::duplicate);
        }
        machine.enrol(&token).await?;
        known.machines.insert(named, Arc::new(machine));
        return Some(known);
    }
    if let Some(template) = step.strip_prefix("token ").filter(|template| *template != "gone") {
        let token = owner.try_token(template, 3).await?;
        known.tokens.insert(template, Arc::new(token));
        return Some(known);
    }
    of_people(&owner, &mut known, step).await?;
    of_machines(&owner, &mut known, step).await?;
    Some(known)
}

async fn of_people(owner: &Person, known: &mut Known, step: &'static str) -> Option<()> {
    match step {
        "apply" | "ready tenant" => drop(owner.apply("shop", FILE).await.ok()?),
        "change" => drop(owner.apply("shop", &changed()).await.ok()?),
        "move" => {
            let moved = changed().replace(
                "[template.gate]\ncommunities = [\"web\"]",
                "[template.gate]\ncommunities = [\"db\"]",
            );
            drop(owner.apply("shop", &moved).await.ok()?);
        }
        "principal" => {
            let new = v1::NewPrincipal {
                name: name("second"),
                role: v1::Role::Admin,
                ttl_seconds: None,
            };
            let made: v1::PrincipalMade = owner.post("/v1/principals", &new).await.ok()?;
            known.second = Some((made.principal.id, made.key.expose().to_owned()));
        }
        "principal gone" => {
            let path = format!("/v1/principals/{}", known.second.as_ref().unwrap().0);
            owner.delete(&path).await.ok()?;
        }
        "token gone" => {
            let id: String = known.tokens["web"]
                .id
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            owner.delete(&format!("/v1/enclaves/shop/tokens/{id}")).await.ok()?;
        }
        "by hand" => {
            let mut machine = Machine::new("gate-1", &known.tokens["web"]);
            let request = Request::new(&machine.keys).unwrap().to_text();
            let path = "/v1/enclaves/shop/members/gate-1/bundle";
            let answer = owner
                .call(Method::POST, path, "text/plain", request.into())
                .await
                .ok()?;
            let bundle = Bundle::parse(&answer.accepted().ok()?.body).unwrap();
            machine.opened = Some(bundle.open(&machine.keys, Some(machine.root), now(), 0).unwrap());
            known.machines.insert("gate-1", Arc::new(machine));
        }
        "rotate" => rotate(owner, known, "db", v1::RollKind::Scheduled).await?,
        "removal" => rotate(owner, known, "web", v1::RollKind::Removal).await?,
        "root" => {
            let rotated: v1::RootRotated = owner.post("/v1/enclaves/shop/root/rotate", &()).await.ok()?;
            known.root = Some(rotated.root_hash);
        }
        "roll due" => {
            let ends = Instant::now() + Duration::from_secs(30);
            while newest(owner, "web").await? < 2 {
                assert!(Instant::now() < ends, "what is due is done");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            known.epochs.insert("web", 2);
        }
        "end many" => {
            let names = vec![name("gate-1")];
            let ended: v1::Ended = owner
                .post("/v1/enclaves/shop/members/end", &v1::EndMembers { names })
                .await
                .ok()?;
            assert_eq!(ended.ended, [name("gate-1")]);
        }
        "delete enclave" => drop(owner.delete("/v1/enclaves/shop").await.ok()?),
        _of_machines => {}
    }
    Some(())
}

async fn of_machines(owner: &Person, known: &mut Known, step: &'static str) -> Option<()> {
    let cut = |what: &str, of: &str| format!("/v1/enclaves/shop/members/{of}/{what}?wait_ms=0");
    match step {
        "isolate" | "release" => drop(owner.post::<v1::CutOff>(&cut(step, "web-1"), &()).await.ok()?),
        "revoke" => drop(owner.post::<v1::CutOff>(&cut(step, "web-2"), &()).await.ok()?),
        "renew" => {
            let renewed = renewed(&known.machines["web-1"]).await?;
            known.machines.insert("web-1", Arc::new(renewed));
        }
        "bye" => {
            let connection = known.machines["app-1"].member().await.ok()?;
            let said = connection.request(
                Method::POST,
                "/v1/node/bye",
                HeaderMap::new(),
                Vec::new().into(),
                1 << 16,
            );
            drop(said.await.ok()?.accepted().ok()?);
        }
        "end" => drop(owner.delete("/v1/enclaves/shop/members/web-1").await.ok()?),
        "ready brief" => {
            let brief = v1::NewToken {
                template: name("web"),
                member: None,
                uses: 1,
                ttl_seconds: 3600,
                ephemeral_seconds: Some(BRIEF),
                from: None,
            };
            let token = owner.token_of("shop", &brief).await;
            Machine::new("web-9", &token).enrol(&token).await?;
        }
        "expire" => {
            let ends = Instant::now() + Duration::from_secs(30);
            let is_there = |members: v1::List<v1::Member>| members.items.iter().any(|m| m.name == name("web-9"));
            while is_there(owner.get("/v1/enclaves/shop/members").await.ok()?) {
                assert!(Instant::now() < ends, "who is not seen goes");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        _of_people => {}
    }
    Some(())
}

async fn rotate(owner: &Person, known: &mut Known, community: &'static str, kind: v1::RollKind) -> Option<()> {
    let path = format!("/v1/enclaves/shop/communities/{community}/rotate-key");
    let rolled: v1::RolledKey = owner.post(&path, &v1::RollRequest { kind }).await.ok()?;
    assert!(rolled.changed, "{rolled:?}");
    known.epochs.insert(community, rolled.epoch);
    Some(())
}

/// A member with a new bundle.
async fn renewed(machine: &Machine) -> Option<Machine> {
    let keys = machine.keys.for_delivery(&mut Kernel);
    let request = Request::new(&keys).unwrap().to_text();
    let connection = machine.member().await.ok()?;
    let answer = connection.request(
        Method::POST,
        "/v1/node/bundle",
        HeaderMap::new(),
        request.into(),
        4 << 20,
    );
    let answer = answer.await.ok()?.accepted().ok()?;
    let bundle = Bundle::parse(&answer.body).unwrap();
    let opened = bundle.open(&keys, Some(machine.root), now(), 0).unwrap();
    Some(Machine {
        keys,
        opened: Some(opened),
        ticket: None,
        facts: machine.facts.clone(),
        ..*machine
    })
}

fn changed() -> String {
    FILE.replace("[community.db]", "[community.db]\n[community.log]")
}

/// The newest epoch of a community, one that is to come included.
async fn newest(owner: &Person, community: &str) -> Option<u64> {
    let all: v1::List<v1::Community> = owner.get("/v1/enclaves/shop/communities").await.ok()?;
    let found = all.items.into_iter().find(|c| c.name.as_str() == community)?;
    Some(found.next.map_or(found.epoch, |next| next.epoch))
}

/// Makes a task due, of a server that is down.
pub(crate) async fn have_done_now(site: &Site, step: &str) {
    if step == "roll due" {
        let store = open(site).await;
        let mut w = store.write().await.unwrap();
        let enclave = enclave_of(&mut w).await;
        w.ask_task("roll", &format!("{enclave}/web"), now()).await.unwrap();
        w.commit().await.unwrap();
        store.close().await.unwrap();
    }
}

/// The database of a server that is down.
pub(crate) async fn open(site: &Site) -> Store {
    let text = std::fs::read_to_string(site.path().join("root.key")).unwrap();
    let text = text.trim();
    let key: Vec<u8> = (0..32)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let path = site.path().join("server.db");
    Store::open(&path, Secret::from_slice(&key).unwrap(), now(), &mut Kernel)
        .await
        .unwrap()
}

/// The one enclave.
pub(crate) async fn enclave_of(w: &mut coterie_store::Write) -> coterie_model::EnclaveId {
    w.read().all_enclaves().await.unwrap()[0].id
}

/// What people see of everything, in words.
#[derive(Debug)]
pub(crate) struct Seen {
    lines: Vec<String>,
    /// What was drawn: another thing each time that the same is done.
    ids: BTreeSet<String>,
}

impl Seen {
    /// In words that are the same each time that the same was done: what another one has not drawn is new.
    pub(crate) fn beside(&self, other: &Self) -> Vec<String> {
        let new = self.ids.difference(&other.ids);
        let mut lines = self.lines.clone();
        for id in new {
            lines.iter_mut().for_each(|line| *line = line.replace(id, "new"));
        }
        // Of what was made in one second the identifier decides the order.
        lines.sort();
        lines
    }

    fn draw(&mut self, id: &str) {
        self.ids.insert(id.to_owned());
    }
}

/// Looks at everything.
pub(crate) async fn seen(site: &Site, known: &Known) -> Seen {
    let mut seen = Seen {
        lines: Vec::new(),
        ids: BTreeSet::new(),
    };
    let operator = site.person(&site.operator).await;
    let tenants: v1::List<v1::Tenant> = operator.get("/v1/tenants").await.unwrap();
    for tenant in &tenants.items {
        seen.draw(&tenant.id);
        seen.lines
            .push(format!("tenant {} {} {}", tenant.name, tenant.id, tenant.enclaves));
    }
    audit(&operator, "operator", &mut seen).await;
    let Some(owner) = known.owner.as_ref().filter(|_| !tenants.items.is_empty()) else {
        return seen;
    };
    let owner = site.person(owner).await;
    audit(&owner, "tenant", &mut seen).await;
    let principals: v1::List<v1::Principal> = owner.get("/v1/principals").await.unwrap();
    for p in principals.items {
        seen.draw(&p.id);
        let is_over = p.revoked.is_some();
        seen.lines
            .push(format!("principal {} {} {:?} {is_over}", p.id, p.name, p.role));
    }
    let enclaves: v1::List<v1::EnclaveSummary> = owner.get("/v1/enclaves").await.unwrap();
    for enclave in enclaves.items {
        seen.draw(&enclave.id);
        seen.draw(&enclave.root_hash);
        seen.lines.push(format!(
            "enclave {} {} version {} revision {} root {}",
            enclave.name, enclave.id, enclave.version, enclave.revision, enclave.root_hash
        ));
        within(&owner, &mut seen).await;
    }
    seen
}

/// Looks at what the enclave has.
async fn within(owner: &Person, seen: &mut Seen) {
    let file = owner
        .call(Method::GET, "/v1/enclaves/shop/file", "application/json", Vec::new())
        .await;
    let file = file.unwrap().accepted().unwrap().body;
    seen.lines.push(String::from_utf8(file.to_vec()).unwrap());
    let communities: v1::List<v1::Community> = owner.get("/v1/enclaves/shop/communities").await.unwrap();
    for c in communities.items {
        seen.draw(&c.tag);
        let newest = c.next.map_or(c.epoch, |next| next.epoch);
        seen.lines
            .push(format!("community {} {} {newest} {}", c.name, c.tag, c.members));
    }
    for m in owner.members().await {
        m.member_id.iter().chain(&m.fingerprint).for_each(|id| seen.draw(id));
        seen.lines.push(format!(
            "member {} {} {:?} {:?} {:?} {:?} serial {} {:?} {:?}",
            m.name,
            m.template,
            m.addresses,
            m.endpoints,
            m.state,
            m.member_id,
            m.serial,
            m.ephemeral_ttl,
            m.fingerprint
        ));
    }
    let tokens: v1::List<v1::Token> = owner.get("/v1/enclaves/shop/tokens").await.unwrap();
    for token in tokens.items {
        let path = format!("/v1/enclaves/shop/tokens/{}", token.id);
        let t: v1::Token = owner.get(&path).await.unwrap();
        seen.draw(&t.id);
        t.uses.iter().for_each(|made| seen.draw(&made.member_id));
        let mut uses: Vec<_> = t.uses.iter().map(|made| format!("{:?}", made.member)).collect();
        uses.sort();
        let is_over = t.revoked.is_some();
        seen.lines.push(format!(
            "token {} {} {}/{} {uses:?} {is_over}",
            t.id, t.template, t.uses_made, t.uses_allowed
        ));
    }
}

async fn audit(person: &Person, whose: &str, seen: &mut Seen) {
    let page: v1::AuditPage = person.get("/v1/audit?after=0&limit=1000").await.unwrap();
    for (n, entry) in page.entries.iter().enumerate() {
        seen.lines.push(format!(
            "{whose} {n:04} {} {} {}",
            entry.actor, entry.action, entry.object
        ));
    }
}

/// Waits until what is due is done, once.
pub(crate) async fn until(site: &Site, known: &Known, done: &[String], before: &Seen, at: &str) {
    let ends = Instant::now() + Duration::from_secs(45);
    loop {
        let now = seen(site, known).await.beside(before);
        if now == done {
            return;
        }
        assert!(Instant::now() < ends, "{at}:\n{now:#?}\nis not what is due:\n{done:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a step gave is good for what it is for.
pub(crate) async fn stands(site: &Site, step: &'static str, gained: &Known, at: &str) {
    if step == "delete tenant" {
        return;
    }
    let owner = site.person(gained.owner.as_ref().unwrap()).await;
    let who: v1::WhoAmI = owner.get("/v1/whoami").await.unwrap();
    assert_eq!(who.tenant, Some(name("acme")), "{at}");
    if let Some(named) = enrols(step) {
        follows(&gained.machines[named], at).await;
    }
    match step {
        "principal" | "principal gone" => {
            let second = site.person(&gained.second.as_ref().unwrap().1).await;
            let known = second.get::<v1::WhoAmI>("/v1/whoami").await.is_ok();
            assert_eq!(known, step == "principal", "{at}");
        }
        "token web" | "token app" | "token gone" => {
            let template = if step == "token app" { "app" } else { "web" };
            let token = &gained.tokens[template];
            let let_in = Machine::new(&format!("{template}-7"), token)
                .enrol(token)
                .await
                .is_some();
            assert_eq!(let_in, step != "token gone", "{at}");
        }
        "by hand" => follows(&gained.machines["gate-1"], at).await,
        "renew" | "release" => follows(&gained.machines["web-1"], at).await,
        "isolate" => assert!(renewed(&gained.machines["web-1"]).await.is_none(), "{at}"),
        "revoke" => assert!(gained.machines["web-2"].follow(0).await.is_err(), "{at}"),
        "bye" => assert!(gained.machines["app-1"].follow(0).await.is_err(), "{at}"),
        "end" => assert!(gained.machines["web-1"].follow(0).await.is_err(), "{at}"),
        "rotate" => assert_eq!(newest(&owner, "db").await, gained.epochs.get("db").copied(), "{at}"),
        "removal" | "roll due" => assert_eq!(newest(&owner, "web").await, gained.epochs.get("web").copied(), "{at}"),
        "root" => {
            let enclave: v1::EnclaveSummary = owner.get("/v1/enclaves/shop").await.unwrap();
            assert_eq!(Some(enclave.root_hash), gained.root, "{at}");
        }
        _seen_whole => {}
    }
}

/// A machine is a member, and gets new bundles.
async fn follows(machine: &Machine, at: &str) {
    let mut told = machine.follow(0).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let _everything = told.until_mark().await;
    assert!(renewed(machine).await.is_some(), "{at}");
}

/// A machine that heard nothing asks again with the keys that it has: it is let in, and its token counts it once.
pub(crate) async fn again(site: &Site, known: &Known, step: &'static str, (before, after): (&Seen, &Seen), at: &str) {
    if enrols(step).is_none() {
        return;
    }
    let gained = take(site, known, step).await;
    let gained = gained.unwrap_or_else(|| panic!("{at}: it is not let in again"));
    stands(site, step, &gained, at).await;
    let tokens = |seen: &Seen| -> Vec<String> {
        let lines = seen.beside(before).into_iter();
        lines.filter(|line| line.starts_with("token ")).collect()
    };
    assert_eq!(tokens(&seen(site, known).await), tokens(after), "{at}");
}
