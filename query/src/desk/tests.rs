//! One computation for all who ask.

use futures_util::future::join_all;

use super::*;
use crate::answer::Value;
use crate::settings::QuerySettings;
use crate::testing::{NOW_MS, Room, Told};

const MINUTE: i64 = 60_000;

fn ask(query: &[(&str, &str)]) -> Arc<Ask> {
    Arc::new(Ask::from_params(query.iter().copied()).unwrap())
}

fn seen(ago_ms: i64, user: u64) -> Told {
    Told { at_ms: NOW_MS - ago_ms, user, event_type: "view", ..Told::default() }
}

fn caller() -> Caller {
    Caller { key: "k".into(), connection: 0 }
}

fn total() -> Arc<Ask> {
    ask(&[("metrics", "events"), ("granularity", "total"), ("last", "24h")])
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_the_same_at_once_shares_one_computation() {
    let room = Room::new();
    let (desk, ask) = (Arc::clone(room.state.desk()), total());
    let answers = join_all((0..200).map(|_| async { desk.answer(&caller(), &ask).await })).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(room.state.metrics().cache_misses.get(), 1);
    assert_eq!(room.state.metrics().cache_hits.get(), 199);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_renewed_when_the_shelves_move_and_at_the_latest_after_a_second() {
    let room = Room::new();
    let (desk, ask) = (Arc::clone(room.state.desk()), total());
    let misses = || room.state.metrics().cache_misses.get();
    assert!(desk.answer(&caller(), &ask).await.unwrap().rows.is_empty());
    room.shelf.show(&[seen(MINUTE, 1)], &[], NOW_MS);
    let rows = desk.answer(&caller(), &ask).await.unwrap().rows.clone();
    assert_eq!((misses(), rows[0].values.clone()), (2, vec![Value::Integer(1)]));
    tokio::time::advance(Duration::from_millis(900)).await;
    desk.answer(&caller(), &ask).await.unwrap();
    assert_eq!(misses(), 2);
    tokio::time::advance(Duration::from_millis(200)).await;
    desk.answer(&caller(), &ask).await.unwrap();
    assert_eq!(misses(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_answers_unused_for_longest_make_room() {
    let settings = QuerySettings { cached_answers_max: 8, ..QuerySettings::default() };
    let room = Room::with(settings, &nilometer_access::QuotaSettings::default());
    let desk = room.state.desk();
    let numbered = |limit: usize| ask(&[("metrics", "events"), ("limit", &limit.to_string())]);
    for limit in 1..=50 {
        desk.answer(&caller(), &numbered(limit)).await.unwrap();
        desk.answer(&caller(), &numbered(1)).await.unwrap();
    }
    assert!(desk.kept() <= 8, "{} are kept", desk.kept());
    let misses = room.state.metrics().cache_misses.get();
    desk.answer(&caller(), &numbered(1)).await.unwrap();
    assert_eq!(room.state.metrics().cache_misses.get(), misses, "what is used stays");
}

#[tokio::test(start_paused = true)]
async fn a_refused_question_is_not_kept() {
    let room = Room::new();
    let desk = room.state.desk();
    assert!(desk.answer(&caller(), &ask(&[("metrics", "nonsense")])).await.is_err());
    assert_eq!(desk.kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_final_window_that_changes_is_called_revised() {
    let room = Room::new();
    let desk = room.state.desk();
    let ask = ask(&[("metrics", "events"), ("granularity", "1h"), ("last", "6h")]);
    room.shelf.show(&[seen(300 * MINUTE, 1), seen(MINUTE, 1)], &[], NOW_MS);
    assert_eq!(desk.answer(&caller(), &ask).await.unwrap().meta.revised, None);
    // Now of the open window: no revision.
    room.shelf.show(&[seen(300 * MINUTE, 1), seen(MINUTE, 1), seen(MINUTE, 2)], &[], NOW_MS);
    assert_eq!(desk.answer(&caller(), &ask).await.unwrap().meta.revised, None);
    // Now a late event of a final window.
    let events = [seen(300 * MINUTE, 1), seen(299 * MINUTE, 3), seen(MINUTE, 1), seen(MINUTE, 2)];
    room.shelf.show(&events, &[], NOW_MS);
    let revised = desk.answer(&caller(), &ask).await.unwrap().meta.revised.clone().unwrap();
    assert_eq!((revised.windows, revised.from.as_str()), (1, "2026-11-24T02:00:00Z"));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_gives_way_and_what_is_shown_does_not() {
    let settings = QuerySettings { answer_bytes_max: 8 << 10, ..QuerySettings::default() };
    let room = Room::with(settings, &nilometer_access::QuotaSettings::default());
    let desk = room.state.desk();
    // Each takes a good 2 KiB of the 6 that a key has.
    let numbered = |limit: usize| ask(&[("metrics", "events"), ("limit", &limit.to_string())]);
    for limit in 1..=20 {
        desk.answer(&caller(), &numbered(limit)).await.unwrap();
    }
    let metrics = room.state.metrics();
    assert!(metrics.answer_bytes.get() <= 6 << 10, "{}", metrics.answer_bytes.get());
    let shown = [
        desk.answer(&caller(), &numbered(30)).await.unwrap(),
        desk.answer(&caller(), &numbered(31)).await.unwrap(),
    ];
    let refused = desk.answer(&caller(), &numbered(32)).await.unwrap_err();
    assert_eq!(refused.code, "busy");
    assert!(refused.detail.contains("limit"), "{}", refused.detail);
    let other = Caller { key: "other".into(), connection: 0 };
    assert!(desk.answer(&other, &numbered(33)).await.is_ok(), "another key has room");
    drop(shown);
    assert!(desk.answer(&caller(), &numbered(32)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_short_work_is_answered_in_a_turn_for_long_work() {
    let room = Room::new();
    let name = |n: u64| &*Box::leak(format!("c-{n:05}").into_boxed_str());
    let events: Vec<Told> =
        (0..27_000).map(|n| Told { content_id: Some(name(n)), ..seen(MINUTE, n + 1) }).collect();
    room.shelf.show(&events, &[], NOW_MS);
    let (desk, all) = (room.state.desk(), [("metrics", "events"), ("group_by", "content_id")]);
    let ask = ask(&[&all[..], &[("granularity", "total"), ("limit", "100000")]].concat());
    assert_eq!(desk.answer(&caller(), &ask).await.unwrap().rows.len(), 27_000);
    let turns = || {
        let text = crate::Exposition::OpenMetrics.encode(room.state.registry()).unwrap();
        let count =
            text.lines().find_map(|line| line.strip_prefix("query_turn_waited_seconds_count "));
        count.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(turns(), 2, "a short one first, in vain");
}
