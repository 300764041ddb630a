#![allow(clippy::all, clippy::pedantic, missing_docs, dead_code, unused)]
#[path = "../tests/nodes/machine.rs"]
mod machine;
use coterie_api::v1;
use coterie_control::{
    bundle::Request,
    enrol::{Application, Ticket, Token, seal},
    file::Facts,
    follow::Message,
};
use http::{HeaderMap, Method};
use machine::*;
use std::time::{Duration, Instant};

const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.9.0.0/16"]
lease = "10m"
[community.web]
[community.db]
[template.web]
communities = ["web"]
return = "none"
[template.app]
communities = ["web", "db"]
return = "ticket"
[template.gate]
communities = ["web"]
door = true
[member.gate-1]
template = "gate"
endpoints = ["192.0.2.1"]
"#;
fn cpu(pid: &str) -> u64 {
    let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap()
}
async fn post(c: &coterie_api::remote::Connection, path: &str, body: Vec<u8>, h: HeaderMap) -> String {
    match c.request(Method::POST, path, h, body.into(), 8 << 20).await {
        Ok(r) => format!(
            "{} {}",
            r.status,
            String::from_utf8_lossy(&r.body[..r.body.len().min(200)])
        ),
        Err(e) => format!("ERR {e}"),
    }
}
async fn sealed_of(m: &Machine, token: &Token) -> Vec<u8> {
    let a = Application {
        request: Request::new(&m.keys).unwrap(),
        facts: Facts::default(),
        ticket: m.ticket.as_ref().map(Ticket::duplicate),
    };
    seal(token, &m.keys.static_key(), &a, &mut Kernel).unwrap().bytes
}
#[tokio::main]
async fn main() {
    let which = std::env::args().nth(1).unwrap();
    let ca = std::fs::read("/tmp/adv/ca.pem").unwrap();
    let key = std::fs::read_to_string("/tmp/adv/t1.key").unwrap();
    let pid = std::fs::read_to_string("/tmp/adv/pid").unwrap().trim().to_owned();
    let p = Person::connect("127.0.0.1:47950".parse().unwrap(), &ca, key.trim())
        .await
        .unwrap();
    println!(
        "apply {:?}",
        p.apply("shop", FILE)
            .await
            .map(|a| a.version)
            .map_err(|e| e.to_string())
    );
    let tag = format!("{}", std::process::id());
    match which.as_str() {
        "spin" => {
            let t = p.token("web", 10).await;
            let mut m = Machine::new(&format!("s{tag}"), &t);
            m.enrol(&t).await.unwrap();
            let mut a = m.follow(0).await.unwrap();
            a.until_mark().await;
            let c0 = cpu(&pid);
            let d0 = Instant::now();
            tokio::time::sleep(Duration::from_secs(3)).await;
            println!("one stream: {} ticks/3s", cpu(&pid) - c0);
            let mut b = m.follow(0).await.unwrap();
            b.until_mark().await;
            let c0 = cpu(&pid);
            tokio::time::sleep(Duration::from_secs(3)).await;
            println!("same member, 2 streams: {} ticks/3s", cpu(&pid) - c0);
            let mut c = m.follow(0).await.unwrap();
            c.until_mark().await;
            let c0 = cpu(&pid);
            tokio::time::sleep(Duration::from_secs(3)).await;
            println!("3 streams: {} ticks/3s", cpu(&pid) - c0);
            let t0 = Instant::now();
            let _ = p.members().await;
            println!("members list took {:?}", t0.elapsed());
        }
        "explain" => {
            let t = p.token("web", 10).await;
            let mut m1 = Machine::new(&format!("e1{tag}"), &t);
            m1.enrol(&t).await.unwrap();
            let mut m2 = Machine::new(&format!("e2{tag}"), &t);
            m2.enrol(&t).await.unwrap();
            let mut evil = Machine::new(&format!("e3{tag}"), &t);
            evil.enrol(&t).await.unwrap();
            let mut s1 = m1.follow(0).await.unwrap();
            s1.until_mark().await;
            let c = evil.member().await.unwrap();
            let spam = tokio::spawn(async move {
                let end = Instant::now() + Duration::from_secs(4);
                while Instant::now() < end {
                    for id in 1..40u64 {
                        let body = serde_json::json!({"id": id, "explanation": null, "failure": {"code":"x","message":"\u{1b}[31mFORGED by e3","remedy":"r"}});
                        let r = post(&c, "/v1/node/explained", serde_json::to_vec(&body).unwrap(), json()).await;
                        if !r.starts_with("204") {
                            println!("{r}");
                            return;
                        }
                    }
                }
            });
            tokio::time::sleep(Duration::from_millis(500)).await;
            let r: Result<serde_json::Value, _> = p
                .get(&format!("/v1/enclaves/shop/explain?from=e1{tag}&to=e2{tag}"))
                .await;
            println!("{}", r.map(|v| v["from"].to_string()).unwrap_or_else(|e| e.to_string()));
            let _ = spam.await;
        }
        "fill" => {
            let t = p.token("web", 2000).await;
            let tv = p.token("web", 1).await;
            let mut v = Machine::new(&format!("v{tag}"), &tv);
            v.enrol(&tv).await.unwrap();
            let t0 = Instant::now();
            let mut n = 0;
            for i in 0..1100 {
                let mut m = Machine::new(&format!("f{tag}"), &t);
                if m.enrol(&t).await.is_none() {
                    println!("refused at {i}");
                    break;
                }
                n += 1;
            }
            println!("{n} takeovers of one name in {:?}", t0.elapsed());
            println!(
                "isolate victim: {:?}",
                p.post::<v1::CutOff>(&format!("/v1/enclaves/shop/members/v{tag}/isolate?wait_ms=0"), &())
                    .await
                    .map_err(|e| e.to_string())
            );
            println!(
                "revoke victim: {:?}",
                p.post::<v1::CutOff>(&format!("/v1/enclaves/shop/members/v{tag}/revoke?wait_ms=0"), &())
                    .await
                    .map_err(|e| e.to_string())
            );
            println!(
                "revoke attacker: {:?}",
                p.post::<v1::CutOff>(&format!("/v1/enclaves/shop/members/f{tag}/revoke?wait_ms=0"), &())
                    .await
                    .map_err(|e| e.to_string())
            );
        }
        "fillticket" => {
            let t = p.token("app", 1).await;
            let mut m = Machine::new(&format!("k{tag}"), &t);
            m.enrol(&t).await.unwrap();
            let t0 = Instant::now();
            let mut n = 0;
            for i in 0..1100 {
                let mut k = Machine::new(&format!("k{tag}"), &t);
                k.ticket = m.ticket.take();
                if k.enrol(&t).await.is_none() {
                    println!("refused at {i}");
                    break;
                }
                m = k;
                n += 1;
            }
            println!("single-use token + ticket: {n} re-enrolments in {:?}", t0.elapsed());
        }
        "ticket" => {
            let t = p.token("app", 1).await;
            let mut m = Machine::new(&format!("t{tag}"), &t);
            let app = sealed_of(&m, &t).await; // what a door saw
            // enrol with exactly these bytes' equivalent
            m.enrol(&t).await.unwrap();
            println!("ticket given {}", m.ticket.is_some());
            let c = m.visitor().await; // a stranger replays recorded bytes, no keys, no token
            let r = c
                .request(Method::POST, "/v1/enrol", HeaderMap::new(), app.into(), 8 << 20)
                .await
                .unwrap();
            println!("replay by a stranger: {} bytes answered", r.body.len());
            let mut k = Machine::new(&format!("t{tag}"), &t);
            k.ticket = m.ticket.take();
            println!("machine comes back with its ticket: {}", k.enrol(&t).await.is_some());
        }
        "bye" => {
            let t = p.token("web", 5).await;
            let mut m = Machine::new(&format!("b{tag}"), &t);
            m.enrol(&t).await.unwrap();
            println!(
                "{:?}",
                p.post::<v1::CutOff>(&format!("/v1/enclaves/shop/members/b{tag}/isolate?wait_ms=0"), &())
                    .await
                    .is_ok()
            );
            let mut k = Machine::new(&format!("b{tag}"), &t);
            println!("isolated, other keys: {}", k.enrol(&t).await.is_some());
            let c = m.member().await.unwrap();
            println!(
                "bye of the isolated one: {}",
                post(&c, "/v1/node/bye", b"".to_vec(), HeaderMap::new()).await
            );
            let mut k = Machine::new(&format!("b{tag}"), &t);
            println!("after bye, new keys, same name: {}", k.enrol(&t).await.is_some());
            let ms: Vec<_> = p
                .members()
                .await
                .into_iter()
                .filter(|x| x.name.as_str() == format!("b{tag}"))
                .map(|x| format!("{:?}", x.state))
                .collect();
            println!("{ms:?}");
        }
        "misc" => {
            let t = p.token("web", 5).await;
            let mut m = Machine::new(&format!("x{tag}"), &t);
            m.enrol(&t).await.unwrap();
            let c = m.member().await.unwrap();
            for (path, body) in [
                ("/v1/node/resolve", r#"{"address":"10.9.0.1"}"#),
                ("/v1/node/resolve", r#"{"name":"gate-1"}"#),
                ("/v1/node/resolve", r#"{"name":"no"}"#),
                (
                    "/v1/node/follow",
                    r#"{"mark":0,"revocations":18446744073709551615,"serial":0,"x":1}"#,
                ),
                ("/v1/node/ack", r#"{"mark":18446744073709551615}"#),
                ("/v1/node/ready", "{\"version\":\"\u{1b}[31mEVIL\",\"boot\":\"b\"}"),
                ("/v1/node/ready", r#"{"version":"\u001b]0;EVIL\u0007","boot":"b"}"#),
            ] {
                println!(
                    "{path} {body:?} -> {}",
                    post(&c, path, body.as_bytes().to_vec(), json()).await
                );
            }
            let mk = |mark: u64, rev: u64| {
                serde_json::to_vec(&v1::Follow {
                    mark,
                    revocations: rev,
                    serial: 0,
                })
                .unwrap()
            };
            for (mk_, rv) in [(u64::MAX, 0), (1 << 62, 0), (0, u64::MAX), (1, 0)] {
                let st = c
                    .stream(Method::POST, "/v1/node/follow", json(), mk(mk_, rv).into())
                    .await;
                println!(
                    "follow mark={mk_} rev={rv}: {}",
                    st.map(|_| "ok".to_string()).unwrap_or_else(|e| e.to_string())
                );
            }
            println!(
                "ready: {}",
                post(
                    &c,
                    "/v1/node/ready",
                    r#"{"version":"\u001b]0;EVIL\u0007","boot":"b"}"#.as_bytes().to_vec(),
                    json()
                )
                .await
            );
            let ms: Vec<_> = p
                .members()
                .await
                .into_iter()
                .filter(|x| x.name.as_str() == format!("x{tag}"))
                .map(|x| format!("{:?} {:?}", x.version, x.acknowledged_revision))
                .collect();
            println!("{ms:?}");
            println!(
                "people path by node: {}",
                post(&c, "/v1/enclaves/shop/members/end", b"{}".to_vec(), json()).await
            );
            // revoke and reuse of the old connection
            let mut s = m.follow(0).await.unwrap();
            s.until_mark().await;
            let _ = p
                .post::<v1::CutOff>(&format!("/v1/enclaves/shop/members/x{tag}/revoke?wait_ms=0"), &())
                .await;
            println!(
                "after revoke: bundle {}",
                post(
                    &c,
                    "/v1/node/bundle",
                    Request::new(&m.keys.for_delivery(&mut Kernel))
                        .unwrap()
                        .to_text()
                        .into_bytes(),
                    HeaderMap::new()
                )
                .await
            );
            println!(
                "after revoke: resolve {}",
                post(&c, "/v1/node/resolve", br#"{"name":"gate-1"}"#.to_vec(), json()).await
            );
            println!(
                "after revoke: follow {}",
                post(&c, "/v1/node/follow", mk(0, 0), json()).await
            );
            println!("after revoke: bye {}", post(&c, "/v1/node/bye", vec![], json()).await);
            loop {
                match s.next().await {
                    Some(Message::Revocations(_)) => println!("told revocations"),
                    None => {
                        println!("stream ended");
                        break;
                    }
                    _ => {}
                }
            }
        }
        "flood" => {
            let t = p.token("app", 1).await;
            let m = Machine::new(&format!("a{tag}"), &t);
            let stop = Instant::now() + Duration::from_secs(8);
            let mut hs = vec![];
            for _ in 0..8 {
                let c = m.visitor().await;
                hs.push(tokio::spawn(async move {
                    let mut n = 0u32;
                    while Instant::now() < stop {
                        let mut b = vec![1u8];
                        b.extend([7u8; 400]);
                        let _ = post(&c, "/v1/enrol", b, HeaderMap::new()).await;
                        n += 1;
                    }
                    n
                }));
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            // a clone shows an old ticket meanwhile
            let mut a = Machine::new(&format!("a{tag}"), &t);
            a.enrol(&t).await.unwrap();
            let old = a.ticket.as_ref().map(Ticket::duplicate);
            let mut b = Machine::new(&format!("a{tag}"), &t);
            b.ticket = a.ticket.take();
            println!("back: {}", b.enrol(&t).await.is_some());
            let t0 = Instant::now();
            for _ in 0..5 {
                let mut k = Machine::new(&format!("a{tag}"), &t);
                k.ticket = old.as_ref().map(Ticket::duplicate);
                print!("clone let in: {} ", k.enrol(&t).await.is_some());
            }
            println!("5 took {:?}", t0.elapsed());
            let mut n = 0;
            for h in hs {
                n += h.await.unwrap();
            }
            println!("{n} refused applications by strangers in 8 s");
            let a: serde_json::Value = p.get("/v1/audit?limit=1000").await.unwrap();
            let e = a["entries"].as_array().unwrap();
            println!(
                "audit: {} entries, {} refusals, {} about the clone",
                e.len(),
                e.iter().filter(|x| x["action"] == "member.refuse").count(),
                e.iter().filter(|x| x["detail"].to_string().contains("cloned")).count()
            );
        }
        "revokedtoken" => {
            let t = p.token("app", 1).await;
            let mut m = Machine::new(&format!("r{tag}"), &t);
            m.enrol(&t).await.unwrap();
            let id: String = t.id.iter().map(|b| format!("{b:02x}")).collect();
            println!(
                "revoke token {:?}",
                p.delete(&format!("/v1/enclaves/shop/tokens/{id}"))
                    .await
                    .map(|r| r.status)
                    .map_err(|e| e.to_string())
            );
            let mut k = Machine::new(&format!("r{tag}"), &t);
            k.ticket = m.ticket.take();
            println!("ticket with revoked token lets in: {}", k.enrol(&t).await.is_some());
            println!("again with revoked token: {}", k.enrol(&t).await.is_some());
        }
        "door" => {
            let t = p.token("gate", 2).await;
            let mut g = Machine::new("gate-1", &t);
            println!("gate {}", g.enrol(&t).await.is_some());
            let mut s = g.follow(0).await.unwrap();
            let (ms, _) = s.until_mark().await;
            println!(
                "knocks told: {}",
                ms.iter().filter(|m| matches!(m, Message::Knocks(_))).count()
            );
            println!(
                "isolate {:?}",
                p.post::<v1::CutOff>("/v1/enclaves/shop/members/gate-1/isolate?wait_ms=0", &())
                    .await
                    .is_ok()
            );
            let (ms, _) = s.until_mark().await;
            println!(
                "after isolation: {:?}",
                ms.iter()
                    .map(|m| match m {
                        Message::Knocks(k) => format!("knocks {}", k.len()),
                        Message::Revocations(_) => "rev".into(),
                        Message::Pulse(_) => "pulse".into(),
                        Message::View(_) => "view".into(),
                        Message::Renew => "renew".into(),
                        _ => "other".to_string(),
                    })
                    .collect::<Vec<_>>()
            );
            let new = v1::NewToken {
                template: name("web"),
                member: None,
                uses: 1,
                ttl_seconds: 60,
                ephemeral_seconds: None,
                from: Some("203.0.113.0/24".into()),
            };
            let t2 = p.token_of("shop", &new).await;
            let m = Machine::new(&format!("d{tag}"), &t2);
            let c = g.member().await.unwrap();
            let mut h = HeaderMap::new();
            h.insert(v1::SOURCE_HEADER, "203.0.113.9:4747".parse().unwrap());
            let r = c
                .request(Method::POST, "/v1/enrol", h, sealed_of(&m, &t2).await.into(), 8 << 20)
                .await
                .unwrap();
            println!("isolated door with a source of its choice: {} bytes", r.body.len());
            println!(
                "release {:?}",
                p.post::<v1::CutOff>("/v1/enclaves/shop/members/gate-1/release?wait_ms=0", &())
                    .await
                    .is_ok()
            );
            s.until_mark().await;
            // template stops being a door
            println!(
                "apply {:?}",
                p.apply("shop", &FILE.replace("door = true", "door = false"))
                    .await
                    .map(|a| a.version)
                    .map_err(|e| e.to_string())
            );
            let _ = p.token("web", 1).await;
            let end = Instant::now() + Duration::from_secs(3);
            while Instant::now() < end {
                if let Ok(Some(m)) = tokio::time::timeout(Duration::from_millis(2500), s.next()).await {
                    println!(
                        "  told {}",
                        match m {
                            Message::Knocks(k) => format!("knocks {}", k.len()),
                            Message::Mark(_) => "mark".into(),
                            Message::Renew => "renew".into(),
                            _ => "other".to_string(),
                        }
                    );
                }
            }
            println!(
                "apply back {:?}",
                p.apply("shop", FILE)
                    .await
                    .map(|a| a.version)
                    .map_err(|e| e.to_string())
            );
            let _ = p.token("web", 1).await;
            let end = Instant::now() + Duration::from_secs(3);
            while Instant::now() < end {
                if let Ok(Some(m)) = tokio::time::timeout(Duration::from_millis(2500), s.next()).await {
                    println!(
                        "  told {}",
                        match m {
                            Message::Knocks(k) => format!("knocks {}", k.len()),
                            Message::Mark(_) => "mark".into(),
                            Message::Renew => "renew".into(),
                            _ => "other".to_string(),
                        }
                    );
                }
            }
        }
        _ => {}
    }
}
