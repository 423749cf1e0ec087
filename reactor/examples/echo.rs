//! A TCP echo server: one actor listens, and one actor serves each connection.
//!
//!     cargo run --example echo                    # talks to itself over a free port, and ends
//!     cargo run --example echo -- 127.0.0.1:7000  # serves until it is stopped; try `nc 127.0.0.1 7000`

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::{Actor, Child, Context, Event, Failure, Message, Reply, Runtime};

const LONG: Duration = Duration::from_secs(10);

/// Accepts connections and makes an actor for each.
struct Server {
    addr: SocketAddr,
    listening: Option<SocketAddr>,
}

/// Where does the server listen?
struct Where(Reply<Option<SocketAddr>>);

impl Message for Where {}

impl Actor for Server {
    type Message = Where;

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let listener = cx.tcp_listen(self.addr, ListenOptions::default())?;
        self.listening = Some(cx.local_addr(listener)?);
        Ok(())
    }

    fn handle(&mut self, Where(reply): Where, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        reply.send(self.listening);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Accepted { socket, .. } = event {
            let connection = cx.spawn(Child::once(Connection { has_ended: false }))?;
            cx.give_socket(socket, connection.id())?;
        }
        Ok(())
    }
}

/// Sends back what it receives. Reads no faster than the other side takes the echo, so it never holds more than what one
/// reading brought.
struct Connection {
    /// The other side has said all that it will say.
    has_ended: bool,
}

impl Actor for Connection {
    type Message = ();

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Given { socket } => cx.resume_reading(socket),
            Event::Data { socket, bytes } => {
                let kept_back = cx.write(socket, bytes)?;
                if kept_back > 0 {
                    cx.pause_reading(socket);
                }
            }
            Event::Writable { .. } if self.has_ended => cx.stop(),
            Event::Writable { socket } => cx.resume_reading(socket),
            Event::ReadClosed { socket } => {
                self.has_ended = true;
                if cx.unsent(socket) == 0 {
                    cx.stop();
                }
            }
            Event::Closed { .. } => cx.stop(),
            _ => {}
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).filter(|_| !cfg!(test));
    let addr = argument.as_deref().unwrap_or("127.0.0.1:0").parse()?;
    let runtime = Runtime::builder().start()?;
    let handle = runtime.handle();
    let server = handle.spawn(0, move || {
        Child::once(Server {
            addr,
            listening: None,
        })
    })?;
    let Some(listening) = handle.ask(&server, Where, LONG).wait()? else {
        return Err("it does not listen".into());
    };
    println!("listening on {listening}");

    if argument.is_some() {
        let ended = handle.stopped(server.id()).wait()?;
        return Err(format!("the server ended: {ended}").into());
    }

    // More than all buffers on the way hold: the echo has to be read while the rest is sent.
    let sent: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut stream = TcpStream::connect(listening)?;
    stream.set_read_timeout(Some(LONG))?;
    let (mut writing, text) = (stream.try_clone()?, sent.clone());
    let sender = std::thread::spawn(move || {
        writing.write_all(&text)?;
        writing.shutdown(Shutdown::Write)
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    sender.join().expect("it does not panic")?;
    assert!(received == sent, "the echo differs from what was sent");
    println!("{} bytes came back unchanged", received.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().unwrap();
    }
}
