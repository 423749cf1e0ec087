//! Captures, read back by a reader of their own that knows nothing of the writer, and by tshark where there is one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use super::streams::pump;
use super::udp::bound;
use super::*;
use crate::io::driver::Transmit;
use crate::sim::{LinkOptions, NatOptions};

/// A writer whose bytes can be read afterwards.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Captured {
    interface: String,
    nanos: u64,
    is_inbound: bool,
    comment: Option<String>,
    bytes: Vec<u8>,
}

fn u16_le(bytes: &[u8]) -> u16 {
    u16::from_le_bytes(bytes[..2].try_into().unwrap())
}

fn u32_le(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn u16_be(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(bytes[..2].try_into().unwrap())
}

fn u32_be(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

fn options(mut bytes: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut all = BTreeMap::new();
    while u16_le(bytes) != 0 {
        let len = u16_le(&bytes[2..]) as usize;
        all.insert(u16_le(bytes), bytes[4..4 + len].to_vec());
        bytes = &bytes[4 + len.next_multiple_of(4)..];
    }
    assert_eq!(bytes, [0; 4], "the options end with the block");
    all
}

fn read(mut file: &[u8]) -> Vec<Captured> {
    let (mut names, mut packets) = (Vec::new(), Vec::new());
    while !file.is_empty() {
        let len = u32_le(&file[4..]) as usize;
        assert_eq!(len % 4, 0);
        assert_eq!(u32_le(&file[len - 4..]) as usize, len);
        let body = &file[8..len - 4];
        match u32_le(file) {
            0x0a0d_0d0a => {
                assert_eq!(u32_le(body), 0x1a2b_3c4d);
                assert!(options(&body[16..]).contains_key(&1));
            }
            1 => {
                assert_eq!(u16_le(body), 101, "raw IP");
                let options = options(&body[8..]);
                assert_eq!(options[&9], [9], "nanoseconds");
                names.push(String::from_utf8(options[&2].clone()).unwrap());
            }
            6 => {
                let size = u32_le(&body[12..]) as usize;
                assert_eq!(u32_le(&body[16..]) as usize, size);
                let options = options(&body[20 + size.next_multiple_of(4)..]);
                let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
                packets.push(Captured {
                    interface: names[u32_le(body) as usize].clone(),
                    nanos: u64::from(u32_le(&body[4..])) << 32 | u64::from(u32_le(&body[8..])),
                    is_inbound: u32_le(&options[&2]) == 1,
                    comment: options.get(&1).map(text),
                    bytes: body[20..20 + size].to_vec(),
                });
            }
            kind => panic!("an unknown block: {kind:#x}"),
        }
        file = &file[len..];
    }
    packets
}

/// The sum that is all ones over data with a right checksum.
fn sums_up(parts: &[&[u8]]) -> bool {
    let mut sum = 0u64;
    for part in parts {
        for word in part.chunks(2) {
            sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum == 0xffff
}

/// An IP packet taken apart, all of whose lengths and checksums are right.
struct Parsed<'a> {
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    body: &'a [u8],
}

fn parse(bytes: &[u8]) -> Parsed<'_> {
    let addr4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    let addr6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
    let (parsed, addrs) = if bytes[0] >> 4 == 4 {
        assert_eq!(bytes[0], 0x45);
        assert_eq!(u16_be(&bytes[2..]) as usize, bytes.len());
        assert!(sums_up(&[&bytes[..20]]), "the IP header's checksum");
        let parsed = Parsed {
            source: addr4(12),
            target: addr4(16),
            protocol: bytes[9],
            body: &bytes[20..],
        };
        (parsed, &bytes[12..20])
    } else {
        assert_eq!(bytes[0] >> 4, 6);
        assert_eq!(u16_be(&bytes[4..]) as usize, bytes.len() - 40);
        let parsed = Parsed {
            source: addr6(8),
            target: addr6(24),
            protocol: bytes[6],
            body: &bytes[40..],
        };
        (parsed, &bytes[8..40])
    };
    let len = (parsed.body.len() as u32).to_be_bytes();
    let pseudo = [&len[..], &[0, parsed.protocol]].concat();
    let is_right = match parsed.protocol {
        1 => sums_up(&[parsed.body]),
        6 | 17 | 58 => sums_up(&[addrs, &pseudo, parsed.body]),
        other => panic!("protocol {other}"),
    };
    assert!(is_right, "the checksum of protocol {}", parsed.protocol);
    if parsed.protocol == 17 {
        assert_eq!(u16_be(&parsed.body[4..]) as usize, parsed.body.len());
    }
    parsed
}

/// The bytes of each direction of the TCP connections in a capture, put together by their sequence numbers, with the
/// count of segments.
fn follow(packets: &[Captured]) -> BTreeMap<(SocketAddr, SocketAddr), (Vec<u8>, usize)> {
    let mut firsts = BTreeMap::new();
    let mut streams: BTreeMap<_, (Vec<u8>, usize)> = BTreeMap::new();
    for packet in packets {
        let parsed = parse(&packet.bytes);
        if parsed.protocol != 6 {
            continue;
        }
        let source = SocketAddr::new(parsed.source, u16_be(parsed.body));
        let target = SocketAddr::new(parsed.target, u16_be(&parsed.body[2..]));
        let (seq, ack) = (u32_be(&parsed.body[4..]), u32_be(&parsed.body[8..]));
        let flags = parsed.body[13];
        if flags & 2 != 0 {
            firsts.insert((source, target), seq);
            continue;
        }
        if flags & 16 != 0 {
            // It acknowledges something that has been sent, the FIN at most.
            let sent = streams
                .get(&(target, source))
                .map_or(0, |(bytes, _)| bytes.len());
            let acknowledged = ack.wrapping_sub(firsts[&(target, source)]) as usize;
            assert!(
                (1..=sent + 2).contains(&acknowledged),
                "{acknowledged} of {sent}"
            );
        }
        let data = &parsed.body[(parsed.body[12] >> 4) as usize * 4..];
        let Some(first) = firsts.get(&(source, target)) else {
            assert!(flags & 4 != 0, "only a refusal comes without a beginning");
            continue;
        };
        let start = seq.wrapping_sub(*first).wrapping_sub(1) as usize;
        let (bytes, count) = streams.entry((source, target)).or_default();
        *count += 1;
        if !data.is_empty() {
            bytes.resize(bytes.len().max(start + data.len()), 0);
            bytes[start..start + data.len()].copy_from_slice(data);
        }
    }
    streams
}

/// A capture of a bit of everything: connections with loss in both versions of IP, datagrams, refusals, error messages,
/// a NAT box. With it, the bytes that went over the connection in IPv4.
fn eventful() -> (Vec<u8>, Vec<u8>) {
    let mut pair = Pair::new(1);
    let file = Shared::default();
    pair.world.capture_to(file.clone());
    pair.world.set_icmp(true);
    pair.left.set_name("left");
    pair.right.set_name("right");
    pair.world.set_default_link(LinkOptions {
        loss: 0.05,
        duplicate: 0.02,
        reorder: 0.05,
        ..LinkOptions::default()
    });
    let bytes = pattern(100_000);
    let (dialled, accepted) = pair.connected();
    let (got, _) = pump((&mut pair.a, dialled), (&mut pair.b, accepted), &bytes);
    assert!(got == bytes);
    pair.a.close(dialled, false);
    pair.b.close(accepted, false);
    let v6: SocketAddr = "[fd00::2]:80".parse().unwrap();
    pair.b.tcp_listen(v6, ListenOptions::default()).unwrap();
    let (dialled, accepted) = pair.connected_to(v6);
    pump(
        (&mut pair.b, accepted),
        (&mut pair.a, dialled),
        &bytes[..5000],
    );
    pair.a.close(dialled, true);
    pair.a.tcp_connect(pair.right.addr(9), None).unwrap();
    pair.a
        .tcp_connect("[fd00::99]:9".parse().unwrap(), None)
        .unwrap();
    for (from, to) in [("0.0.0.0:0", "10.0.0.2:9"), ("[::]:0", "[fd00::2]:9")] {
        let socket = bound(&mut pair.a, from);
        for size in [0, 1, 999, 1000, 3000] {
            let data = pattern(size);
            let transmit = Transmit::new(to.parse().unwrap(), &data);
            pair.a.udp_send(socket, &[transmit]).unwrap();
        }
    }
    let nat = pair.world.nat(NatOptions::default(), ip("203.0.113.1"));
    nat.node().set_name("home router");
    let inside = pair.world.node_behind(&nat, &[ip("192.168.1.2")]);
    let mut driver = inside.driver();
    driver.tcp_connect(pair.right.addr(9), None).unwrap();
    driver
        .tcp_connect("198.51.100.99:9".parse().unwrap(), None)
        .unwrap();
    pair.world.run_for(Duration::from_secs(100));
    pair.world.end_captures().unwrap();
    (file.0.take(), bytes)
}

#[test]
fn a_capture_holds_packets_as_they_would_be_on_a_wire() {
    let (file, bytes) = eventful();
    let packets = read(&file);
    assert!(packets.is_sorted_by_key(|packet| packet.nanos));
    let epoch = 1_767_225_600 * 1_000_000_000;
    assert!((epoch..epoch + 1_000_000_000).contains(&packets[0].nanos));
    assert!(packets.iter().all(|packet| !packet.is_inbound));
    let mut protocols = BTreeMap::new();
    for packet in &packets {
        *protocols.entry(parse(&packet.bytes).protocol).or_insert(0) += 1;
    }
    assert_eq!(
        protocols.keys().copied().collect::<Vec<u8>>(),
        [1, 6, 17, 58]
    );
    let lost: Vec<_> = packets
        .iter()
        .filter_map(|packet| packet.comment.as_deref())
        .collect();
    for reason in ["lost: chance", "lost: larger than the link's MTU"] {
        assert!(lost.contains(&reason), "{lost:?}");
    }
    for name in ["left", "right", "home router", "node 3"] {
        assert!(
            packets.iter().any(|packet| packet.interface == name),
            "{name}"
        );
    }
    let streams = follow(&packets);
    let longest = streams
        .values()
        .max_by_key(|(bytes, _)| bytes.len())
        .unwrap();
    assert!(longest.0 == bytes);
    assert!(longest.1 > 100_000 / 1460, "{}", longest.1);
    // A packet that crosses a box is there with both of its sources.
    let sources: Vec<_> = streams.keys().map(|(source, _)| source.ip()).collect();
    assert!(sources.contains(&ip("10.0.0.1")));
}

#[test]
fn a_capture_on_a_machine_shows_what_it_sends_and_what_reaches_it() {
    let mut pair = Pair::new(2);
    let (here, there) = (Shared::default(), Shared::default());
    pair.left.capture_to(here.clone());
    pair.right.capture_to(there.clone());
    pair.world.partition_one_way(&pair.right, &pair.left);
    pair.a.tcp_connect(pair.right.addr(9), None).unwrap();
    pair.world.run_for(Duration::from_millis(500));
    pair.world.end_captures().unwrap();
    pair.world.run_for(Duration::from_secs(10));
    let shape = |file: &Shared| {
        let packets = read(&file.0.borrow());
        let shape = packets
            .iter()
            .map(|packet| (packet.is_inbound, packet.comment.clone()));
        shape.collect::<Vec<_>>()
    };
    assert_eq!(shape(&here), [(false, None)], "the answer never comes");
    let lost = Some("lost: partition".to_owned());
    assert_eq!(shape(&there), [(true, None), (false, lost)]);
}

/// A writer that takes only so much.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(self.0);
        self.0 -= count;
        if count == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_capture_that_cannot_be_written_says_so_at_its_end_and_changes_no_run() {
    let run = |captures: bool| {
        let mut pair = Pair::new(3);
        if captures {
            pair.world.capture_to(Full(200));
            pair.world.trace_to_writer(Full(100));
        }
        pair.connected();
        pair.world.run_for(Duration::from_secs(1));
        (pair.world.end_captures(), pair.world.trace_hash())
    };
    let (failed, hash) = run(true);
    assert_eq!(failed.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let (fine, same) = run(false);
    fine.unwrap();
    assert_eq!(hash, same);
}

#[test]
fn tshark_reads_captures() {
    let is_there = Command::new("tshark").arg("--version").output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no tshark on this machine");
        return;
    }
    let (file, bytes) = eventful();
    let name = format!("mischief-capture-{}.pcapng", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, &file).unwrap();
    let removes = Remove(path.clone());
    let tshark = |args: &[&str]| {
        let checks = ["ip", "tcp", "udp"].map(|one| format!("{one}.check_checksum:TRUE"));
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&path);
        for check in &checks {
            command.args(["-o", check]);
        }
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let count = read(&file).len();
    assert_eq!(tshark(&[]).lines().count(), count);
    let bad = "_ws.malformed || _ws.short || ip.checksum.status == 0 || tcp.checksum.status == 0 \
               || udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0";
    assert_eq!(tshark(&["-Y", bad]), "");
    // The first connection, as hexadecimal digits. The side that sent nothing has no lines.
    let followed = tshark(&["-q", "-z", "follow,tcp,raw,0"]);
    let is_hex = |line: &&str| line.len() > 1 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits: String = followed.lines().filter(is_hex).collect();
    let want: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(digits == want, "{} of {} digits", digits.len(), want.len());
    drop(removes);
}

/// Removes a file when the test ends, however it does.
struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
