//! The enclave file.

use coterie_model::Name;
use serde_json::json;

use super::{
    Outcome, State,
    deed::Hand,
    member::set_roll,
    state::{Failed, write_version},
};
use crate::{entropy::SystemEntropy, refusal::Refusal};

impl State {
    /// Takes a new file, whole or not at all. The same file again changes nothing.
    pub(super) async fn apply(
        &mut self,
        text: &str,
        expected: Option<u64>,
        hand: &mut Hand<'_>,
    ) -> Result<Outcome, Failed> {
        if expected.is_some_and(|version| version != self.file_version) {
            return Err(Refusal::Changed.into());
        }
        let before: Vec<_> = self
            .enclave
            .enrolled()
            .map(|(name, e)| (name.clone(), e.member))
            .collect();
        if text == self.enclave.text() {
            return Ok(Outcome::Applied(Box::default()));
        }
        let changes = self.enclave.update(text, hand.now, &mut SystemEntropy)?;
        for (name, member) in &before {
            if changes.revoked.contains(name) {
                self.release_claims(*member, hand).await?;
            }
        }
        for community in &changes.added_communities {
            set_roll(hand.w, &self.enclave, community, hand.now).await?;
        }
        self.file_version += 1;
        let id = self.enclave.id();
        write_version(hand.w, id, self.file_version).await?;
        // Doors may have come or gone.
        self.knocking = None;
        let words =
            |names: &std::collections::BTreeSet<Name>| -> Vec<String> { names.iter().map(Name::to_string).collect() };
        let detail = json!({
            "version": self.file_version,
            "communities-added": words(&changes.added_communities),
            "communities-removed": words(&changes.removed_communities),
            "members-added": words(&changes.added_members),
            "members-revoked": words(&changes.revoked),
            "rolled": words(&changes.rolled),
        });
        hand.audit(self.tenant, ("enclave.apply", self.enclave.name().as_str()), detail)
            .await?;
        Ok(Outcome::Applied(Box::new(changes)))
    }
}
