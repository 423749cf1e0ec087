//! `mischief dht`: the DHT by itself, for people and scripts; and the commands about it of the JSON interface.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use clap::{Args, Subcommand};
use data_encoding::{BASE64, HEXLOWER};
use mischief::actors::dht::bencode;
use mischief::actors::dht::{Item, NodeId, Role, Standing, Stats};
use mischief::json::dht::{Answer, Command, Node as NodeEntry};
use mischief::json::{ErrorKind, RequestError};
use mischief::network_key::NetworkKey;
use mischief::{DHT_DEADLINE, Dht, DhtError, DhtMutable, DhtOptions, DhtPut, Node};
use mischief_reactor::io::SystemDisk;
use serde_json::{Value, json};

use crate::failure::{Failure, TIMED_OUT, UNREACHABLE};

const EXAMPLES: &str = "\
Examples:
  mischief dht find ubuntu-24.04               peers of a name (of its SHA-1)
  mischief dht announce my-service 8080        be found under a name
  mischief dht put 'hello world'               store a text; prints where
  mischief dht get e5f96f6f38320f0f33959cb4d3d656452117aadb
  mischief dht --dht-bootstrap 127.0.0.1:6881 stats";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DhtArgs {
    /// Enter the DHT through this node instead of the well-known ones
    #[arg(long, value_name = "HOST:PORT")]
    dht_bootstrap: Vec<String>,

    /// Use this UDP port
    #[arg(long, value_name = "PORT")]
    dht_port: Option<NonZeroU16>,

    /// Take at most so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Find peers of an info hash (40 hexadecimal digits) or of a name
    Find { hash: String },
    /// Announce this machine as a peer of an info hash or a name, at a port
    Announce { hash: String, port: NonZeroU16 },
    /// Get an item: by its target (40 digits), or by its public key (64 digits)
    Get {
        target: String,
        /// Tells several items of one key apart
        #[arg(long, default_value = "")]
        salt: String,
    },
    /// Store a text; with a key it can be changed later
    Put {
        value: String,
        /// A file with the secret key, 64 hexadecimal digits
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Tells several items of one key apart
        #[arg(long, default_value = "", requires = "key_file")]
        salt: String,
        /// Its sequence number [default: one more than what is found]
        #[arg(long, requires = "key_file", value_parser = clap::value_parser!(i64).range(0..))]
        seq: Option<i64>,
        /// Replace only what has this sequence number
        #[arg(long, requires = "key_file", value_parser = clap::value_parser!(i64).range(0..))]
        cas: Option<i64>,
    },
    /// Ask a node whether it is there
    Ping { addr: SocketAddr },
    /// Enter the DHT and tell what it looks like
    Stats,
    /// Collect info hashes from nodes all over the DHT
    Crawl {
        /// How many places to look at
        #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
        places: u32,
    },
}

/// Runs one action on a node of its own that keeps nothing and accepts nobody.
pub(crate) fn run(args: &DhtArgs) -> Result<(), Failure> {
    crate::logger::start(0);
    let mut options = DhtOptions::default();
    options.bootstrap.clone_from(&args.dht_bootstrap);
    options.port = args.dht_port.map(u16::from);
    options.discovery = false;
    // It is gone in a moment, and whoever kept it in a table would wait for it in vain.
    options.config.role = Role::Client;
    let node = Node::builder()
        .ephemeral()
        .dht(options)
        .start()
        .map_err(Failure::new)?;
    let result = act(&node, args);
    node.stop(Duration::from_secs(2));
    let (value, text) = result?;
    if args.json {
        println!("{value}");
    } else if !text.is_empty() {
        println!("{text}");
    }
    Ok(())
}

/// What an action prints: as JSON and as text.
type Printed = (Value, String);

fn act(node: &Node, args: &DhtArgs) -> Result<Printed, Failure> {
    let (dht, timeout) = (node.dht(), Duration::from_secs(args.timeout));
    match &args.action {
        Action::Find { hash } => find(&dht, id_of(hash), timeout),
        Action::Announce { hash, port } => announce(&dht, id_of(hash), port.get(), timeout),
        Action::Get { target, salt } => get(&dht, target, salt, timeout),
        Action::Put {
            value,
            key_file,
            salt,
            seq,
            cas,
        } => {
            let pending = match key_file {
                None => dht.put(value.as_bytes()),
                Some(path) => {
                    let path = path
                        .to_str()
                        .ok_or_else(|| Failure::usage("the path is not UTF-8"))?;
                    let key = NetworkKey::load(&SystemDisk, path).map_err(Failure::new)?;
                    let mut mutable = DhtMutable::new(*key.as_bytes());
                    mutable.salt = salt.clone().into_bytes();
                    (mutable.seq, mutable.cas) = (*seq, *cas);
                    dht.put_mutable(value.as_bytes(), mutable)
                }
            };
            let put = pending.wait_for(timeout).map_err(failure)?;
            stored("the item", put.stored.stored)?;
            let value = json!({"target": put.target.to_string(), "stored": put.stored.stored,
                               "rejected": put.stored.rejected(), "seq": put.seq});
            Ok((value, put.target.to_string()))
        }
        Action::Ping { addr } => {
            let pong = dht
                .ping(*addr, timeout.min(Duration::from_secs(5)))
                .wait()
                .map_err(failure)?;
            let (id, rtt) = pong.ok_or_else(|| unreachable(&format!("no answer from {addr}")))?;
            let value = json!({"id": id.to_string(), "rtt_us": rtt.as_micros() as u64});
            Ok((value, format!("{id} {:.1} ms", rtt.as_secs_f64() * 1e3)))
        }
        Action::Stats => {
            // A lookup of any place ends when the DHT has been entered.
            dht.find_nodes(NodeId::default())
                .wait_for(timeout)
                .map_err(failure)?;
            let stats = dht.stats().wait().map_err(failure)?;
            let value = stats_value(&stats);
            let text = value.as_object().map(|members| {
                let lines = members
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}"));
                lines.collect::<Vec<_>>().join("\n")
            });
            Ok((value, text.unwrap_or_default()))
        }
        Action::Crawl { places } => crawl(&dht, *places, timeout),
    }
}

fn find(dht: &Dht, info_hash: NodeId, timeout: Duration) -> Result<Printed, Failure> {
    let peers: Vec<String> = dht
        .find_peers(info_hash, timeout)
        .map(|peer| peer.to_string())
        .collect();
    if peers.is_empty() {
        return Err(unreachable("no peers found"));
    }
    Ok((json!({ "peers": peers }), peers.join("\n")))
}

fn announce(
    dht: &Dht,
    info_hash: NodeId,
    port: u16,
    timeout: Duration,
) -> Result<Printed, Failure> {
    let count = dht
        .announce(info_hash, Some(port))
        .wait_for(timeout)
        .map_err(failure)?
        .stored;
    stored("the announcement", count)?;
    Ok((
        json!({ "stored": count }),
        format!("stored on {count} nodes"),
    ))
}

fn get(dht: &Dht, target: &str, salt: &str, timeout: Duration) -> Result<Printed, Failure> {
    let key = HEXLOWER
        .decode(target.to_ascii_lowercase().as_bytes())
        .unwrap_or_default();
    let pending = match <[u8; 32]>::try_from(key) {
        Ok(key) => dht.get_mutable(&key, salt.as_bytes()),
        Err(_) => dht.get(target.parse().map_err(Failure::usage)?),
    };
    let item = pending.wait_for(timeout).map_err(failure)?;
    let item = item.ok_or_else(|| unreachable("nothing is stored there"))?;
    let text = match bencode::decode(&item.value)
        .ok()
        .and_then(bencode::Value::bytes)
    {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => String::from_utf8_lossy(&item.value).into_owned(),
    };
    let text = text.replace(mischief::terminal::is_harmful, "\u{fffd}");
    let value = serde_json::to_value(item_answer(&item)).map_err(Failure::new)?;
    Ok((value, text))
}

fn crawl(dht: &Dht, places: u32, timeout: Duration) -> Result<Printed, Failure> {
    let mut all = std::collections::BTreeSet::new();
    for place in 0..places {
        let target = NodeId::sha1(&[&place.to_be_bytes()]);
        let sample = dht.sample(target).wait_for(timeout).map_err(failure)?;
        all.extend(sample.samples);
    }
    let samples: Vec<String> = all.iter().map(NodeId::to_string).collect();
    Ok((json!({ "samples": samples }), samples.join("\n")))
}

/// An info hash is written as such; everything else is a name.
fn id_of(text: &str) -> NodeId {
    text.parse().unwrap_or_else(|_| Dht::hash_of(text))
}

fn stored(what: &str, count: usize) -> Result<(), Failure> {
    match count {
        0 => Err(unreachable(&format!("{what} was stored nowhere"))),
        _ => Ok(()),
    }
}

fn unreachable(message: &str) -> Failure {
    Failure {
        code: UNREACHABLE,
        kind: "unreachable",
        message: message.to_owned(),
    }
}

fn failure(error: DhtError) -> Failure {
    let mut failure = Failure::new(&error);
    if error.kind() == "timeout" {
        failure.code = TIMED_OUT;
    }
    failure
}

type Asked = Pin<Box<dyn Future<Output = Result<Answer, RequestError>> + Send>>;

/// Carries out a command of the JSON interface.
pub(crate) fn carry_out(node: &Node, command: Command) -> Asked {
    let dht = node.dht();
    let own_port = node.listen_addrs().first().map(SocketAddr::port);
    Box::pin(async move { ask(&dht, own_port, command).await.map_err(refused)? })
}

type Asking = Result<Result<Answer, RequestError>, DhtError>;

async fn ask(dht: &Dht, own_port: Option<u16>, command: Command) -> Asking {
    if !dht.is_on() {
        return Err(DhtError::Off);
    }
    Ok(Ok(match command {
        Command::Find { info_hash, seconds } => {
            let deadline = seconds.map_or(DHT_DEADLINE, Duration::from_secs);
            let mut finding = dht.find_peers(info_hash, deadline);
            let mut peers = Vec::new();
            while let Some(peer) = finding.next_async().await {
                peers.push(peer);
            }
            Answer::Peers { peers }
        }
        Command::Announce { info_hash, port } => {
            let stored = dht.announce(info_hash, port.or(own_port)).await?.stored;
            Answer::Announced { stored }
        }
        Command::Put {
            value,
            secret_key,
            salt,
            seq,
            cas,
        } => {
            let mutable = secret_key.map(|key| {
                let mut mutable = DhtMutable::new(key);
                (mutable.salt, mutable.seq, mutable.cas) = (salt, seq, cas);
                mutable
            });
            let public_key = mutable.as_ref().map(DhtMutable::public_key);
            let put = match mutable {
                None => dht.put(&value),
                Some(mutable) => dht.put_mutable(&value, mutable),
            };
            put_answer(put.await?, public_key)
        }
        Command::Get { target } => return Ok(got(dht.get(target).await?)),
        Command::GetMutable { public_key, salt } => {
            return Ok(got(dht.get_mutable(&public_key, &salt).await?));
        }
        Command::Scrape { info_hash } => {
            let scrape = dht.scrape(info_hash).await?;
            Answer::Scrape {
                seeds: scrape.seeds.round() as u64,
                peers: scrape.peers.round() as u64,
                nodes: scrape.nodes,
            }
        }
        Command::Sample { target } => {
            let sample = dht.sample(target.unwrap_or_default()).await?;
            Answer::Sample {
                samples: sample.samples.iter().map(NodeId::to_string).collect(),
                nodes: sample.nodes,
                total: sample.total,
            }
        }
        Command::Stats => {
            let stats = dht.stats().await?;
            Answer::Stats {
                nodes: stats.good.iter().sum(),
                stats: stats_value(&stats),
            }
        }
        Command::Nodes => {
            let nodes = dht.nodes().await?;
            let entries = nodes.into_iter().map(|(node, standing)| NodeEntry {
                id: node.id.to_string(),
                addr: node.addr,
                standing: match standing {
                    Standing::Good => "good",
                    Standing::Questionable => "questionable",
                    Standing::Bad => "bad",
                },
            });
            Answer::Nodes {
                nodes: entries.collect(),
            }
        }
    }))
}

fn put_answer(put: DhtPut, public_key: Option<[u8; 32]>) -> Answer {
    Answer::Put {
        target: put.target.to_string(),
        stored: put.stored.stored,
        rejected: put.stored.rejected(),
        public_key: public_key.map(|key| HEXLOWER.encode(&key)),
        seq: put.seq,
    }
}

fn got(item: Option<Item>) -> Result<Answer, RequestError> {
    let missing = || RequestError::new(ErrorKind::Gone, "nothing is stored there");
    item.as_ref().map(item_answer).ok_or_else(missing)
}

fn item_answer(item: &Item) -> Answer {
    let seq = item.signature.as_ref().map(|signed| signed.seq);
    let string = bencode::decode(&item.value)
        .ok()
        .and_then(bencode::Value::bytes);
    let text = string.and_then(|bytes| std::str::from_utf8(bytes).ok());
    Answer::Item {
        value: text.map(str::to_owned),
        base64: string
            .filter(|_| text.is_none())
            .map(|bytes| BASE64.encode(bytes)),
        bencoded: string.is_none().then(|| BASE64.encode(&item.value)),
        seq,
    }
}

fn refused(error: DhtError) -> RequestError {
    RequestError::of_kind(error.kind(), error)
}

fn stats_value(stats: &Stats) -> Value {
    let family = |at: usize| {
        json!({
            "good": stats.good[at],
            "questionable": stats.questionable[at],
            "replacements": stats.replacements[at],
            "id": stats.ids[at].map(|id| id.to_string()),
            "external": stats.external[at],
            "server": stats.is_server[at],
            "network_size": stats.network_size[at],
        })
    };
    json!({
        "ready": stats.is_ready,
        "v4": family(0),
        "v6": family(1),
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "packets_in": stats.packets_in,
        "packets_out": stats.packets_out,
        "answered": stats.answered,
        "unanswered": stats.unanswered,
        "dropped_invalid": stats.dropped_invalid,
        "dropped_flood": stats.dropped_flood,
        "dropped_quota": stats.dropped_quota,
        "stored_hashes": stats.stored_hashes,
        "stored_peers": stats.stored_peers,
        "stored_items": stats.stored_items,
    })
}
