#[path = "../nodes/machine.rs"]
#[expect(dead_code)]
mod machine;
#[path = "../system/site.rs"]
#[allow(dead_code)]
mod site;
use std::time::Duration;
use coterie_api::v1;
use coterie_lab::within_namespaces;
use site::Site;
const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/16"]
lease = "LEASE"
[community.web]
[community.db]
[template.web]
communities = ["web"]
"#;
fn post(site: &Site, member: &str, verb: &str) -> v1::CutOff {
    let path = format!("/v1/enclaves/shop/members/{member}/{verb}");
    site.owner(async |owner| owner.post(&path, &()).await.unwrap())
}
fn show(site: &Site, who: &str) {
    let m = site.machine(who);
    let s = m.status();
    println!("== {who}: membership {} server {:?} revision {} alarms {:?}", s.membership, s.server, s.revision, s.alarms);
    println!("   communities {:?}", s.communities);
    for p in &s.peers { println!("   peer {} {} {:?}", p.name, p.state, p.endpoint); }
    println!("   drops {:?}", s.counters.drops);
}
fn log(site: &Site, who: &str) {
    println!("---- log {who}");
    for l in site.machine(who).daemon().stderr().lines().filter(|l| !l.contains("h2::")) { println!("{l}"); }
}
#[test]
fn isolate() {
    within_namespaces(|| {
        let mut site = Site::new(&FILE.replace("LEASE", "10m"));
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        println!("{:?}", post(&site, "web-1", "isolate"));
        std::thread::sleep(Duration::from_secs(3));
        show(&site, "web-1"); show(&site, "web-2");
        println!("{:?}", post(&site, "web-1", "release"));
        for _ in 0..4 {
            std::thread::sleep(Duration::from_secs(2));
            println!("{:?}", site.machine("web-1").try_ping("web-2", Duration::from_secs(2)));
            show(&site, "web-1"); show(&site, "web-2");
        }
        log(&site, "web-1"); log(&site, "web-2");
        panic!("show");
    });
}
#[test]
fn lease() {
    within_namespaces(|| {
        let mut site = Site::new(&FILE.replace("LEASE", "1m"));
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        site.kill_server();
        std::thread::sleep(Duration::from_secs(62));
        show(&site, "web-1");
        site.up();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_secs(2));
            println!("{:?}", site.machine("web-1").try_ping("web-2", Duration::from_secs(2)));
            show(&site, "web-1"); show(&site, "web-2");
        }
        log(&site, "web-1");
        panic!("show");
    });
}
