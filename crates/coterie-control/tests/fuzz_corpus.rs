//! The committed corpus of every fuzz target of files, run through the target's property: what the fuzzer found once is
//! tried by every run of the tests, without the fuzzer.
#![expect(
    clippy::disallowed_methods,
    reason = "the crate reads no files; its tests read a corpus"
)]

#[path = "../../../fuzz/properties/control.rs"]
mod control;
#[path = "../../../fuzz/properties/enrol.rs"]
mod enrol;
#[path = "../../../fuzz/properties/entry.rs"]
mod entry;
#[path = "../../../fuzz/properties/follow.rs"]
mod follow;
#[path = "../../../fuzz/properties/parts.rs"]
mod parts;
#[path = "../../../fuzz/properties/records.rs"]
mod records;
#[path = "../../../fuzz/properties/remake.rs"]
mod remake;
#[path = "../../../fuzz/properties/site.rs"]
mod site;

use std::path::Path;

#[test]
fn every_input_of_the_corpus_keeps_its_property() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let all = [
        control::TARGETS,
        parts::TARGETS,
        enrol::TARGETS,
        follow::TARGETS,
        records::TARGETS,
    ];
    for (name, property) in all.concat() {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            property(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
