//! The committed corpus of every fuzz target, run through the target's property: what the fuzzer found once is tried by
//! every run of the tests, without the fuzzer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "the crate reads no files; its tests read a corpus"
)]

#[path = "../../../fuzz/properties/entry.rs"]
mod entry;
#[path = "../../../fuzz/properties/nodes.rs"]
mod nodes;
#[path = "../../../fuzz/properties/proto.rs"]
mod proto;
#[path = "../../../fuzz/properties/visits.rs"]
mod visits;
#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use std::path::Path;

#[test]
fn every_input_of_the_corpus_keeps_its_property() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, property) in proto::TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            property(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
