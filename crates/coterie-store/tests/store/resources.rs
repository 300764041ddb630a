//! Each resource by itself.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use coterie_crypto::Secret;
use coterie_model::{EnclaveId, Prefix, UnixTime};
use coterie_store::{
    Feed, Finished, Login, NewPrincipal, NewToken, Role, Scope, Store, StoreError, TicketUse, TokenId, TokenRefusal,
    TokenUse, Value,
};

use crate::site::{HOUR, NOW, Site, add_change, member, name, new_token, root_key, static_key};

#[tokio::test]
async fn the_settings_count_starts_and_keep_the_identity() {
    let site = Site::new().await;
    let before = site.store.read().await.unwrap().settings().await.unwrap();
    assert_eq!((before.started, before.restored, before.created), (1, 0, NOW));
    let mode = std::fs::metadata(site.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let site = site.reopened().await;
    let after = site.store.read().await.unwrap().settings().await.unwrap();
    assert_eq!(after.started, 2);
    assert_eq!((after.server, after.timeline), (before.server, before.timeline));
}

#[tokio::test]
async fn a_file_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut entropy = coterie_crypto::SeededEntropy::from_number(1);
    let text = dir.path().join("text");
    std::fs::write(
        &text,
        "not a database, and long enough to be told from one: ".repeat(100),
    )
    .unwrap();
    let error = Store::open(&text, root_key(), NOW, &mut entropy).await.unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    let site = Site::new().await;
    let other = dir.path().join("other");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&other)
        .create_if_missing(true);
    let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
    crate::site::edit(&mut conn, "CREATE TABLE tenants (a)").await;
    let error = Store::open(&other, root_key(), NOW, &mut entropy).await.unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    let error = Store::open(&site.path(), root_key(), NOW, &mut entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn tenants_have_names_of_their_own_and_go_when_they_are_empty() {
    let mut site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    let error = w
        .create_tenant(&name("acme"), NOW, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Exists { what: "tenant" }), "{error}");
    let error = w.remove_tenant(site.tenant).await.unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
    let other = w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let names: Vec<String> = r.tenants().await.unwrap().iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["acme", "bravo"]);
    assert_eq!(r.tenant(other).await.unwrap().unwrap().created, NOW);
    drop(r);
    let mut w = site.store.write().await.unwrap();
    w.remove_tenant(other).await.unwrap();
    w.remove_enclave(site.tenant, site.enclave).await.unwrap();
    w.remove_tenant(site.tenant).await.unwrap();
    let error = w.remove_tenant(site.tenant).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "tenant" }), "{error}");
    assert!(w.read().tenants().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_enclave_takes_all_that_is_its_own_with_it() {
    let mut site = Site::new().await;
    let token = site.token(3).await;
    let mut w = site.store.write().await.unwrap();
    w.use_token(token, member(1), &name("web-1"), "::1".parse().unwrap(), NOW)
        .await
        .unwrap();
    w.claim_static_key(site.enclave, member(1), &static_key(1))
        .await
        .unwrap();
    w.put_ticket(site.enclave, member(1), None, &Secret::new([1; 32]), NOW)
        .await
        .unwrap();
    add_change(&mut w, site.enclave, "web-1").await.unwrap();
    w.set_enclave_file(site.tenant, site.enclave, "changed").await.unwrap();
    let found = w
        .read()
        .enclave_by_name(site.tenant, &name("prod"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.file.as_str(), found.version, found.revision), ("changed", 1, 1));
    w.remove_enclave(site.tenant, site.enclave).await.unwrap();
    w.commit().await.unwrap();
    let mut conn = site.sql().await;
    for table in [
        "enclaves",
        "records",
        "static_keys",
        "tokens",
        "token_uses",
        "tickets",
        "changes",
    ] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn records_are_written_replaced_and_removed() {
    let mut site = Site::new().await;
    let (id, entropy) = (site.enclave, &mut site.entropy);
    let mut w = site.store.write().await.unwrap();
    w.put_record(id, "member", "web-1", Value::Clear(b"one"), entropy)
        .await
        .unwrap();
    w.put_record(id, "member", "web-1", Value::Secret(b"two"), entropy)
        .await
        .unwrap();
    w.put_record(id, "member", "web-2", Value::Clear(b""), entropy)
        .await
        .unwrap();
    w.put_record(id, "keys", "web", Value::Secret(b""), entropy)
        .await
        .unwrap();
    assert!(w.remove_record(id, "member", "web-2").await.unwrap());
    assert!(!w.remove_record(id, "member", "web-2").await.unwrap());
    let error = w
        .put_record(EnclaveId([9; 16]), "a", "", Value::Clear(b""), entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
    let error = w
        .put_record(EnclaveId([9; 16]), "a", "", Value::Secret(b""), entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let records = r.records(id).await.unwrap();
    let seen: Vec<_> = records
        .iter()
        .map(|r| (r.kind.as_str(), r.key.as_str(), r.secret, &r.value[..]))
        .collect();
    let expected: [(&str, &str, bool, &[u8]); 3] = [
        ("keys", "web", true, b""),
        ("member", "web-1", true, b"two"),
        ("root", "", true, b"seeds"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(
        r.record(id, "member", "web-1").await.unwrap().unwrap().value[..],
        b"two"[..]
    );
    assert_eq!(r.record(id, "member", "web-2").await.unwrap(), None);
}

#[tokio::test]
async fn a_static_key_is_unique_over_everything_while_it_lives() {
    let mut site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    let (_, other) = crate::site::tenant_with_enclave(&mut w, "bravo", "prod", &mut site.entropy).await;
    w.claim_static_key(site.enclave, member(1), &static_key(1))
        .await
        .unwrap();
    let same_enclave = w
        .claim_static_key(site.enclave, member(2), &static_key(1))
        .await
        .unwrap_err();
    let other_tenant = w.claim_static_key(other, member(1), &static_key(1)).await.unwrap_err();
    let second_key = w
        .claim_static_key(site.enclave, member(1), &static_key(2))
        .await
        .unwrap_err();
    for error in [same_enclave, other_tenant, second_key] {
        assert!(matches!(error, StoreError::StaticKeyTaken), "{error}");
    }
    let error = w
        .claim_static_key(EnclaveId([9; 16]), member(1), &static_key(3))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
    let holder = w
        .read()
        .member_of_static_key(site.enclave, &static_key(1))
        .await
        .unwrap();
    assert_eq!(holder, Some(member(1)));
    assert!(w.release_static_key(site.enclave, member(1)).await.unwrap());
    assert!(!w.release_static_key(site.enclave, member(1)).await.unwrap());
    w.claim_static_key(other, member(1), &static_key(1)).await.unwrap();
    assert_eq!(
        w.read().static_key(other, member(1)).await.unwrap(),
        Some(static_key(1))
    );
    assert_eq!(w.read().static_key(site.enclave, member(1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_says_why_it_is_refused() {
    let mut site = Site::new().await;
    let template = name("web");
    let new = NewToken {
        source: Prefix::new("10.1.0.0".parse().unwrap(), 16),
        time_to_live: Some(HOUR),
        ..new_token(&template, 2)
    };
    let mut w = site.store.write().await.unwrap();
    let (id, secret) = w
        .create_token(site.enclave, &new, NOW, &mut site.entropy)
        .await
        .unwrap();
    let (inside, outside) = ("10.1.2.3".parse().unwrap(), "10.2.0.1".parse().unwrap());
    let mapped = "::ffff:10.1.2.3".parse().unwrap();
    let (last, over) = (new.not_after, new.not_after.plus(Duration::from_secs(1)));
    let refused = |reason| TokenUse::Refused(reason);
    assert_eq!(
        w.use_token(TokenId([9; 16]), member(1), &name("web-1"), inside, NOW)
            .await
            .unwrap(),
        refused(TokenRefusal::Unknown)
    );
    assert_eq!(
        w.use_token(id, member(1), &name("web-1"), outside, NOW).await.unwrap(),
        refused(TokenRefusal::WrongSource)
    );
    assert_eq!(
        w.use_token(id, member(1), &name("web-1"), "::1".parse().unwrap(), NOW)
            .await
            .unwrap(),
        refused(TokenRefusal::WrongSource)
    );
    assert_eq!(
        w.use_token(id, member(1), &name("web-1"), inside, over).await.unwrap(),
        refused(TokenRefusal::Expired)
    );
    let TokenUse::Used(used) = w.use_token(id, member(1), &name("web-1"), mapped, last).await.unwrap() else {
        panic!("refused");
    };
    assert_eq!(
        (used.uses_made, used.uses_allowed, used.time_to_live),
        (1, 2, Some(HOUR))
    );
    assert_eq!(
        (used.source, used.template, used.made_by.as_str()),
        (new.source, template.clone(), "ada")
    );
    let error = w
        .use_token(id, member(1), &name("web-1"), inside, NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    w.rollback().await.unwrap();

    let mut w = site.store.write().await.unwrap();
    let (id, _) = w
        .create_token(site.enclave, &new, NOW, &mut site.entropy)
        .await
        .unwrap();
    for n in [1, 2] {
        assert!(matches!(
            w.use_token(id, member(n), &name("web-1"), inside, NOW).await.unwrap(),
            TokenUse::Used(_)
        ));
    }
    assert_eq!(
        w.use_token(id, member(3), &name("web-1"), inside, NOW).await.unwrap(),
        refused(TokenRefusal::Spent)
    );
    let uses = w.read().token_uses(site.enclave, id).await.unwrap();
    let members: Vec<_> = uses.iter().map(|u| (u.member, u.source)).collect();
    assert_eq!(members, [(member(1), inside), (member(2), inside)]);
    w.revoke_token(site.enclave, id, NOW).await.unwrap();
    w.revoke_token(site.enclave, id, NOW.plus(HOUR)).await.unwrap();
    assert_eq!(
        w.use_token(id, member(3), &name("web-1"), inside, NOW).await.unwrap(),
        refused(TokenRefusal::Revoked)
    );
    assert_eq!(
        w.read().token(site.enclave, id).await.unwrap().unwrap().revoked,
        Some(NOW)
    );
    let presented = w.read().presented_token(id).await.unwrap().unwrap();
    assert_eq!((presented.tenant, presented.token.enclave), (site.tenant, site.enclave));
    assert_ne!(presented.secret, secret);
    for n in [1, 2] {
        assert!(w.forget_use(site.enclave, member(n), NOW).await.unwrap());
    }
    w.remove_token(site.enclave, id).await.unwrap();
    assert!(w.read().tokens(site.enclave).await.unwrap().is_empty());
    let none = new_token(&template, 0);
    let error = w
        .create_token(site.enclave, &none, NOW, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::OutOfRange { .. }), "{error}");
}

#[tokio::test]
async fn the_secret_of_a_token_comes_back_when_it_is_presented() {
    let mut site = Site::new().await;
    let template = name("web");
    let mut w = site.store.write().await.unwrap();
    let (id, secret) = w
        .create_token(site.enclave, &new_token(&template, 1), NOW, &mut site.entropy)
        .await
        .unwrap();
    w.commit().await.unwrap();
    let site = site.reopened().await;
    let mut r = site.store.read().await.unwrap();
    assert_eq!(r.presented_token(id).await.unwrap().unwrap().secret, secret);
}

#[tokio::test]
async fn a_ticket_is_good_once_and_the_one_before_tells_a_clone() {
    let site = Site::new().await;
    let ticket = |n| Secret::new([n; 32]);
    let (id, who) = (site.enclave, member(1));
    let mut w = site.store.write().await.unwrap();
    let unknown = w.use_ticket(id, who, &ticket(1), &ticket(2), NOW).await.unwrap();
    assert_eq!(unknown, TicketUse::Unknown);
    w.put_ticket(id, who, None, &ticket(1), NOW).await.unwrap();
    let later = NOW.plus(HOUR);
    assert_eq!(
        w.use_ticket(id, who, &ticket(1), &ticket(2), later).await.unwrap(),
        TicketUse::Replaced
    );
    let clone = TicketUse::Clone { replaced_at: later };
    assert_eq!(
        w.use_ticket(id, who, &ticket(1), &ticket(3), NOW.plus(2 * HOUR))
            .await
            .unwrap(),
        clone
    );
    assert_eq!(
        w.use_ticket(id, who, &ticket(9), &ticket(3), later).await.unwrap(),
        TicketUse::Unknown
    );
    assert_eq!(
        w.use_ticket(id, member(2), &ticket(2), &ticket(3), later)
            .await
            .unwrap(),
        TicketUse::Unknown
    );
    // The alarm took nothing from the one that has the current ticket.
    assert_eq!(
        w.use_ticket(id, who, &ticket(2), &ticket(3), later).await.unwrap(),
        TicketUse::Replaced
    );
    assert_eq!(
        w.use_ticket(id, who, &ticket(1), &ticket(4), later).await.unwrap(),
        TicketUse::Unknown
    );
    w.put_ticket(id, who, None, &ticket(5), later).await.unwrap();
    assert_eq!(
        w.use_ticket(id, who, &ticket(2), &ticket(6), later).await.unwrap(),
        TicketUse::Unknown
    );
    assert!(w.remove_ticket(id, who).await.unwrap());
    assert!(!w.remove_ticket(id, who).await.unwrap());
}

#[tokio::test]
async fn changes_are_counted_followed_and_pruned() {
    let site = Site::new().await;
    let id = site.enclave;
    let mut w = site.store.write().await.unwrap();
    for n in 1..=5 {
        assert_eq!(add_change(&mut w, id, &format!("web-{n}")).await.unwrap(), n);
    }
    w.commit().await.unwrap();
    let mut w = site.store.write().await.unwrap();
    add_change(&mut w, id, "lost").await.unwrap();
    w.rollback().await.unwrap();

    let revisions = |feed: Feed| match feed {
        Feed::Changes { changes, newest } => (changes.iter().map(|c| c.revision).collect::<Vec<_>>(), newest),
        Feed::SnapshotNeeded { newest } => panic!("snapshot needed, newest {newest}"),
    };
    let mut r = site.store.read().await.unwrap();
    assert_eq!(
        revisions(r.changes_since(id, 0, 100).await.unwrap()),
        (vec![1, 2, 3, 4, 5], 5)
    );
    assert_eq!(revisions(r.changes_since(id, 2, 2).await.unwrap()), (vec![3, 4], 5));
    assert_eq!(revisions(r.changes_since(id, 5, 2).await.unwrap()), (vec![], 5));
    let needed = Feed::SnapshotNeeded { newest: 5 };
    assert_eq!(r.changes_since(id, 6, 2).await.unwrap(), needed);
    drop(r);
    let mut w = site.store.write().await.unwrap();
    assert_eq!(w.prune_changes(id, 3).await.unwrap(), 3);
    assert_eq!(w.prune_changes(id, 1).await.unwrap(), 0);
    assert_eq!(w.read().changes_since(id, 2, 9).await.unwrap(), needed);
    assert_eq!(
        revisions(w.read().changes_since(id, 3, 9).await.unwrap()),
        (vec![4, 5], 5)
    );
    assert_eq!(w.prune_changes(id, 99).await.unwrap(), 2);
    assert_eq!(revisions(w.read().changes_since(id, 5, 9).await.unwrap()), (vec![], 5));
    assert_eq!(add_change(&mut w, id, "next").await.unwrap(), 6);
    let error = add_change(&mut w, EnclaveId([9; 16]), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
}

#[tokio::test]
async fn a_task_is_done_once_and_again_when_it_was_asked_for_meanwhile() {
    let site = Site::new().await;
    let minute = Duration::from_secs(60);
    let mut w = site.store.write().await.unwrap();
    w.ask_task("roll", "web", NOW.plus(HOUR)).await.unwrap();
    w.ask_task("roll", "web", NOW).await.unwrap();
    w.ask_task("roll", "web", NOW.plus(2 * HOUR)).await.unwrap();
    w.ask_task("prune", "prod", NOW.plus(HOUR)).await.unwrap();
    assert_eq!(w.read().next_task().await.unwrap(), Some(NOW));
    let claimed = w.claim_tasks(NOW, minute, 10).await.unwrap();
    assert_eq!(claimed.iter().map(|t| t.kind.as_str()).collect::<Vec<_>>(), ["roll"]);
    assert!(w.claim_tasks(NOW, minute, 10).await.unwrap().is_empty());
    assert_eq!(w.read().next_task().await.unwrap(), Some(NOW.plus(minute)));
    w.ask_task("roll", "web", NOW).await.unwrap();
    assert_eq!(w.finish_task(&claimed[0]).await.unwrap(), Finished::AskedAgain);
    let again = w.claim_tasks(NOW, minute, 10).await.unwrap();
    assert_eq!((again.len(), again[0].attempts), (1, 1));
    assert_eq!(w.finish_task(&again[0]).await.unwrap(), Finished::Done);
    let both = w.claim_tasks(NOW.plus(HOUR), minute, 10).await.unwrap();
    assert_eq!(both.iter().map(|t| t.kind.as_str()).collect::<Vec<_>>(), ["prune"]);
}

#[tokio::test]
async fn who_does_a_task_says_when_it_is_to_be_done_next() {
    let site = Site::new().await;
    let minute = Duration::from_secs(60);
    let mut w = site.store.write().await.unwrap();
    w.ask_task("roll", "web", NOW).await.unwrap();
    let claimed = w.claim_tasks(NOW, minute, 1).await.unwrap().pop().unwrap();
    w.set_task("roll", "web", NOW.plus(HOUR)).await.unwrap();
    assert_eq!(w.finish_task(&claimed).await.unwrap(), Finished::Lost);
    assert!(!w.put_off_task(&claimed, "late", NOW).await.unwrap());
    assert_eq!(w.read().next_task().await.unwrap(), Some(NOW.plus(HOUR)));
    // Later than it was asked for, too, and where nothing was.
    w.set_task("roll", "web", NOW.plus(2 * HOUR)).await.unwrap();
    w.set_task("roll", "db", NOW.plus(3 * HOUR)).await.unwrap();
    let due: Vec<_> = w
        .read()
        .tasks()
        .await
        .unwrap()
        .into_iter()
        .map(|task| task.due)
        .collect();
    assert_eq!(due, [NOW.plus(2 * HOUR), NOW.plus(3 * HOUR)]);
}

#[tokio::test]
async fn a_process_that_begins_takes_over_what_another_one_left() {
    let site = Site::new().await;
    let minute = Duration::from_secs(60);
    let mut w = site.store.write().await.unwrap();
    w.ask_task("roll", "web", NOW).await.unwrap();
    let left = w.claim_tasks(NOW, minute, 1).await.unwrap().pop().unwrap();
    w.release_tasks().await.unwrap();
    let taken = w.claim_tasks(NOW, minute, 1).await.unwrap().pop().unwrap();
    assert_eq!((left.attempts, taken.attempts), (1, 2));
    assert_eq!(w.finish_task(&left).await.unwrap(), Finished::Lost);
    assert_eq!(w.finish_task(&taken).await.unwrap(), Finished::Done);
}

#[tokio::test]
async fn a_task_that_fails_is_put_off_and_one_that_is_left_is_taken_over() {
    let site = Site::new().await;
    let minute = Duration::from_secs(60);
    let mut w = site.store.write().await.unwrap();
    w.ask_task("roll", "web", NOW).await.unwrap();
    let mut now = NOW;
    let mut pauses = Vec::new();
    for attempt in 1..=13 {
        let task = w.claim_tasks(now, minute, 1).await.unwrap().pop().unwrap();
        assert_eq!(task.attempts, attempt);
        let next = task.next_attempt(now);
        pauses.push(next.since(now).as_secs());
        assert!(w.put_off_task(&task, "no route", next).await.unwrap());
        assert!(w.claim_tasks(UnixTime(next.0 - 1), minute, 1).await.unwrap().is_empty());
        now = next;
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
    assert_eq!(
        w.read().tasks().await.unwrap()[0].last_error.as_deref(),
        Some("no route")
    );
    let left = w.claim_tasks(now, minute, 1).await.unwrap().pop().unwrap();
    let taken = w.claim_tasks(now.plus(minute), minute, 1).await.unwrap().pop().unwrap();
    assert_eq!(w.finish_task(&left).await.unwrap(), Finished::Lost);
    assert!(!w.put_off_task(&left, "late", now).await.unwrap());
    assert_eq!(w.finish_task(&taken).await.unwrap(), Finished::Done);
    assert_eq!(w.finish_task(&taken).await.unwrap(), Finished::Lost);
    assert_eq!(w.read().next_task().await.unwrap(), None);
}

#[tokio::test]
async fn a_principal_is_known_by_its_secret_until_it_is_not() {
    let mut site = Site::new().await;
    let new = NewPrincipal {
        scope: Scope::Tenant(site.tenant),
        name: "ada@example.org",
        role: Role::Owner,
        not_after: Some(NOW.plus(HOUR)),
    };
    let operator = NewPrincipal {
        scope: Scope::Operator,
        not_after: None,
        ..new
    };
    let mut w = site.store.write().await.unwrap();
    let (id, secret) = w.create_principal(&new, NOW, &mut site.entropy).await.unwrap();
    let (op, op_secret) = w.create_principal(&operator, NOW, &mut site.entropy).await.unwrap();
    for taken in [&new, &operator] {
        let error = w.create_principal(taken, NOW, &mut site.entropy).await.unwrap_err();
        assert!(matches!(error, StoreError::Exists { what: "principal" }), "{error}");
    }
    w.note_login(new.scope, id, NOW).await.unwrap();
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let Login::Known(known) = r.login(&secret, NOW.plus(HOUR)).await.unwrap() else {
        panic!("not known");
    };
    assert_eq!(
        (known.id, known.role, known.scope, known.last_used),
        (id, Role::Owner, new.scope, Some(NOW))
    );
    let over = NOW.plus(HOUR + Duration::from_secs(1));
    assert!(matches!(r.login(&secret, over).await.unwrap(), Login::Expired(_)));
    assert!(matches!(r.login(&op_secret, over).await.unwrap(), Login::Known(_)));
    assert_eq!(r.login(&Secret::new([9; 32]), NOW).await.unwrap(), Login::Unknown);
    drop(r);
    let mut w = site.store.write().await.unwrap();
    let error = w.revoke_principal(Scope::Operator, id, NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    w.revoke_principal(new.scope, id, NOW).await.unwrap();
    assert!(matches!(w.read().login(&secret, NOW).await.unwrap(), Login::Revoked(_)));
    w.remove_principal(new.scope, id).await.unwrap();
    assert!(w.read().principals(new.scope).await.unwrap().is_empty());
    assert_eq!(w.read().principals(Scope::Operator).await.unwrap()[0].id, op);
    assert_eq!(Role::ALL.map(|role| Role::of(role.as_str())), Role::ALL.map(Some));
}
