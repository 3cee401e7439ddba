//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that stay free for files, beside what the log's partitions need.
const FILES: usize = 256;
/// Descriptors of the log, the checkpoints and the base, for each partition.
const FILES_PER_PARTITION: usize = 32;

/// Raises the soft limit to the hard one; says what it is then.
pub(crate) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}

/// How many of so many descriptors are for connections: what files need is never given away,
/// or a checkpoint could fail; but half are, whatever they need.
pub(crate) fn for_connections(descriptors: usize, partitions: u16) -> usize {
    let files = FILES + FILES_PER_PARTITION * usize::from(partitions);
    descriptors.saturating_sub(files).max(descriptors / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_descriptors_that_no_connection_takes() {
        assert_eq!(for_connections(1_024, 4), 1_024 - 256 - 128);
        assert_eq!(for_connections(1_024, 64), 512);
        assert_eq!(for_connections(usize::MAX, 4), usize::MAX - 256 - 128);
    }
}
