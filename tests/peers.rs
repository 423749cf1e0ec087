//! Lost, banned, protected and known peers through the binary: what a program sees, and what is there after `kill -9`.

mod process;

use process::{Program, TempDir};
use serde_json::{Value, json};

fn node(dir: &str, arguments: &[&str]) -> (Program, String, String) {
    let fixed = ["node", "--json", "--no-mdns", "--no-dht", "--data-dir", dir];
    let mut program = Program::start(&[&fixed[..], arguments].concat());
    let ready = program.event("ready");
    let id = ready["peer_id"].as_str().expect("it is text").to_owned();
    let addr = ready["listen"][0].as_str().expect("it is text").to_owned();
    (program, id, addr)
}

fn listed<'a>(answer: &'a Value, list: &str) -> &'a [Value] {
    answer[list].as_array().expect("it is a list")
}

#[test]
fn a_lost_peer_comes_back_by_itself() {
    let dirs = TempDir::new();
    let (mut hub, hub_id, addr) = node(&dirs.path("hub"), &["--listen", "127.0.0.1:0"]);
    let (mut leaf, leaf_id, _) = node(&dirs.path("leaf"), &["--listen", "127.0.0.1:0"]);
    leaf.ask_well(json!({"cmd": "connect", "addr": addr}));
    leaf.event("peer_connected");
    hub.event("peer_connected");
    hub.signal("KILL");
    assert_eq!(hub.code(), None);
    let waiting = leaf.event("peer_reconnecting");
    assert_eq!(
        (&waiting["peer"], &waiting["addr"]),
        (&json!(hub_id), &json!(addr))
    );
    let queue = leaf.ask_well(json!({"cmd": "reconnect_queue"}));
    assert_eq!(listed(&queue, "queue")[0]["peer"], json!(hub_id));
    let (mut hub, again, _) = node(&dirs.path("hub"), &["--listen", &addr]);
    assert_eq!(again, hub_id);
    let came = hub.event("peer_connected");
    assert_eq!(came["peer"], json!(leaf_id));
    leaf.find("the hub again", |value| {
        value["event"] == "peer_connected" && value["peer"] == json!(hub_id)
    });
    let info = leaf.ask_well(json!({"cmd": "peer", "peer": hub_id}));
    assert_eq!(
        (&info["info"]["addr"], &info["info"]["found"]),
        (&json!(addr), &json!("reconnected"))
    );
    let queue = leaf.ask_well(json!({"cmd": "reconnect_queue"}));
    assert_eq!(listed(&queue, "queue"), [] as [Value; 0]);
    // A user's word ends it.
    leaf.ask_well(json!({"cmd": "disconnect", "peer": hub_id}));
    assert_eq!(
        leaf.ask_well(json!({"cmd": "clear_reconnect_queue"}))["cleared"],
        0
    );
}

#[test]
fn bans_and_protection_work_and_outlive_the_node() {
    let dirs = TempDir::new();
    let (mut one, one_id, addr) = node(&dirs.path("one"), &["--listen", "127.0.0.1:0"]);
    let (mut two, two_id, _) = node(&dirs.path("two"), &["--listen", "127.0.0.1:0"]);
    two.ask_well(json!({"cmd": "connect", "addr": addr}));
    one.event("peer_connected");
    one.ask_well(json!({"cmd": "protect", "peer": two_id}));
    let info = one.ask_well(json!({"cmd": "peer", "peer": &two_id[..8]}));
    assert_eq!(info["info"]["protected"], true);
    assert_eq!(info["info"]["found"], "inbound");
    one.ask_well(json!({"cmd": "ban", "peer": two_id, "seconds": 3600}));
    assert_eq!(one.event("peer_disconnected")["reason"], "banned_here");
    assert_eq!(two.event("peer_disconnected")["reason"], "banned");
    let error = two.ask_badly(json!({"cmd": "connect", "addr": addr}));
    assert_eq!(error, "banned");
    one.signal("KILL");
    let (mut one, again, addr) = node(&dirs.path("one"), &["--listen", "127.0.0.1:0"]);
    assert_eq!(again, one_id);
    let bans = one.ask_well(json!({"cmd": "bans"}));
    let bans = listed(&bans, "bans");
    assert_eq!((bans.len(), &bans[0]["peer"]), (1, &json!(two_id)));
    let left = bans[0]["seconds"].as_u64().expect("it ends");
    assert!((3000..=3600).contains(&left), "{left}");
    assert_eq!(
        two.ask_badly(json!({"cmd": "connect", "addr": addr})),
        "banned"
    );
    one.ask_well(json!({"cmd": "unban", "peer": two_id}));
    assert_eq!(
        one.ask_badly(json!({"cmd": "unban", "peer": two_id})),
        "gone"
    );
    two.ask_well(json!({"cmd": "connect", "addr": addr}));
    // And a range.
    one.ask_well(json!({"cmd": "ban", "subnet": "127.0.0.0/8"}));
    assert_eq!(
        two.ask_badly(json!({"cmd": "connect", "addr": addr})),
        "banned"
    );
}

#[test]
fn known_peers_are_listed_and_forgotten() {
    let dirs = TempDir::new();
    // A peer that is connected would tell of itself again.
    let arguments = ["--listen", "127.0.0.1:0", "--no-exchange"];
    let (mut hub, hub_id, addr) = node(&dirs.path("hub"), &arguments);
    let (mut leaf, leaf_id, leaf_addr) = node(&dirs.path("leaf"), &arguments);
    leaf.ask_well(json!({"cmd": "connect", "addr": addr}));
    hub.event("peer_connected");
    let book = leaf.ask_well(json!({"cmd": "address_book"}));
    let book = listed(&book, "entries");
    assert_eq!(
        (&book[0]["peer"], &book[0]["addr"]),
        (&json!(hub_id), &json!(addr))
    );
    assert_eq!(book[0]["tried"], true);
    // Of who has dialled, the port that it listens on is known, not that of its socket.
    let book = hub.ask_well(json!({"cmd": "address_book"}));
    let known = &listed(&book, "entries")[0];
    assert_eq!(
        (&known["peer"], &known["addr"]),
        (&json!(leaf_id), &json!(leaf_addr))
    );
    leaf.ask_well(json!({"cmd": "forget", "peer": hub_id}));
    assert_eq!(
        leaf.ask_badly(json!({"cmd": "forget", "peer": hub_id})),
        "gone"
    );
    let book = leaf.ask_well(json!({"cmd": "address_book"}));
    assert_eq!(listed(&book, "entries"), [] as [Value; 0]);
}

/// Twenty times: bans are written one after another, and the node is killed at some moment. The next one starts, and every
/// ban that was answered is there.
#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dirs = TempDir::new();
    let dir = dirs.path("node");
    let mut acknowledged: Vec<String> = Vec::new();
    let mut number = 0;
    for round in 0..20u32 {
        let (mut node, ..) = node(&dir, &["--listen", "127.0.0.1:0"]);
        let bans = node.ask_well(json!({"cmd": "bans"}));
        let found: Vec<&str> = listed(&bans, "bans")
            .iter()
            .filter_map(|ban| ban["subnet"].as_str())
            .collect();
        for subnet in &acknowledged {
            assert!(
                found.contains(&subnet.as_str()),
                "round {round}: {subnet} is lost"
            );
        }
        // Some commands are answered before it is killed, the others are on their way.
        let answered = round % 4;
        for nth in 0..answered + 5 {
            number += 1;
            let subnet = format!("10.{}.{}.0/24", number / 250, number % 250);
            node.write(json!({"id": number, "cmd": "ban", "subnet": subnet}).to_string());
            if nth < answered {
                node.reply(number);
                acknowledged.push(subnet);
            }
        }
        node.signal("KILL");
        assert_eq!(node.code(), None);
    }
    let (mut last, ..) = node(&dir, &["--listen", "127.0.0.1:0"]);
    assert!(listed(&last.ask_well(json!({"cmd": "bans"})), "bans").len() >= acknowledged.len());
    assert!(!std::path::Path::new(&format!("{dir}/peers_ever.rats.damaged")).exists());
}

#[test]
fn a_damaged_file_is_set_aside_and_the_node_starts() {
    let dirs = TempDir::new();
    let dir = dirs.path("node");
    let (mut first, ..) = node(&dir, &["--listen", "127.0.0.1:0"]);
    first.ask_well(json!({"cmd": "ban", "subnet": "192.0.2.0/24"}));
    first.signal("KILL");
    assert_eq!(first.code(), None);
    let path = format!("{dir}/peers_ever.rats");
    let mut bytes = std::fs::read(&path).expect("it was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).expect("it can be written");
    let (mut second, ..) = node(&dir, &["--listen", "127.0.0.1:0"]);
    assert_eq!(
        listed(&second.ask_well(json!({"cmd": "bans"})), "bans"),
        [] as [Value; 0]
    );
    assert_eq!(
        std::fs::read(format!("{path}.damaged")).expect("it is set aside"),
        bytes
    );
    second.signal("KILL");
    assert_eq!(second.code(), None);
    let errors = second.errors();
    assert!(errors.contains("set aside"), "{errors}");
}
