//! The command line: what can be asked for, and which of it makes no sense together.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use mischief::{
    MdnsError, ParsePeerIdError, PeerId, Service, ServiceType, Txt, parse_addr, parse_listen_addr,
};

/// The longest name of a protocol, of its version, or of a node, in bytes.
const NAME_LEN_MAX: usize = 64;

const EXAMPLES: &str = "\
Examples:
  mischief demo                            three nodes meet on this machine
  mischief node                            run a node; it says how to reach it
  mischief node --connect 192.0.2.7:9000   run a node that connects to that one
  mischief id                              show who this machine's node is
  mischief mdns browse _rats._tcp          see the nodes on this network

Exit codes:
  0  all went well        3  the peer could not be reached
  1  something failed     4  the deadline passed
  2  wrong command line   5  refused: identity, protocol, network key, ban
A node goes on when a connection fails; with --exit-on-eof its exit code tells of the first
that did.";

const NODE_EXAMPLES: &str = "\
Examples:
  mischief node --listen 0.0.0.0:9000 --name attic
      listen on a fixed port, under a name that peers see
  mischief node --connect attic.example:9000 --connect [2001:db8::7]:9000
      connect to two nodes by name and by address
  openssl rand -hex 32 > net.key && mischief node --network-key-file net.key
      a private network: only nodes with the same file get in
  mischief node --json --exit-on-eof < commands > events
      for programs, one JSON object a line (see docs/json.md)

On a terminal, typed lines go to all connected peers, and /help shows the commands.";

/// Encrypted peer-to-peer networking for machines with little memory.
#[derive(Debug, Parser)]
#[command(name = "mischief", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node: a console on a terminal, or the JSON interface for programs
    #[command(after_help = NODE_EXAMPLES, next_line_help = true)]
    Node(Box<NodeArgs>),
    /// Run three real nodes on this machine that connect, talk and measure, then end
    Demo(DemoArgs),
    /// Show the node's identity, and create it if there is none
    Id(IdArgs),
    /// Use the BitTorrent DHT: find and announce peers, get and put small items
    Dht(crate::dht::DhtArgs),
    /// Look for services on the local network, or register one (multicast DNS)
    Mdns(MdnsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Accept peers on this address and port; port 0 is a free one [default: 0.0.0.0:0 and [::]:0]
    #[arg(long, value_name = "ADDR", value_parser = parse_listen_addr)]
    pub(crate) listen: Vec<SocketAddr>,

    /// Connect to HOST:PORT at the start; with PEER@ in front, only if the node there has that id
    #[arg(long, value_name = "[PEER@]HOST:PORT")]
    pub(crate) connect: Vec<Target>,

    /// Keep identity and state here [default: the platform's place for state]
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Keep nothing: a new identity, forgotten at the end
    #[arg(long)]
    pub(crate) ephemeral: bool,

    /// The application protocol; nodes connect only to nodes with the same one
    #[arg(long, value_name = "NAME/VERSION", default_value = "mischief/1.0")]
    pub(crate) protocol: Protocol,

    /// What this node calls itself towards its peers, up to 64 bytes
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(crate) name: Option<String>,

    /// Have at most this many peers [default: 128, half of them inbound]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_peers: Option<u32>,

    /// Run on this many cores, or on all of them with `auto`
    #[arg(long, value_name = "N|auto", default_value = "1")]
    pub(crate) cores: Cores,

    /// Join the private network whose key is in this file (64 hexadecimal digits)
    #[arg(long, value_name = "FILE")]
    pub(crate) network_key_file: Option<PathBuf>,

    /// Do not ask peers for other nodes, and do not tell them of any
    #[arg(long)]
    pub(crate) no_exchange: bool,

    /// Do not look for nodes on the local network
    #[arg(long)]
    pub(crate) no_mdns: bool,

    /// Do not use the BitTorrent DHT to find nodes
    #[arg(long)]
    pub(crate) no_dht: bool,

    /// Enter the DHT through this node instead of the well-known ones
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "no_dht")]
    pub(crate) dht_bootstrap: Vec<String>,

    /// Use this UDP port for the DHT [default: the number of the listening port]
    #[arg(long, value_name = "PORT", conflicts_with = "no_dht")]
    pub(crate) dht_port: Option<NonZeroU16>,

    /// Speak JSON lines on stdin and stdout (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,

    /// End the node when stdin ends
    #[arg(long)]
    pub(crate) exit_on_eof: bool,

    /// Say more on stderr; twice for still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Print the results as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The directory that holds the identity [default: the platform's place for state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MdnsArgs {
    /// `browse [TYPE]`, or `register TYPE INSTANCE PORT [KEY=VALUE]...`
    #[arg(value_name = "ACTION", required = true)]
    words: Vec<String>,

    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    pub(crate) seconds: Option<u32>,

    /// Print the events of the JSON interface
    #[arg(long)]
    pub(crate) json: bool,
}

/// What [`MdnsArgs`] ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MdnsAction {
    /// Show services of a type, or the types that there are.
    Browse(Option<ServiceType>),
    /// Announce a service.
    Register(Service),
}

impl MdnsArgs {
    /// What is asked for, or what is wrong with it. By hand: two subcommands of the parser are 30 KB of code.
    pub(crate) fn action(&self) -> Result<MdnsAction, String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let read = |text: &str| -> Result<ServiceType, String> {
            text.parse().map_err(|error: MdnsError| error.to_string())
        };
        match words[..] {
            ["browse"] => Ok(MdnsAction::Browse(None)),
            ["browse", service_type] => {
                read(service_type).map(|kind| MdnsAction::Browse(Some(kind)))
            }
            ["register", service_type, instance, port, ref txt @ ..] => {
                let entries = txt.iter().map(|entry| match entry.split_once('=') {
                    Some((key, value)) => (key, Some(value.as_bytes())),
                    None => (*entry, None),
                });
                Ok(MdnsAction::Register(Service {
                    instance: instance.to_owned(),
                    service_type: read(service_type)?,
                    port: port.parse().map_err(|_| format!("{port:?} is no port"))?,
                    txt: Txt::new(entries).map_err(|error| error.to_string())?,
                }))
            }
            _ => Err(
                "what to do is `browse [TYPE]` or `register TYPE INSTANCE PORT [KEY=VALUE]...`"
                    .into(),
            ),
        }
    }
}

impl Cli {
    /// Reads the arguments of the process. On `--help`, `--version` and wrong arguments it prints and ends the process,
    /// with exit code 0 or 2.
    pub(crate) fn parse_or_exit() -> Cli {
        Cli::parse()
    }
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) peer: Option<PeerId>,
    pub(crate) addr: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (peer, addr) = match text.split_once('@') {
            Some((peer, addr)) => {
                let peer = peer
                    .parse()
                    .map_err(|error: ParsePeerIdError| format!("before the @: {error}"))?;
                (Some(peer), addr)
            }
            None => (None, text),
        };
        parse_addr(addr).map_err(|error| error.to_string())?;
        Ok(Target {
            peer,
            addr: addr.to_owned(),
        })
    }
}

/// An application protocol: its name and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Protocol, String> {
        let (name, version) = text
            .rsplit_once('/')
            .ok_or("write it as NAME/VERSION, such as chat/1.0")?;
        for (part, what) in [(name, "name"), (version, "version")] {
            if !(1..=NAME_LEN_MAX).contains(&part.len())
                || part.chars().any(mischief::terminal::is_harmful)
            {
                return Err(format!(
                    "the {what} needs 1 to {NAME_LEN_MAX} bytes and no control characters"
                ));
            }
        }
        Ok(Protocol {
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }
}

/// How many cores to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    Count(u16),
    Auto,
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Cores, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Cores::Auto),
            (_, Ok(count @ 1..=1024)) => Ok(Cores::Count(count)),
            _ => Err("a number from 1 to 1024, or `auto`".into()),
        }
    }
}

fn node_name(text: &str) -> Result<String, String> {
    if (1..=NAME_LEN_MAX).contains(&text.len()) && !text.chars().any(mischief::terminal::is_harmful)
    {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a name has 1 to {NAME_LEN_MAX} bytes and no control characters"
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn node(arguments: &[&str]) -> Result<Box<NodeArgs>, clap::Error> {
        let line = ["mischief", "node"].iter().chain(arguments);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Node(node) => node,
            other => panic!("{other:?} is no node"),
        })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_node_needs_no_arguments() {
        let node = node(&[]).expect("all have defaults");
        assert_eq!(
            node.protocol,
            Protocol {
                name: "mischief".into(),
                version: "1.0".into()
            }
        );
        assert_eq!(node.cores, Cores::Count(1));
        assert!(
            !node.json && !node.ephemeral && node.max_peers.is_none() && node.listen.is_empty()
        );
    }

    #[test]
    fn every_flag_is_read() {
        let line = "--listen 0.0.0.0:9000 --listen [::]:9000 --connect a.example:1 --connect [::1]:2 --data-dir d \
                    --protocol a/b/2 --name attic --max-peers 500 --cores auto --network-key-file k --no-mdns \
                    --dht-bootstrap c:3 --dht-port 7 --json --exit-on-eof -vv";
        let node = node(&line.split_whitespace().collect::<Vec<_>>()).expect("all are flags");
        assert_eq!(node.listen.len(), 2);
        assert_eq!(node.connect[1].addr, "[::1]:2");
        assert_eq!(
            node.protocol,
            Protocol {
                name: "a/b".into(),
                version: "2".into()
            }
        );
        assert_eq!((node.max_peers, node.cores), (Some(500), Cores::Auto));
        assert_eq!((node.dht_port.map(u16::from), node.verbose), (Some(7), 2));
        assert!(node.json && node.exit_on_eof && node.no_mdns && !node.no_dht);
    }

    #[test]
    fn services_are_browsed_and_registered() {
        let parse = |line: &str| {
            let words = ["mischief", "mdns"].into_iter().chain(line.split(' '));
            match Cli::try_parse_from(words).expect("it has words").command {
                Command::Mdns(mdns) => mdns,
                other => panic!("{other:?} is not about services"),
            }
        };
        let browse = parse("browse _http._tcp --for 3 --json");
        let kind: ServiceType = "_http._tcp".parse().expect("it is a type");
        assert_eq!(browse.action(), Ok(MdnsAction::Browse(Some(kind.clone()))));
        assert_eq!((browse.seconds, browse.json), (Some(3), true));
        assert_eq!(parse("browse").action(), Ok(MdnsAction::Browse(None)));
        let service = Service {
            instance: "Attic".into(),
            service_type: kind,
            port: 8080,
            txt: Txt::new([("a", Some(&b"b"[..])), ("c", None)]).expect("it is small"),
        };
        let register = parse("register _http._tcp Attic 8080 a=b c");
        assert_eq!(register.action(), Ok(MdnsAction::Register(service)));
        for wrong in [
            "browse http",
            "browse _a._tcp x",
            "register _http._tcp Attic",
            "register _http._tcp A x",
            "look",
        ] {
            assert!(parse(wrong).action().is_err(), "{wrong}");
        }
        assert!(Cli::try_parse_from(["mischief", "mdns"]).is_err());
    }

    #[test]
    fn nonsense_is_refused_as_wrong_usage() {
        let (long, exact) = ("x".repeat(65), "x".repeat(64));
        for line in [
            &["--listen"] as &[&str],
            &["--max-peers", "0"],
            &["--max-peers", "-1"],
            &["--cores", "0"],
            &["--cores", "many"],
            &["--protocol", "chat"],
            &["--protocol", "/1"],
            &["--protocol", "chat/"],
            &["--protocol", &format!("{long}/1")],
            &["--name", ""],
            &["--name", &long],
            &["--name", "a\u{1b}b"],
            &["--ephemeral", "--data-dir", "d"],
            &["--no-dht", "--dht-port", "5"],
            &["--dht-port", "0"],
            &["--connect", "no id@a:1"],
            &["--connect", "a"],
            &["--connect", "::1:9000"],
            &["--listen", "localhost:9000"],
            &["--unknown"],
            &["extra"],
        ] {
            let error = node(line).expect_err(&format!("{line:?} is wrong"));
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
        assert!(node(&["--name", &exact]).is_ok());
    }

    #[test]
    fn help_shows_examples_and_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.contains("mischief node --connect 192.0.2.7:9000") && help.contains("Exit codes"),
            "{help}"
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
    }
}
