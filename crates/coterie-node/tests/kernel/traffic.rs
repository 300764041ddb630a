//! Programs that people run, between members and across communities.

use std::time::Duration;

use coterie_lab::{
    CaptureOptions, LabError,
    programs::{Ping, Postgres},
    within_namespaces,
};

use crate::site::{DEADLINE, Site};

#[test]
fn psql_reads_across_app_to_db_and_not_from_web() {
    within_namespaces(|| {
        let mut site = Site::new(&[
            ("web", &["web-app"]),
            ("app", &["web-app", "app-db"]),
            ("db", &["app-db"]),
        ]);
        site.start();
        let db = site.machine("db");
        let postgres = match Postgres::start(&db.host, 5432) {
            Err(error @ (LabError::Missing { .. } | LabError::Privileges { .. })) => {
                eprintln!("skipped: {error}");
                return;
            }
            started => started.expect("postgres starts"),
        };
        let canary = "canary-5f1c0e";
        let sql = format!("create table t (v text); insert into t values ('{canary}'); select v from t");
        let wire = site
            .lab
            .capture(&site.bridge, CaptureOptions::default().canary(canary))
            .expect("a capture");
        let answer = postgres
            .query(&site.machine("app").host, db.inside, &sql)
            .deadline(DEADLINE)
            .run()
            .expect("psql runs");
        assert!(answer.is_success() && answer.stdout.contains(canary), "{answer:?}");
        let refused = postgres
            .query(&site.machine("web").host, db.inside, &sql)
            .deadline(DEADLINE)
            .run()
            .expect("psql runs");
        assert!(!refused.is_success(), "{refused:?}");
        assert!(
            refused.took < Duration::from_secs(2),
            "told at once, not after {:?}",
            refused.took
        );
        assert!(wire.totals().0 > 0, "something was on the wire");
        assert!(!wire.saw_a_canary());
    });
}

#[test]
fn without_a_common_community_nothing_is_on_the_wire() {
    within_namespaces(|| {
        let mut site = Site::new(&[("web", &["a"]), ("db", &["b"])]);
        site.start();
        let (web, db) = (site.machine("web"), site.machine("db"));
        let wire = site
            .lab
            .capture(&site.bridge, CaptureOptions::default())
            .expect("a capture");
        let pinged = Ping::new(db.inside)
            .count(5)
            .timeout(Duration::from_millis(500))
            .from(&web.host)
            .expect("ping runs");
        assert!(pinged.is_prohibited(), "{pinged:?}");
        let between = wire.count(|frame| !frame.is_discovery() && frame.source == web.host.mac());
        assert_eq!(between, 0, "{:?}", wire.kinds());
    });
}
