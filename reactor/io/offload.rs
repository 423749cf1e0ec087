//! Threads for what would block a core: files, name resolution, long calculations.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::driver::{Job, OFFLOAD_IDLE};

/// Jobs that may wait.
pub const OFFLOAD_QUEUE_MAX: usize = 256;
/// Threads of a pool unless told otherwise.
pub const OFFLOAD_THREADS_DEFAULT: usize = 1;
/// Threads a pool may be given at most.
pub const OFFLOAD_THREADS_MAX: usize = 2;
/// Stack of a thread in bytes. Only address space until it is used; `getaddrinfo` of some systems needs much.
const STACK_SIZE: usize = 1 << 20;

/// A pool of few threads that exist only while there is work, shared by all cores of a runtime.
///
/// Without jobs it has no threads; the first job starts one. A thread that was idle for [`OFFLOAD_IDLE`] ends. Jobs
/// start in the order in which they were submitted. A job that panics is counted and harms no other.
pub struct OffloadPool {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// For the threads: a job, or the end.
    work: Condvar,
    /// For [`OffloadPool::shutdown`]: a thread has ended.
    ended: Condvar,
    threads_max: usize,
    idle_max: Duration,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_shut_down: bool,
    panics: u32,
    high_water: usize,
}

/// What a pool is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadStats {
    /// Threads that exist.
    pub threads: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// The most jobs that have ever waited at once.
    pub queued_high_water: usize,
    /// Jobs that have panicked.
    pub panics: u32,
}

impl OffloadPool {
    /// A pool of up to `threads_max` threads, which is held between 1 and [`OFFLOAD_THREADS_MAX`].
    pub fn new(threads_max: usize) -> OffloadPool {
        OffloadPool::with_idle_max(threads_max, OFFLOAD_IDLE)
    }

    fn with_idle_max(threads_max: usize, idle_max: Duration) -> OffloadPool {
        let inner = Inner {
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            threads_max: threads_max.clamp(1, OFFLOAD_THREADS_MAX),
            idle_max,
        };
        OffloadPool {
            inner: Arc::new(inner),
        }
    }

    /// Queues a job. It comes back when [`OFFLOAD_QUEUE_MAX`] jobs wait, when the pool is shut down, or when the
    /// system has no thread for the pool.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        let mut state = self.inner.state.lock();
        if state.is_shut_down || state.queue.len() >= OFFLOAD_QUEUE_MAX {
            return Err(job);
        }
        state.queue.push_back(job);
        state.high_water = state.high_water.max(state.queue.len());
        if state.queue.len() <= state.idle {
            drop(state);
            self.inner.work.notify_one();
            return Ok(());
        }
        if state.threads < self.inner.threads_max {
            match Inner::spawn(&self.inner) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    log::error!("no thread for blocking work: {error}");
                    return state.queue.pop_back().map_or(Ok(()), Err);
                }
                Err(error) => log::warn!("no further thread for blocking work: {error}"),
            }
        }
        Ok(())
    }

    /// Takes no more jobs, and waits for up to `limit` until those it has are done and its threads gone. Whether that
    /// came to be; if not, waiting jobs are dropped and a running one is left to itself.
    pub fn shutdown(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.inner.state.lock();
        state.is_shut_down = true;
        self.inner.work.notify_all();
        while state.threads > 0 {
            if self
                .inner
                .ended
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                break;
            }
        }
        let abandoned = std::mem::take(&mut state.queue);
        let is_done = state.threads == 0 && abandoned.is_empty();
        // What a job holds may have a destructor that submits another.
        drop(state);
        drop(abandoned);
        is_done
    }

    /// What the pool is doing.
    pub fn stats(&self) -> OffloadStats {
        let state = self.inner.state.lock();
        OffloadStats {
            threads: state.threads,
            queued: state.queue.len(),
            queued_high_water: state.high_water,
            panics: state.panics,
        }
    }
}

impl Default for OffloadPool {
    fn default() -> OffloadPool {
        OffloadPool::new(OFFLOAD_THREADS_DEFAULT)
    }
}

impl Drop for OffloadPool {
    /// The threads end when their jobs are done; nobody waits for them.
    fn drop(&mut self) {
        self.inner.state.lock().is_shut_down = true;
        self.inner.work.notify_all();
    }
}

impl std::fmt::Debug for OffloadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OffloadPool").field(&self.stats()).finish()
    }
}

impl Inner {
    fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
        let inner = Arc::clone(inner);
        let builder = thread::Builder::new()
            .name("mischief-offload".into())
            .stack_size(STACK_SIZE);
        builder.spawn(move || inner.run()).map(drop)
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                let outcome = catch_unwind(AssertUnwindSafe(job));
                if outcome.is_err() {
                    log::error!("a job away from the cores has panicked");
                }
                state = self.state.lock();
                state.panics = state.panics.saturating_add(u32::from(outcome.is_err()));
                continue;
            }
            if state.is_shut_down {
                break;
            }
            state.idle += 1;
            let is_over = self.work.wait_for(&mut state, self.idle_max).timed_out();
            state.idle -= 1;
            if is_over && state.queue.is_empty() {
                break;
            }
        }
        if state.queue.capacity() > 0 && state.queue.is_empty() {
            state.queue = VecDeque::new();
        }
        state.threads -= 1;
        drop(state);
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A job that tells when it runs and then waits to be let go.
    fn held() -> (Job, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (started, on_start) = mpsc::channel();
        let (let_go, on_let_go) = mpsc::channel::<()>();
        let job = Box::new(move || {
            started.send(()).expect("the test listens");
            let _ = on_let_go.recv();
        });
        (job, on_start, let_go)
    }

    fn submit(pool: &OffloadPool, job: Job) {
        assert!(pool.submit(job).is_ok());
    }

    #[test]
    fn no_threads_before_the_first_job_and_none_when_idle() {
        let pool = OffloadPool::with_idle_max(1, Duration::from_millis(20));
        assert_eq!(pool.stats().threads, 0);
        let (sender, receiver) = mpsc::channel();
        for n in 0..10 {
            let sender = sender.clone();
            submit(
                &pool,
                Box::new(move || sender.send(n).expect("the test listens")),
            );
        }
        drop(sender);
        assert_eq!(
            receiver.iter().collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
        let mut state = pool.inner.state.lock();
        while state.threads > 0 {
            pool.inner.ended.wait(&mut state);
        }
        drop(state);
        let (job, started, _) = held();
        submit(&pool, job);
        started.recv().expect("a new thread runs it");
    }

    #[test]
    fn a_second_thread_only_where_it_was_allowed() {
        for (asked, allowed) in [(0, 1), (1, 1), (2, 2), (100, 2)] {
            let pool = OffloadPool::new(asked);
            let held: Vec<_> = (0..3)
                .map(|_| held())
                .map(|(job, started, go)| (pool.submit(job).is_ok(), started, go))
                .collect();
            for (_, started, _) in &held[..allowed] {
                started.recv().expect("runs");
            }
            assert_eq!(pool.stats().threads, allowed);
            assert_eq!(pool.stats().queued, 3 - allowed);
        }
    }

    #[test]
    fn a_full_queue_hands_the_job_back() {
        let pool = OffloadPool::new(1);
        let (job, started, let_go) = held();
        submit(&pool, job);
        started.recv().expect("runs");
        for _ in 0..OFFLOAD_QUEUE_MAX {
            submit(&pool, Box::new(|| ()));
        }
        let (sender, receiver) = mpsc::channel();
        let back = pool.submit(Box::new(move || sender.send(7).expect("the test listens")));
        let Err(job) = back else {
            panic!("the queue is full")
        };
        job();
        assert_eq!(receiver.recv(), Ok(7), "the very job comes back");
        drop(let_go);
        assert!(pool.shutdown(Duration::from_secs(60)));
        assert_eq!(pool.stats().queued_high_water, OFFLOAD_QUEUE_MAX);
    }

    #[test]
    fn a_panic_ends_its_job_alone() {
        let pool = OffloadPool::new(1);
        submit(&pool, Box::new(|| panic!("on purpose")));
        let (job, started, _) = held();
        submit(&pool, job);
        started.recv().expect("the next job runs");
        assert_eq!(pool.stats().panics, 1);
    }

    #[test]
    fn shutdown_runs_what_waits_and_refuses_what_comes() {
        let pool = OffloadPool::new(1);
        let (sender, receiver) = mpsc::channel();
        for n in 0..50 {
            let sender = sender.clone();
            submit(
                &pool,
                Box::new(move || sender.send(n).expect("the test listens")),
            );
        }
        assert!(pool.shutdown(Duration::from_secs(60)));
        drop(sender);
        assert_eq!(receiver.iter().count(), 50);
        assert!(pool.submit(Box::new(|| ())).is_err());
        assert!(pool.shutdown(Duration::ZERO));
    }

    #[test]
    fn shutdown_does_not_wait_for_ever() {
        let pool = OffloadPool::new(1);
        let (job, started, let_go) = held();
        submit(&pool, job);
        submit(&pool, Box::new(|| ()));
        started.recv().expect("runs");
        assert!(!pool.shutdown(Duration::from_millis(10)));
        assert_eq!(pool.stats().queued, 0);
        drop(let_go);
    }
}
