//! A slow actor slows its socket. A reader cuts a TCP stream into pieces for a worker that it does not wait for. When the
//! worker's mailbox is full the piece comes back; the reader keeps that one, stops reading, and asks to be told when
//! there is room. TCP then holds up the sender. Nothing is lost, and nobody holds more than a bound.
//!
//!     cargo run --example backpressure

use std::error::Error;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::{
    Actor, Address, Child, Context, Event, Failure, MailboxLimits, Message, Reply, Runtime,
    SocketId, TrySendError,
};

const LONG: Duration = Duration::from_secs(30);
const TOTAL: usize = 32 << 20;
/// The worker's mailbox: as many pieces, and as many bytes.
const MAILBOX: MailboxLimits = MailboxLimits {
    messages: 8,
    bytes: 1 << 20,
};

/// Takes a piece a millisecond.
#[derive(Default)]
struct Worker {
    sum: u64,
    bytes: usize,
    waiting: Option<Reply<(usize, u64)>>,
}

enum Work {
    Piece(Vec<u8>),
    /// How many bytes came, and what is their sum? Answered when all are there.
    Sum(Reply<(usize, u64)>),
}

impl Message for Work {
    fn heap_bytes(&self) -> usize {
        match self {
            Work::Piece(piece) => piece.capacity(),
            Work::Sum(_) => 0,
        }
    }
}

impl Actor for Worker {
    type Message = Work;

    fn handle(&mut self, work: Work, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        match work {
            Work::Piece(piece) => {
                std::thread::sleep(Duration::from_millis(1));
                self.bytes += piece.len();
                self.sum += piece.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            }
            Work::Sum(reply) => self.waiting = Some(reply),
        }
        if self.bytes == TOTAL
            && let Some(reply) = self.waiting.take()
        {
            reply.send((self.bytes, self.sum));
        }
        Ok(())
    }
}

/// Listens, takes one connection and passes on what comes.
struct Reader {
    worker: Address<Worker>,
    /// What the worker had no room for, and the socket that is not read meanwhile.
    pending: Option<(SocketId, Work)>,
    pauses: u32,
}

enum Question {
    Listen(Reply<Result<SocketAddr, std::io::Error>>),
    Pauses(Reply<u32>),
}

impl Message for Question {}

impl Reader {
    fn pass_on(&mut self, socket: SocketId, work: Work, cx: &mut Context<'_, Self>) -> bool {
        match cx.send(&self.worker, work) {
            Ok(()) => true,
            Err(TrySendError::Full(work)) => {
                self.pending = Some((socket, work));
                cx.notify_ready(self.worker.id());
                false
            }
            Err(TrySendError::Stopped(_)) => {
                cx.stop();
                false
            }
        }
    }
}

impl Actor for Reader {
    type Message = Question;

    fn handle(&mut self, question: Question, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match question {
            Question::Listen(reply) => {
                let listener = cx.tcp_listen("127.0.0.1:0".parse()?, ListenOptions::default());
                reply.send(listener.and_then(|listener| cx.local_addr(listener)));
            }
            Question::Pauses(reply) => reply.send(self.pauses),
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Accepted { socket, .. } => cx.resume_reading(socket),
            Event::Data { socket, bytes } => {
                let has_room = self.pass_on(socket, Work::Piece(bytes.to_vec()), cx);
                if !has_room {
                    self.pauses += 1;
                    cx.pause_reading(socket);
                }
            }
            Event::Ready(_) => {
                if let Some((socket, work)) = self.pending.take()
                    && self.pass_on(socket, work, cx)
                {
                    cx.resume_reading(socket);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // The worker sleeps, which an actor should not; so it has a core to itself.
    let runtime = Runtime::builder().cores(2).start()?;
    let handle = runtime.handle();
    let worker = handle.spawn(1, || Child::once(Worker::default()).limits(MAILBOX))?;
    let reader = handle.spawn(0, move || {
        Child::once(Reader {
            worker,
            pending: None,
            pauses: 0,
        })
    })?;
    let addr = handle.ask(&reader, Question::Listen, LONG).wait()??;

    let sender = std::thread::spawn(move || {
        let text: Vec<u8> = (0..TOTAL).map(|at| (at % 253) as u8).collect();
        let sum = text.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        TcpStream::connect(addr)?.write_all(&text).map(|()| sum)
    });
    let (bytes, sum) = handle.ask(&worker, Work::Sum, LONG).wait()?;
    let sent = sender.join().expect("it does not panic")?;
    assert_eq!((bytes, sum), (TOTAL, sent));
    let pauses = handle.ask(&reader, Question::Pauses, LONG).wait()?;
    assert!(pauses > 0, "the worker was never too slow");
    println!("{bytes} bytes arrived; the socket was held up {pauses} times");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().unwrap();
    }
}
