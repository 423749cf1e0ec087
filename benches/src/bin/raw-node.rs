//! The limit: the orders of a measurement followed with plain blocking TCP, in clear, one thread for each connection.

use std::io::{BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mischief_benches::orders::{Mode, Nodes, Tally, serve};
use mischief_benches::system::{pin, raise_open_files};

static TALLY: Tally = Tally::new();

/// As much as the nodes read at a time.
const READ_SIZE: usize = 256 << 10;
const WRITE_BUFFER: usize = 64 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| Some(&args[args.iter().position(|arg| arg == name)? + 1]);
    if let Some(cpu) = value("--cpu") {
        pin(cpu.parse().expect("it is a number")).expect("there is such a processor");
    }
    raise_open_files();
    let is_echo = args.iter().any(|arg| arg == "--echo");
    serve(
        &mut Plain {
            is_echo,
            ..Plain::default()
        },
        &TALLY,
    );
}

#[derive(Default)]
struct Plain {
    is_echo: bool,
    connected: Vec<TcpStream>,
    /// Those that stand, for broadcasts.
    accepted: Arc<Mutex<Vec<TcpStream>>>,
    peers: Arc<AtomicUsize>,
}

impl Plain {
    fn peer(&mut self) -> &mut TcpStream {
        self.connected.first_mut().expect("it is connected")
    }
}

fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the other process listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

fn drain(mut stream: TcpStream) {
    let mut buffer = vec![0; READ_SIZE];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        TALLY.add(count);
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

impl Nodes for Plain {
    fn listen(&mut self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
        let addr = listener.local_addr().expect("it is bound").to_string();
        let (is_echo, accepted, peers) = (self.is_echo, self.accepted.clone(), self.peers.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nodelay(true).expect("it is a TCP socket");
                let kept = stream.try_clone().expect("there is room for a file");
                let from = stream.peer_addr().ok();
                let (peers, accepted) = (peers.clone(), accepted.clone());
                peers.fetch_add(1, Ordering::Relaxed);
                accepted.lock().expect("no thread panics").push(kept);
                std::thread::spawn(move || {
                    if is_echo {
                        echo(stream)
                    } else {
                        drain(stream)
                    }
                    peers.fetch_sub(1, Ordering::Relaxed);
                    let mut accepted = accepted.lock().expect("no thread panics");
                    accepted.retain(|one| one.peer_addr().ok() != from);
                });
            }
        });
        addr
    }

    fn connect(&mut self, addr: &str, count: usize) {
        while self.connected.len() < count {
            let stream = connect(addr);
            if count > 1 {
                let stream = stream.try_clone().expect("there is room for a file");
                std::thread::spawn(move || drain(stream));
            }
            self.connected.push(stream);
        }
    }

    fn peers(&mut self) -> usize {
        self.peers.load(Ordering::Relaxed)
    }

    fn send(&mut self, size: usize, count: usize, mode: Mode) {
        let body = vec![7; size];
        let stream = self.peer();
        if mode == Mode::Packed {
            let mut stream = BufWriter::with_capacity(WRITE_BUFFER, stream);
            for _ in 0..count {
                stream.write_all(&body).expect("the other process reads");
            }
            return stream.flush().expect("the other process reads");
        }
        for _ in 0..count {
            stream.write_all(&body).expect("the other process reads");
        }
    }

    fn ask(&mut self, size: usize, count: usize) -> Vec<f64> {
        let mut body = vec![7; size];
        let stream = self.peer();
        let mut one = || {
            let start = Instant::now();
            stream.write_all(&body).expect("the other process reads");
            stream
                .read_exact(&mut body)
                .expect("the other process answers");
            start.elapsed().as_nanos() as f64 / 1e3
        };
        (0..count).map(|_| one()).collect()
    }

    fn dial(&mut self, addr: &str, count: usize, in_flight: usize) {
        std::thread::scope(|scope| {
            for place in 0..in_flight {
                let share = count / in_flight + usize::from(place < count % in_flight);
                scope.spawn(move || (0..share).for_each(|_| drop(connect(addr))));
            }
        });
    }

    fn broadcast(&mut self, size: usize, count: usize) {
        let body = vec![7; size];
        let accepted = self.accepted.lock().expect("no thread panics");
        let stream = |stream: &TcpStream| stream.try_clone().expect("there is room for a file");
        let mut streams: Vec<_> = accepted
            .iter()
            .map(|one| BufWriter::with_capacity(WRITE_BUFFER, stream(one)))
            .collect();
        for _ in 0..count {
            for stream in &mut streams {
                stream.write_all(&body).expect("the other process reads");
            }
        }
        for stream in &mut streams {
            stream.flush().expect("the other process reads");
        }
    }
}
