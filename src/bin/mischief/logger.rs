//! Diagnostics on stderr.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};
use mischief::terminal::shown;

/// The longest message that is printed whole, in characters.
const MESSAGE_CHARS_MAX: usize = 2000;

struct Stderr;

/// Sends the library's diagnostics to stderr: warnings and errors, with `verbose` 1 what goes on, with 2 or more all.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    // Fails only if somebody else was first, and then there is one already.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let kind = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            say(kind, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Writes one diagnostic line. Text from peers may be in it, so nothing harmful gets through.
pub(crate) fn say(kind: &str, message: &str) {
    // Nobody can be told if stderr is closed.
    let _ = writeln!(
        std::io::stderr(),
        "mischief: {kind}: {}",
        shown(message, MESSAGE_CHARS_MAX)
    );
}
