//! What a file would do is what it does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use coterie_control::{
    bundle::{Keys, Request},
    file::{self, reach},
    issue::{Changes, Enclave, IssueError},
};
use coterie_crypto::SeededEntropy;
use coterie_model::{MemberId, Name, UnixTime};

const NOW: UnixTime = UnixTime(1_795_506_345);

const HEAD: &str = "version = 1\n[enclave]\nname = \"shop\"\npools = [\"10.77.0.0/24\"]\n";

const FILE: &str = r#"
[community.web]
[community.db]
[community.spare]
[template.web]
communities = ["web"]
[template.db]
communities = ["web", "db"]
[template.old]
communities = ["web", "spare"]
[member.db-1]
template = "db"
[member.db-2]
template = "db"
"#;

/// Each takes the file further from [`FILE`].
const LATER: [&str; 6] = [
    // The same again.
    FILE,
    // A community and a member more.
    "[community.web]\n[community.db]\n[community.spare]\n[community.log]\n\
     [template.web]\ncommunities = [\"web\"]\n[template.db]\ncommunities = [\"web\", \"db\", \"log\"]\n\
     [template.old]\ncommunities = [\"web\", \"spare\"]\n\
     [member.db-1]\ntemplate = \"db\"\n[member.db-2]\ntemplate = \"db\"\n[member.db-3]\ntemplate = \"db\"\n",
    // A member of the file gone, and one that a token made taken over.
    "[community.web]\n[community.db]\n[community.spare]\n[template.web]\ncommunities = [\"web\"]\n\
     [template.db]\ncommunities = [\"web\", \"db\"]\n[template.old]\ncommunities = [\"web\", \"spare\"]\n\
     [member.db-1]\ntemplate = \"db\"\n[member.web-1]\ntemplate = \"db\"\n",
    // A template of members that tokens made gone.
    "[community.web]\n[community.db]\n[community.spare]\n[template.web]\ncommunities = [\"web\"]\n\
     [template.db]\ncommunities = [\"web\", \"db\"]\n[member.db-1]\ntemplate = \"db\"\n[member.db-2]\ntemplate = \"db\"\n",
    // Everybody loses something, and a community goes with its holders.
    "[community.web]\n[community.db]\n[template.web]\ncommunities = [\"web\"]\n[template.db]\ncommunities = [\"db\"]\n\
     [template.old]\ncommunities = [\"web\"]\n[member.db-1]\ntemplate = \"db\"\n[member.db-2]\ntemplate = \"db\"\n",
    // A priority alone.
    "[community.web]\npriority = 7\n[community.db]\n[community.spare]\n[template.web]\ncommunities = [\"web\"]\n\
     [template.db]\ncommunities = [\"web\", \"db\"]\n[template.old]\ncommunities = [\"web\", \"spare\"]\n\
     [member.db-1]\ntemplate = \"db\"\n[member.db-2]\ntemplate = \"db\"\n",
];

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn names(text: &str) -> BTreeSet<Name> {
    text.split_whitespace().map(name).collect()
}

/// An enclave with an enrolled member of the file and three that tokens made, all but one with a bundle.
fn enclave() -> Enclave {
    let mut entropy = SeededEntropy::from_number(1);
    let mut enclave = Enclave::init(&format!("{HEAD}{FILE}"), NOW, &mut entropy).unwrap();
    for (n, member, template) in [
        (1, "db-1", "db"),
        (2, "web-1", "web"),
        (3, "old-1", "old"),
        (4, "old-2", "old"),
    ] {
        let keys = Keys::generate(name(member), &mut entropy);
        let request = Request::new(&keys).unwrap();
        enclave
            .provision(&name(template), Vec::new(), &request, false, MemberId([n; 16]), NOW)
            .unwrap();
        if member != "old-2" {
            enclave.issue(&name(member), NOW, &mut entropy).unwrap();
        }
    }
    enclave
}

#[test]
fn a_plan_is_what_the_file_does_and_leaves_it_undone() {
    let mut rolled = 0;
    for (n, later) in LATER.into_iter().enumerate() {
        let mut enclave = enclave();
        let text = format!("{HEAD}{later}");
        let untouched = enclave.topology();
        let plan = enclave.plan(&file::parse(&text).unwrap(), NOW).unwrap();
        assert_eq!(plan.before, untouched, "file {n}");
        assert_eq!(enclave.topology(), untouched, "file {n}");
        let changes = enclave.update(&text, NOW, &mut SeededEntropy::from_number(2)).unwrap();
        assert_eq!(plan.changes, changes, "file {n}");
        assert_eq!(plan.after, enclave.topology(), "file {n}");
        assert_eq!(
            n == 0,
            changes == Changes::default() && plan.before == plan.after,
            "file {n}"
        );
        rolled += changes.rolled.len();
    }
    assert!(rolled > 0, "at least one file takes a key away");
}

#[test]
fn who_reaches_whom_counts_members_that_tokens_made() {
    let enclave = enclave();
    let later = format!("{HEAD}{}", LATER[3]);
    let plan = enclave.plan(&file::parse(&later).unwrap(), NOW).unwrap();
    assert_eq!(plan.changes.revoked, names("old-1 old-2"));
    assert_eq!(plan.changes.rolled, names("web spare"));
    let found = reach::changes(&plan.before, &plan.after, 1);
    // Either of the two had four others, the other of the two among them, and they had it.
    assert_eq!(found.total, 14);
    let first = &found.first[0];
    assert_eq!((first.from.as_str(), first.to.as_str()), ("db-1", "old-1"));
    assert_eq!((first.before.clone(), first.after.clone()), (Some(name("web")), None));
}

#[test]
fn a_file_of_another_enclave_has_no_plan() {
    let text = format!("{HEAD}{FILE}").replace("shop", "mill");
    let plan = enclave().plan(&file::parse(&text).unwrap(), NOW);
    assert!(matches!(plan, Err(IssueError::OtherEnclave { .. })));
}
