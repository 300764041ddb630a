//! Is an enclave directory whole, and is what should be secret so?

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use coterie_control::issue::{Enclave, WRITTEN};
use coterie_model::{Name, UnixTime};

/// One thing that was looked at.
#[derive(Debug)]
pub(crate) struct Finding {
    /// It has to be put right.
    pub(crate) is_problem: bool,
    /// What was looked at and found, and what to do.
    pub(crate) text: String,
}

impl Finding {
    fn good(text: impl Into<String>) -> Self {
        Self {
            is_problem: false,
            text: text.into(),
        }
    }

    fn problem(text: impl Into<String>) -> Self {
        Self {
            is_problem: true,
            text: text.into(),
        }
    }
}

/// Looks at everything, and says what it found.
pub(crate) fn report(directory: &Path) -> ExitCode {
    let findings = check(directory);
    let problems = findings.iter().filter(|finding| finding.is_problem).count();
    let mut text = String::new();
    for finding in &findings {
        let word = if finding.is_problem { "problem" } else { "good" };
        text.push_str(&format!("{word:<9}{}\n", finding.text));
    }
    text.push_str(&match problems {
        0 => format!("{}: good\n", directory.display()),
        1 => format!("{}: 1 problem\n", directory.display()),
        n => format!("{}: {n} problems\n", directory.display()),
    });
    // A reader that went away has lost nothing but the text: the exit code says the same.
    let _: std::io::Result<()> = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(problems > 0))
}

/// Looks at everything; changes nothing.
fn check(directory: &Path) -> Vec<Finding> {
    let mut findings = permissions(directory);
    match Enclave::from_files(|name| fs::read(directory.join(name)).ok()) {
        Ok(enclave) => findings.extend(content(&enclave, now())),
        Err(error) => findings.push(Finding::problem(error.to_string())),
    }
    findings
}

/// The directory and its keys are their owner's alone, and nobody else's work lies in it.
fn permissions(directory: &Path) -> Vec<Finding> {
    let shown = directory.display();
    let Ok(meta) = fs::metadata(directory) else {
        return vec![Finding::problem(format!(
            "{shown} cannot be opened; name an enclave directory that is yours"
        ))];
    };
    let mut findings = Vec::new();
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        findings.push(Finding::problem(format!(
            "{shown} has mode {mode:04o}: others may open it; `chmod 700 {shown}`"
        )));
    }
    for name in WRITTEN {
        let path = directory.join(name);
        // A file that is missing is named by who reads the directory.
        let Ok(file) = fs::symlink_metadata(&path) else {
            continue;
        };
        let (path, mode) = (path.display(), file.mode() & 0o777);
        if !file.is_file() {
            findings.push(Finding::problem(format!(
                "{path} is no regular file; restore the enclave directory as a whole"
            )));
        }
        if name.ends_with(".key") && mode & 0o077 != 0 {
            findings.push(Finding::problem(format!(
                "{path} has mode {mode:04o}: others may read it; `chmod 600 {path}`"
            )));
        }
        if mode & 0o022 != 0 {
            findings.push(Finding::problem(format!(
                "{path} has mode {mode:04o}: others may change it; `chmod go-w {path}`"
            )));
        }
        if file.uid() != meta.uid() {
            let (owner, expected) = (file.uid(), meta.uid());
            findings.push(Finding::problem(format!(
                "{path} is of user {owner}, the directory of {expected}; `chown {expected} {path}`"
            )));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            "permissions: the directory and its keys are their owner's alone",
        ));
    }
    findings
}

/// What the files say: they were read, so every signature and commitment in them checks.
fn content(enclave: &Enclave, now: UnixTime) -> Vec<Finding> {
    let file = enclave.file();
    let epochs: usize = file
        .communities
        .keys()
        .map(|name| enclave.manifests(name).count())
        .sum();
    let root = crate::hex::hex(&enclave.root_hash());
    let mut findings = vec![
        Finding::good(format!("enclave {}, root {root}", enclave.name())),
        Finding::good(format!(
            "signatures: root, authority, {epochs} manifests, statements of {} members, {} revoked keys",
            enclave.enrolled().count(),
            enclave.revocations().map_or(0, |list| list.entries.len())
        )),
        Finding::good(format!(
            "key commitments: {epochs} epochs of {} communities",
            file.communities.len()
        )),
        Finding::good(format!(
            "enclave file: {} members, {} tests passed",
            file.members.len(),
            file.tests.len()
        )),
    ];
    findings.extend(file.warnings.iter().map(|w| {
        Finding::problem(format!(
            "enclave.toml, line {}, column {}: {}; {}",
            w.line, w.column, w.message, w.remedy
        ))
    }));
    for name in file.communities.keys() {
        if !enclave
            .manifests(name)
            .any(|manifest| manifest.activates <= now && now < manifest.retires)
        {
            findings.push(Finding::problem(format!(
                "community {name} has no epoch in force; `coterie enclave roll {name}`"
            )));
        }
    }
    let due = enclave.due(now);
    if !due.is_empty() {
        let names: Vec<&str> = due.iter().map(Name::as_str).collect();
        let text = format!(
            "keys older than the enclave file wants: {}; `coterie enclave roll`",
            names.join(", ")
        );
        findings.push(Finding::problem(text));
    }
    for (name, enrolment) in enclave.enrolled() {
        if enrolment.not_after <= now {
            let text = format!("the membership of {name} has ended; `coterie bundle issue --member {name}`");
            findings.push(Finding::problem(text));
        }
    }
    findings
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use coterie_crypto::SeededEntropy;

    use super::*;

    const FILE: &str = "version = 1\n[enclave]\nname = \"pair\"\npools = [\"10.0.0.0/24\"]\n[community.pair]\n\
                        [template.node]\ncommunities = [\"pair\"]\n[member.left]\ntemplate = \"node\"\n\
                        endpoints = [\"192.0.2.1\"]\n[member.right]\ntemplate = \"node\"\nendpoints = [\"192.0.2.2\"]\n\
                        [[tests]]\nfrom = \"left\"\nto = \"right\"\n";

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let enclave = Enclave::init(FILE, now(), &mut SeededEntropy::from_number(1)).unwrap();
        for file in enclave.to_files() {
            let path = directory.path().join(file.path);
            fs::write(&path, &*file.bytes).unwrap();
            let mode = if file.secret { 0o600 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        directory
    }

    fn problems(directory: &Path) -> Vec<String> {
        check(directory)
            .into_iter()
            .filter(|finding| finding.is_problem)
            .map(|finding| finding.text)
            .collect()
    }

    #[test]
    fn a_fresh_directory_is_good() {
        let directory = directory();
        assert_eq!(problems(directory.path()), [""; 0]);
        assert!(
            check(directory.path())
                .iter()
                .any(|finding| finding.text.contains("root "))
        );
    }

    #[test]
    fn what_others_may_read_or_change_is_found() {
        let directory = directory();
        for (name, mode) in [("root.key", 0o640), ("state.json", 0o666)] {
            fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let found = problems(directory.path());
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found.iter().all(|text| text.contains("`chmod ")), "{found:#?}");
    }

    #[test]
    fn damage_is_found_and_named() {
        for (name, from, to) in [
            ("state.json", "\"manifest\": \"AwAAAAAA", "\"manifest\": \"AwAAAAAB"),
            ("epochs.key", "-----END", "-----"),
        ] {
            let directory = directory();
            let path = directory.path().join(name);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{name}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let found = problems(directory.path());
            assert!(found.len() == 1 && found[0].contains(name), "{found:?}");
        }
        let directory = directory();
        fs::remove_file(directory.path().join("statement.key")).unwrap();
        assert!(problems(directory.path())[0].contains("statement.key"));
        assert!(
            problems(Path::new("/nonexistent"))
                .iter()
                .any(|text| text.contains("/nonexistent"))
        );
    }

    #[test]
    fn what_is_due_is_found() {
        let directory = directory();
        let enclave = Enclave::from_files(|name| fs::read(directory.path().join(name)).ok()).unwrap();
        let later = UnixTime(now().0 + 2 * 24 * 3600);
        let found: Vec<_> = content(&enclave, later).into_iter().filter(|f| f.is_problem).collect();
        assert!(found.len() == 1 && found[0].text.contains("pair"), "{found:?}");
    }
}
