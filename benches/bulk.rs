//! How much processor time does a gigabyte over one connection take, at the sender?
//!
//! Two processes, each kept on a processor of its own unless `--unpinned` is given: what crosses between processors then
//! is the connection alone, and runs can be compared. This one sends through [`Outgoing::send_bytes`] and
//! [`Outgoing::send_shared`], its child receives through `Node::on_bytes`. Beside
//! it the limits in the same run: plain TCP between two processes, the cipher alone over the same frames, and memcpy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mischief::{Node, NodeBuilder, Outgoing, SendError};
use mischief_benches::harness::{Bench, Budget};
use mischief_benches::other::Other;
use mischief_benches::system::{pin, process_cpu};
use ring::aead;
use serde_json::json;

const GB: f64 = 1e9;
const FRAME: usize = 16 << 10;
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let bench = Bench::new("bulk");
    let is_child = bench.has("--child");
    if !bench.has("--unpinned") && pin(usize::from(is_child)).is_err() {
        bench.note("there is only one processor, or it may not be chosen");
    }
    match bench.option::<String>("--child").as_deref() {
        Some("node") => return receive_messages(bench.has("--chacha")),
        Some("tcp") => return receive_stream(),
        _ => {}
    }
    let bytes = bench
        .option("--bytes")
        .unwrap_or(bench.size(2 << 30, 4 << 20));
    let repeat = |measure: &dyn Fn() -> Cost| -> (Vec<f64>, Vec<f64>) {
        (0..bench.runs())
            .map(|_| measure())
            .map(|cost| (cost.cpu / cost.gb, cost.gb / cost.wall))
            .unzip()
    };
    // `--only aes`, say, for a quick look.
    let only = bench.option::<String>("--only");
    let is_wanted = |name: &str| only.as_deref().is_none_or(|only| name == only);
    for (suite, is_chacha, max) in [("ChaChaPoly", true, 0.75), ("AES-256-GCM", false, 0.45)] {
        let short = if is_chacha { "chacha" } else { "aes" };
        for (name, size, form) in [
            ("1 MiB", 1 << 20, Form::Copied),
            ("1 MiB shared", 1 << 20, Form::Shared),
            ("64 KiB", 64 << 10, Form::Copied),
        ] {
            let row = if form == Form::Shared { "-shared" } else { "" };
            if !is_wanted(&format!("{short}-{}{row}", size >> 10)) {
                continue;
            }
            let (cpu, rate) = repeat(&|| send_messages(is_chacha, size, form, bytes));
            let budget = if size == 1 << 20 {
                Budget::AtMost(max)
            } else {
                Budget::None
            };
            bench.figure(
                &format!("{suite}, {name} messages, sender"),
                "core-s/GB",
                budget,
                &cpu,
            );
            let case = json!({"suite": suite, "size": size, "shared": form == Form::Shared});
            bench.result("sender_cpu_s_per_gb", &case, &cpu);
            bench.figure(
                &format!("{suite}, {name} messages, rate"),
                "GB/s",
                Budget::None,
                &rate,
            );
        }
        if !is_wanted(&format!("seal-{short}")) {
            continue;
        }
        let cpu = bench.repeat(|| seal(is_chacha, bytes));
        bench.figure(
            &format!("limit: {suite}, sealing 16 KiB frames"),
            "core-s/GB",
            Budget::None,
            &cpu,
        );
    }
    for (name, size) in [
        ("1 MiB", 1 << 20),
        ("128 KiB", 128 << 10),
        ("64 KiB", 64 << 10),
    ] {
        if !is_wanted(&format!("tcp-{}", size >> 10)) {
            continue;
        }
        let (cpu, rate) = repeat(&|| send_stream(size, bytes));
        bench.figure(
            &format!("limit: plain TCP, {name} writes, sender"),
            "core-s/GB",
            Budget::None,
            &cpu,
        );
        bench.figure(
            &format!("limit: plain TCP, {name} writes, rate"),
            "GB/s",
            Budget::None,
            &rate,
        );
    }
    if is_wanted("memcpy") {
        let cpu = bench.repeat(|| copy(bytes));
        bench.figure("limit: memcpy of 1 MiB", "core-s/GB", Budget::None, &cpu);
    }
}

/// Whether messages are copied from the caller or shared with it.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Copied,
    Shared,
}

struct Cost {
    cpu: f64,
    wall: f64,
    gb: f64,
}

fn measured(bytes: usize, run: impl FnOnce()) -> Cost {
    let (cpu, start) = (process_cpu(), Instant::now());
    run();
    Cost {
        cpu: (process_cpu() - cpu).as_secs_f64(),
        wall: start.elapsed().as_secs_f64(),
        gb: bytes as f64 / GB,
    }
}

fn wait_for_end_of_input() {
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("the input is a pipe");
}

fn node(is_chacha: bool) -> NodeBuilder {
    let builder = Node::builder().ephemeral().protocol("bench", "1");
    if is_chacha {
        builder.aes_hardware(false)
    } else {
        builder
    }
}

/// Prints where it listens, and a line whenever it has received as many bytes as the last line of its input said.
fn receive_messages(is_chacha: bool) {
    let node = node(is_chacha)
        .listen("127.0.0.1:0")
        .start()
        .expect("loopback can be listened on");
    let wanted: usize = std::env::var("WANTED")
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("it was set");
    let seen = std::sync::atomic::AtomicUsize::new(0);
    node.on_bytes(move |_, bytes| {
        let before = seen.fetch_add(bytes.len(), std::sync::atomic::Ordering::Relaxed);
        if before + bytes.len() == wanted {
            println!("received");
        }
    });
    println!("{}", node.listen_addrs()[0]);
    wait_for_end_of_input();
    node.stop(Duration::from_secs(5));
}

fn send_messages(is_chacha: bool, size: usize, form: Form, bytes: usize) -> Cost {
    let warm_up = (bytes / 16).max(size);
    let total = (warm_up + bytes) / size * size;
    let mut args = vec!["--child", "node"];
    if std::env::args().any(|arg| arg == "--unpinned") {
        args.push("--unpinned");
    }
    if is_chacha {
        args.push("--chacha");
    }
    let own = std::env::current_exe().expect("this program has a path");
    let mut other = Other::spawn(
        Command::new(own)
            .args(&args)
            .env("WANTED", total.to_string()),
    );
    let node = node(is_chacha).start().expect("it needs nothing");
    let peer = node
        .connect(&other.line())
        .wait()
        .expect("the other process listens");
    let outgoing = node.outgoing(&peer).expect("it is connected");
    let body: Arc<[u8]> = Arc::from(vec![7; size]);
    let mut left = total / size;
    for _ in 0..warm_up / size {
        send(&outgoing, form, &body);
        left -= 1;
    }
    outgoing
        .flush()
        .wait_for(LONG)
        .expect("the other process reads");
    let cost = measured(left * size, || {
        for _ in 0..left {
            send(&outgoing, form, &body);
        }
        outgoing
            .flush()
            .wait_for(LONG)
            .expect("the other process reads");
        assert_eq!(other.line(), "received");
    });
    node.stop(Duration::from_secs(5));
    cost
}

fn send(outgoing: &Outgoing, form: Form, body: &Arc<[u8]>) {
    loop {
        let sent = match form {
            Form::Copied => outgoing.send_bytes(body),
            Form::Shared => outgoing.send_shared(body),
        };
        match sent {
            Ok(()) => return,
            Err(SendError::Full) => outgoing
                .wait_for_room(LONG)
                .expect("the other process reads"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn receive_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    println!("{}", listener.local_addr().expect("it is bound"));
    let (mut stream, _) = listener.accept().expect("the other process connects");
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer).expect("the connection stands") > 0 {}
    println!("received");
}

fn send_stream(size: usize, bytes: usize) -> Cost {
    let mut args = vec!["--child", "tcp"];
    if std::env::args().any(|arg| arg == "--unpinned") {
        args.push("--unpinned");
    }
    let mut other = Other::start(&args);
    let mut stream = TcpStream::connect(other.line()).expect("the other process listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    let body = vec![7; size];
    measured(bytes / size * size, || {
        for _ in 0..bytes / size {
            stream.write_all(&body).expect("the other process reads");
        }
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("it is connected");
        assert_eq!(other.line(), "received");
    })
}

/// Seals frames one after another, with the key expanded for each, as connections do to keep little in memory.
fn seal(is_chacha: bool, bytes: usize) -> f64 {
    let algorithm = if is_chacha {
        &aead::CHACHA20_POLY1305
    } else {
        &aead::AES_256_GCM
    };
    let mut frame = vec![7; FRAME];
    let cost = measured(bytes / FRAME * FRAME, || {
        for counter in 0..bytes / FRAME {
            let key = aead::UnboundKey::new(algorithm, &[1; 32]).expect("a key has 32 bytes");
            let key = aead::LessSafeKey::new(key);
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&(counter as u64).to_le_bytes());
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::empty(), &mut frame);
            let _ = std::hint::black_box(tag.expect("a frame is short"));
        }
    });
    cost.cpu / cost.gb
}

fn copy(bytes: usize) -> f64 {
    const SIZE: usize = 1 << 20;
    let (from, mut to) = (vec![7u8; SIZE], vec![0u8; SIZE]);
    let cost = measured(bytes / SIZE * SIZE, || {
        for _ in 0..bytes / SIZE {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
    });
    cost.cpu / cost.gb
}
