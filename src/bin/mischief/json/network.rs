//! The commands about lost, banned, protected and known peers.

use mischief::json::{Answer, BanTarget, NetworkCommand, PeerName, RequestError, RequestId};
use mischief::json::{bans_answer, book_answer, cleared_answer, peer_answer, queue_answer};
use mischief::{NodeError, PeerId, Target};
use serde_json::Value;

use super::{Input, answer, node_error};
use crate::node;

impl Input {
    pub(super) fn carry_out_network(&self, size: usize, id: RequestId, command: NetworkCommand) {
        if let Err(error) = self.start_network(size, &id, command) {
            self.answer(&id, Err(error));
        }
    }

    fn start_network(
        &self,
        size: usize,
        id: &RequestId,
        command: NetworkCommand,
    ) -> Result<(), RequestError> {
        let node = &self.session.node;
        let id = id.clone();
        match command {
            NetworkCommand::Peer(peer) => {
                let peer = node::find_peer(node, &peer)?;
                self.tell(size, id, node.peer_info(&peer), |info| peer_answer(&info));
            }
            NetworkCommand::Protect { peer, is_on } => {
                let peer = self.resolve(peer)?;
                let done = match is_on {
                    true => node.protect(&peer),
                    false => node.unprotect(&peer),
                };
                self.confirm(size, id, done);
            }
            NetworkCommand::Ban { target, lasts } => {
                let target = self.resolve_target(target)?;
                self.confirm(size, id, node.ban(target, lasts));
            }
            NetworkCommand::Unban(target) => {
                let target = self.resolve_target(target)?;
                self.confirm(size, id, node.unban(target));
            }
            NetworkCommand::Bans => self.tell(size, id, node.bans(), |bans| bans_answer(&bans)),
            NetworkCommand::ReconnectQueue => {
                self.tell(size, id, node.reconnect_queue(), |queue| {
                    queue_answer(&queue)
                });
            }
            NetworkCommand::ClearReconnectQueue => {
                self.tell(size, id, node.clear_reconnect_queue(), cleared_answer);
            }
            NetworkCommand::AddressBook => {
                self.tell(size, id, node.address_book(), |book| book_answer(&book));
            }
            NetworkCommand::Forget(peer) => {
                let peer = self.resolve(peer)?;
                self.confirm(size, id, node.forget(&peer));
            }
        }
        Ok(())
    }

    fn resolve(&self, peer: PeerName) -> Result<PeerId, RequestError> {
        match peer {
            PeerName::Whole(peer) => Ok(peer),
            PeerName::Beginning(prefix) => node::find_peer(&self.session.node, &prefix),
        }
    }

    fn resolve_target(&self, target: BanTarget) -> Result<Target, RequestError> {
        match target {
            BanTarget::Peer(peer) => self.resolve(peer).map(Target::Peer),
            BanTarget::Subnet(subnet) => Ok(Target::Subnet(subnet)),
        }
    }

    fn confirm(
        &self,
        size: usize,
        id: RequestId,
        done: impl Future<Output = Result<(), NodeError>> + Send + 'static,
    ) {
        let output = self.session.output.clone();
        self.wait(size, async move {
            let result = done.await.map(|()| Answer::Done {});
            answer(&output, &id, result.map_err(node_error));
        });
    }

    fn tell<T: Send + 'static>(
        &self,
        size: usize,
        id: RequestId,
        asked: impl Future<Output = Result<T, NodeError>> + Send + 'static,
        form: impl FnOnce(T) -> Value + Send + 'static,
    ) {
        let output = self.session.output.clone();
        self.wait(size, async move {
            let result = asked.await.map(|told| Answer::Network(form(told)));
            answer(&output, &id, result.map_err(node_error));
        });
    }
}
