//! Lines that wait for the one thread that writes them: whoever logs waits for no reader.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A bounded queue of lines. A line that finds no room is lost, and counted.
#[derive(Debug)]
pub(super) struct Lines {
    bytes_max: usize,
    state: Mutex<State>,
    came: Condvar,
    written: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Box<[u8]>>,
    /// Of what waits and of what is being written: at most `bytes_max`.
    bytes: usize,
    /// Lines that found no room, and lines that could not be written.
    lost: u64,
    /// How many of these the log itself has told.
    told: u64,
}

impl Lines {
    pub(super) const fn new(bytes_max: usize) -> Self {
        let state = State { waiting: VecDeque::new(), bytes: 0, lost: 0, told: 0 };
        let (came, written) = (Condvar::new(), Condvar::new());
        Self { bytes_max, state: Mutex::new(state), came, written }
    }

    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if line.len() > self.bytes_max - state.bytes {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.waiting.push_back(line.into());
        drop(state);
        self.came.notify_one();
    }

    /// Waits for a line and writes it. When none waits behind it, `tell` is told how many were
    /// lost since it was told last: what it logs of them has room now.
    pub(super) fn write_next(&self, out: &mut impl Write, tell: impl FnOnce(u64)) {
        let mut state = self.state.lock();
        let line = loop {
            match state.waiting.pop_front() {
                Some(line) => break line,
                None => self.came.wait(&mut state),
            }
        };
        drop(state);
        let is_written = out.write_all(&line).is_ok();
        let mut state = self.state.lock();
        if !is_written {
            state.lost += 1;
        } else if state.waiting.is_empty() && state.told < state.lost {
            let untold = state.lost - state.told;
            state.told = state.lost;
            drop(state);
            tell(untold);
            state = self.state.lock();
        }
        state.bytes -= line.len();
        if state.bytes == 0 {
            self.written.notify_all();
        }
    }

    /// Waits until all lines are written, but no longer than this.
    pub(super) fn flush(&self, patience: Duration) {
        let mut state = self.state.lock();
        self.written.wait_while_for(&mut state, |state| state.bytes > 0, patience);
    }

    /// Lines that nobody will ever read.
    pub(super) fn lost(&self) -> u64 {
        self.state.lock().lost
    }
}

/// Takes a line, or loses it.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::output::tests::closed;

    const NO_TIME: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    fn is_written(lines: &Lines) -> bool {
        lines.flush(NO_TIME);
        lines.state.lock().bytes == 0
    }

    #[test]
    fn what_was_lost_for_want_of_room_is_told_once_there_is_room() {
        let lines = Lines::new(8);
        for line in ["one\n", "two\n", "six\n", "ten\n"] {
            lines.push(line.as_bytes());
        }
        let (mut out, mut told) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            lines.write_next(&mut out, |lost| {
                told.push(lost);
                // The line that was written last has not given its room back.
                lines.push(b"gap\n");
            });
        }
        assert_eq!((out.as_slice(), told), (&b"one\ntwo\ngap\n"[..], vec![2]));
        assert!(is_written(&lines) && lines.lost() == 2);
        lines.push(b"a line that never has room\n");
        assert_eq!(lines.lost(), 3);
    }

    #[test]
    fn what_nobody_takes_is_counted_and_told_when_somebody_does() {
        let lines = Lines::new(80);
        lines.push(b"one\n");
        lines.push(b"two\n");
        for _ in 0..2 {
            lines.write_next(&mut closed(), |lost| panic!("{lost} told to nobody"));
        }
        assert_eq!((lines.lost(), is_written(&lines)), (2, true));
        lines.push(b"six\n");
        let (mut out, mut told) = (Vec::new(), 0);
        lines.write_next(&mut out, |lost| told = lost);
        assert_eq!((out.as_slice(), told), (&b"six\n"[..], 2));
    }

    /// A reader who takes nothing before he is told to.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flush_waits_for_what_is_being_written_and_not_for_ever() {
        let (go, stuck) = mpsc::channel();
        let lines = Lines::new(80);
        lines.push(b"one\n");
        std::thread::scope(|scope| {
            scope.spawn(|| lines.write_next(&mut Stuck(stuck), drop));
            lines.flush(Duration::from_millis(20));
            assert!(!is_written(&lines));
            go.send(()).unwrap();
            lines.flush(LONG);
            assert!(is_written(&lines));
        });
    }

    proptest! {
        /// `Some` is a line of that length that comes, `None` is one that is written.
        #[test]
        fn lines_come_out_whole_and_in_order_or_are_counted(
            steps in prop::collection::vec(prop::option::of(1..40_usize), 0..200),
        ) {
            const BYTES_MAX: usize = 100;
            let lines = Lines::new(BYTES_MAX);
            let (mut model, mut lost) = (VecDeque::<Vec<u8>>::new(), 0);
            let (mut out, mut expected) = (Vec::new(), Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(length) => {
                        let line = vec![u8::try_from(number).unwrap(); length];
                        lines.push(&line);
                        if model.iter().map(Vec::len).sum::<usize>() + length <= BYTES_MAX {
                            model.push_back(line);
                        } else {
                            lost += 1;
                        }
                    }
                    None => {
                        if let Some(line) = model.pop_front() {
                            expected.extend(line);
                            lines.write_next(&mut out, drop);
                        }
                    }
                }
                prop_assert_eq!((lines.lost(), is_written(&lines)), (lost, model.is_empty()));
            }
            prop_assert_eq!(out, expected);
        }
    }
}
