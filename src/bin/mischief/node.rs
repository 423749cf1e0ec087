//! `mischief node`: starts a node and a front for it, and ends both in good order.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use mischief::json::{ErrorKind, RequestError};
use mischief::network_key::NetworkKey;
use mischief::{
    Connecting, DhtOptions, FindError, Limits, Node, NodeBuilder, NodeEvent, PeerId, PeerIdPrefix,
    data_dir,
};
use mischief_reactor::io::signals::{Signal, Termination};
use mischief_reactor::io::{SystemDisk, release_code};

use crate::args::{Cores, NodeArgs, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::{console, json, logger};

/// How long the node may take to write what was sent and to say goodbye.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long a reader of stdout that has fallen behind may keep the program from ending.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// Stack of a small thread of this program.
const STACK_SIZE: usize = 256 * 1024;

/// How long the threads of a node that has started are busy.
const START_SETTLES: Duration = Duration::from_millis(200);

/// How often a core may give back the memory of code that has been run, before it sleeps. To map what runs on costs it
/// less than 100 microseconds.
const CODE_RELEASE: Duration = Duration::from_secs(2);

/// Why the node is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Signal(Signal),
    /// stdin has ended, and that is to end the node.
    InputEnded,
    /// Nobody reads stdout any more.
    OutputClosed,
    /// A command asks for it.
    Asked,
    /// A part of the node has failed, and it has ended by itself.
    Failed,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Signal(Signal::Interrupt) => "SIGINT",
            Cause::Signal(Signal::Terminate) => "SIGTERM",
            Cause::InputEnded => "end of input",
            Cause::OutputClosed => "output closed",
            Cause::Asked => "shutdown",
            Cause::Failed => "failure",
        }
    }
}

/// What a front works with.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) node: Node,
    pub(crate) output: Output,
    causes: mpsc::Sender<Cause>,
    failure: FirstFailure,
}

/// Why the first connection that was asked for and not made failed.
#[derive(Clone, Default)]
struct FirstFailure(Arc<Mutex<Option<Failure>>>);

impl Session {
    /// Asks for the end of the program.
    pub(crate) fn end(&self, cause: Cause) {
        // Nobody listens only when the program is ending already.
        let _ = self.causes.send(cause);
    }

    /// A connection that was asked for was not made.
    pub(crate) fn note(&self, failure: &Failure) {
        let mut first = self.failure.lock();
        first.get_or_insert_with(|| failure.clone());
    }
}

impl FirstFailure {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What differs between the fronts.
pub(crate) struct Front {
    /// Makes the line that tells of lost notices.
    pub(crate) lost_line: fn(u64) -> Vec<u8>,
    /// Has the node tell what happens; it does not listen yet.
    pub(crate) prepare: fn(&Node, &Output),
    /// The first lines.
    pub(crate) introduce: fn(&Node, &NodeArgs) -> Vec<u8>,
    /// Starts to read.
    pub(crate) start: fn(&Session, &NodeArgs) -> Result<(), Failure>,
    /// The last line, from the reason.
    pub(crate) last_line: fn(&str) -> Vec<u8>,
}

pub(crate) fn run(args: &NodeArgs) -> Result<(), Failure> {
    logger::start(args.verbose);
    let front = match args.json {
        true => json::FRONT,
        false => console::FRONT,
    };
    let (causes, cause) = mpsc::channel();
    watch_signals(causes.clone())?;
    let closed = causes.clone();
    let on_closed = move || {
        let _ = closed.send(Cause::OutputClosed);
    };
    let output = Output::start(io::stdout(), front.lost_line, on_closed).map_err(Failure::new)?;
    output.hold();
    let (prepare, to_output) = (front.prepare, output.clone());
    let failed = causes.clone();
    let builder = builder(args)?.on_start(move |node| {
        prepare(node, &to_output);
        node.on_event(move |event| {
            if matches!(event, NodeEvent::Stopped) {
                // Nobody listens when the program ends the node.
                let _ = failed.send(Cause::Failed);
            }
        });
    });
    let node = builder.start().map_err(Failure::new)?;
    output.begin(&(front.introduce)(&node, args));
    let session = Session {
        node,
        output,
        causes,
        failure: FirstFailure::default(),
    };
    (front.start)(&session, args)?;
    end(&session, &front, wait_for_end(&cause))
}

/// Waits until something ends the program. Soon after the start it gives back the memory of the code that only a start
/// runs; that is not before the other threads have come to rest.
fn wait_for_end(cause: &mpsc::Receiver<Cause>) -> Cause {
    let early = cause.recv_timeout(START_SETTLES);
    // Every sender is held by the caller's session too.
    early.unwrap_or_else(|_| {
        release_code();
        cause.recv().unwrap_or(Cause::Asked)
    })
}

fn end(session: &Session, front: &Front, cause: Cause) -> Result<(), Failure> {
    // A callback may be stuck on a reader that sleeps; the node could not stop before it is let go.
    session.output.prepare_to_end(OUTPUT_PATIENCE);
    session.node.stop(STOP_DEADLINE);
    let last_line = (front.last_line)(cause.name());
    // A reader that is gone has been noticed already, and misses nothing more.
    let _ = session.output.finish(&last_line, OUTPUT_PATIENCE);
    let failure = session.failure.lock().take();
    match (cause, failure) {
        (Cause::InputEnded, Some(failure)) => Err(failure),
        (Cause::Failed, _) => Err(Failure::new("a part of the node has failed")),
        _ => Ok(()),
    }
}

/// The first signal asks for the end, the second one does not wait for it.
pub(crate) fn watch_signals(causes: mpsc::Sender<Cause>) -> Result<(), Failure> {
    let mut signals = Termination::catch().map_err(Failure::new)?;
    let watch = move || {
        let signal = signals.wait();
        let _ = causes.send(Cause::Signal(signal));
        signals.wait();
        std::process::exit(i32::from(crate::failure::FAILED));
    };
    start_thread("signals", watch)
}

pub(crate) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let builder = thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_SIZE);
    builder.spawn(run).map(drop).map_err(Failure::new)
}

fn builder(args: &NodeArgs) -> Result<NodeBuilder, Failure> {
    let mut limits = Limits::default();
    limits.runtime.code_release = Some(CODE_RELEASE);
    let mut builder = Node::builder()
        .limits(limits)
        .protocol(&args.protocol.name, &args.protocol.version);
    builder = match args.ephemeral {
        true => builder.ephemeral(),
        false => builder.data_dir(directory(args.data_dir.as_deref())?),
    };
    if args.listen.is_empty() {
        builder = builder.listen_everywhere();
    }
    for addr in &args.listen {
        builder = builder.listen_addr(*addr);
    }
    builder = builder.mdns(!args.no_mdns);
    if let Some(name) = &args.name {
        builder = builder.name(name);
    }
    if let Some(max) = args.max_peers {
        builder = builder.max_peers(max);
    }
    builder = builder.exchange(!args.no_exchange);
    if !args.no_dht {
        let mut options = DhtOptions::default();
        options.bootstrap.clone_from(&args.dht_bootstrap);
        options.port = args.dht_port.map(u16::from);
        builder = builder.dht(options);
    }
    if let Some(path) = &args.network_key_file {
        let key = NetworkKey::load(&SystemDisk, utf8(path)?).map_err(Failure::new)?;
        builder = builder.network_key(key);
    }
    Ok(builder.cores(match args.cores {
        Cores::Count(count) => count.into(),
        Cores::Auto => thread::available_parallelism().map_or(1, Into::into),
    }))
}

/// The data directory that was asked for, or the platform's.
pub(crate) fn directory(given: Option<&Path>) -> Result<String, Failure> {
    match given {
        Some(path) => utf8(path).map(str::to_owned),
        None => data_dir::default_path(std::env::consts::OS, |name| std::env::var_os(name))
            .map_err(Failure::new),
    }
}

fn utf8(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::usage(format_args!("the path {path:?} is not valid UTF-8")))
}

/// The connected peer whose id begins with `prefix`.
pub(crate) fn find_peer(node: &Node, prefix: &PeerIdPrefix) -> Result<PeerId, RequestError> {
    node.find(prefix).map_err(|error| {
        let kind = match error {
            FindError::None => ErrorKind::Gone,
            FindError::Several(_) => ErrorKind::BadRequest,
        };
        RequestError::new(kind, error.to_string())
    })
}

/// Connects to all targets of the command line at once, and tells `on_failure` of each that was not reached.
pub(crate) fn connect_all(session: &Session, targets: &[Target], on_failure: impl Fn(&Failure)) {
    let dial = |target: &Target| connect(&session.node, &target.addr, target.peer);
    let connecting: Vec<Connecting> = targets.iter().map(dial).collect();
    for (target, connecting) in targets.iter().zip(connecting) {
        if let Err(error) = connecting.wait() {
            let failure = Failure::to_connect(&target.addr, error.kind(), &error);
            on_failure(&failure);
            session.note(&failure);
        }
    }
}

pub(crate) fn connect(node: &Node, addr: &str, peer: Option<PeerId>) -> Connecting {
    match peer {
        Some(peer) => node.connect_expecting(addr, peer),
        None => node.connect(addr),
    }
}
