//! Two processes of nodes of one implementation, one of which listens, and what they are measured doing.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::Cost;
use crate::orders::Mode;
use crate::other::Other;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// mischief with ChaChaPoly.
    Mischief,
    /// mischief with AES-256-GCM.
    MischiefAes,
    /// mischief as a static program, with ChaChaPoly.
    MischiefMusl,
    /// rust-libp2p with all defaults.
    Libp2pDefault,
    /// rust-libp2p with its best settings for the test.
    Libp2pTuned,
    /// rust-libp2p with identify, ping and gossipsub.
    Libp2pFull,
    /// Plain blocking TCP.
    RawTcp,
}

/// How the processes of a session run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// The processor of both, if not all.
    pub cpu: Option<usize>,
    /// Whether messages are sent back.
    pub is_echo: bool,
    /// Threads of tokio: 0 is its own choice.
    pub threads: usize,
    /// Whether mischief gives code back that it has run, as its daemon does.
    pub is_lean: bool,
}

impl Kind {
    /// As the results call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mischief | Kind::MischiefAes | Kind::MischiefMusl => "mischief",
            Kind::Libp2pDefault => "libp2p-default",
            Kind::Libp2pTuned => "libp2p-tuned",
            Kind::Libp2pFull => "libp2p-full",
            Kind::RawTcp => "raw-tcp",
        }
    }

    /// How it sends much: libp2p's defaults have no buffer for writes, its best settings have one.
    pub fn mode(self) -> Mode {
        match self {
            Kind::Libp2pTuned => Mode::Packed,
            _ => Mode::Plain,
        }
    }

    /// The program, in the target folder that this program was built into.
    pub fn program(self) -> PathBuf {
        let own = std::env::current_exe().expect("this program has a path");
        let mut folder = own.parent().expect("it is in a folder").to_owned();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let name = match self {
            Kind::Mischief | Kind::MischiefAes | Kind::MischiefMusl => "mischief-node",
            Kind::Libp2pDefault | Kind::Libp2pTuned | Kind::Libp2pFull => "libp2p-node",
            Kind::RawTcp => "raw-node",
        };
        if self == Kind::MischiefMusl {
            let profile = folder.file_name().expect("it is a profile").to_owned();
            folder.pop();
            folder = folder.join("x86_64-unknown-linux-musl").join(profile);
        }
        folder.join(name)
    }

    /// Whether its program has been built.
    pub fn is_built(self) -> bool {
        self.program().is_file()
    }

    /// A process of nodes, none of which exists yet.
    pub fn start(self, setup: Setup) -> Other {
        let mut command = Command::new(self.program());
        match self {
            Kind::MischiefAes => {
                command.arg("--aes");
            }
            Kind::Libp2pTuned => {
                command.args(["--config", "tuned"]);
            }
            Kind::Libp2pFull => {
                command.args(["--config", "full"]);
            }
            _ => {}
        }
        if self.name().starts_with("libp2p") && setup.threads > 0 {
            command.args(["--threads", &setup.threads.to_string()]);
        }
        if self.name() == "mischief" && setup.is_lean {
            command.arg("--lean");
        }
        if let Some(cpu) = setup.cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        if setup.is_echo {
            command.arg("--echo");
        }
        Other::spawn(&mut command)
    }
}

/// A process that listens and one that dials it, or one that does both.
pub struct Session {
    listener: Other,
    dialler: Option<Other>,
    addr: String,
}

impl Session {
    /// Starts both processes; nothing is connected yet.
    pub fn start(kind: Kind, setup: Setup) -> Session {
        let mut listener = kind.start(setup);
        let addr = listener.ask("listen");
        let dialler = Some(kind.start(Setup {
            is_echo: false,
            ..setup
        }));
        Session {
            listener,
            dialler,
            addr,
        }
    }

    /// Starts one process with two nodes, one of which has dialled the other.
    pub fn within_one(kind: Kind, setup: Setup) -> Session {
        let mut listener = kind.start(setup);
        let addr = listener.ask("listen");
        // Plain TCP knows no nodes but sockets, and the one that listens is none of them.
        let count = if kind == Kind::RawTcp { 1 } else { 2 };
        assert_eq!(
            listener.ask(&format!("connect {addr} {count}")),
            "connected"
        );
        Session {
            listener,
            dialler: None,
            addr,
        }
    }

    fn dialler(&mut self) -> &mut Other {
        self.dialler.as_mut().unwrap_or(&mut self.listener)
    }

    /// Starts both and connects so many nodes of the second to the first.
    pub fn connected(kind: Kind, setup: Setup, count: usize) -> Session {
        let mut session = Session::start(kind, setup);
        session.connect(count);
        session
    }

    /// Connects until there are so many nodes, and waits until the listener knows them all.
    pub fn connect(&mut self, count: usize) {
        let order = format!("connect {} {count}", self.addr);
        let answer = self.dialler().ask(&order);
        assert_eq!(answer, "connected");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.peers() < count {
            assert!(
                Instant::now() < deadline,
                "only {} of {count} peers came",
                self.peers()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many peers the listener has.
    pub fn peers(&mut self) -> usize {
        self.listener.ask("peers").parse().expect("it is a number")
    }

    /// The process id of the listener.
    pub fn listener_id(&self) -> u32 {
        self.listener.id()
    }

    /// Ends the process of the diallers without a goodbye, and gives back the listener.
    pub fn leave(self) -> Other {
        self.listener
    }

    /// Messages from the dialler to the listener, until they are received.
    pub fn send(&mut self, size: usize, count: u64, mode: Mode) -> Cost {
        let bytes = size as u64 * count;
        assert_eq!(self.listener.ask(&format!("expect {bytes}")), "expecting");
        let cpu = self.cpu();
        let start = Instant::now();
        self.dialler()
            .tell(&format!("send {size} {count} {}", mode.name()));
        assert_eq!(self.listener.line(), "received");
        let wall = start.elapsed();
        assert_eq!(self.dialler().line(), "sent");
        Cost {
            wall,
            cpu: self.cpu() - cpu,
        }
    }

    /// Messages from the listener to all that have dialled it, until they are received.
    pub fn broadcast(&mut self, size: usize, count: u64, peers: usize) -> Cost {
        let bytes = size as u64 * count * peers as u64;
        assert_eq!(self.dialler().ask(&format!("expect {bytes}")), "expecting");
        let cpu = self.cpu();
        let start = Instant::now();
        self.listener.tell(&format!("broadcast {size} {count}"));
        assert_eq!(self.dialler().line(), "received");
        let wall = start.elapsed();
        assert_eq!(self.listener.line(), "sent");
        Cost {
            wall,
            cpu: self.cpu() - cpu,
        }
    }

    /// Connections that are made and dropped.
    pub fn dial(&mut self, count: u64, in_flight: usize) -> Cost {
        let cpu = self.cpu();
        let start = Instant::now();
        let order = format!("dial {} {count} {in_flight}", self.addr);
        let answer = self.dialler().ask(&order);
        assert_eq!(answer, "dialled");
        Cost {
            wall: start.elapsed(),
            cpu: self.cpu() - cpu,
        }
    }

    /// Quantiles of round trips, at the shares of [`crate::orders::SHARES`].
    pub fn ask(&mut self, size: usize, count: u64) -> Vec<f64> {
        let answer = self.dialler().ask(&format!("ask {size} {count}"));
        serde_json::from_str(&answer).expect("it is a list of numbers")
    }

    fn cpu(&mut self) -> Duration {
        let of =
            |process: &mut Other| -> u64 { process.ask("cpu").parse().expect("it is a number") };
        let dialler = self.dialler.as_mut().map_or(0, of);
        Duration::from_nanos(of(&mut self.listener) + dialler)
    }
}
