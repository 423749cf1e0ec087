//! The console's commands about lost, banned, protected and known peers.

use std::time::Duration;

use mischief::terminal::shown;
use mischief::{NodeError, PeerId, PeerIdPrefix, Pending, Subnet, Target};

use super::text::{NetworkTyped, bytes, table};
use super::{Console, node};
use crate::logger;

impl Console {
    pub(super) fn act_on_network(&self, typed: NetworkTyped<'_>) {
        if let Err(message) = self.try_network(typed) {
            logger::say("error", &message);
        }
    }

    fn try_network(&self, typed: NetworkTyped<'_>) -> Result<(), String> {
        let node = &self.session.node;
        match typed {
            NetworkTyped::Peer(peer) => self.show_peer(&self.find(peer)?),
            NetworkTyped::Protect(peer) => self.done(node.protect(&self.find(peer)?), "protected"),
            NetworkTyped::Unprotect(peer) => {
                self.done(node.unprotect(&self.find(peer)?), "no longer protected")
            }
            NetworkTyped::Ban(whom, seconds) => {
                let lasts = seconds.map(Duration::from_secs);
                wait(node.ban(self.target(whom)?, lasts)).map(drop)
            }
            NetworkTyped::Unban(whom) => wait(node.unban(self.target(whom)?)).map(drop),
            NetworkTyped::Bans => self.show_bans(),
            NetworkTyped::Queue => self.show_queue(),
            NetworkTyped::ClearQueue => {
                let cleared = wait(node.clear_reconnect_queue())?;
                self.notice(format_args!(
                    "{cleared} lost peers will not be dialled again"
                ));
                Ok(())
            }
            NetworkTyped::Book => self.show_book(),
            NetworkTyped::Forget(peer) => self.done(node.forget(&self.find(peer)?), "forgotten"),
        }
    }

    fn done(&self, done: Pending<(), NodeError>, what: &str) -> Result<(), String> {
        wait(done)?;
        self.notice(what);
        Ok(())
    }

    /// A peer by its whole id, or a connected one by the beginning of it.
    fn find(&self, text: &str) -> Result<PeerId, String> {
        if let Ok(peer) = text.parse() {
            return Ok(peer);
        }
        let prefix: PeerIdPrefix = text
            .parse()
            .map_err(|error| format!("{}: {error}", shown(text, 60)))?;
        node::find_peer(&self.session.node, &prefix).map_err(|error| error.message)
    }

    fn target(&self, text: &str) -> Result<Target, String> {
        match text.parse::<Subnet>() {
            Ok(subnet) => Ok(Target::Subnet(subnet)),
            Err(_) => self.find(text).map(Target::Peer),
        }
    }

    fn show_peer(&self, peer: &PeerId) -> Result<(), String> {
        let info = wait(self.session.node.peer_info(peer))?;
        let millis = |time: Option<Duration>| match time {
            Some(time) => format!("{:.2} ms", time.as_secs_f64() * 1e3),
            None => "-".to_owned(),
        };
        let name = info
            .name
            .as_deref()
            .map_or_else(|| "-".to_owned(), |name| shown(name, 64).to_string());
        let rows = [
            ("id", info.peer.to_string()),
            ("name", name),
            ("address", info.addr.to_string()),
            ("dialable at", info.dialable.unwrap_or_else(|| "-".into())),
            ("direction", info.direction.name().to_owned()),
            ("found", info.found.name().to_owned()),
            (
                "protected",
                if info.is_protected { "yes" } else { "no" }.to_owned(),
            ),
            ("suite", info.suite.to_owned()),
            ("round trip", millis(info.rtt)),
            ("jitter", millis(info.rtt_jitter)),
            (
                "in",
                format!("{}, {} messages", bytes(info.bytes_in), info.messages_in),
            ),
            (
                "out",
                format!("{}, {} messages", bytes(info.bytes_out), info.messages_out),
            ),
            ("waiting", bytes(info.queued as u64)),
            ("window", bytes(info.window as u64)),
            ("largest message", bytes(info.message_max.into())),
            ("program", shown(&info.agent, 64).to_string()),
            ("features", format!("{:#x}", info.features)),
            ("wire version", info.wire_version.to_string()),
        ];
        self.print(&table(
            &rows.map(|(name, value)| vec![name.to_owned(), value]),
        ));
        Ok(())
    }

    fn show_bans(&self) -> Result<(), String> {
        let bans = wait(self.session.node.bans())?;
        if bans.is_empty() {
            self.notice("nobody is banned");
        }
        let row = |(target, lasts): &(Target, Option<Duration>)| {
            let whom = match target {
                Target::Peer(peer) => peer.to_string(),
                Target::Subnet(subnet) => subnet.to_string(),
            };
            let lasts = lasts.map_or_else(
                || "until lifted".to_owned(),
                |lasts| format!("{} s", lasts.as_secs()),
            );
            vec![whom, lasts]
        };
        self.print(&table(&bans.iter().map(row).collect::<Vec<_>>()));
        Ok(())
    }

    fn show_queue(&self) -> Result<(), String> {
        let queue = wait(self.session.node.reconnect_queue())?;
        if queue.is_empty() {
            self.notice("nobody is waited for");
            return Ok(());
        }
        let mut rows = vec![
            ["PEER", "ADDRESS", "ATTEMPTS", "NEXT"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(queue.iter().map(|lost| {
            let next = lost.next_in.map_or_else(
                || "now".to_owned(),
                |next| format!("in {:.1} s", next.as_secs_f64()),
            );
            vec![
                lost.peer.short().to_string(),
                lost.endpoint.to_string(),
                lost.attempts.to_string(),
                next,
            ]
        }));
        self.print(&table(&rows));
        Ok(())
    }

    fn show_book(&self) -> Result<(), String> {
        let book = wait(self.session.node.address_book())?;
        if book.is_empty() {
            self.notice("no peers are known");
            return Ok(());
        }
        let mut rows = vec![
            ["PEER", "ADDRESS", "REACHED", "FAILURES"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(book.iter().map(|entry| {
            let reached = entry.reached.map_or_else(
                || "never".to_owned(),
                |ago| format!("{} s ago", ago.as_secs()),
            );
            vec![
                entry.peer.short().to_string(),
                entry.endpoint.to_string(),
                reached,
                entry.failures.to_string(),
            ]
        }));
        self.print(&table(&rows));
        Ok(())
    }
}

fn wait<T: Send + 'static>(asked: Pending<T, NodeError>) -> Result<T, String> {
    asked.wait().map_err(|error| error.to_string())
}
