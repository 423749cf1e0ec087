//! The shell around [`Requests`](super::Requests): the [`Desk`], where a program's threads and its connections meet, and
//! an actor that watches the time for it.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Actor, Context, Event, Failure, Message};

pub use desk::{Desk, Incoming, OpenRequest, Outcome, Reply, begin_reply, begin_request};

/// How late a request may time out.
const SLACK: Duration = Duration::from_millis(5);

/// Tells a [`Desk`] when a deadline has come. It sleeps while no request is open.
pub struct MessagesActor {
    desk: Arc<Desk>,
}

/// A [`MessagesActor`] takes no orders.
#[derive(Debug)]
pub enum MessagesMessage {}

impl Message for MessagesMessage {}

impl MessagesActor {
    /// The actor of one desk.
    pub fn new(desk: Arc<Desk>) -> MessagesActor {
        MessagesActor { desk }
    }

    fn look(&mut self, cx: &mut Context<'_, Self>) {
        let next = self.desk.look_around();
        cx.wake_at(next.map(|wait| cx.now() + wait), SLACK);
    }
}

impl Actor for MessagesActor {
    type Message = MessagesMessage;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.desk.set_watch(cx.id());
        self.look(cx);
        Ok(())
    }

    fn handle(
        &mut self,
        message: MessagesMessage,
        _: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        match message {}
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if matches!(event, Event::Poke | Event::Wake) {
            self.look(cx);
        }
        Ok(())
    }
}
