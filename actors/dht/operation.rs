//! What is asked of the DHT: the orders, how far each is, and what has come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Instant;

use super::bloom::Bloom;
use super::item::{self, Item, ItemError, ItemKey};
use super::lookup::{Closest, Lookup};
use super::message::{Query, Response, Signed};
use super::node_id::NodeId;

/// Orders at a time.
pub const OPERATIONS_MAX: usize = 64;

/// Peers that one order finds.
pub const FOUND_MAX: usize = 1000;

/// Info hashes that one order collects.
pub const SAMPLES_MAX: usize = 2000;

/// How long an order takes at most, unless it says otherwise.
pub const OPERATION_DEADLINE: Duration = Duration::from_secs(30);

/// How long the nodes have to say that they have stored something.
pub const STORE_DEADLINE: Duration = Duration::from_secs(4);

/// Names an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(pub u32);

/// What a peer announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Of what.
    pub info_hash: NodeId,
    /// The peer's port; `None`: the port of our datagrams.
    pub port: Option<u16>,
    /// It is a seed (BEP 33).
    pub seed: bool,
}

/// What is put.
#[derive(Debug)]
pub struct MutablePut {
    /// Who signs.
    pub key: ItemKey,
    /// Tells several items of one key apart.
    pub salt: Vec<u8>,
    /// `None`: one more than the greatest that is found.
    pub seq: Option<i64>,
    /// Only where this is the sequence number of what is stored.
    pub cas: Option<i64>,
}

/// An order.
#[derive(Debug)]
pub enum Order {
    /// Peers of an info hash.
    FindPeers {
        /// The info hash.
        info_hash: NodeId,
    },
    /// Make it known that we are a peer of an info hash. Tells the peers that are found on the way, too.
    Announce(Announcement),
    /// The item at a target. `salt` is what its owner has told.
    Get {
        /// Where.
        target: NodeId,
        /// Empty if there is none.
        salt: Vec<u8>,
    },
    /// Store an item.
    Put {
        /// Bencoded.
        value: Vec<u8>,
        /// `None`: immutable.
        mutable: Option<MutablePut>,
    },
    /// Count the peers of an info hash.
    Scrape {
        /// The info hash.
        info_hash: NodeId,
    },
    /// Collect info hashes from the nodes near a place.
    Sample {
        /// The place.
        target: NodeId,
    },
    /// Is a node there?
    Ping {
        /// Which.
        addr: SocketAddr,
    },
    /// The nodes nearest to a place.
    FindNodes {
        /// The place.
        target: NodeId,
    },
}

impl Order {
    /// Whether it can be carried out at all.
    pub fn check(&self) -> Result<(), ItemError> {
        let Order::Put { value, mutable } = self else {
            return Ok(());
        };
        let salt = mutable.as_ref().map_or(&[][..], |mutable| &mutable.salt);
        if mutable
            .as_ref()
            .and_then(|mutable| mutable.seq)
            .is_some_and(|seq| seq < 0)
        {
            return Err(ItemError::BadSequence);
        }
        item::check(value, salt)
    }

    /// Where its lookup goes; `None` for what needs none.
    pub(crate) fn target(&self) -> Option<NodeId> {
        Some(match self {
            Order::FindPeers { info_hash } | Order::Scrape { info_hash } => *info_hash,
            Order::Announce(announcement) => announcement.info_hash,
            Order::Get { target, .. } | Order::Sample { target } | Order::FindNodes { target } => {
                *target
            }
            Order::Put { value, mutable } => match mutable {
                Some(mutable) => item::mutable_target(&mutable.key.public(), &mutable.salt),
                None => item::immutable_target(value),
            },
            Order::Ping { .. } => return None,
        })
    }

    /// What the nodes on the way are asked.
    pub(crate) fn query(&self, target: NodeId) -> Query<'static> {
        let want = None;
        match self {
            Order::FindPeers { .. } | Order::Announce(_) => Query::GetPeers {
                info_hash: target,
                want,
                noseed: false,
                scrape: false,
            },
            Order::Scrape { .. } => Query::GetPeers {
                info_hash: target,
                want,
                noseed: false,
                scrape: true,
            },
            Order::Get { .. } | Order::Put { .. } => Query::Get {
                target,
                seq: None,
                want,
            },
            Order::Sample { .. } => Query::SampleInfohashes { target, want },
            Order::FindNodes { .. } | Order::Ping { .. } => Query::FindNode { target, want },
        }
    }
}

/// How something was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Nodes that have stored it.
    pub stored: usize,
    /// Nodes that have refused, by the code of their error.
    pub rejected: BTreeMap<i64, usize>,
    /// Nodes that have not answered.
    pub silent: usize,
}

impl Stored {
    /// How many nodes have refused.
    pub fn rejected(&self) -> usize {
        self.rejected.values().sum()
    }
}

/// What has come of an order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// So many peers were found and told.
    Peers {
        /// How many different ones.
        found: usize,
    },
    /// Announced.
    Announced(Stored),
    /// The item, if there is one. Of a mutable one the newest that was found.
    Item(Option<Item>),
    /// Put, at this target and with this sequence number.
    Put {
        /// Where.
        target: NodeId,
        /// The sequence number of a mutable item.
        seq: Option<i64>,
        /// On which nodes.
        stored: Stored,
    },
    /// The filters of seeds and of other peers, united, and how many nodes had some.
    Scraped {
        /// Seeds.
        seeds: Box<Bloom>,
        /// Peers that are not seeds.
        peers: Box<Bloom>,
        /// Nodes that answered with filters.
        nodes: usize,
    },
    /// Info hashes, and how many nodes gave some.
    Samples {
        /// Different ones.
        samples: Vec<NodeId>,
        /// Nodes that answered.
        nodes: usize,
        /// How many info hashes they say to have in all.
        total: u64,
    },
    /// A node's answer to a ping; `None` if there was none.
    Pong(Option<(NodeId, Duration)>),
    /// The nearest nodes.
    Nodes(Vec<super::address::Contact>),
    /// It was cancelled.
    Cancelled,
}

/// Where an order is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Waits for the table to be filled.
    Waiting,
    Running(Lookup),
    Done(Lookup),
    /// There is no such family here.
    Absent,
}

/// Who wants an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Whoever is told the outcome.
    User,
    /// The table: our own id, or a distant place.
    Table(super::address::Family),
    /// A standing announcement.
    Kept,
    /// Discovery.
    Discovery,
}

/// An order that is being carried out.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) order: Order,
    pub(crate) wish: Wish,
    pub(crate) target: NodeId,
    pub(crate) stages: [Stage; 2],
    pub(crate) deadline: Instant,
    pub(crate) is_storing: bool,
    /// Nodes that have yet to say whether they have stored it.
    pub(crate) storing: usize,
    /// Nodes that have yet to be asked to, farthest first.
    pub(crate) to_store: Vec<Closest>,
    pub(crate) stored: Stored,
    pub(crate) found: BTreeSet<SocketAddr>,
    pub(crate) item: Option<Item>,
    pub(crate) seeds: Box<Bloom>,
    pub(crate) peers: Box<Bloom>,
    pub(crate) samples: BTreeSet<NodeId>,
    pub(crate) samples_total: u64,
    pub(crate) answers: usize,
    pub(crate) pong: Option<(NodeId, Duration)>,
}

impl Operation {
    pub(crate) fn new(order: Order, wish: Wish, target: NodeId, deadline: Instant) -> Operation {
        Operation {
            order,
            wish,
            target,
            stages: [Stage::Absent, Stage::Absent],
            deadline,
            is_storing: false,
            storing: 0,
            to_store: Vec::new(),
            stored: Stored::default(),
            found: BTreeSet::new(),
            item: None,
            seeds: Box::default(),
            peers: Box::default(),
            samples: BTreeSet::new(),
            samples_total: 0,
            answers: 0,
            pong: None,
        }
    }

    pub(crate) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.stages.iter().filter_map(|stage| match stage {
            Stage::Running(lookup) | Stage::Done(lookup) => Some(lookup),
            Stage::Waiting | Stage::Absent => None,
        })
    }

    pub(crate) fn has_looked(&self) -> bool {
        self.stages
            .iter()
            .all(|stage| matches!(stage, Stage::Done(_) | Stage::Absent))
    }

    /// Keeps what an answer on the way brings. Returns peers that are new.
    pub(crate) fn learn(&mut self, response: &Response<'_>) -> Vec<SocketAddr> {
        match &self.order {
            Order::FindPeers { .. } | Order::Announce(_) => {
                let usable = response
                    .peers()
                    .filter(|peer| super::address::is_usable(*peer));
                return self.found_new(usable);
            }
            Order::Get { salt, .. } => {
                let salt = salt.clone();
                self.learn_item(response, &salt);
            }
            Order::Put {
                mutable: Some(put), ..
            } => {
                let salt = put.salt.clone();
                self.learn_item(response, &salt);
            }
            Order::Scrape { .. } => {
                if let (Some(seeds), Some(peers)) = (response.bloom_seeds, response.bloom_peers) {
                    self.seeds.unite(seeds);
                    self.peers.unite(peers);
                    self.answers += 1;
                } else {
                    // BEP 33, "Handling legacy responses": peers named by a node without filters.
                    for peer in response.peers() {
                        self.peers.insert(peer.ip());
                    }
                }
            }
            Order::Sample { .. } => {
                if let Some(samples) = response.samples {
                    self.answers += 1;
                    self.samples_total += response
                        .num
                        .and_then(|num| u64::try_from(num).ok())
                        .unwrap_or(0)
                        .min(1 << 32);
                    for sample in samples.chunks_exact(20).filter_map(NodeId::from_slice) {
                        if self.samples.len() < SAMPLES_MAX {
                            self.samples.insert(sample);
                        }
                    }
                }
            }
            Order::Put { mutable: None, .. } | Order::Ping { .. } | Order::FindNodes { .. } => {}
        }
        Vec::new()
    }

    pub(crate) fn found_new(&mut self, peers: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let mut fresh = Vec::new();
        for peer in peers {
            if self.found.len() < FOUND_MAX && self.found.insert(peer) {
                fresh.push(peer);
            }
        }
        fresh
    }

    /// Takes an item that proves itself and is newer than what there is.
    fn learn_item(&mut self, response: &Response<'_>, salt: &[u8]) {
        let Some(value) = response
            .value
            .filter(|value| value.len() <= item::VALUE_BYTES_MAX)
        else {
            return;
        };
        let signature = match (response.key, response.signature, response.seq) {
            (Some(key), Some(signature), Some(seq)) => Some(item::Signature {
                key: *key,
                seq,
                signature: *signature,
            }),
            _ => None,
        };
        match signature {
            None if self.item.is_none() && item::immutable_target(value) == self.target => {}
            Some(signed) => {
                let known = self.item.as_ref().and_then(|item| item.signature.as_ref());
                let is_newer = known.is_none_or(|known| signed.seq > known.seq);
                if !is_newer
                    || item::mutable_target(&signed.key, salt) != self.target
                    || !item::is_signed(&signed.key, salt, signed.seq, value, &signed.signature)
                {
                    return;
                }
            }
            None => return,
        }
        self.item = Some(Item {
            value: value.to_vec(),
            signature,
        });
    }

    /// Signs what is put, now that it is known what is stored.
    pub(crate) fn sign(&mut self) {
        let known = self.item.take().and_then(|item| item.signature);
        let Order::Put { value, mutable } = &self.order else {
            return;
        };
        let signature = mutable.as_ref().map(|put| {
            let next = known.map_or(1, |known| known.seq.saturating_add(1));
            put.key.sign(&put.salt, put.seq.unwrap_or(next), value)
        });
        self.item = Some(Item {
            value: value.clone(),
            signature,
        });
    }

    /// What a node of the closest set is asked to store.
    pub(crate) fn store_query<'a>(
        &'a self,
        token: &'a [u8],
        seq: Option<i64>,
    ) -> Option<Query<'a>> {
        match &self.order {
            Order::Announce(announcement) => Some(Query::AnnouncePeer {
                info_hash: announcement.info_hash,
                port: announcement.port.unwrap_or(0),
                implied_port: announcement.port.is_none(),
                seed: announcement.seed,
                token,
            }),
            Order::Put { mutable, .. } => {
                let item = self.item.as_ref()?;
                let signed = mutable
                    .as_ref()
                    .zip(item.signature.as_ref())
                    .map(|(put, signed)| Signed {
                        key: &signed.key,
                        salt: &put.salt,
                        seq: signed.seq,
                        signature: &signed.signature,
                        // BEP 44: a node that has nothing is not told what to compare with.
                        cas: put.cas.filter(|_| seq.is_some()),
                    });
                Some(Query::Put {
                    token,
                    value: &item.value,
                    signed,
                })
            }
            _ => None,
        }
    }

    pub(crate) fn outcome(mut self) -> Outcome {
        match self.order {
            Order::FindPeers { .. } => Outcome::Peers {
                found: self.found.len(),
            },
            Order::Announce(_) => Outcome::Announced(self.stored),
            Order::Get { .. } => Outcome::Item(self.item),
            Order::Put { .. } => Outcome::Put {
                target: self.target,
                seq: self
                    .item
                    .and_then(|item| item.signature)
                    .map(|signed| signed.seq),
                stored: self.stored,
            },
            Order::Scrape { .. } => Outcome::Scraped {
                seeds: self.seeds,
                peers: self.peers,
                nodes: self.answers,
            },
            Order::Sample { .. } => Outcome::Samples {
                samples: std::mem::take(&mut self.samples).into_iter().collect(),
                nodes: self.answers,
                total: self.samples_total,
            },
            Order::Ping { .. } => Outcome::Pong(self.pong),
            Order::FindNodes { .. } => {
                let nodes = self.lookups().flat_map(Lookup::closest_set);
                Outcome::Nodes(nodes.map(|node| node.contact).collect())
            }
        }
    }
}
