//! A service that answers requests, and a client that asks it.
//!
//! Both run here, over real sockets; in a program of one's own they are two. Run it with
//! `cargo run --example request_response`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mischief::{Body, Node, RequestError};
use serde::{Deserialize, Serialize};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Reading {
    sensor: String,
    celsius: f64,
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = serve()?;
    let client = Node::builder().protocol("weather", "1.0").start()?;
    let peer = client
        .connect(&service.listen_addrs()[0].to_string())
        .wait()?;

    // A value of one's own type goes out as JSON, and so does the answer.
    let reading = Reading {
        sensor: "roof".to_owned(),
        celsius: 21.5,
    };
    let stored = client.request(&peer, "store", &reading, PATIENCE).wait()?;
    assert_eq!(stored.parse::<usize>()?, 1);
    let latest = client.request(&peer, "latest", "roof", PATIENCE).wait()?;
    assert_eq!(latest.parse::<Reading>()?, reading);
    println!("the roof has {} degrees", reading.celsius);

    // The peer says why it refuses; that nobody answers, or not in time, is another error.
    let refused = client.request(&peer, "latest", "cellar", PATIENCE).wait();
    let Err(RequestError::Refused(reason)) = refused else {
        return Err("the service has no such sensor".into());
    };
    println!("refused: {reason}");
    let unknown = client.request(&peer, "forecast", &(), PATIENCE).wait();
    assert_eq!(unknown.unwrap_err(), RequestError::NoHandler);

    // Several may be under way at once; answers come as they are ready.
    let slow = client.request(&peer, "average", &(), PATIENCE);
    let text = Body::text("how are you?");
    let fast = client.request_with(&peer, "echo", &text, PATIENCE).wait()?;
    println!("echo: {}", fast.as_text().unwrap_or_default());
    println!("average: {}", slow.wait()?.to_json()?);

    // Whoever does not want to wait drops the request. The service is told.
    drop(client.request(&peer, "average", &(), PATIENCE));
    Ok(())
}

/// A node that stores readings. Who asks is always the authenticated peer.
fn serve() -> Result<Node, mischief::StartError> {
    let service = Node::builder()
        .listen("127.0.0.1:0")
        .protocol("weather", "1.0")
        .start()?;
    let readings = Arc::new(Mutex::new(BTreeMap::new()));

    let store = readings.clone();
    service.on_request_typed("store", move |peer, reading: Reading| {
        println!("{} measures {reading:?}", peer.short());
        let mut readings = store.lock().map_err(|error| error.to_string())?;
        readings.insert(reading.sensor, reading.celsius);
        Ok(readings.len())
    });

    let latest = readings.clone();
    service.on_request_typed("latest", move |_, sensor: String| {
        let readings = latest.lock().map_err(|error| error.to_string())?;
        match readings.get(&sensor) {
            Some(&celsius) => Ok(Reading { sensor, celsius }),
            None => Err(format!("there is no sensor {sensor:?}").into()),
        }
    });

    service.on_request("echo", |request| {
        Ok(Body::text(request.as_text().unwrap_or("")))
    });

    // What takes long is answered later, from another thread, unless nobody waits for it any more.
    service.on_request_later("average", move |_, responder| {
        let readings = readings.clone();
        thread::spawn(move || {
            let Ok(readings) = readings.lock() else {
                return;
            };
            if responder.is_wanted() {
                let sum: f64 = readings.values().sum();
                let sent = responder.reply_json(&(sum / readings.len() as f64));
                sent.unwrap_or_else(|error| eprintln!("the answer was not sent: {error}"));
            }
        });
    });
    Ok(service)
}
