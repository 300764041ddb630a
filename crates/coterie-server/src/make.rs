//! What is done to a server's directory while no request asks for it: made, kept safe, brought back, checked.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coterie_api::v1::KEY_PREFIX;
use coterie_crypto::Secret;
use coterie_store::{AuditEntry, NewPrincipal, Role, Scope, Store};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    clock,
    entropy::SystemEntropy,
    keeper::State,
    start::{database, make_root_key, root_key},
    tls,
};

/// A key as people pass it on. Secret.
pub(crate) fn key_text(secret: &Secret<32>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(KEY_PREFIX.len() + 44));
    text.push_str(KEY_PREFIX);
    URL_SAFE_NO_PAD.encode_string(secret.expose(), &mut text);
    text
}

/// Makes a server.
///
/// # Errors
/// When there is one already, or something cannot be written.
pub(crate) async fn init(directory: &Path) -> anyhow::Result<ExitCode> {
    if !directory.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    anyhow::ensure!(
        !database(directory).exists(),
        "there is a server in {} already; start it with `coterie-server serve`",
        directory.display()
    );
    if root_key(directory).is_err() {
        make_root_key(directory)?;
    }
    tls::make_authority(directory)?;
    let store = Store::open(
        &database(directory),
        root_key(directory)?,
        clock::now(),
        &mut SystemEntropy,
    )
    .await?;
    let text = make_operator(&store, "first").await?;
    store.close().await?;
    let authority = tls::authority(directory);
    say(&format!(
        "made a server in {}\nauthority for people: {}\nthe operator's key, which is not shown again:\n{}\n",
        directory.display(),
        authority.display(),
        &*text
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes one more key for the operator.
///
/// # Errors
/// When the server runs, or the name is taken.
pub(crate) async fn operator_key(directory: &Path, name: &str) -> anyhow::Result<ExitCode> {
    let store = Store::open(
        &database(directory),
        root_key(directory)?,
        clock::now(),
        &mut SystemEntropy,
    )
    .await?;
    let text = make_operator(&store, name).await?;
    store.close().await?;
    say(&format!("{}\n", &*text));
    Ok(ExitCode::SUCCESS)
}

async fn make_operator(store: &Store, name: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut w = store.write().await?;
    let new = NewPrincipal {
        scope: Scope::Operator,
        name,
        role: Role::Owner,
        not_after: None,
    };
    let (id, secret) = w.create_principal(&new, clock::now(), &mut SystemEntropy).await?;
    let entry = AuditEntry {
        scope: Scope::Operator,
        actor: "console",
        action: "principal.create",
        object: name,
        detail: &json!({ "id": id.to_string(), "role": "owner" }),
    };
    w.audit(&entry, clock::now()).await?;
    w.commit().await?;
    Ok(key_text(&secret))
}

/// Makes a backup.
///
/// # Errors
/// When it cannot be written, or does not check.
pub(crate) async fn backup(directory: &Path, to: &Path) -> anyhow::Result<ExitCode> {
    let store = Store::open_read_only(&database(directory), root_key(directory)?).await?;
    store.backup(to, root_key(directory)?).await?;
    store.close().await?;
    say(&format!(
        "backup: {}\nit is of no use without the root key, which is not in it: keep that elsewhere\n",
        to.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes the database from a backup.
///
/// # Errors
/// When there is a database, or the backup is not to be used.
pub(crate) async fn restore(directory: &Path, from: &Path) -> anyhow::Result<ExitCode> {
    let key = root_key(directory)?;
    let path = database(directory);
    Store::restore(from, &path, key, clock::now(), &mut SystemEntropy).await?;
    tls::make_authority(directory)?;
    let store = Store::open(&path, root_key(directory)?, clock::now(), &mut SystemEntropy).await?;
    let enclaves = store.read().await?.all_enclaves().await?;
    let mut w = store.write().await?;
    for enclave in &enclaves {
        let mut state = State::load(&store, enclave.tenant, enclave.id).await?;
        state.recover(&mut w, clock::now()).await?;
    }
    w.commit().await?;
    store.close().await?;
    say(&format!(
        "restored {}: {} enclaves, which give out new keys, statements and bundles from here on\n\
         what was done after the backup was made is not in it. Who was revoked, isolated or ended since is a member again: \
         revoke them again. Nodes notice the restored state, and their logs and `coterie status` name whom they refused.\n",
        path.display(),
        enclaves.len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Checks the database, the enclaves in it, and the audit chain.
///
/// # Errors
/// When it cannot be opened.
pub(crate) async fn check(directory: &Path) -> anyhow::Result<ExitCode> {
    let store = Store::open_read_only(&database(directory), root_key(directory)?).await?;
    let mut problems = Vec::new();
    let mut good = Vec::new();
    let report = store.check().await?;
    problems.extend(report.findings.iter().map(ToString::to_string));
    let enclaves = store.read().await?.all_enclaves().await?;
    for enclave in enclaves {
        match State::load(&store, enclave.tenant, enclave.id).await {
            Ok(state) => good.push(format!(
                "enclave {}: {} members enrolled, signatures and keys fit",
                enclave.name,
                state.enclave.enrolled().count()
            )),
            Err(error) => problems.push(format!("enclave {}: {error:#}", enclave.name)),
        }
    }
    let broken = |finding: &coterie_store::Finding| finding.kind == coterie_store::FindingKind::Audit;
    if !report.findings.iter().any(broken) {
        good.push(format!("audit log: {} rows in an unbroken chain", report.audit_rows));
    }
    store.close().await?;
    let mut text = String::new();
    good.iter()
        .for_each(|line| text.push_str(&format!("good     {line}\n")));
    problems
        .iter()
        .for_each(|line| text.push_str(&format!("problem  {line}\n")));
    say(&text);
    Ok(ExitCode::from(u8::from(!problems.is_empty())))
}

fn say(text: &str) {
    // A reader that went away has lost nothing but the text.
    let _: std::io::Result<()> = std::io::stdout().write_all(text.as_bytes());
}
