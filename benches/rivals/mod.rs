//! The same work as in `actors.rs` with other actors, each by its own recommended interface, on tokio.
//!
//! What runs on one core runs on a tokio runtime of one thread, its fastest for that; what runs between cores on two such
//! runtimes, so that tokio cannot put both ends onto one thread. Mailboxes are bounded where the framework bounds them.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use mischief_benches::harness::Cost;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

mod actix_actors;
mod kameo_actors;
mod ractor_actors;
mod tokio_mpsc;

/// Numbers that each of the many sends in a round of a fan-in.
pub const FAN_NUMBERS: u64 = 6;

/// Messages that a mailbox holds. A round of a fan-in fits.
const MAILBOX: usize = 1 << 16;

/// A framework's way to do each kind of work.
pub struct Rival {
    /// As the results call it.
    pub name: &'static str,
    /// So many pairs, so many messages in all.
    pub ping_pong: fn(u64, u64) -> Cost,
    /// So many actors, so many rounds: one actor tells each of them to send it numbers, and waits for all.
    pub fan_in: fn(u64, u64) -> Cost,
    /// So many messages one way from thread to thread.
    pub flood: fn(u64) -> Cost,
    /// So many messages to and fro between two threads.
    pub across: fn(u64) -> Cost,
    /// So many questions, one at a time.
    pub ask: fn(u64) -> Cost,
    /// So many actors, until all have started.
    pub spawn: fn(u64) -> Cost,
    /// So many timers, armed and then cancelled.
    pub timers: fn(u64) -> Cost,
}

/// All of them.
pub const RIVALS: [Rival; 4] = [
    tokio_mpsc::RIVAL,
    actix_actors::RIVAL,
    ractor_actors::RIVAL,
    kameo_actors::RIVAL,
];

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("it needs nothing")
}

/// Runs on one thread, this one.
fn alone<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

/// A thread with a runtime of its own.
struct Beside {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beside {
    fn start() -> Beside {
        let runtime = runtime();
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || drop(runtime.block_on(ended)));
        Beside {
            handle,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Runs on that thread and waits for it.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.handle
            .spawn(async move { done.send(work.await).unwrap_or(()) });
        result.recv().expect("the work ends")
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no task panics");
        }
    }
}

/// Deadlines in no order, up to a minute from now, as milliseconds.
fn deadline_ms(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60_000 + 1_000
}
