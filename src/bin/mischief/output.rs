//! Lines on their way to stdout: a thread that writes, and a bounded queue in front of it.
//!
//! What must not get lost waits for room, and so holds up whoever produces it; what may get lost is dropped and counted.
//! A core thread never comes near this.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::failure::Failure;

/// A line is taken whole while fewer bytes than this are waiting. So at most this and one line are held.
pub(crate) const QUEUE_SIZE_MAX: usize = 4 * 1024 * 1024;

/// The most that is written with one system call. Room in the queue is made in these steps.
const WRITE_SIZE_MAX: usize = 64 * 1024;

/// Makes the line that tells of lost ones, from their number.
type LostLine = fn(u64) -> Vec<u8>;

/// Prints the whole result of a short-lived command.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let printed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    printed.map_err(|error| Failure::new(format_args!("stdout cannot be written: {error}")))
}

/// The way to stdout. Clones lead to the same queue.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something was queued, or the output was told to finish.
    changed: Condvar,
    /// Something was written, or the output is closed.
    written: Condvar,
    lost_line: LostLine,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    /// Bytes taken out of the queue by the writer and not yet written.
    writing: usize,
    /// Nothing is written before the first line, which is not known yet.
    is_held: bool,
    /// Lines dropped since the last one that tells of them.
    lost: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Open,
    /// The program is about to end: nobody waits for room longer than this any more.
    Ending(Duration),
    /// The last line is queued.
    Finished,
    /// Nobody reads on the other side.
    Closed,
}

/// Nobody reads the output any more, or the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl Output {
    /// Starts the writer. `on_closed` is called if the other side stops reading for good.
    pub(crate) fn start(
        sink: impl Write + Send + 'static,
        lost_line: LostLine,
        on_closed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Output> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            written: Condvar::new(),
            lost_line,
        });
        let output = Output(shared.clone());
        thread::Builder::new()
            .name("stdout".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                if shared.write_all_lines(sink).is_err() {
                    shared.state().phase = Phase::Closed;
                    shared.written.notify_all();
                    on_closed();
                }
            })?;
        Ok(output)
    }

    /// Holds everything back until [`Output::begin`]: what happens while the node starts must not come before the line
    /// that says that it has started.
    pub(crate) fn hold(&self) {
        self.0.state().is_held = true;
    }

    /// Puts the first line in front of everything that is held back, and lets it all go.
    pub(crate) fn begin(&self, line: &[u8]) {
        let mut state = self.0.state();
        state.is_held = false;
        state.queue.splice(..0, line.iter().copied());
        self.0.changed.notify_all();
    }

    /// Queues a line that must not get lost. Waits while the queue is full.
    pub(crate) fn put(&self, line: &[u8]) -> Result<(), Closed> {
        let mut state = self.0.state();
        while state.is_full() && state.phase < Phase::Finished {
            if let Phase::Ending(patience) = state.phase {
                let (waited, timeout) = self
                    .0
                    .written
                    .wait_timeout_while(state, patience, |state| {
                        state.is_full() && state.phase < Phase::Finished
                    })
                    .unwrap_or_else(PoisonError::into_inner);
                state = waited;
                if timeout.timed_out() {
                    return Err(Closed);
                }
            } else {
                state = self
                    .0
                    .written
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.0.queue(state, line)
    }

    /// Queues a line, or drops and counts it if the queue is full.
    pub(crate) fn offer(&self, line: &[u8]) -> Result<(), Closed> {
        let mut state = self.0.state();
        if state.is_full() && state.phase < Phase::Finished {
            state.lost += 1;
            return Ok(());
        }
        self.0.queue(state, line)
    }

    /// From now on nobody waits for room longer than `patience`: a callback that is stuck here would keep the node from
    /// stopping.
    pub(crate) fn prepare_to_end(&self, patience: Duration) {
        let mut state = self.0.state();
        state.phase = state.phase.max(Phase::Ending(patience));
        self.0.written.notify_all();
    }

    /// Queues the last line, full or not, and waits until all is written, but not longer than `patience`.
    pub(crate) fn finish(&self, line: &[u8], patience: Duration) -> Result<(), Closed> {
        let state = self.0.state();
        self.0.queue(state, line)?;
        let mut state = self.0.state();
        state.phase = state.phase.max(Phase::Finished);
        self.0.changed.notify_all();
        self.0.written.notify_all();
        let is_waiting = |state: &mut State| state.waiting() > 0 && state.phase != Phase::Closed;
        let (state, _) = self
            .0
            .written
            .wait_timeout_while(state, patience, is_waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if state.waiting() == 0 {
            Ok(())
        } else {
            Err(Closed)
        }
    }
}

impl Shared {
    /// No code panics with the lock held in a way that leaves the state half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, mut state: MutexGuard<'_, State>, line: &[u8]) -> Result<(), Closed> {
        if state.phase >= Phase::Finished {
            return Err(Closed);
        }
        state.tell_of_lost(self.lost_line);
        state.queue.extend_from_slice(line);
        self.changed.notify_all();
        Ok(())
    }

    fn write_all_lines(&self, mut sink: impl Write) -> io::Result<()> {
        loop {
            let lines = {
                let is_idle = |state: &mut State| {
                    (state.is_held || state.queue.is_empty()) && state.phase < Phase::Finished
                };
                let waited = self.changed.wait_while(self.state(), is_idle);
                let mut state = waited.unwrap_or_else(PoisonError::into_inner);
                state.tell_of_lost(self.lost_line);
                state.writing = state.queue.len();
                std::mem::take(&mut state.queue)
            };
            if lines.is_empty() {
                return Ok(());
            }
            for part in lines.chunks(WRITE_SIZE_MAX) {
                sink.write_all(part)?;
                sink.flush()?;
                self.state().writing -= part.len();
                self.written.notify_all();
            }
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.queue.len() + self.writing
    }

    fn is_full(&self) -> bool {
        self.waiting() >= QUEUE_SIZE_MAX
    }

    /// All that is queued came before the loss, all that follows comes after it.
    fn tell_of_lost(&mut self, lost_line: LostLine) {
        if self.lost > 0 {
            self.queue.extend(lost_line(self.lost));
            self.lost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pipe that takes each write only when the test lets it through.
    struct Gate {
        allowed: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written
                .send(bytes.to_owned())
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Rig {
        output: Output,
        allow: mpsc::Sender<()>,
        written: mpsc::Receiver<Vec<u8>>,
        closed: mpsc::Receiver<()>,
    }

    fn rig() -> Rig {
        let (allow, allowed) = mpsc::channel();
        let (written_sender, written) = mpsc::channel();
        let (closed_sender, closed) = mpsc::channel();
        let gate = Gate {
            allowed,
            written: written_sender,
        };
        let lost_line = |count: u64| format!("lost {count}\n").into_bytes();
        let on_closed = move || closed_sender.send(()).expect("the test waits for it");
        let output = Output::start(gate, lost_line, on_closed).expect("a thread starts");
        Rig {
            output,
            allow,
            written,
            closed,
        }
    }

    impl Rig {
        /// Fills the queue while the first line is being written.
        fn fill(&self) {
            self.output.put(b"first\n").expect("it is open");
            self.output
                .put(&vec![b'x'; QUEUE_SIZE_MAX])
                .expect("it is open");
        }

        fn read_all(self) -> Vec<u8> {
            let Rig {
                output,
                allow,
                written,
                closed: _closed,
            } = self;
            let all = thread::spawn(move || written.into_iter().flatten().collect());
            for _ in 0..1000 {
                // The writer has ended if nobody takes it.
                let _ = allow.send(());
            }
            output
                .finish(b"end\n", Duration::from_secs(60))
                .expect("all is written");
            drop(output);
            drop(allow);
            all.join().expect("the reader does not panic")
        }
    }

    #[test]
    fn lines_come_out_in_order() {
        let rig = rig();
        for number in 0..100 {
            rig.output
                .put(format!("{number}\n").as_bytes())
                .expect("it is open");
        }
        let want: String = (0..100)
            .map(|number| format!("{number}\n"))
            .chain(["end\n".into()])
            .collect();
        assert_eq!(String::from_utf8(rig.read_all()).expect("it is text"), want);
    }

    #[test]
    fn what_is_held_back_comes_after_the_first_line() {
        let rig = rig();
        rig.output.hold();
        rig.output.put(b"second\n").expect("it is open");
        rig.output.begin(b"first\n");
        assert_eq!(rig.read_all(), b"first\nsecond\nend\n");
    }

    #[test]
    fn a_full_queue_drops_offers_and_tells_how_many_in_their_place() {
        let rig = rig();
        rig.fill();
        for _ in 0..3 {
            rig.output.offer(b"state\n").expect("it is open");
        }
        let all = rig.read_all();
        let tail = &all[all.len() - 11..];
        assert_eq!(
            std::str::from_utf8(tail),
            Ok("lost 3\nend\n"),
            "told although nothing followed"
        );
        assert!(all.len() <= QUEUE_SIZE_MAX + 6 + 11);
    }

    #[test]
    fn put_waits_for_room_and_then_goes_on() {
        let rig = rig();
        rig.fill();
        let output = rig.output.clone();
        let (done_sender, done) = mpsc::channel();
        let producer = thread::spawn(move || {
            output.put(b"late\n").expect("it is open");
            done_sender.send(()).expect("the test waits for it");
        });
        assert_eq!(done.try_recv(), Err(mpsc::TryRecvError::Empty));
        rig.allow.send(()).expect("the writer waits");
        rig.allow.send(()).expect("the writer waits");
        done.recv().expect("the line was taken");
        producer.join().expect("the producer does not panic");
        assert!(rig.read_all().ends_with(b"xlate\nend\n"));
    }

    #[test]
    fn a_closed_output_releases_all_and_reports_it() {
        let Rig {
            output,
            allow,
            written,
            closed,
        } = rig();
        output.put(b"first\n").expect("it is open");
        output.put(&vec![b'x'; QUEUE_SIZE_MAX]).expect("it is open");
        let waiting = output.clone();
        let producer = thread::spawn(move || waiting.put(b"late\n"));
        drop(written);
        allow.send(()).expect("the writer waits");
        closed.recv().expect("it is reported");
        assert_eq!(
            producer.join().expect("the producer does not panic"),
            Err(Closed)
        );
        assert_eq!(output.put(b"more\n"), Err(Closed));
        assert_eq!(output.offer(b"more\n"), Err(Closed));
        assert_eq!(
            output.finish(b"end\n", Duration::from_secs(60)),
            Err(Closed)
        );
    }

    #[test]
    fn an_ending_program_does_not_wait_for_a_reader_that_sleeps() {
        let rig = rig();
        rig.fill();
        let waiting = rig.output.clone();
        let producer = thread::spawn(move || waiting.put(b"late\n"));
        rig.output.prepare_to_end(Duration::ZERO);
        assert_eq!(
            producer.join().expect("the producer does not panic"),
            Err(Closed)
        );
        assert_eq!(rig.output.finish(b"end\n", Duration::ZERO), Err(Closed));
    }
}
