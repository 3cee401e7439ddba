//! What can go wrong in the workshop: one enum per operation.

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{AppendError, ReadError};

/// Why the journal gave no entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The bytes are damaged.
    #[error("journal entry is corrupt")]
    Corrupt,
    /// A later release wrote it.
    #[error(
        "journal entry has version {version}, this release reads up to {known}; start the \
         release that wrote it"
    )]
    Newer {
        /// Version found.
        version: u8,
        /// Version that this release writes.
        known: u8,
    },
    /// It could not be brought into its form.
    #[error("journal entry could not be encoded: {source}")]
    Encode {
        /// Why.
        source: postcard::Error,
    },
    /// The log could not be read; try again.
    #[error("journal could not be read: {source}")]
    Read {
        /// What the log says.
        source: ReadError,
    },
    /// The log gives neither records nor a way past them.
    #[error("journal gives nothing at offset {offset} though it does not end there")]
    Stuck {
        /// Where.
        offset: Offset,
    },
}

/// Why a step did less than it could. The state holds whole entries only, so the next step
/// goes on where this one stopped; nothing accepted is lost or counted twice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The log could not be read; the step is to be repeated.
    #[error("log could not be read, trying again: {source}")]
    Read {
        /// What the log says.
        source: ReadError,
    },
    /// The journal entry or late events could not be appended; the same bytes are tried again.
    #[error("{what} could not be appended, trying again: {source}")]
    Append {
        /// `journal entry` or `late events`.
        what: &'static str,
        /// What the log says.
        source: AppendError,
    },
    /// The log gives neither records nor a way past them.
    #[error("{topic} gives nothing at offset {offset} though it does not end there")]
    Stalled {
        /// The topic.
        topic: Topic,
        /// Where.
        offset: Offset,
    },
    /// The journal said something unexpected.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A cold file could not be read; the step is to be repeated.
    #[error("cold state could not be read, trying again: {source}")]
    Cold {
        /// What the disk says.
        source: crate::ids::RunReadFailed,
    },
    /// A plan or a dimension table that the next entry names could not be read.
    #[error("{path} could not be read, trying again: {reason}")]
    Named {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The checkpoint could not be written; it is tried again.
    #[error("checkpoint could not be written, trying again: {reason}")]
    Checkpoint {
        /// What the disk says.
        reason: String,
    },
    /// The thread that writes checkpoints has ended.
    #[error("the thread that writes checkpoints of shard {partition} has ended; restart")]
    WriterGone {
        /// The shard.
        partition: Partition,
    },
}

/// Why a shard could not be recovered. Nothing was changed that a later try would miss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The directory is a later release's.
    #[error(
        "shard {partition}: written by engine {found}, this release has engine {known}; start \
         the release that wrote it (nothing was changed)"
    )]
    NewerEngine {
        /// The shard.
        partition: Partition,
        /// Engine found.
        found: u32,
        /// Engine of this release.
        known: u32,
    },
    /// The directory was made for another number of partitions.
    #[error(
        "shard {partition}: checkpoint was made for {found} partitions, configured are {asked}; \
         set log.partitions back to {found}"
    )]
    PartitionCount {
        /// The shard.
        partition: Partition,
        /// Count in the checkpoint.
        found: u16,
        /// Count configured.
        asked: u16,
    },
    /// No checkpoint is good and the journal no longer begins at its begin.
    #[error(
        "shard {partition}: no checkpoint of {tried} is good and the journal begins at {start}, \
         not at 0; restore checkpoints/{partition} from a backup"
    )]
    NoCheckpoint {
        /// The shard.
        partition: Partition,
        /// How many manifests there are.
        tried: usize,
        /// First journal offset that is left.
        start: Offset,
    },
    /// No checkpoint since the last purge is good.
    #[error(
        "shard {partition}: no checkpoint since the purge behind entry {seq} is good, and a replay \
         would bring back what that took; restore checkpoints/{partition} from a backup"
    )]
    BeforePurge {
        /// The shard.
        partition: Partition,
        /// The last entry before the purge.
        seq: u64,
    },
    /// An entry names a plan that is not there or that this release compiles differently.
    #[error(
        "shard {partition}: journal entry {seq} is counted by plan {plan}, which {reason}; \
         start the release that wrote it, let it checkpoint, and stop it"
    )]
    Plan {
        /// The shard.
        partition: Partition,
        /// The entry.
        seq: u64,
        /// The plan, as in its file's name.
        plan: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of a plan that an entry names is damaged.
    #[error(
        "shard {partition}: {path} is damaged (corrupt: {reason}) and journal entry {seq} is \
         counted by it; restore the file from a backup, or start once with the configuration \
         that it was made from, which writes it anew (nothing was changed)"
    )]
    PlanDamaged {
        /// The shard.
        partition: Partition,
        /// The entry.
        seq: u64,
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A dimension table that an entry names is damaged.
    #[error("shard {partition}: {source}")]
    Table {
        /// The shard.
        partition: Partition,
        /// What is wrong with it.
        source: DimensionTableError,
    },
    /// An entry asks for what this release cannot do.
    #[error("shard {partition}: journal entry {seq} erases users, which this release cannot do")]
    Erasure {
        /// The shard.
        partition: Partition,
        /// The entry.
        seq: u64,
    },
    /// The disk could not be read or written; try again.
    #[error("shard {partition}: {path}: {source}")]
    Disk {
        /// The shard.
        partition: Partition,
        /// File or folder.
        path: String,
        /// What the disk says.
        source: std::io::Error,
    },
    /// The log's end could not be moved past what the journal names.
    #[error("shard {partition}: log could not be brought past what the journal names: {source}")]
    EnsurePast {
        /// The shard.
        partition: Partition,
        /// What the log says.
        source: AppendError,
    },
    /// Replay stopped; try again.
    #[error("shard {partition}: replay stopped: {source}")]
    Replay {
        /// The shard.
        partition: Partition,
        /// Why.
        source: StepError,
    },
}

/// Why the stream did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A shard could not be recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A thread could not be made.
    #[error("thread {name} could not be started: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The dimension tables could not be read.
    #[error("dimension tables could not be read: {source}")]
    Tables {
        /// Why.
        source: DimensionTableError,
    },
    /// A shard's thread ended without a word.
    #[error("a thread of the stream panicked while it recovered; see the log")]
    Panicked,
}

/// Why a dimension table was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DimensionTableError {
    /// No table has that name.
    #[error("no dimension table is called {name:?}; there are users, content and services")]
    NoSuchTable {
        /// The name.
        name: String,
    },
    /// There is no key column.
    #[error("the table has no columns; the first one is the key")]
    NoColumns,
    /// Two columns have one name.
    #[error("column {column:?} stands twice")]
    RepeatedColumn {
        /// Its name.
        column: String,
    },
    /// There are more columns than a table may have.
    #[error("{columns} columns, at most {columns_max} are allowed")]
    TooManyColumns {
        /// Columns sent.
        columns: usize,
        /// Limit.
        columns_max: usize,
    },
    /// A row does not fit the columns.
    #[error("row {row}: {found} values for {expected} columns")]
    Width {
        /// Counted from 1, the header not counted.
        row: usize,
        /// Values in it.
        found: usize,
        /// Columns.
        expected: usize,
    },
    /// A row has no key.
    #[error("row {row}: column {column:?} (the key) is empty")]
    NoKey {
        /// Counted from 1.
        row: usize,
        /// The key column.
        column: String,
    },
    /// A key stands twice.
    #[error("row {row}: key {key:?} stands in row {first} already")]
    RepeatedKey {
        /// Counted from 1.
        row: usize,
        /// Where it stands first.
        first: usize,
        /// The key.
        key: String,
    },
    /// A value is longer than an event's may be.
    #[error("row {row}, column {column:?}: {bytes} bytes, at most {bytes_max} are allowed")]
    TooLong {
        /// Counted from 1.
        row: usize,
        /// The column.
        column: String,
        /// Its length.
        bytes: usize,
        /// Limit.
        bytes_max: usize,
    },
    /// A value is no text.
    #[error("row {row}, column {column:?}: expected text or null, found {found}")]
    NotText {
        /// Counted from 1.
        row: usize,
        /// The column.
        column: String,
        /// What stands there.
        found: String,
    },
    /// A line is no CSV or JSON.
    #[error("row {row}: {reason}")]
    Malformed {
        /// Counted from 1.
        row: usize,
        /// What the parser says.
        reason: String,
    },
    /// There are more rows than `table_rows_max`.
    #[error("more than {rows_max} rows; send fewer")]
    TooManyRows {
        /// Limit.
        rows_max: u64,
    },
    /// The table is larger than `table_bytes_max`.
    #[error("more than {bytes_max} bytes; send fewer rows")]
    TooManyBytes {
        /// Limit.
        bytes_max: u64,
    },
    /// The disk could not keep it; try again.
    #[error("{path} could not be written, try again: {source}")]
    Disk {
        /// The file.
        path: String,
        /// What the disk says.
        source: std::io::Error,
    },
    /// Its file is damaged.
    #[error("{path} is corrupt: {reason}; put the table again")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl DimensionTableError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Disk { .. })
    }
}
