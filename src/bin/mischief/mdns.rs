//! Services on the local network: for the JSON interface, and `mischief mdns`.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use mischief::json::{
    Answer, FoundService, MdnsCommand, MdnsLine, MdnsServices, RegisteredService, RequestError,
    TxtEntries, to_line,
};
use mischief::terminal::is_harmful;
use mischief::{
    Mdns, MdnsError, MdnsEvent, MdnsFailure, MdnsFound, MdnsReport, Node, NodeEvent, PeerId,
    Service, ServiceType, Txt,
};

use crate::args::{MdnsAction, MdnsArgs};
use crate::failure::Failure;
use crate::logger;
use crate::node::{self, Cause};
use crate::output::Output;

/// How long the node may take to take back what it has announced.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// How long a reader of stdout that has fallen behind may keep the program from ending.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

// ---- the JSON interface

/// Carries out a command. It may wait for the node.
pub(crate) async fn carry_out(
    mdns: Mdns,
    command: MdnsCommand,
) -> Result<Answer<'static>, RequestError> {
    let result = match command {
        MdnsCommand::Browse { service_type } => browse(&mdns, &service_type).await,
        MdnsCommand::Register {
            service_type,
            instance,
            port,
            txt,
        } => register(&mdns, &service_type, instance, port, &txt).await,
        MdnsCommand::Services => {
            let report = mdns.report().await;
            return report
                .map(|report| Answer::Mdns(services(&report)))
                .map_err(|error| RequestError::of_kind(error.kind(), error));
        }
        MdnsCommand::Stop {
            service_type: None, ..
        } => {
            mdns.stop();
            Ok(())
        }
        MdnsCommand::Stop {
            service_type: Some(service_type),
            instance,
        } => stop(&mdns, &service_type, instance.as_deref()).await,
    };
    result
        .map(|()| Answer::Done {})
        .map_err(|error| RequestError::of_kind(error.kind(), error))
}

async fn browse(mdns: &Mdns, service_type: &str) -> Result<(), MdnsFailure> {
    if service_type.trim_end_matches('.') == ALL_TYPES {
        return mdns.browse_types().await.map(drop);
    }
    mdns.browse(service_type.parse()?).await.map(drop)
}

async fn register(
    mdns: &Mdns,
    service_type: &str,
    instance: String,
    port: u16,
    txt: &[(String, Option<String>)],
) -> Result<(), MdnsFailure> {
    let entries = txt.iter().map(|(key, value)| {
        let value = value.as_ref().map(String::as_bytes);
        (key.as_str(), value)
    });
    let service = Service {
        instance,
        service_type: service_type.parse()?,
        port,
        txt: Txt::new(entries)?,
    };
    mdns.register(service).await.map(drop)
}

/// Takes one service back, or ends the browses of a type.
async fn stop(mdns: &Mdns, service_type: &str, instance: Option<&str>) -> Result<(), MdnsFailure> {
    let service_type: ServiceType = service_type.parse()?;
    let Some(instance) = instance else {
        return mdns.stop_browses(service_type).await;
    };
    let report = mdns.report().await?;
    let mut registered = report.registered.into_iter();
    let is_it = |service: &Service| {
        service.service_type == service_type && service.instance.eq_ignore_ascii_case(instance)
    };
    let found = registered.find(|(_, service)| is_it(service));
    let (id, _) = found.ok_or(MdnsError::Unknown)?;
    mdns.unregister(id).await.map(drop)
}

fn services(report: &MdnsReport) -> MdnsServices {
    let registered = report
        .registered
        .iter()
        .map(|(_, service)| RegisteredService {
            instance: service.instance.clone(),
            service_type: service.service_type.to_string(),
            port: service.port,
            txt: entries(&service.txt),
        });
    MdnsServices {
        host: report.host.clone(),
        registered: registered.collect(),
        services: report.found.iter().map(found_service).collect(),
    }
}

fn entries(txt: &Txt) -> TxtEntries {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let entries = txt.entries().into_iter();
    entries.map(|(key, value)| (key, value.map(text))).collect()
}

fn found_service(found: &MdnsFound) -> FoundService {
    let id = found
        .txt
        .get("id")
        .and_then(|id| std::str::from_utf8(id).ok());
    FoundService {
        instance: found.instance.clone(),
        service_type: found.service_type.to_string(),
        host: found.host.clone(),
        port: found.port,
        addrs: found.addrs.clone(),
        txt: entries(&found.txt),
        interface: found.interface,
        peer_id: id
            .filter(|id| id.parse::<PeerId>().is_ok())
            .map(str::to_owned),
    }
}

/// The line for an event; `None` for one that programs are not told.
pub(crate) fn event_line(event: &NodeEvent) -> Option<Vec<u8>> {
    let line = match event {
        NodeEvent::PeerFound { peer, addr, source } => to_line(&MdnsLine::PeerFound {
            peer: peer.map(|peer| peer.to_string()),
            addr: *addr,
            source: source.name(),
        }),
        NodeEvent::Mdns(event) => match event {
            MdnsEvent::Found(found) => to_line(&MdnsLine::MdnsFound(found_service(found))),
            MdnsEvent::Updated(found) => to_line(&MdnsLine::MdnsUpdated(found_service(found))),
            MdnsEvent::Lost {
                instance,
                service_type,
                interface,
            } => to_line(&MdnsLine::MdnsLost {
                instance,
                service_type: service_type.to_string(),
                interface: *interface,
            }),
            MdnsEvent::Registered { instance, .. } => {
                to_line(&MdnsLine::MdnsRegistered { instance })
            }
            MdnsEvent::Renamed { old, new, .. } => {
                to_line(&MdnsLine::MdnsRenamed { old, instance: new })
            }
            MdnsEvent::TypeFound {
                service_type,
                interface,
            } => to_line(&MdnsLine::MdnsTypeFound {
                service_type: service_type.to_string(),
                interface: *interface,
            }),
            _ => return None,
        },
        _ => return None,
    };
    Some(line)
}

// ---- the command line

/// The name under which all types are found (RFC 6763 §9).
const ALL_TYPES: &str = "_services._dns-sd._udp";

pub(crate) fn run(args: &MdnsArgs) -> Result<(), Failure> {
    let action = args.action().map_err(Failure::usage)?;
    logger::start(0);
    let as_json = args.json;
    let show = move |event: &NodeEvent| match as_json {
        true => event_line(event),
        false => text_line(event),
    };
    let running = start(show)?;
    let mdns = running.node.mdns();
    let done = match action {
        MdnsAction::Browse(None) => mdns.browse_types().wait().map(drop),
        MdnsAction::Browse(Some(service_type)) => mdns.browse(service_type).wait().map(drop),
        MdnsAction::Register(service) => mdns.register(service).wait().map(drop),
    };
    done.map_err(|error| match error {
        MdnsFailure::Refused(error) => Failure::usage(error),
        error => Failure::new(error),
    })?;
    running.run(
        args.seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
    )
}

/// A node that nobody can connect to, and what it prints.
struct Running {
    node: Node,
    output: Output,
    ended: mpsc::Receiver<Cause>,
}

fn start(
    show: impl Fn(&NodeEvent) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Result<Running, Failure> {
    let (end, ended) = mpsc::channel();
    node::watch_signals(end.clone())?;
    let on_closed = move || {
        let _ = end.send(Cause::OutputClosed);
    };
    let lost_line = |count| format!("{count} lines were dropped\n").into_bytes();
    let output = Output::start(io::stdout(), lost_line, on_closed).map_err(Failure::new)?;
    let node = Node::builder().start().map_err(Failure::new)?;
    let to_output = output.clone();
    node.on_event(move |event| {
        if let Some(line) = show(event) {
            let _ = to_output.offer(&line);
        }
    });
    Ok(Running {
        node,
        output,
        ended,
    })
}

impl Running {
    /// Until a signal comes, nobody reads any more, or the time is over.
    fn run(self, time: Option<Duration>) -> Result<(), Failure> {
        // Whichever of the three it is, the end is the same.
        let _ = match time {
            None => self.ended.recv().ok(),
            Some(time) => self.ended.recv_timeout(time).ok(),
        };
        self.output.prepare_to_end(OUTPUT_PATIENCE);
        self.node.stop(STOP_DEADLINE);
        let _ = self.output.finish(b"", OUTPUT_PATIENCE);
        Ok(())
    }
}

fn text_line(event: &NodeEvent) -> Option<Vec<u8>> {
    let NodeEvent::Mdns(event) = event else {
        return None;
    };
    let line = match event {
        MdnsEvent::Found(found) => format!("+ {}", describe(found)),
        MdnsEvent::Updated(found) => format!("~ {}", describe(found)),
        MdnsEvent::Lost {
            instance,
            service_type,
            interface,
        } => format!("- {} {service_type} on {interface}", harmless(instance)),
        MdnsEvent::TypeFound {
            service_type,
            interface,
        } => format!("+ {} on {interface}", harmless(&service_type.to_string())),
        MdnsEvent::Registered { instance, .. } => format!("registered {}", harmless(instance)),
        MdnsEvent::Renamed { old, new, .. } => {
            format!("{} is taken, now {}", harmless(old), harmless(new))
        }
        _ => return None,
    };
    Some((line + "\n").into_bytes())
}

fn describe(found: &MdnsFound) -> String {
    let addrs: Vec<String> = found.addrs.iter().map(ToString::to_string).collect();
    let txt: Vec<String> = entries(&found.txt)
        .into_iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key,
        })
        .collect();
    let text = format!(
        "{} {} on {}: {} port {}, {} [{}]",
        found.instance,
        found.service_type,
        found.interface,
        found.host,
        found.port,
        addrs.join(" "),
        txt.join(" ")
    );
    harmless(&text)
}

/// Text of strangers, for a terminal.
fn harmless(text: &str) -> String {
    let shown = |character: char| {
        if is_harmful(character) {
            '?'
        } else {
            character
        }
    };
    text.chars().map(shown).collect()
}
