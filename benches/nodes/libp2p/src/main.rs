//! The orders of a measurement followed with rust-libp2p: TCP, Noise and Yamux, on tokio.
//!
//! `--config default` takes every default, with the behaviour that nearly every program has, identify. `--config tuned` sets
//! what makes it smaller or faster; `--config full` adds ping and gossipsub to the defaults. `--threads N` is for tokio: 0 its own choice, 1 a runtime
//! of one thread. `--echo` sends messages back, `--cpu N` stays on one processor.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures::io::BufWriter;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, Transport, gossipsub, identify,
    noise, ping, tcp, yamux,
};
use mischief_benches::orders::{Mode, Nodes, Tally, serve};
use mischief_benches::system::{pin, raise_open_files};
use tokio::runtime::{Builder, Handle, Runtime};

static TALLY: Tally = Tally::new();

const PROTOCOL: StreamProtocol = StreamProtocol::new("/bench/1");
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// As many handshakes at a time while a crowd connects.
const AT_ONCE: usize = 48;
const READ_SIZE: usize = 256 << 10;
const WRITE_BUFFER: usize = 64 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| Some(args[args.iter().position(|arg| arg == name)? + 1].as_str());
    let number = |name: &str| -> Option<usize> { value(name)?.parse().ok() };
    if let Some(cpu) = number("--cpu") {
        pin(cpu).expect("there is such a processor");
    }
    raise_open_files();
    let kind = match value("--config") {
        None | Some("default") => Kind::Default,
        Some("tuned") => Kind::Tuned,
        Some("full") => Kind::Full,
        Some(other) => panic!("there is no configuration {other}"),
    };
    let runtime = runtime(number("--threads").unwrap_or(0));
    let mut crowd = Crowd {
        setting: Setting {
            kind,
            is_echo: args.iter().any(|arg| arg == "--echo"),
        },
        handle: runtime.handle().clone(),
        first: Arc::default(),
        nodes: Vec::new(),
        stream: None,
    };
    // A runtime of one thread runs only where somebody waits in it, and this thread waits for orders.
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    serve(&mut crowd, &TALLY);
}

fn runtime(threads: usize) -> Runtime {
    let mut builder = if threads == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .build()
        .expect("threads can be started")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Default,
    Tuned,
    Full,
}

#[derive(Clone, Copy)]
struct Setting {
    kind: Kind,
    is_echo: bool,
}

/// What a task that drives a swarm shares with the thread that follows orders.
#[derive(Default)]
struct Shared {
    peers: AtomicUsize,
    ids: Mutex<Vec<PeerId>>,
}

/// A running swarm.
struct Running {
    control: libp2p_stream::Control,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
}

enum Order {
    Listen(mpsc::Sender<Multiaddr>),
    Connect(Multiaddr, mpsc::Sender<PeerId>),
    Dial {
        addr: Multiaddr,
        count: usize,
        in_flight: usize,
        done: mpsc::Sender<()>,
    },
}

/// Streams, which every configuration has.
trait Streams: NetworkBehaviour {
    fn control(&self) -> libp2p_stream::Control;
}

impl Streams for libp2p_stream::Behaviour {
    fn control(&self) -> libp2p_stream::Control {
        self.new_control()
    }
}

#[derive(NetworkBehaviour)]
struct Usual {
    stream: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
}

impl Streams for Usual {
    fn control(&self) -> libp2p_stream::Control {
        self.stream.new_control()
    }
}

#[derive(NetworkBehaviour)]
struct Full {
    stream: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    gossipsub: gossipsub::Behaviour,
}

impl Streams for Full {
    fn control(&self) -> libp2p_stream::Control {
        self.stream.new_control()
    }
}

fn identify(keys: &Keypair) -> identify::Behaviour {
    identify::Behaviour::new(identify::Config::new("/bench/1".to_owned(), keys.public()))
}

fn usual_swarm() -> Swarm<Usual> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .expect("the keys are good")
        .with_behaviour(|keys| Usual {
            stream: libp2p_stream::Behaviour::new(),
            identify: identify(keys),
        })
        .expect("it cannot fail")
        .with_swarm_config(|config| config.with_idle_connection_timeout(FOREVER))
        .build()
}

fn full_swarm() -> Swarm<Full> {
    let gossip = |keys: &Keypair| {
        let signed = gossipsub::MessageAuthenticity::Signed(keys.clone());
        gossipsub::Behaviour::new(signed, gossipsub::Config::default())
            .expect("the defaults are good")
    };
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .expect("the keys are good")
        .with_behaviour(|keys| Full {
            stream: libp2p_stream::Behaviour::new(),
            identify: identify(keys),
            ping: ping::Behaviour::default(),
            gossipsub: gossip(keys),
        })
        .expect("it cannot fail")
        .with_swarm_config(|config| config.with_idle_connection_timeout(FOREVER))
        .build()
}

/// Streams alone, small buffers between tasks, and negotiations that do not wait where they need not.
fn tuned_swarm() -> Swarm<libp2p_stream::Behaviour> {
    let keys = Keypair::generate_ed25519();
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(16);
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keys).expect("the keys are good"))
        .multiplex(muxer)
        .boxed();
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(FOREVER)
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_notify_handler_buffer_size(NonZeroUsize::MIN)
        .with_per_connection_event_buffer_size(1)
        .with_max_negotiating_inbound_streams(4);
    let id = keys.public().to_peer_id();
    Swarm::new(transport, libp2p_stream::Behaviour::new(), id, config)
}

/// Starts to drive a swarm and to receive, on tokio.
fn start<B>(handle: &Handle, mut swarm: Swarm<B>, shared: Arc<Shared>, setting: Setting) -> Running
where
    B: Streams + Send + 'static,
    B::ToSwarm: Send + std::fmt::Debug,
{
    let mut control = swarm.behaviour().control();
    let incoming = control.clone().accept(PROTOCOL).expect("it is the first");
    handle.spawn(receive(incoming, setting.is_echo));
    let (orders, mut ordered) = tokio::sync::mpsc::unbounded_channel();
    handle.spawn(async move {
        let mut desk = Desk {
            shared,
            listening: None,
            connecting: None,
            dialling: None,
        };
        loop {
            tokio::select! {
                event = swarm.select_next_some() => desk.on_event(&mut swarm, event),
                Some(order) = ordered.recv() => desk.on_order(&mut swarm, order),
            }
        }
    });
    let _ = &mut control;
    Running { control, orders }
}

async fn receive(mut incoming: libp2p_stream::IncomingStreams, is_echo: bool) {
    while let Some((_, stream)) = incoming.next().await {
        if is_echo {
            tokio::spawn(echo(stream));
        } else {
            tokio::spawn(drain(stream));
        }
    }
}

async fn drain(mut stream: Stream) {
    let mut buffer = vec![0; READ_SIZE];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        TALLY.add(count);
    }
}

async fn echo(mut stream: Stream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// What a swarm's task has to do besides driving it.
struct Desk {
    shared: Arc<Shared>,
    listening: Option<mpsc::Sender<Multiaddr>>,
    connecting: Option<mpsc::Sender<PeerId>>,
    dialling: Option<Dialling>,
}

struct Dialling {
    addr: Multiaddr,
    to_begin: usize,
    open: usize,
    done: mpsc::Sender<()>,
}

fn to(addr: &Multiaddr) -> DialOpts {
    DialOpts::unknown_peer_id().address(addr.clone()).build()
}

impl Desk {
    fn on_order<B: NetworkBehaviour>(&mut self, swarm: &mut Swarm<B>, order: Order) {
        match order {
            Order::Listen(answer) => {
                let addr = "/ip4/127.0.0.1/tcp/0".parse().expect("it is an address");
                swarm.listen_on(addr).expect("loopback can be listened on");
                self.listening = Some(answer);
            }
            Order::Connect(addr, answer) => {
                swarm.dial(to(&addr)).expect("it can be dialled");
                self.connecting = Some(answer);
            }
            Order::Dial {
                addr,
                count,
                in_flight,
                done,
            } => {
                let open = in_flight.min(count);
                for _ in 0..open {
                    swarm.dial(to(&addr)).expect("it can be dialled");
                }
                self.dialling = Some(Dialling {
                    addr,
                    to_begin: count - open,
                    open,
                    done,
                });
            }
        }
    }

    fn on_event<B: NetworkBehaviour>(
        &mut self,
        swarm: &mut Swarm<B>,
        event: SwarmEvent<B::ToSwarm>,
    ) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                if let Some(answer) = self.listening.take() {
                    answer.send(address).expect("somebody waits");
                }
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                num_established,
                ..
            } => {
                if num_established.get() == 1 {
                    self.shared.peers.fetch_add(1, Ordering::Relaxed);
                    self.shared
                        .ids
                        .lock()
                        .expect("no task panics")
                        .push(peer_id);
                }
                if let Some(answer) = self.connecting.take() {
                    answer.send(peer_id).expect("somebody waits");
                }
                if let Some(dialling) = &mut self.dialling {
                    swarm.close_connection(connection_id);
                    if dialling.to_begin > 0 {
                        dialling.to_begin -= 1;
                        swarm.dial(to(&dialling.addr)).expect("it can be dialled");
                    } else {
                        dialling.open -= 1;
                    }
                    if dialling.open == 0 {
                        dialling.done.send(()).expect("somebody waits");
                        self.dialling = None;
                    }
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                ..
            } => {
                self.shared.peers.fetch_sub(1, Ordering::Relaxed);
                self.shared
                    .ids
                    .lock()
                    .expect("no task panics")
                    .retain(|id| *id != peer_id);
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
}

struct Crowd {
    setting: Setting,
    handle: Handle,
    /// Of the first node.
    first: Arc<Shared>,
    nodes: Vec<Running>,
    stream: Option<Stream>,
}

impl Crowd {
    fn add(&mut self) -> &Running {
        let shared = if self.nodes.is_empty() {
            self.first.clone()
        } else {
            Arc::default()
        };
        // Timers and sockets are made within the runtime.
        let _inside = self.handle.enter();
        let running = match self.setting.kind {
            Kind::Default => start(&self.handle, usual_swarm(), shared, self.setting),
            Kind::Tuned => start(&self.handle, tuned_swarm(), shared, self.setting),
            Kind::Full => start(&self.handle, full_swarm(), shared, self.setting),
        };
        self.nodes.push(running);
        self.nodes.last().expect("it was pushed")
    }

    /// Runs a future as a task of the runtime, where sockets are driven too, and waits for it.
    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.handle
            .spawn(async move { done.send(future.await).unwrap_or(()) });
        result.recv().expect("the task ends")
    }

    /// The stream to the only peer, opened at the first use.
    fn stream(&mut self) -> Stream {
        if let Some(stream) = self.stream.take() {
            return stream;
        }
        let peer = self.first.ids.lock().expect("no task panics")[0];
        let mut control = self.nodes[0].control.clone();
        self.run(async move {
            control
                .open_stream(peer, PROTOCOL)
                .await
                .expect("it is accepted")
        })
    }
}

async fn write(mut stream: Stream, size: usize, count: usize, mode: Mode) -> Stream {
    let body = vec![7; size];
    if mode == Mode::Packed {
        let mut buffered = BufWriter::with_capacity(WRITE_BUFFER, stream);
        for _ in 0..count {
            buffered
                .write_all(&body)
                .await
                .expect("the other process reads");
        }
        buffered.flush().await.expect("the other process reads");
        return buffered.into_inner();
    }
    for _ in 0..count {
        stream
            .write_all(&body)
            .await
            .expect("the other process reads");
        if mode == Mode::Each {
            stream.flush().await.expect("the other process reads");
        }
    }
    stream.flush().await.expect("the other process reads");
    stream
}

async fn round_trips(mut stream: Stream, size: usize, count: usize) -> (Stream, Vec<f64>) {
    let mut body = vec![7; size];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        stream
            .write_all(&body)
            .await
            .expect("the other process reads");
        stream.flush().await.expect("the other process reads");
        stream
            .read_exact(&mut body)
            .await
            .expect("the other process answers");
        times.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    (stream, times)
}

impl Nodes for Crowd {
    fn listen(&mut self) -> String {
        let (answer, addr) = mpsc::channel();
        let sent = self.add().orders.send(Order::Listen(answer));
        sent.expect("its task runs");
        addr.recv().expect("it listens").to_string()
    }

    fn connect(&mut self, addr: &str, count: usize) {
        let addr: Multiaddr = addr.parse().expect("it is an address");
        while self.nodes.len() < count {
            let some = AT_ONCE.min(count - self.nodes.len());
            let (answer, connected) = mpsc::channel();
            for _ in 0..some {
                let sent = self
                    .add()
                    .orders
                    .send(Order::Connect(addr.clone(), answer.clone()));
                sent.expect("its task runs");
            }
            for _ in 0..some {
                connected.recv().expect("it listens");
            }
        }
    }

    fn peers(&mut self) -> usize {
        self.first.peers.load(Ordering::Relaxed)
    }

    fn send(&mut self, size: usize, count: usize, mode: Mode) {
        let stream = self.stream();
        self.stream = Some(self.run(write(stream, size, count, mode)));
    }

    fn ask(&mut self, size: usize, count: usize) -> Vec<f64> {
        let stream = self.stream();
        let (stream, times) = self.run(round_trips(stream, size, count));
        self.stream = Some(stream);
        times
    }

    fn dial(&mut self, addr: &str, count: usize, in_flight: usize) {
        if self.nodes.is_empty() {
            self.add();
        }
        let (done, is_done) = mpsc::channel();
        let addr = addr.parse().expect("it is an address");
        let sent = self.nodes[0].orders.send(Order::Dial {
            addr,
            count,
            in_flight,
            done,
        });
        sent.expect("its task runs");
        is_done.recv().expect("it listens");
    }

    fn broadcast(&mut self, size: usize, count: usize) {
        let mode = if self.setting.kind == Kind::Tuned {
            Mode::Packed
        } else {
            Mode::Plain
        };
        let ids = self.first.ids.lock().expect("no task panics").clone();
        let control = self.nodes[0].control.clone();
        self.run(async move {
            let one = |peer: PeerId| {
                let mut control = control.clone();
                tokio::spawn(async move {
                    let stream = control
                        .open_stream(peer, PROTOCOL)
                        .await
                        .expect("it is accepted");
                    write(stream, size, count, mode)
                        .await
                        .close()
                        .await
                        .expect("it is open");
                })
            };
            let all: Vec<_> = ids.into_iter().map(one).collect();
            for task in all {
                task.await.expect("no task panics");
            }
        });
    }
}
