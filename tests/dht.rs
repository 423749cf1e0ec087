//! Nodes that meet through a DHT of their own, on loopback: by the library, by the program, and in the simulator.

mod process;

use std::net::SocketAddr;
use std::time::Duration;

use mischief::reactor::sim::{LinkOptions, SimWorld};
use mischief::reactor::{Limits, Signal};
use mischief::{Dht, DhtError, DhtMutable, DhtOptions, Node, NodeEvent};
use process::Program;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(30);

fn options(bootstrap: &[SocketAddr]) -> DhtOptions {
    let mut options = DhtOptions::default();
    options.bootstrap = bootstrap.iter().map(SocketAddr::to_string).collect();
    options
}

fn node(bootstrap: &[SocketAddr], protocol: &str) -> Node {
    Node::builder()
        .listen("127.0.0.1:0")
        .protocol(protocol, "1.0")
        .dht(options(bootstrap))
        .start()
        .expect("it starts")
}

fn dht_addr(node: &Node) -> SocketAddr {
    node.dht().addrs().wait().expect("it has a DHT")[0]
}

/// Waits until a node has a peer.
fn wait_for_peer(node: &Node) -> mischief::PeerId {
    let mut events = node.events();
    if let Some(peer) = node.peers().wait().expect("it runs").first() {
        return peer.peer;
    }
    loop {
        match events.next_timeout(LONG).expect("they meet in time") {
            Some(NodeEvent::PeerConnected { peer, .. }) => return peer,
            Some(_) => {}
            None => panic!("the node has stopped"),
        }
    }
}

#[test]
fn nodes_of_one_protocol_meet_and_others_do_not() {
    let hub = node(&[], "hub");
    let begin = [dht_addr(&hub)];
    let first = node(&begin, "chat");
    let stranger = node(&begin, "other");
    let second = node(&begin, "chat");
    assert_eq!(wait_for_peer(&first), second.id());
    assert_eq!(wait_for_peer(&second), first.id());
    for alone in [&hub, &stranger] {
        assert!(alone.peers().wait().expect("it runs").is_empty());
    }
}

#[test]
fn items_and_peers_are_stored_and_found() {
    let hub = node(&[], "a");
    let begin = [dht_addr(&hub)];
    let (writer, reader) = (node(&begin, "b"), node(&begin, "c"));
    let put = writer
        .dht()
        .put(b"hello world")
        .wait()
        .expect("it is stored");
    assert!(put.stored.stored >= 1, "{put:?}");
    assert_eq!(
        put.target.to_string(),
        "6d33adc2b6b2c14c3036feefb7fedbca1a880527"
    );
    let item = reader.dht().get(put.target).wait().expect("it runs");
    assert_eq!(item.expect("it is there").value, b"11:hello world");

    let mut mutable = DhtMutable::new([7; 32]);
    mutable.salt = b"s".to_vec();
    let key = mutable.public_key();
    let put = writer
        .dht()
        .put_mutable(b"one", mutable)
        .wait()
        .expect("it is stored");
    assert_eq!(put.seq, Some(1));
    let mut mutable = DhtMutable::new([7; 32]);
    mutable.salt = b"s".to_vec();
    let put = reader
        .dht()
        .put_mutable(b"two", mutable)
        .wait()
        .expect("it is stored");
    assert_eq!(put.seq, Some(2), "one more than what is found");
    let item = writer
        .dht()
        .get_mutable(&key, b"s")
        .wait()
        .expect("it runs")
        .expect("it is there");
    assert_eq!(
        (
            item.value.as_slice(),
            item.signature.map(|signed| signed.seq)
        ),
        (&b"3:two"[..], Some(2))
    );
    assert_eq!(writer.dht().get_mutable(&key, b"").wait(), Ok(None));

    let hash = Dht::hash_of("a service");
    let stored = writer
        .dht()
        .announce(hash, Some(4321))
        .wait()
        .expect("it is announced");
    assert!(stored.stored >= 1);
    let found: Vec<SocketAddr> = reader.dht().find_peers(hash, LONG).collect();
    assert_eq!(found, ["127.0.0.1:4321".parse().expect("an address")]);
    let scrape = reader.dht().scrape(hash).wait().expect("it runs");
    assert_eq!((scrape.seeds.round(), scrape.peers.round()), (0.0, 1.0));
    let sample = reader.dht().sample(hash).wait().expect("it runs");
    assert!(sample.samples.contains(&hash));
    let stats = hub.dht().stats().wait().expect("it runs");
    assert!(stats.is_ready && stats.good[0] >= 2, "{stats:?}");
}

#[test]
fn without_the_dht_its_calls_say_so() {
    let node = Node::builder().start().expect("it starts");
    assert!(!node.dht().is_on());
    assert_eq!(node.dht().stats().wait(), Err(DhtError::Off));
    let hash = Dht::hash_of("x");
    assert_eq!(node.dht().find_peers(hash, LONG).next(), None);
}

#[test]
fn the_table_is_saved_and_read_again() {
    let directory = process::TempDir::new();
    let hub = node(&[], "a");
    let begin = [dht_addr(&hub)];
    let start = |bootstrap: &[SocketAddr]| {
        Node::builder()
            .data_dir(directory.path("node"))
            .listen("127.0.0.1:0")
            .dht(options(bootstrap))
            .start()
            .expect("it starts")
    };
    let first = start(&begin);
    // The lookup waits until the table is filled.
    first
        .dht()
        .find_nodes(Dht::hash_of("x"))
        .wait()
        .expect("it runs");
    let id = first.dht().stats().wait().expect("it runs").ids[0];
    assert!(first.stop(LONG));
    drop(first);
    let again = start(&[]);
    let nodes = again
        .dht()
        .find_nodes(Dht::hash_of("x"))
        .wait()
        .expect("it runs");
    assert!(!nodes.is_empty(), "it begins at what it had saved");
    assert_eq!(again.dht().stats().wait().expect("it runs").ids[0], id);
}

#[test]
fn programs_meet_through_the_dht() {
    let mut hub = Program::node(&[
        "--listen",
        "127.0.0.1:0",
        "--dht-bootstrap",
        "127.0.0.1:1",
        "--protocol",
        "hub/1",
    ]);
    let ready = hub.event("ready");
    let begin = ready["listen"][0].as_str().expect("a text").to_owned();
    let start = |protocol: &str| {
        Program::node(&[
            "--listen",
            "127.0.0.1:0",
            "--dht-bootstrap",
            &begin,
            "--protocol",
            protocol,
        ])
    };
    let (mut a, mut b) = (start("chat/1"), start("chat/1"));
    let id_a = a.event("ready")["peer_id"].clone();
    let id_b = b.event("ready")["peer_id"].clone();
    assert_eq!(a.event("peer_connected")["peer"], id_b);
    assert_eq!(b.event("peer_connected")["peer"], id_a);
    let put = a.ask_well(json!({"cmd": "dht_put", "value": "hello"}));
    assert!(put["stored"].as_u64() >= Some(1), "{put}");
    let got = b.ask_well(json!({"cmd": "dht_get", "target": put["target"]}));
    assert_eq!(got["value"], "hello");
    let key = "11".repeat(32);
    let put = a.ask_well(
        json!({"cmd": "dht_put", "base64": "AP8=", "secret_key": key, "salt": "x", "seq": 4}),
    );
    assert_eq!(put["seq"], 4);
    let got = b.ask_well(json!({"cmd": "dht_get", "public_key": put["public_key"], "salt": "x"}));
    assert_eq!((&got["base64"], &got["seq"]), (&json!("AP8="), &json!(4)));
    let stored = a.ask_well(json!({"cmd": "dht_announce", "name": "thing", "port": 99}));
    assert!(stored["stored"].as_u64() >= Some(1));
    let found = b.ask_well(json!({"cmd": "dht_find", "name": "thing", "seconds": 20}));
    assert_eq!(found["peers"], json!(["127.0.0.1:99"]));
    let scrape = b.ask_well(json!({"cmd": "dht_scrape", "name": "thing"}));
    assert_eq!((&scrape["seeds"], &scrape["peers"]), (&json!(0), &json!(1)));
    let sample = b.ask_well(json!({"cmd": "dht_sample"}));
    assert!(
        sample["samples"]
            .as_array()
            .is_some_and(|samples| samples.len() >= 2),
        "{sample}"
    );
    let stats = b.ask_well(json!({"cmd": "dht_stats"}));
    assert!(
        stats["nodes"].as_u64() >= Some(1) && stats["stats"]["ready"] == Value::Bool(true),
        "{stats}"
    );
    let nodes = b.ask_well(json!({"cmd": "dht_nodes"}));
    assert_eq!(nodes["nodes"][0]["standing"], "good");
    let hub_addr = json!(begin);
    assert!(
        nodes["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.iter().any(|node| node["addr"] == hub_addr))
    );
}

#[test]
fn in_the_simulator_nodes_meet_under_loss() {
    for seed in [1, 2] {
        let world = SimWorld::new(seed);
        world.set_default_link(LinkOptions {
            loss: 0.05,
            delay: Duration::from_millis(40),
            ..LinkOptions::default()
        });
        let mut nodes = Vec::new();
        for number in 0..12u8 {
            // Addresses of many networks, so that ids have to fit them.
            let machine = world.node(&[[20 + number, 7 * number, 1, 1].into()]);
            let runtime = machine.start(1, Limits::default()).expect("a core starts");
            let begin: Vec<SocketAddr> = match number {
                0 => Vec::new(),
                _ => vec![([20, 0, 1, 1], 9000).into()],
            };
            let protocol = if number % 4 == 1 { "chat" } else { "other" };
            let node = Node::builder()
                .runtime(&runtime.handle())
                .listen("0.0.0.0:9000")
                .protocol(
                    format!("{protocol}-{}", if protocol == "chat" { 0 } else { number }),
                    "1.0",
                )
                .dht(options(&begin))
                .start()
                .expect("it starts");
            nodes.push((node, runtime, machine));
            world.run_for(Duration::from_millis(300));
        }
        let (signal, chatting) = (Signal::default(), [1, 5, 9]);
        let connected = |number: usize| nodes[number].0.stats().peers;
        let mut met = || chatting.iter().all(|number| connected(*number) == 2);
        let runtime = nodes[0].0.runtime().clone();
        runtime
            .wait(&signal, &mut met, Some(LONG))
            .unwrap_or_else(|_| panic!("seed {seed}: they meet"));
        let alone = (0..12).filter(|number| !chatting.contains(number));
        assert_eq!(alone.map(connected).sum::<usize>(), 0, "seed {seed}");
        // The node goes before its runtime and its machine.
        for (node, runtime, machine) in nodes {
            assert!(node.stop(LONG), "seed {seed}");
            drop((node, runtime, machine));
        }
    }
}

/// What `mischief dht` prints in a DHT that begins at `begin`, and its exit code.
fn dht(begin: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let fixed = ["dht", "--dht-bootstrap", begin, "--timeout", "20"];
    let (code, output, errors) = process::run(&[&fixed[..], arguments].concat());
    assert!(code == Some(0) || !errors.is_empty(), "a failure says why");
    (code, output.trim_end().to_owned())
}

#[test]
fn the_command_line_uses_the_dht() {
    let mut hub = Program::node(&["--listen", "127.0.0.1:0", "--dht-bootstrap", "127.0.0.1:1"]);
    let ready = hub.event("ready");
    let begin = ready["listen"][0].as_str().expect("a text").to_owned();
    let target = "6d33adc2b6b2c14c3036feefb7fedbca1a880527";
    assert_eq!(
        dht(&begin, &["put", "hello world"]),
        (Some(0), target.to_owned())
    );
    assert_eq!(
        dht(&begin, &["get", target]),
        (Some(0), "hello world".to_owned())
    );
    assert_eq!(
        dht(&begin, &["get", &"00".repeat(20)]).0,
        Some(3),
        "nothing is there"
    );
    let directory = process::TempDir::new();
    let key_file = directory.path("key");
    std::fs::write(&key_file, "07".repeat(32)).expect("it is writable");
    for seq in [1, 2] {
        let (code, put) = dht(
            &begin,
            &[
                "--json",
                "put",
                "text",
                "--key-file",
                &key_file,
                "--salt",
                "s",
            ],
        );
        let put: Value = serde_json::from_str(&put).expect("it is JSON");
        assert_eq!((code, &put["seq"]), (Some(0), &json!(seq)));
    }
    assert_eq!(dht(&begin, &["announce", "thing", "8080"]).0, Some(0));
    assert_eq!(
        dht(&begin, &["find", "thing"]),
        (Some(0), "127.0.0.1:8080".to_owned())
    );
    assert_eq!(dht(&begin, &["find", "nothing"]).0, Some(3));
    assert!(dht(&begin, &["ping", &begin]).1.ends_with(" ms"));
    let (code, crawled) = dht(&begin, &["crawl", "--places", "1"]);
    assert_eq!(code, Some(0));
    assert!(
        crawled.contains(&Dht::hash_of("thing").to_string()),
        "{crawled}"
    );
    let (code, stats) = dht(&begin, &["--json", "stats"]);
    let stats: Value = serde_json::from_str(&stats).expect("it is JSON");
    assert_eq!((code, &stats["v4"]["good"]), (Some(0), &json!(1)));
}
