//! Commands whose answer has to be waited for: one thread that polls all of them, and a bound on how many there are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

/// At most this many commands wait at once.
pub(crate) const PENDING_COUNT_MAX: usize = 1024;

/// A command is taken while the waiting ones have fewer bytes than this.
pub(crate) const PENDING_SIZE_MAX: usize = 4 * 1024 * 1024;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The waiting commands.
#[derive(Default)]
pub(crate) struct Pending {
    gauge: Arc<Gauge>,
    /// The thread starts with the first command that waits.
    poller: Mutex<Option<mpsc::Sender<Order>>>,
}

#[derive(Default)]
struct Gauge {
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Used {
    count: usize,
    size: usize,
}

enum Order {
    Add(Work, Permit),
    Poll(usize),
}

/// Room for one command; given back on drop.
struct Permit {
    gauge: Arc<Gauge>,
    size: usize,
}

impl Pending {
    /// Takes over the rest of a command that came in `size` bytes. Waits while there are too many.
    pub(crate) fn add(
        &self,
        size: usize,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let permit = self.gauge.permit(size);
        let mut poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        if poller.is_none() {
            let (sender, orders) = mpsc::channel();
            let own = sender.clone();
            let run = move || poll_all(&orders, &own);
            thread::Builder::new()
                .name("commands".into())
                .stack_size(256 * 1024)
                .spawn(run)?;
            *poller = Some(sender);
        }
        let order = Order::Add(Box::pin(work), permit);
        let poller = poller.as_ref().expect("it was started just now");
        poller
            .send(order)
            .expect("the thread holds a sender to itself and never ends before the program");
        Ok(())
    }

    /// Waits until no command waits any more.
    pub(crate) fn wait_until_idle(&self) {
        let waited = self
            .gauge
            .freed
            .wait_while(self.gauge.used(), |used| used.count > 0);
        drop(waited);
    }
}

impl Gauge {
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(self: &Arc<Gauge>, size: usize) -> Permit {
        let is_full =
            |used: &mut Used| used.count >= PENDING_COUNT_MAX || used.size >= PENDING_SIZE_MAX;
        let waited = self.freed.wait_while(self.used(), is_full);
        let mut used = waited.unwrap_or_else(PoisonError::into_inner);
        used.count += 1;
        used.size += size;
        Permit {
            gauge: self.clone(),
            size,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.gauge.used();
        used.count -= 1;
        used.size -= self.size;
        self.gauge.freed.notify_all();
    }
}

/// Asks the poller for another look at one command.
struct Bell {
    place: usize,
    is_rung: AtomicBool,
    orders: mpsc::Sender<Order>,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        // One order is enough however often it rings, so the queue has at most one order for each command.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // Fails only when the program is ending and the thread with it.
            let _ = self.orders.send(Order::Poll(self.place));
        }
    }
}

struct Slot {
    work: Work,
    bell: Arc<Bell>,
    _permit: Permit,
}

fn poll_all(orders: &mpsc::Receiver<Order>, own: &mpsc::Sender<Order>) {
    let mut slots: Vec<Option<Slot>> = Vec::new();
    while let Ok(order) = orders.recv() {
        let place = match order {
            Order::Add(work, permit) => {
                let free = slots.iter().position(Option::is_none);
                let place = free.unwrap_or(slots.len());
                let bell = Arc::new(Bell {
                    place,
                    is_rung: AtomicBool::new(false),
                    orders: own.clone(),
                });
                let slot = Some(Slot {
                    work,
                    bell,
                    _permit: permit,
                });
                match free {
                    Some(place) => slots[place] = slot,
                    None => slots.push(slot),
                }
                place
            }
            Order::Poll(place) => place,
        };
        // A ring may come after its command has ended, and then mean the next one in its place: that is polled once
        // more than it needs to be.
        if let Some(slot) = &mut slots[place] {
            slot.bell.is_rung.store(false, Ordering::Release);
            let waker = Waker::from(slot.bell.clone());
            if slot.work.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
                slots[place] = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Becomes ready when the test says so.
    #[derive(Clone, Default)]
    struct Signal(Arc<Mutex<(bool, Option<Waker>)>>);

    impl Signal {
        fn set(&self) {
            let mut state = self.0.lock().expect("no test panics with the lock held");
            state.0 = true;
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        }
    }

    impl Future for Signal {
        type Output = ();
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let mut state = self.0.lock().expect("no test panics with the lock held");
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    fn start(pending: &Pending, size: usize, number: usize, done: &mpsc::Sender<usize>) -> Signal {
        let signal = Signal::default();
        let (wait, done) = (signal.clone(), done.clone());
        let work = async move {
            wait.await;
            done.send(number).expect("the test waits for it");
        };
        pending.add(size, work).expect("a thread starts");
        signal
    }

    #[test]
    fn commands_end_in_the_order_of_their_events() {
        let pending = Pending::default();
        let (done_sender, done) = mpsc::channel();
        let signals: Vec<Signal> = (0..10)
            .map(|number| start(&pending, 1, number, &done_sender))
            .collect();
        for number in [3, 9, 0, 5] {
            signals[number].set();
            assert_eq!(done.recv(), Ok(number));
        }
        let again = start(&pending, 1, 77, &done_sender);
        again.set();
        assert_eq!(done.recv(), Ok(77));
    }

    #[test]
    fn too_many_or_too_large_commands_have_to_wait() {
        for (count, size) in [(PENDING_COUNT_MAX, 0), (4, PENDING_SIZE_MAX / 4)] {
            let pending = Arc::new(Pending::default());
            let (done_sender, done) = mpsc::channel();
            let signals: Vec<Signal> = (0..count)
                .map(|number| start(&pending, size, number, &done_sender))
                .collect();
            let one_more = {
                let (pending, done_sender) = (pending.clone(), done_sender.clone());
                thread::spawn(move || start(&pending, 1, 5000, &done_sender).set())
            };
            assert_eq!(done.try_recv(), Err(mpsc::TryRecvError::Empty));
            signals[0].set();
            assert_eq!(done.recv(), Ok(0));
            assert_eq!(done.recv(), Ok(5000));
            one_more.join().expect("it does not panic");
        }
    }
}
