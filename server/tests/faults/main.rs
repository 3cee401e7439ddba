//! Faults, hostile input, planted addresses and slow viewers, against the real binary.
//!
//! Each test names the promise that it proves. Where a tool of the machine is
//! missing (strace, the right to mount or to trace), a test says so and passes.

#![expect(clippy::print_stderr, reason = "what was skipped, and what was measured")]

#[path = "../watch/alarms.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod alarms;
mod damage;
mod disk;
mod floods;
mod hostile;
mod house;
mod lifecycle;
mod live;
mod memory;
mod privacy;
mod sockets;
mod values;
mod viewer;
mod watch;
