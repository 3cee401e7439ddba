//! Deliberate bugs that the storm must notice.

use nilometer_stream::shell;

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Syncs say `Ok` and do nothing.
    NoFsync,
    /// Repeats count.
    NoDeduplication,
    /// An entry is shown before it is durable.
    PublishBeforeDurable,
    /// After a restore the newest sealed layer is offered twice.
    SealedLayerTwice,
    /// A replay enriches with the newest dimension tables.
    NewestTablesInReplay,
    /// Ids that went cold are not asked.
    ColdIdsLost,
    /// A cold run that cannot be read answers "new".
    UnreadableRunIsNew,
    /// A session that changed is not taken back.
    SessionNotRetracted,
    /// The store passes a layer whose cells it did not take.
    LayerLost,
}

impl Mutant {
    /// Every one, by its name on the command line.
    pub const ALL: [(&'static str, Self); 9] = [
        ("no-fsync", Self::NoFsync),
        ("no-deduplication", Self::NoDeduplication),
        ("publish-before-durable", Self::PublishBeforeDurable),
        ("sealed-layer-twice", Self::SealedLayerTwice),
        ("newest-tables-in-replay", Self::NewestTablesInReplay),
        ("cold-ids-lost", Self::ColdIdsLost),
        ("unreadable-run-is-new", Self::UnreadableRunIsNew),
        ("session-not-retracted", Self::SessionNotRetracted),
        ("layer-lost", Self::LayerLost),
    ];

    /// The mutant of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// What the shell is told of it.
    pub(crate) const fn of_shell(self) -> Option<shell::Mutant> {
        Some(match self {
            Self::NoFsync | Self::LayerLost => return None,
            Self::NoDeduplication => shell::Mutant::NoDeduplication,
            Self::PublishBeforeDurable => shell::Mutant::PublishBeforeDurable,
            Self::SealedLayerTwice => shell::Mutant::SealedLayerTwice,
            Self::NewestTablesInReplay => shell::Mutant::NewestTablesInReplay,
            Self::ColdIdsLost => shell::Mutant::ColdIdsLost,
            Self::UnreadableRunIsNew => shell::Mutant::UnreadableRunIsNew,
            Self::SessionNotRetracted => shell::Mutant::SessionNotRetracted,
        })
    }
}
