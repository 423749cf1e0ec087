//! A program with threads of its own asks an actor: waiting for the answer, looking now and then, or with `.await` in
//! whatever executor it has. A question has a deadline, and a late answer says whom it waited for.
//!
//!     cargo run --example embed

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use mischief_reactor::{
    Actor, Address, AskError, Child, Context, Event, Failure, Handle, Message, Reply, Runtime,
};

const LONG: Duration = Duration::from_secs(10);

/// Counts words. It lives on its core, so it needs no lock.
#[derive(Default)]
struct Words {
    counts: BTreeMap<String, u32>,
    late: Vec<Reply<u32>>,
}

enum Note {
    Add(String),
    Count(String, Reply<u32>),
    /// Answered after a minute.
    CountLate(Reply<u32>),
}

impl Message for Note {
    /// What the texts take, so that the mailbox is bounded in bytes, too.
    fn heap_bytes(&self) -> usize {
        match self {
            Note::Add(word) | Note::Count(word, _) => word.capacity(),
            Note::CountLate(_) => 0,
        }
    }
}

impl Actor for Words {
    type Message = Note;

    fn handle(&mut self, note: Note, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match note {
            Note::Add(word) => *self.counts.entry(word).or_default() += 1,
            Note::Count(word, reply) => reply.send(self.counts.get(&word).copied().unwrap_or(0)),
            Note::CountLate(reply) => {
                self.late.push(reply);
                cx.wake_at(Some(cx.now() + Duration::from_secs(60)), Duration::ZERO);
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Wake = event {
            for reply in self.late.drain(..) {
                reply.send(self.counts.values().sum());
            }
        }
        Ok(())
    }
}

/// The smallest executor: it parks the thread until the future is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, mut task) = (pin!(future), Task::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut task) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Two questions under way at once, answered in the order in which they are awaited.
async fn count_both(handle: &Handle, words: &Address<Words>) -> Result<(u32, u32), AskError> {
    let rats = handle.ask(words, |reply| Note::Count("rat".into(), reply), LONG);
    let mice = handle.ask(words, |reply| Note::Count("mouse".into(), reply), LONG);
    Ok((rats.await?, mice.await?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().start()?;
    let handle = runtime.handle();
    let words = handle.spawn(0, || Child::once(Words::default()))?;

    // Any number of threads may send. Whoever is faster than the actor waits for room, at most until a deadline.
    let writers: Vec<_> = ["rat", "rat", "mouse"]
        .into_iter()
        .map(|word| {
            let handle = handle.clone();
            thread::spawn(move || {
                (0..10_000).try_for_each(|_| handle.send(&words, Note::Add(word.into()), LONG))
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("it does not panic")?;
    }

    let answer = handle.ask(&words, |reply| Note::Count("rat".into(), reply), LONG);
    println!("waited for: {} rats", answer.wait()?);

    let (rats, mice) = block_on(count_both(&handle, &words))?;
    println!("awaited: {rats} rats and {mice} mice");
    assert_eq!((rats, mice), (20_000, 10_000));

    let short = Duration::from_millis(20);
    let late = handle.ask(&words, Note::CountLate, short).wait();
    match late {
        Err(error @ AskError::TimedOut { .. }) => println!("too late: {error}"),
        other => return Err(format!("it came in time: {other:?}").into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().unwrap();
    }
}
