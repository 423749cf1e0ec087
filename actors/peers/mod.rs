//! Who is connected. This subsystem alone decides it: whom to dial, whom to let in, which of two connections to one peer stays.
//!
//! [`Network`] is the whole machine. In its middle is [`Peers`]: diallers and connections report to it and do nothing final
//! before it has said so; whoever wants a connection asks it; everybody learns from its events. It answers every request
//! once, and for every peer it announces it gives one `Connected` and one `Disconnected`, in this order, whatever the network
//! does. It alone orders dials. Around it are the parts that keep a node connected, which ask it like anybody else.
//! docs/peers.md says what they do and with which numbers.
//!
//! Left out: what a user is told in which words, files themselves (the shell is handed a [`Shelf`](actor::Shelf)), finding
//! peers on the local network or in a DHT.
//!
//! | file | what |
//! |---|---|
//! | `network.rs` | [`Network`]: what goes in and comes out, and lost peers |
//! | `doors.rs`, `bans.rs`, `subnet.rs` | who is let in: bans, ranges and groups of addresses |
//! | `reconnect.rs`, `backoff.rs`, `pace.rs` | lost peers, when they are dialled again, and how fast |
//! | `outreach.rs` | dialling peers of the book, asking and telling |
//! | `book.rs`, `record.rs`, `exchange.rs` | known peers, what they sign, how it is passed on |
//! | `observed.rs` | under which address others see this node |
//! | `persist.rs`, `store.rs` | what outlives the node, and the format of its files |
//! | `machine.rs` | [`Peers`]: what goes in and comes out |
//! | `decide.rs`, `trim.rs` | the rules below, and who makes room for whom |
//! | `contest.rs` | the undecided connections to one peer |
//! | `table.rs` | the connected peers |
//! | `roster.rs` | the same table for the threads outside, who find the way to a peer in it |
//! | `dials.rs` | dials under way and who waits for them |
//! | `gather.rs` | collecting what every connection has carried |
//! | `limits.rs`, `message.rs`, `notice.rs`, `error.rs`, `chance.rs` | limits, vocabulary, errors, jitter |
//! | `actor.rs`, `actor/` | the shell |
//!
//! # One connection between two nodes
//!
//! A connection is decided about at two moments. Its *dialler* knows who answered after message 2 and may stop there
//! ([`Order::Proceed`] or [`Order::Refuse`]); the other side then never learns who had dialled. Its *responder* knows who
//! dialled after message 3 and answers `Accept` or `Close` ([`Order::Keep`] or [`Order::Refuse`]). On `Accept` the dialler
//! keeps it as well. Between message 3 and the answer the connection is *proposed*: only the responder can say what becomes
//! of it.
//!
//! Each side follows these rules for one peer:
//!
//! 1. *One proposal at a time.* A dialled connection whose peer is known is *parked* while there is a kept connection or another
//!    proposal, and proposed otherwise. So nobody proposes while it has a connection.
//! 2. *The smaller id decides.* An inbound connection finds our own proposal undecided. If our id is the smaller one, it is
//!    *held* until the peer has answered the proposal; else it is accepted at once, and the proposal left to run.
//! 3. *Who is there first stays, if it lives.* Whatever else comes while a connection is kept (an inbound connection, a parked
//!    one, the `Accept` of a proposal) is a *challenger*. The kept connection is pinged. If it answers, the challengers are
//!    refused as duplicates. If it breaks or is silent for [`PeersLimits::probe_deadline`], it is closed and a challenger takes
//!    its place, reported as `Disconnected(replaced)` and `Connected`.
//! 4. *Nobody waits for ever.* When a proposal has kept others waiting for [`PeersLimits::hold_deadline`], it is given up.
//! 5. *Dead ends are dead first.* After we have given up a connection in which the peer may believe, nothing is decided until
//!    its actor has said that it is closed. A ping that it still answered would make the peer refuse what comes next.
//!
//! **Never two.** A side keeps a connection only while it has none: rule 3 closes the old one first. Both sides keep *the same*
//! one: the responder keeps first, and with the `Accept` the dialler does, unless it has kept another in between. Let A < B dial
//! each other at once, A's connection being X and B's being Y. If A accepts Y before it knows who answers on X, it does not
//! propose X (rule 1), so B never sees X; Y it is. If A proposes X first, it does not accept Y before B has answered X (rule
//! 2), and B accepts X at once, whether or not Y is proposed; X it is, and A refuses Y when B has answered a ping on X. There is no
//! third order, because A's machine handles the two facts "B answers on X" and "B proposes Y" one after the other. B may
//! learn in any order; it keeps what A lets through. Neither side has announced anything that it takes back.
//!
//! **Never zero.** Suppose that X fails at any moment before A has B's `Accept`. A still holds Y, or will get it, and
//! accepts. B, which may have kept X, gets the `Accept` for Y as a challenger to X, finds X dead by rule 3 and keeps Y. Had B
//! closed Y as soon as it accepted X, nothing would be left. The same with the names exchanged: Y is needed only if X fails, and
//! X does not depend on Y. A challenger is refused only after the kept connection has answered a ping that was sent after the
//! challenger came, by an end that is not being closed (rule 5): so at that time both sides have a living connection.
//!
//! **No deadlock.** A waits for B's answer to X. B answers X at once, unless it keeps an older connection to A, which it probes for
//! `probe_deadline`; it never waits for Y. Probing waits for one connection and a clock. So waits do not form a circle, and the
//! smaller `probe_deadline` ends before the larger `hold_deadline`.
//!
//! **Restart.** A peer that has restarted dials while we still keep its dead connection: a challenger. Our ping is answered with a
//! reset, at once, or by nobody, for two seconds; then the new connection takes over. A second machine with the same identity is
//! a challenger as well, but the first one answers, so it is refused and the two do not replace each other for ever.
//!
//! `tests/race.rs` walks through every order of messages, actor notices and faults that two nodes can see with up to four
//! dials, and draws 10,000 longer histories.
//!
//! # Questions
//!
//! **Why does the responder decide, and not a node by its id alone?** The responder's answer is the last word of the handshake
//! anyway. A rule that only compares ids has to close a connection that is perhaps the only one that works.
//!
//! **Why ping a connection instead of replacing it?** "The newer one wins" lets two machines with one identity, or two
//! addresses of one peer dialled at once, throw each other out. A ping costs one round trip and only in a contest.
//!
//! **Why does a dialled connection that lost not end its dial at once?** Its requests are answered when the peer is connected,
//! however that came about. The dial itself ends by the dialler's report.
//!
//! **Why are figures gathered and not kept?** 10,000 idle peers would pay 40 bytes each for numbers that their connections have.

pub mod actor;
mod backoff;
mod bans;
mod book;
mod chance;
mod contest;
mod decide;
mod dials;
mod doors;
mod error;
mod exchange;
mod gather;
mod limits;
mod machine;
mod message;
mod network;
mod notice;
mod observed;
mod outreach;
mod pace;
mod persist;
mod reconnect;
mod record;
pub mod roster;
mod store;
mod subnet;
mod table;
mod trim;

pub use crate::connection::Suite;
pub use crate::identity::PeerId;
pub use backoff::{ReconnectPolicy, Waits};
pub use bans::{AllowList, BANS_MAX, BansFull, Target};
pub use book::{BOOK_MAX, BookEntry};
pub use error::{ConnectError, NotConnected};
pub use exchange::{EXCHANGE_CHANNEL, EXCHANGE_INTERVAL, ExchangeMessage, RECORDS_PER_ANSWER_MAX};
pub use limits::PeersLimits;
pub use machine::{NAME_BYTES_MAX, Peers};
pub use message::{
    Answer, DialId, Direction, Introduction, Order, PeerRecord, PeerRef, PeersEvent, ProbeToken,
    RequestId, Traffic,
};
pub use network::{Network, NetworkSettings};
pub use notice::{Claims, Found, Notice, Program, Standing};
pub use observed::OBSERVERS_MIN;
pub use pace::DIALS_PER_SECOND_MAX;
pub use persist::Save;
pub use reconnect::{GaveUp, RECONNECT_MAX, Waiting};
pub use record::{
    DOMAIN as RECORD_DOMAIN, RECORD_ADDRS_MAX, RecordError, SIGNED_RECORD_BYTES_MAX, SignedRecord,
};
pub use roster::Roster;
pub use store::{
    CURRENT_MAX, FILE_BYTES_MAX, FileKind, PROTECTED_MAX, StoreError, Stored, StoredPeer,
};
pub use subnet::{Group, ParseSubnetError, Subnet};
pub use table::PEER_BYTES_MAX;
