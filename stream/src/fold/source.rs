//! The source of one record after the other.

use nilometer_event::{IdentityKey, SourceHash};

/// The source of the last record and its hash: what one key sends lies together.
#[derive(Debug, Default)]
pub(super) struct LastSource<'r> {
    name: Option<&'r str>,
    hash: SourceHash,
}

impl<'r> LastSource<'r> {
    pub(super) fn hash(&mut self, identity: &IdentityKey, name: Option<&'r str>) -> SourceHash {
        if self.name != name {
            *self = Self { name, hash: identity.source(name) };
        }
        self.hash
    }
}
