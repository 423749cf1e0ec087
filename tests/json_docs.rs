//! `docs/json.md` is the contract of the JSON interface. Here it is compared with the code, both ways.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mischief::json::{COMMANDS, DISCONNECT_REASONS, EVENTS, ErrorKind, parse};
use serde_json::{Map, Value};

/// A section of the document that starts with `### `: its heading, and the lines of its `json` block.
struct Section {
    heading: String,
    examples: Vec<Map<String, Value>>,
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    fs::read_to_string(path).expect("the document is there")
}

/// The `###` sections of the part that starts with `## part`.
fn sections(part: &str) -> Vec<Section> {
    let document = document();
    let start = format!("\n## {part}\n");
    let (_, part) = document.split_once(&start).expect("the part is there");
    let part = part
        .split("\n## ")
        .next()
        .expect("a split has a first piece");
    let mut sections: Vec<Section> = Vec::new();
    let mut is_example = false;
    for line in part.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            sections.push(Section {
                heading: heading.to_owned(),
                examples: Vec::new(),
            });
        } else if line.starts_with("```") {
            is_example = line == "```json";
        } else if is_example {
            let Ok(Value::Object(example)) = serde_json::from_str(line) else {
                panic!("an example is no JSON object: {line}");
            };
            let section = sections.last_mut().expect("examples stand below a heading");
            section.examples.push(example);
        }
    }
    sections
}

#[test]
fn every_command_is_documented_and_every_documented_command_is_there() {
    let headings: Vec<String> = sections("Commands")
        .into_iter()
        .map(|section| section.heading)
        .collect();
    let want: Vec<String> = COMMANDS
        .iter()
        .map(|shape| {
            let optional = shape.optional.iter().map(|name| format!("{name}?"));
            let members = shape
                .required
                .iter()
                .map(|name| (*name).to_owned())
                .chain(optional);
            let members = members.collect::<Vec<_>>().join(", ");
            let answers: Vec<String> = shape
                .answers
                .iter()
                .map(|members| format!("`{{{}}}`", members.join(", ")))
                .collect();
            format!("`{} {{{members}}}` → {}", shape.name, answers.join(" or "))
        })
        .collect();
    assert_eq!(headings, want);
}

#[test]
fn every_example_of_a_command_is_accepted_and_answered_as_documented() {
    for (section, shape) in sections("Commands").iter().zip(COMMANDS) {
        assert!(
            !section.examples.is_empty() && section.examples.len() % 2 == 0,
            "{}",
            section.heading
        );
        for pair in section.examples.chunks(2) {
            let (request, answer) = (&pair[0], &pair[1]);
            let line = Value::Object(request.clone()).to_string();
            let parsed = parse(line.as_bytes()).expect("an example is not blank");
            assert!(parsed.command.is_ok(), "{line}: {:?}", parsed.command);
            assert_eq!(request["cmd"], shape.name, "{}", section.heading);
            assert_eq!(request["id"], answer["id"], "{}", section.heading);
            assert_eq!(answer["ok"], true, "{}", section.heading);
            let members: Vec<&str> = answer
                .keys()
                .map(String::as_str)
                .filter(|name| !["id", "ok"].contains(name))
                .collect();
            let is_documented = shape.answers.iter().any(|answer| is_same(answer, &members));
            assert!(is_documented, "{}: {members:?}", section.heading);
        }
    }
}

#[test]
fn every_event_is_documented_and_every_documented_event_is_there() {
    let sections = sections("Events");
    let headings: Vec<&str> = sections
        .iter()
        .map(|section| section.heading.as_str())
        .collect();
    let want: Vec<String> = EVENTS
        .iter()
        .map(|shape| format!("`{} {{{}}}`", shape.name, shape.members.join(", ")))
        .collect();
    assert_eq!(headings, want);
    for (section, shape) in sections.iter().zip(EVENTS) {
        assert!(
            !section.examples.is_empty(),
            "{} has no example",
            section.heading
        );
        for example in &section.examples {
            assert_eq!(example["event"], shape.name);
            let members: Vec<&str> = example
                .keys()
                .map(String::as_str)
                .filter(|name| *name != "event")
                .collect();
            assert!(
                is_same(shape.members, &members),
                "{}: {members:?}",
                section.heading
            );
        }
    }
}

#[test]
fn every_kind_of_error_is_documented_and_every_documented_kind_is_there() {
    let document = document();
    let (_, table) = document
        .split_once("\n## Kinds of errors\n")
        .expect("the part is there");
    let (table, reasons) = table
        .split_once("\n## Reasons of `peer_disconnected`\n")
        .expect("the part is there");
    let documented: Vec<&str> = first_column(table);
    let want: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(documented, want);
    assert_eq!(first_column(reasons), DISCONNECT_REASONS);
}

fn first_column(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect()
}

fn is_same(left: &[&str], right: &[&str]) -> bool {
    left.iter().collect::<BTreeSet<_>>() == right.iter().collect::<BTreeSet<_>>()
}
