//! What is asked of the peers actor besides connections, and its files.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Context, OffloadError, Reply};

use super::{PeersActor, PeersMessage};
use crate::peers::{BANS_MAX, BookEntry, FileKind, PROTECTED_MAX, PeerId, Save, Target, Waiting};

/// Requests whose changes wait to be written. Whoever asks when there are more is told that the node is busy.
const UNSAVED_MAX: usize = 1024;

/// Where files are kept. Called on the offload pool.
pub trait Shelf: Send + Sync {
    /// Writes a file so that it is wholly the old or wholly the new one after a crash at any instant, and the new one after
    /// this has returned.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// Why something that was asked for was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// There is nothing to undo or to forget.
    #[error("nothing is known of it here")]
    Unknown,
    /// As many are banned or protected as can be.
    #[error("this node keeps at most {BANS_MAX} bans and {PROTECTED_MAX} protected peers")]
    Full,
    /// It is done, but will not outlive the node: the file could not be written.
    #[error("done, but not kept for the next start: {}", io::Error::from(*.0))]
    NotSaved(io::ErrorKind),
    /// Too many changes wait to be written.
    #[error("too many changes wait to be written to the disk")]
    Busy,
}

impl UpkeepError {
    /// The stable name for programs: part of the JSON interface.
    pub const fn kind(&self) -> &'static str {
        match self {
            UpkeepError::Unknown => "gone",
            UpkeepError::Full => "full",
            UpkeepError::NotSaved(_) => "internal",
            UpkeepError::Busy => "busy",
        }
    }
}

/// The answer to a change: it is done, and will be there after a crash.
pub type Done = Reply<Result<(), UpkeepError>>;

/// What is asked.
pub enum Upkeep {
    /// Ban somebody, for a while or until it is lifted.
    Ban(Target, Option<Duration>, Done),
    /// Lift a ban.
    Unban(Target, Done),
    /// All bans and how long they last.
    Bans(Reply<Vec<(Target, Option<Duration>)>>),
    /// Protect a peer, or no longer.
    Protect(PeerId, bool, Done),
    /// The lost peers that will be dialled again.
    Queue(Reply<Vec<Waiting>>),
    /// Dial none of them any more. How many there were.
    ClearQueue(Reply<usize>),
    /// All known peers.
    Book(Reply<Vec<BookEntry>>),
    /// Forget a peer.
    Forget(PeerId, Done),
}

/// Files have been written, or not.
pub struct Saved {
    change: u64,
    result: io::Result<()>,
}

impl PeersActor {
    pub(super) fn on_upkeep(&mut self, upkeep: Upkeep, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        match upkeep {
            Upkeep::Ban(target, lasts, done) => {
                let change = self.network.handle_ban(now, target, lasts);
                self.confirm(change.map_err(|_| UpkeepError::Full), done);
            }
            Upkeep::Unban(target, done) => {
                let change = self.network.handle_unban(now, &target);
                self.confirm(change.ok_or(UpkeepError::Unknown), done);
            }
            Upkeep::Bans(reply) => reply.send(self.network.bans(now)),
            Upkeep::Protect(peer, is_protected, done) => {
                let change = self.network.handle_protect(now, peer, is_protected);
                self.confirm(change.ok_or(UpkeepError::Full), done);
            }
            Upkeep::Queue(reply) => reply.send(self.network.reconnect_queue(now)),
            Upkeep::ClearQueue(reply) => reply.send(self.network.handle_clear_queue()),
            Upkeep::Book(reply) => reply.send(self.network.address_book(now)),
            Upkeep::Forget(peer, done) => {
                let change = self.network.handle_forget(now, &peer);
                self.confirm(change.ok_or(UpkeepError::Unknown), done);
            }
        }
    }

    /// Answers when a change is on the disk.
    fn confirm(&mut self, change: Result<u64, UpkeepError>, done: Done) {
        match change {
            Err(error) => done.send(Err(error)),
            Ok(change) if self.network.is_saved(change) => done.send(Ok(())),
            Ok(_) if self.unsaved.len() >= UNSAVED_MAX => done.send(Err(UpkeepError::Busy)),
            Ok(change) => self.unsaved.push((change, done)),
        }
    }

    /// Writes what has to be written.
    pub(super) fn save(&mut self, cx: &mut Context<'_, Self>) {
        let Some(shelf) = &self.shelf else { return };
        let (now, wall) = (cx.now(), cx.wall());
        let Some(Save { change, files }) = self.network.poll_save(now, wall) else {
            return;
        };
        let shelf = shelf.clone();
        cx.offload(
            move |_| write(&*shelf, &files),
            move |result: Result<io::Result<()>, OffloadError>| {
                let result =
                    result.unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
                PeersMessage::Saved(Box::new(Saved { change, result }))
            },
        );
    }

    pub(super) fn on_saved(&mut self, saved: Saved, cx: &mut Context<'_, Self>) {
        let Saved { change, result } = saved;
        self.network.handle_saved(cx.now(), change, result.is_ok());
        if let Err(error) = &result {
            log::warn!("what is known of peers could not be written: {error}");
        }
        let network = &self.network;
        let answered = self
            .unsaved
            .extract_if(.., |(waits_for, _)| *waits_for <= change);
        for (waits_for, done) in answered {
            let saved = match &result {
                Ok(()) => Ok(()),
                Err(_) if network.is_saved(waits_for) => Ok(()),
                Err(error) => Err(UpkeepError::NotSaved(error.kind())),
            };
            done.send(saved);
        }
        self.is_last_save_over |= self.closing.is_some();
    }

    /// Answers whoever closes the node once all is written, or cannot be.
    pub(super) fn finish_closing(&mut self) {
        let is_written =
            self.shelf.is_none() || self.is_last_save_over && !self.network.is_saving();
        if is_written && let Some(reply) = self.closing.take() {
            reply.send(());
        }
    }
}

fn write(shelf: &dyn Shelf, files: &[(FileKind, Vec<u8>)]) -> io::Result<()> {
    for (kind, bytes) in files {
        shelf.replace(kind.file_name(), bytes)?;
    }
    Ok(())
}

/// A shelf that may be there or not.
pub(super) type MaybeShelf = Option<Arc<dyn Shelf>>;
