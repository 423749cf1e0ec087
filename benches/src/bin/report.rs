//! Turns what the programs printed into `results.json`, and `results.json` into what people read.
//!
//!     report collect FILE…    writes results.json from lines of JSON, and then everything else
//!     report write            writes RESULTS.md, the plots and the README's table from results.json
//!     report check            says what is wrong with results.json, or not up to date with it
//!
//! `--machine KEY=VALUE` and `--version KEY=VALUE` add members.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mischief_benches::report::{plots, readme_table, results_md, with_table};
use mischief_benches::results::{Results, Row};
use serde_json::Value;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("collect") => collect(&args[1..]).and_then(|()| write()),
        Some("write") => write(),
        Some("check") => check(),
        _ => Err("report collect FILE… | report write | report check".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn folder() -> PathBuf {
    std::env::var_os("MISCHIEF_BENCHES")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn put(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn collect(args: &[String]) -> Result<(), String> {
    let mut results = Results::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let members = match arg.as_str() {
            "--machine" => &mut results.machine,
            "--version" => &mut results.versions,
            path => {
                let rows = read(Path::new(path))?;
                let rows = rows
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok());
                results.rows.extend(rows.filter_map(|row| Row::read(&row)));
                continue;
            }
        };
        let (name, value) = args
            .next()
            .and_then(|pair| pair.split_once('='))
            .ok_or("KEY=VALUE is missing")?;
        let number = value.parse::<u64>().map(Value::from);
        members.insert(name.to_owned(), number.unwrap_or_else(|_| value.into()));
    }
    put(&folder().join("results.json"), &results.to_text())
}

fn results() -> Result<Results, String> {
    let path = folder().join("results.json");
    Results::read(&read(&path)?).map_err(|error| format!("{}: {error}", path.display()))
}

/// Everything that follows from the results: where it belongs, and its text.
fn derived(results: &Results) -> Result<Vec<(PathBuf, String)>, String> {
    let folder = folder();
    let mut files = vec![(folder.join("RESULTS.md"), results_md(results))];
    for (name, text) in plots(results) {
        files.push((folder.join("plots").join(name), text));
    }
    let readme = folder.join("../README.md");
    if let Some(text) = with_table(&read(&readme)?, &readme_table(results)) {
        files.push((readme, text));
    }
    Ok(files)
}

fn write() -> Result<(), String> {
    std::fs::create_dir_all(folder().join("plots")).map_err(|error| error.to_string())?;
    let results = results()?;
    for (path, text) in derived(&results)? {
        put(&path, &text)?;
    }
    let faults = results.faults();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("\n"))
    }
}

fn check() -> Result<(), String> {
    let results = results()?;
    let mut faults = results.faults();
    for (path, text) in derived(&results)? {
        if read(&path).ok().as_deref() != Some(&text) {
            faults.push(format!(
                "{}: is not made from these results",
                path.display()
            ));
        }
    }
    if faults.is_empty() {
        println!(
            "{} rows, all that have to be there, and all that follows is up to date",
            results.rows.len()
        );
        return Ok(());
    }
    Err(faults.join("\n"))
}
