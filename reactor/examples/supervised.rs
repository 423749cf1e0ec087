//! A child fails and is made anew: its address stays valid, its mailbox is kept, and only the message that it failed on
//! is gone. When it fails too often, its parent is told why.
//!
//!     cargo run --example supervised

use std::error::Error;
use std::time::Duration;

use mischief_reactor::{
    Actor, Address, Backoff, Child, Context, Event, Failure, Message, Reply, Restart, Runtime,
    StopReason,
};

const LONG: Duration = Duration::from_secs(10);

/// Divides. It fails on a division by zero, and panics on one that overflows.
#[derive(Default)]
struct Divider {
    done: u32,
}

enum Divide {
    Of(i32, i32),
    /// How many divisions since this divider was made?
    Done(Reply<u32>),
}

impl Message for Divide {}

impl Actor for Divider {
    type Message = Divide;

    fn handle(&mut self, message: Divide, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        match message {
            Divide::Of(number, 0) => {
                return Err(Failure::new(format!("{number} divided by zero")));
            }
            Divide::Of(number, by) => {
                println!("  {number} / {by} = {}", number / by);
                self.done += 1;
            }
            Divide::Done(reply) => reply.send(self.done),
        }
        Ok(())
    }
}

/// Watches over the divider.
#[derive(Default)]
struct Parent {
    divider: Option<Address<Divider>>,
    end: Option<StopReason>,
    asking: Option<Reply<StopReason>>,
}

enum Question {
    /// Where is the divider?
    Divider(Reply<Option<Address<Divider>>>),
    /// How did it end? Answered when it has.
    End(Reply<StopReason>),
}

impl Message for Question {}

impl Parent {
    fn tell(&mut self) {
        if self.end.is_some()
            && let Some(asking) = self.asking.take()
            && let Some(end) = self.end.clone()
        {
            asking.send(end);
        }
    }
}

impl Actor for Parent {
    type Message = Question;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let child = Child::new(Divider::default).restart(Restart::OnFailure {
            max: 2,
            window: Duration::from_secs(60),
            backoff: Backoff {
                first: Duration::from_millis(10),
                max: Duration::from_millis(100),
            },
        });
        let divider = cx.spawn(child)?;
        cx.watch(divider.id());
        self.divider = Some(divider);
        Ok(())
    }

    fn handle(&mut self, question: Question, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        match question {
            Question::Divider(reply) => reply.send(self.divider),
            Question::End(reply) => self.asking = Some(reply),
        }
        self.tell();
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Stopped { reason, .. } = event {
            self.end = Some(reason);
        }
        self.tell();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().start()?;
    let handle = runtime.handle();
    let parent = handle.spawn(0, || Child::once(Parent::default()))?;
    let Some(divider) = handle.ask(&parent, Question::Divider, LONG).wait()? else {
        return Err("there is no divider".into());
    };

    println!("an error, with more messages behind it:");
    for (number, by) in [(12, 4), (1, 0), (12, 6)] {
        handle.send(&divider, Divide::Of(number, by), LONG)?;
    }
    let done = handle.ask(&divider, Divide::Done, LONG).wait()?;
    assert_eq!(done, 1, "the divider is a new one, and has done one");

    println!("a panic, which is caught:");
    handle.send(&divider, Divide::Of(i32::MIN, -1), LONG)?;
    handle.send(&divider, Divide::Of(30, 5), LONG)?;
    let done = handle.ask(&divider, Divide::Done, LONG).wait()?;
    assert_eq!(done, 1, "a new one again");
    let snapshot = handle.snapshot()?;
    let actors = snapshot.cores.iter().flat_map(|core| &core.actors);
    for actor in actors.filter(|actor| actor.id == divider.id()) {
        println!(
            "  so far {} restarts, and {} messages lost",
            actor.restarts, actor.dropped
        );
        assert_eq!((actor.restarts, actor.dropped), (2, 2));
    }

    println!("once more than is allowed within a minute:");
    handle.send(&divider, Divide::Of(2, 0), LONG)?;
    let end = handle.ask(&parent, Question::End, LONG).wait()?;
    println!("  the parent was told: {end}");
    assert_eq!(end, StopReason::Failed("2 divided by zero".into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().unwrap();
    }
}
