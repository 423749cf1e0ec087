//! The shell around one listening socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mischief_reactor::io::driver::{ListenOptions, ReusePort};
use mischief_reactor::{
    Actor, ActorId, Address, Child, Context, Event, Failure, Message, Reply, SocketId, SpawnError,
};

use super::{Common, ConnectionActor, Origin};
use crate::connection::Connection;

/// Which core an inbound connection lives on.
#[derive(Clone, Debug)]
pub enum Placement {
    /// On the core of the listener that accepted it; the kernel spreads them over the listeners of a port.
    Here,
    /// On each of these listeners' cores in turn: where the kernel cannot share a port.
    Spread(Vec<Address<Listener>>),
}

/// Orders to a listener.
#[derive(Debug)]
pub enum ListenerMessage {
    /// Open the socket.
    Listen {
        /// Where; port 0 for any.
        addr: SocketAddr,
        /// Whether other cores share the port.
        reuse_port: ReusePort,
        /// Where it listens, or why not.
        reply: Reply<io::Result<SocketAddr>>,
    },
    /// Where connections are to live.
    Place(Placement),
}

impl Message for ListenerMessage {}

/// A listening socket, and the connections that it has accepted as children.
pub struct Listener {
    common: Arc<Common>,
    socket: Option<SocketId>,
    placement: Placement,
    next: usize,
    /// The last connection could not be accepted, which was told already.
    is_failing: bool,
}

impl Listener {
    /// A listener that does not listen yet.
    pub fn new(common: Arc<Common>) -> Listener {
        Listener {
            common,
            socket: None,
            placement: Placement::Here,
            next: 0,
            is_failing: false,
        }
    }

    fn listen(
        &mut self,
        addr: SocketAddr,
        reuse_port: ReusePort,
        cx: &mut Context<'_, Self>,
    ) -> io::Result<SocketAddr> {
        let options = ListenOptions {
            reuse_port,
            ..ListenOptions::default()
        };
        let socket = cx.tcp_listen(addr, options)?;
        self.socket = Some(socket);
        cx.local_addr(socket)
    }

    fn on_accepted(&mut self, socket: SocketId, from: SocketAddr, cx: &mut Context<'_, Self>) {
        if let Placement::Spread(listeners) = &self.placement {
            self.next = (self.next + 1) % listeners.len().max(1);
            let to = listeners.get(self.next).map_or(cx.id(), Address::id);
            if to != cx.id() {
                if let Err(error) = cx.give_socket(socket, to) {
                    log::debug!("a connection from {from} was lost between cores: {error}");
                }
                return;
            }
        }
        self.take_in(socket, from, cx);
    }

    /// It is tried again many times a second; people are told once, until it works again.
    fn on_accept_failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            log::warn!("cannot accept connections for a moment: {error}");
            let told = format!("new peers have to wait: {error}");
            self.common.deliver.failed(&told);
        }
    }

    /// Lets a connection in, if the door is open to it.
    fn take_in(&mut self, socket: SocketId, from: SocketAddr, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        if cx.is_memory_short() {
            return cx.close(socket, true);
        }
        let Ok(admitted) = self.common.admission.admit(now, from.ip()) else {
            return cx.close(socket, true);
        };
        if let Some(evicted) = admitted.evicted {
            cx.stop_actor(evicted);
        }
        let config = self.common.config.lock().clone();
        let machine = Connection::responder(&config, now, &mut cx.random(), Some(from));
        let origin = Origin::Inbound(admitted.ticket);
        let actor = ConnectionActor::new(self.common.clone(), machine, from, origin);
        match cx.spawn(Child::once(actor)) {
            Ok(connection) => hand_over(socket, connection.id(), cx),
            Err(error) => {
                // A node that shuts down lets nobody in, which is nothing to tell people.
                let level = match error {
                    SpawnError::ShuttingDown => log::Level::Debug,
                    _ => log::Level::Warn,
                };
                log::log!(level, "no connection for {from}: {error}");
                cx.close(socket, true);
            }
        }
    }
}

/// Gives a connection its socket. It cannot have ended, as it has not begun.
fn hand_over<A: Actor>(socket: SocketId, connection: ActorId, cx: &mut Context<'_, A>) {
    if let Err(error) = cx.give_socket(socket, connection) {
        log::debug!("connection {connection} has no socket: {error}");
        cx.stop_actor(connection);
    }
}

impl Actor for Listener {
    type Message = ListenerMessage;

    fn handle(
        &mut self,
        message: ListenerMessage,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        match message {
            ListenerMessage::Listen {
                addr,
                reuse_port,
                reply,
            } => {
                let result = self.listen(addr, reuse_port, cx);
                reply.send(result);
            }
            ListenerMessage::Place(placement) => self.placement = placement,
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Accepted { socket, from, .. } => {
                self.is_failing = false;
                self.on_accepted(socket, from, cx);
            }
            Event::Given { socket } => match cx.peer_addr(socket) {
                Ok(from) => self.take_in(socket, from, cx),
                // It has broken on the way between the cores.
                Err(_) => cx.close(socket, true),
            },
            Event::AcceptFailed { error, .. } => self.on_accept_failed(&error),
            _ => {}
        }
        Ok(())
    }
}
