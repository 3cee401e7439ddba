//! The one place where the memory limit is shared out.
//!
//! Every part takes its share from here and says itself what full means: ids and sessions go to
//! disk, records wait in the log, bodies are refused with 503, folds take fewer windows at once.

use nilometer_stream::cells::GUARDED_VALUE_BYTES;
use nilometer_stream::sessions::HOT_SESSION_BYTES;

use crate::config::Settings;
use crate::http::WINDOW_BYTES;

/// Bytes of memory an id needs while it is hot, with room to grow (9.8 to 12.6 measured).
const HOT_ID_BYTES: usize = 13;
/// The open layer of a shard and those being written may be twice what seals one.
const LAYERS_PER_SHARD: usize = 2;
/// A batch of the log is at most so large: below it nothing would ever be taken.
const QUEUE_BYTES_MIN: usize = nilometer_log::settings::BATCH_BYTES_MAX;
/// What a connection takes that has begun a request.
const CONNECTION_BYTES: usize = 24 << 10;
/// So many HTTP/2 connections there are in any case.
const HTTP2_MIN: usize = 128;
/// One answer needs so much for 100,000 rows, the most that may be asked for.
const ANSWER_BYTES_MIN: usize = 96 << 20;

/// A page of letters or events may be so large.
const EXCHANGES_BYTES_MIN: usize = 40 << 20;

/// Answers of 100,000 rows with a few columns, one of which may be kept and shown.
const KEPT_BYTES_MIN: usize = 48 << 20;

/// What each part may hold at a memory limit, in bytes unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Ids kept hot, over all shards: 30 %.
    pub(crate) hot_ids: usize,
    /// Sessions kept hot, over all shards: 19 %.
    pub(crate) hot_sessions: usize,
    /// The open layer of one shard, at which it is sealed, beside what it is lent: all layers of
    /// all shards have 20 %.
    pub(crate) layer: usize,
    /// Values that the guard of one shard may remember: three quarters of hot ids' share are theirs at most.
    pub(crate) guarded: usize,
    /// Ids, sessions and filters of one shard: of what they do not need yet its layers are lent a
    /// part.
    pub(crate) hot: usize,
    /// Filters of one shard's cold ids and sessions: all have 6 %.
    pub(crate) filters: usize,
    /// Records of one entry of one shard: all have 5 %.
    pub(crate) entry: usize,
    /// Decoded blocks of the base: 6 %, or what is configured.
    pub(crate) cache: usize,
    /// Cells that a fold merges: 4 %.
    pub(crate) fold: usize,
    /// Bodies on the wire and inflated: 5 %, and at least the largest one.
    pub(crate) bodies: usize,
    /// Batches that wait for the disk: 4 %, at most what is configured and at least the largest.
    pub(crate) queue: usize,
    /// Connections of all addresses: as many as 10 % hold, on top of the limit.
    pub(crate) connections: usize,
    /// HTTP/2 connections among them: as many as have their windows in 1 %, and at least 128.
    pub(crate) http2: usize,
    /// The rows of answers while they are made: 19 %, on top of the limit.
    pub(crate) answer: usize,
    /// Answers and live frames until nobody shows them any more: 8 %, on top of the limit.
    pub(crate) kept: usize,
    /// Requests that are not whole, their heads, and other answers until they are taken: 8 %, on
    /// top of the limit.
    pub(crate) exchanges: usize,
}

impl Shares {
    /// The shares of `server.memory_limit_mib`.
    pub(crate) fn of(settings: &Settings) -> Self {
        let mib = |count: u32| usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(1 << 20);
        let limit = mib(settings.server.memory_limit_mib);
        let percent = |percent: usize| limit / 100 * percent;
        let shards = usize::from(settings.log.partitions).max(1);
        let gateway = &settings.gateway;
        let wire = gateway.body_bytes_max.max(gateway.server_body_bytes_max);
        let hot_ids = settings.stream.hot_ids_max.min(percent(30) / HOT_ID_BYTES);
        Self {
            hot_ids,
            hot_sessions: percent(19) / HOT_SESSION_BYTES,
            guarded: percent(30) / 4 * 3 / GUARDED_VALUE_BYTES / shards,
            hot: (hot_ids * HOT_ID_BYTES + percent(19) + percent(6)) / shards,
            layer: percent(20) / shards / LAYERS_PER_SHARD,
            filters: percent(6) / shards,
            entry: percent(5) / shards,
            cache: mib(settings.rollups.cache_mib).min(percent(6)),
            fold: percent(4),
            bodies: percent(5).max(wire.saturating_add(gateway.inflated_bytes_max)),
            queue: settings.log.queue_bytes_max.min(percent(4).max(QUEUE_BYTES_MIN)),
            connections: percent(10) / CONNECTION_BYTES,
            http2: (percent(1) / WINDOW_BYTES as usize).max(HTTP2_MIN),
            answer: percent(19).max(ANSWER_BYTES_MIN),
            kept: percent(8).max(KEPT_BYTES_MIN),
            exchanges: percent(8).max(EXCHANGES_BYTES_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Sources;
    use crate::config;

    fn shares(limit_mib: u32, partitions: u16) -> Shares {
        let mut settings = config::load(&Sources::default()).unwrap();
        settings.server.memory_limit_mib = limit_mib;
        settings.log.partitions = partitions;
        Shares::of(&settings)
    }

    #[test]
    fn the_shares_are_within_the_limit_whatever_it_is() {
        for limit_mib in [512, 1_024, 16_384] {
            for partitions in [1, 4, 64] {
                let own = shares(limit_mib, partitions);
                let shards = usize::from(partitions);
                let sum = own.hot_ids * HOT_ID_BYTES
                    + own.hot_sessions * HOT_SESSION_BYTES
                    + own.layer * LAYERS_PER_SHARD * shards
                    + own.filters * shards
                    + own.entry * shards
                    + own.cache
                    + own.fold;
                let limit = usize::try_from(limit_mib).unwrap() << 20;
                assert!(own.hot * shards <= limit / 100 * 55 + shards, "lent twice: {own:?}");
                let over = |own: usize, percent: usize| own.saturating_sub(limit / 100 * percent);
                let floors = over(own.bodies, 5) + over(own.queue, 4);
                assert!(sum <= limit / 100 * 90, "{sum} of {limit}: {own:?}");
                assert!(floors <= 64 << 20, "only what the largest body needs is on top: {own:?}");
            }
        }
    }

    #[test]
    fn what_was_taken_for_one_part_is_not_given_to_another() {
        let (small, large) = (shares(512, 4), shares(1_024, 4));
        assert!(large.layer.abs_diff(small.layer * 2) < 100);
        assert_eq!(small.layer, (512 << 20) / 100 * 20 / 8);
        assert!(large.guarded.abs_diff(small.guarded * 2) < 10);
        let guarded_bytes = small.guarded * 4 * GUARDED_VALUE_BYTES;
        assert!(guarded_bytes <= small.hot_ids * HOT_ID_BYTES / 4 * 3 + 100, "{guarded_bytes}");
        assert!(small.queue >= QUEUE_BYTES_MIN && small.bodies >= 32 << 20);
        // The configured most holds: 20 million ids.
        assert_eq!(shares(16_384, 4).hot_ids, 20_000_000);
    }

    #[test]
    fn docs_operations_md_tells_the_shares_as_they_are() {
        let page = include_str!("../../docs/operations.md");
        let percent = |bytes: usize, limit_mib: usize| {
            let limit = limit_mib << 20;
            (bytes * 100 + limit / 2) / limit
        };
        // Where neither what is configured nor the least that a part needs decides.
        let (own, large) = (shares(512, 4), 16_384);
        let own_large = {
            let mut settings = config::load(&Sources::default()).unwrap();
            settings.server.memory_limit_mib = 16_384;
            settings.rollups.cache_mib = 1 << 20;
            settings.log.queue_bytes_max = 1 << 34;
            Shares::of(&settings)
        };
        for (part, share) in [
            ("open and sealing layers", percent(own_large.layer * LAYERS_PER_SHARD * 4, large)),
            ("hot ids (13 bytes each)", percent(own.hot_ids * HOT_ID_BYTES, 512)),
            (
                "hot sessions (about 176 bytes each)",
                percent(own_large.hot_sessions * HOT_SESSION_BYTES, large),
            ),
            ("filters of ids and sessions", percent(own_large.filters * 4, large)),
            ("decoded blocks", percent(own_large.cache, large)),
            ("bodies, on the wire", percent(own_large.bodies, large)),
            ("batches that wait", percent(own_large.queue, large)),
            ("records of the entries", percent(own_large.entry * 4, large)),
            ("a fold into the base", percent(own_large.fold, large)),
            ("the rows of answers while", percent(own_large.answer, large)),
            ("answers and live frames", percent(own_large.kept, large)),
            ("requests that are not whole", percent(own_large.exchanges, large)),
        ] {
            let row = page.lines().find(|line| line.starts_with(&format!("| {part}")));
            let row = row.unwrap_or_else(|| panic!("docs/operations.md: {part}"));
            let told = row.split(" | ").nth(1).unwrap();
            assert!(told.starts_with(&format!("{share} %")), "{share} %: {row}");
        }
        let hot_ids = shares(830, 4).hot_ids;
        assert_eq!(hot_ids, 20_000_000, "docs/operations.md: 20 million hot ids need 830 MiB");
        assert!(shares(820, 4).hot_ids < hot_ids, "docs/operations.md: ten MiB less do, too");
        assert!(page.contains("20 million hot ids need `memory_limit_mib = 830`"));
    }
}
