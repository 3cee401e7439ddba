//! What a tick gave, in pieces that all viewers share.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use nilometer_access::Problem;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as Fragment;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::answer::{Answer, RowWriter, difference};
use crate::budget::{Budget, Held};
use crate::desk::Kept;

/// Bytes of a message that are written at once: a viewer who takes nothing holds no more of its
/// own. Longer messages are sent in fragments.
const PIECE_BYTES: usize = 32 << 10;

/// What a tick gave.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Grows by one a tick.
    pub(crate) revision: u64,
    /// The rows, or why there are none.
    pub(crate) rows: Result<Arc<FrameRows>, Problem>,
    /// When the next comes.
    pub(crate) interval: Duration,
    pub(crate) made_at: Instant,
}

/// Rows of a tick. They are the desk's: where memory is wanted, they are let go of, and viewers who
/// have not begun to take them wait for the next tick.
#[derive(Debug)]
pub(crate) struct FrameRows {
    kept: Weak<Kept>,
    revision: u64,
    meta: Bytes,
    delta: Option<Delta>,
}

/// `"revision":…,"from":…,"changed":…,"removed":…,"meta":…}`
#[derive(Debug)]
pub(crate) struct Delta {
    text: Bytes,
    _held: Held,
}

/// A message in pieces, and what holds their memory.
#[derive(Debug)]
pub(crate) struct Pieces {
    pieces: [Bytes; 3],
    _frame: Arc<FrameRows>,
    _kept: Option<Arc<Kept>>,
}

impl FrameRows {
    pub(crate) fn new(kept: &Arc<Kept>, meta: Bytes, revision: u64, delta: Option<Delta>) -> Self {
        Self { kept: Arc::downgrade(kept), revision, meta, delta }
    }

    pub(crate) fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.upgrade()
    }

    /// All rows under the viewer's id; `None` where they had to make room.
    pub(crate) fn snapshot(self: &Arc<Self>, id: &str) -> Option<Pieces> {
        let kept = self.kept()?;
        let revision = format!("\"revision\":{},", self.revision);
        let meta = [b",\"meta\":", &*self.meta, b"}"].concat();
        // The text of columns and rows is an object that has only begun.
        let pieces = [opening("snapshot", id, &revision), kept.head.slice(1..), meta.into()];
        Some(Pieces { pieces, _frame: Arc::clone(self), _kept: Some(kept) })
    }

    /// What changed, under the viewer's id, where that is known.
    pub(crate) fn delta(self: &Arc<Self>, id: &str) -> Option<Pieces> {
        let text = self.delta.as_ref()?.text.clone();
        let pieces = [opening("delta", id, ""), text, Bytes::new()];
        Some(Pieces { pieces, _frame: Arc::clone(self), _kept: None })
    }
}

fn opening(kind: &str, id: &str, more: &str) -> Bytes {
    let id = serde_json::Value::from(id);
    format!("{{\"type\":\"{kind}\",\"id\":{id},{more}").into()
}

impl Delta {
    /// The text; `None` where it is not much shorter than all rows are, which do as well.
    pub(crate) fn text(
        before: &Answer,
        after: &Answer,
        meta: &[u8],
        revision: u64,
    ) -> Option<Vec<u8>> {
        let bytes_max = (after.head.len() / 2).max(PIECE_BYTES);
        let from = revision - 1;
        let mut out = format!("\"revision\":{revision},\"from\":{from},\"changed\":[").into_bytes();
        let delta = if std::ptr::eq(before, after) {
            crate::answer::Delta::default()
        } else {
            difference(before, after)
        };
        let mut writer = RowWriter::new(&after.columns);
        for (index, row) in delta.changed.into_iter().enumerate() {
            if out.len() > bytes_max {
                return None;
            }
            if index > 0 {
                out.push(b',');
            }
            writer.put_row(row, &mut out);
        }
        out.extend_from_slice(b"],\"removed\":[");
        for (index, row) in delta.removed.into_iter().enumerate() {
            if out.len() > bytes_max {
                return None;
            }
            if index > 0 {
                out.push(b',');
            }
            writer.put_removed(row, &mut out);
        }
        out.extend_from_slice(b"],\"meta\":");
        out.extend_from_slice(meta);
        out.push(b'}');
        Some(out)
    }

    /// Takes memory for the text; `None` where there is none: all rows do as well.
    pub(crate) fn held(mut text: Vec<u8>, key: &Arc<str>, budget: &Budget) -> Option<Self> {
        text.shrink_to_fit();
        let held = budget.hold(key, text.len()).ok()?;
        Some(Self { text: text.into(), _held: held })
    }
}

impl Pieces {
    /// One text where it is short, else its fragments; nothing long is copied.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let bytes: usize = self.pieces.iter().map(Bytes::len).sum();
        if bytes <= PIECE_BYTES {
            let text = Utf8Bytes::try_from(Bytes::from(self.pieces.concat()));
            return vec![Message::Text(text.expect("JSON text is UTF-8"))];
        }
        let cut = |piece: &Bytes| -> Vec<Bytes> {
            let starts = (0..piece.len()).step_by(PIECE_BYTES);
            starts.map(|at| piece.slice(at..piece.len().min(at + PIECE_BYTES))).collect()
        };
        let fragments: Vec<Bytes> = self.pieces.iter().flat_map(cut).collect();
        let last = fragments.len() - 1;
        let numbered = fragments.into_iter().enumerate();
        let message = |(at, fragment)| {
            let data = if at == 0 { Data::Text } else { Data::Continue };
            Message::Frame(Fragment::message(fragment, OpCode::Data(data), at == last))
        };
        numbered.map(message).collect()
    }
}
