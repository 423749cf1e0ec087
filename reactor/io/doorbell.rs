//! A descriptor that can be waited for together with others: for programs that have a loop of their own.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

pub use system::Descriptor;

/// Something that is rung from any thread and then readable until it is silenced. It costs system calls only when it
/// changes, and holds a pair of file descriptors (a pipe; a UDP socket on Windows).
pub struct Doorbell {
    is_rung: AtomicBool,
    channel: system::Channel,
}

impl Doorbell {
    /// A silent one.
    pub fn new() -> io::Result<Doorbell> {
        Ok(Doorbell {
            is_rung: AtomicBool::new(false),
            channel: system::Channel::new()?,
        })
    }

    /// Makes the descriptor readable, if it is not.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // One byte at most is under way, which always fits.
            if let Err(error) = self.channel.write() {
                log::error!("a doorbell cannot be rung: {error}");
            }
        }
    }

    /// Makes the descriptor unreadable, if it is not.
    pub fn silence(&self) {
        if self.is_rung.swap(false, Ordering::AcqRel) {
            // Whoever set the mark writes the byte; at most this waits until it has done so.
            if let Err(error) = self.channel.read() {
                log::error!("a doorbell cannot be silenced: {error}");
            }
        }
    }

    /// Whether it has been rung since it was last silenced.
    pub fn is_rung(&self) -> bool {
        self.is_rung.load(Ordering::Acquire)
    }

    /// What to wait for, with `poll`, `epoll`, `kqueue`, `select` or `WSAPoll`. Only wait for it; it belongs to the
    /// doorbell and is closed with it.
    pub fn descriptor(&self) -> Descriptor {
        self.channel.descriptor()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Doorbell({:?}, rung: {})",
            self.descriptor(),
            self.is_rung()
        )
    }
}

#[cfg(unix)]
mod system {
    use std::io::{self, PipeReader, PipeWriter, Read, Write};
    use std::os::fd::AsRawFd;

    /// The system's name of a file or socket.
    pub type Descriptor = std::os::fd::RawFd;

    pub(super) struct Channel {
        reader: PipeReader,
        writer: PipeWriter,
    }

    impl Channel {
        pub(super) fn new() -> io::Result<Channel> {
            let (reader, writer) = io::pipe()?;
            Ok(Channel { reader, writer })
        }

        pub(super) fn write(&self) -> io::Result<()> {
            (&self.writer).write_all(&[1])
        }

        pub(super) fn read(&self) -> io::Result<()> {
            (&self.reader).read_exact(&mut [0])
        }

        pub(super) fn descriptor(&self) -> Descriptor {
            self.reader.as_raw_fd()
        }
    }
}

/// Pipes cannot be waited for on Windows; a UDP socket that is connected to itself can.
#[cfg(windows)]
mod system {
    use std::io;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::windows::io::AsRawSocket;

    /// The system's name of a socket.
    pub type Descriptor = std::os::windows::io::RawSocket;

    pub(super) struct Channel(UdpSocket);

    impl Channel {
        pub(super) fn new() -> io::Result<Channel> {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(socket.local_addr()?)?;
            Ok(Channel(socket))
        }

        pub(super) fn write(&self) -> io::Result<()> {
            self.0.send(&[1]).map(drop)
        }

        pub(super) fn read(&self) -> io::Result<()> {
            self.0.recv(&mut [0]).map(drop)
        }

        pub(super) fn descriptor(&self) -> Descriptor {
            self.0.as_raw_socket()
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn is_readable(bell: &Doorbell) -> bool {
        let mut poll = libc::pollfd {
            fd: bell.descriptor(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one valid record that outlives the call.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        ready == 1 && poll.revents & libc::POLLIN != 0
    }

    #[test]
    fn it_is_readable_from_ring_to_silence_however_often_it_is_rung() {
        let bell = Doorbell::new().unwrap();
        assert!(!is_readable(&bell));
        for _ in 0..100_000 {
            bell.ring();
        }
        assert!(is_readable(&bell) && bell.is_rung());
        bell.silence();
        bell.silence();
        assert!(!is_readable(&bell) && !bell.is_rung());
    }

    #[test]
    fn rings_and_silences_of_two_threads_never_get_stuck() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let ringing = {
            let bell = bell.clone();
            std::thread::spawn(move || (0..20_000).for_each(|_| bell.ring()))
        };
        for _ in 0..20_000 {
            bell.silence();
        }
        ringing.join().unwrap();
        bell.silence();
        assert!(!is_readable(&bell));
    }
}
