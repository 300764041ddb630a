//! Two tenants with equal names everywhere.

use coterie_crypto::{Secret, SeededEntropy};
use coterie_model::EnclaveId;
use coterie_store::{
    AuditEntry, Feed, NewPrincipal, PrincipalId, Role, Scope, Store, StoreError, TenantId, TicketUse, TokenId, Value,
};

use crate::site::{NOW, add_change, member, name, new_token, root_key, static_key, tenant_with_enclave};

struct Tenancy {
    tenant: TenantId,
    enclave: EnclaveId,
    token: TokenId,
    principal: PrincipalId,
    /// Tells whose a value is.
    mark: u8,
}

/// Everything that a tenant can have, under the names that the other one uses too.
async fn furnish(store: &Store, mark: u8, entropy: &mut SeededEntropy) -> Tenancy {
    let mut w = store.write().await.unwrap();
    // Tenants are the one thing whose names differ.
    let (tenant, enclave) = tenant_with_enclave(&mut w, &format!("tenant-{mark}"), "prod", entropy).await;
    w.put_record(enclave, "member", "web-1", Value::Secret(&[mark]), entropy)
        .await
        .unwrap();
    w.put_record(enclave, "community", "web", Value::Clear(&[mark]), entropy)
        .await
        .unwrap();
    w.claim_static_key(enclave, member(1), &static_key(u64::from(mark)))
        .await
        .unwrap();
    w.put_ticket(enclave, member(1), None, &Secret::new([mark; 32]), NOW)
        .await
        .unwrap();
    add_change(&mut w, enclave, &mark.to_string()).await.unwrap();
    w.set_enclave_file(tenant, enclave, &mark.to_string()).await.unwrap();
    let template = name("web");
    let (token, _) = w
        .create_token(enclave, &new_token(&template, 1), NOW, entropy)
        .await
        .unwrap();
    w.use_token(token, member(1), &name("web-1"), "192.0.2.1".parse().unwrap(), NOW)
        .await
        .unwrap();
    let scope = Scope::Tenant(tenant);
    let new = NewPrincipal {
        scope,
        name: "ada",
        role: Role::Owner,
        not_after: None,
    };
    let (principal, _) = w.create_principal(&new, NOW, entropy).await.unwrap();
    let detail = serde_json::json!({ "mark": mark });
    let entry = AuditEntry {
        scope,
        actor: "ada",
        action: "enclave.create",
        object: "prod",
        detail: &detail,
    };
    w.audit(&entry, NOW).await.unwrap();
    w.commit().await.unwrap();
    Tenancy {
        tenant,
        enclave,
        token,
        principal,
        mark,
    }
}

#[tokio::test]
async fn equal_names_are_different_things() {
    let dir = tempfile::tempdir().unwrap();
    let mut entropy = SeededEntropy::from_number(3);
    let store = Store::open(&dir.path().join("db"), root_key(), NOW, &mut entropy)
        .await
        .unwrap();
    let (one, two) = (
        furnish(&store, 1, &mut entropy).await,
        furnish(&store, 2, &mut entropy).await,
    );
    for own in [&one, &two] {
        let mut r = store.read().await.unwrap();
        let enclaves = r.enclaves(own.tenant).await.unwrap();
        assert_eq!(enclaves.iter().map(|e| e.id).collect::<Vec<_>>(), [own.enclave]);
        let by_name = r.enclave_by_name(own.tenant, &name("prod")).await.unwrap().unwrap();
        assert_eq!((by_name.id, by_name.file), (own.enclave, own.mark.to_string()));
        let records = r.records(own.enclave).await.unwrap();
        let values: Vec<&[u8]> = records.iter().map(|r| &r.value[..]).collect();
        assert_eq!(values, [&[own.mark][..], &[own.mark], b"seeds"]);
        let key = static_key(u64::from(own.mark));
        assert_eq!(r.static_key(own.enclave, member(1)).await.unwrap(), Some(key));
        let Feed::Changes { changes, newest: 1 } = r.changes_since(own.enclave, 0, 100).await.unwrap() else {
            panic!("one change");
        };
        assert_eq!(
            changes.iter().map(|c| c.subject.clone()).collect::<Vec<_>>(),
            [own.mark.to_string()]
        );
        let tokens = r.tokens(own.enclave).await.unwrap();
        assert_eq!(tokens.iter().map(|t| t.id).collect::<Vec<_>>(), [own.token]);
        assert_eq!(r.token_uses(own.enclave, own.token).await.unwrap().len(), 1);
        let principals = r.principals(Scope::Tenant(own.tenant)).await.unwrap();
        assert_eq!(principals.iter().map(|p| p.id).collect::<Vec<_>>(), [own.principal]);
        let log = r.audit(Scope::Tenant(own.tenant), 0, 100).await.unwrap();
        let details: Vec<_> = log.iter().map(|row| row.detail.clone()).collect();
        assert_eq!(details, [format!("{{\"mark\":{}}}", own.mark)]);
        assert!(r.audit(Scope::Operator, 0, 100).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_id_of_another_finds_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut entropy = SeededEntropy::from_number(3);
    let store = Store::open(&dir.path().join("db"), root_key(), NOW, &mut entropy)
        .await
        .unwrap();
    let (one, two) = (
        furnish(&store, 1, &mut entropy).await,
        furnish(&store, 2, &mut entropy).await,
    );
    for (own, other) in [(&one, &two), (&two, &one)] {
        let scope = Scope::Tenant(own.tenant);
        let mut w = store.write().await.unwrap();
        let r = w.read();
        assert_eq!(r.enclave(own.tenant, other.enclave).await.unwrap(), None);
        assert_eq!(r.token(own.enclave, other.token).await.unwrap(), None);
        assert!(r.token_uses(own.enclave, other.token).await.unwrap().is_empty());
        assert_eq!(r.principal(scope, other.principal).await.unwrap(), None);
        let key = static_key(u64::from(other.mark));
        assert_eq!(r.member_of_static_key(own.enclave, &key).await.unwrap(), None);
        let theirs = Secret::new([other.mark; 32]);
        let used = w
            .use_ticket(own.enclave, member(1), &theirs, &Secret::new([9; 32]), NOW)
            .await
            .unwrap();
        assert_eq!(used, TicketUse::Unknown);
        let refused = [
            w.advance_enclave(own.tenant, other.enclave, 1).await.err(),
            w.set_enclave_file(own.tenant, other.enclave, "mine").await.err(),
            w.remove_enclave(own.tenant, other.enclave).await.err(),
            w.revoke_token(own.enclave, other.token, NOW).await.err(),
            w.remove_token(own.enclave, other.token).await.err(),
            w.revoke_principal(scope, other.principal, NOW).await.err(),
            w.remove_principal(scope, other.principal).await.err(),
            w.note_login(scope, other.principal, NOW).await.err(),
            w.note_login(Scope::Operator, other.principal, NOW).await.err(),
        ];
        for (at, error) in refused.iter().enumerate() {
            assert!(matches!(error, Some(StoreError::NotFound { .. })), "{at}: {error:?}");
        }
        w.commit().await.unwrap();
    }
    let mut r = store.read().await.unwrap();
    for own in [&one, &two] {
        let enclave = r.enclave(own.tenant, own.enclave).await.unwrap().unwrap();
        assert_eq!((enclave.version, enclave.file), (1, own.mark.to_string()));
        assert_eq!(r.token(own.enclave, own.token).await.unwrap().unwrap().revoked, None);
        let principal = r
            .principal(Scope::Tenant(own.tenant), own.principal)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((principal.revoked, principal.last_used), (None, None));
    }
}
