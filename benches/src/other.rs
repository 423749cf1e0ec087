//! A second process of a measurement.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Another process, spoken to in lines. It ends when its input does.
pub struct Other {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Other {
    /// This very program with other arguments.
    pub fn start(args: &[&str]) -> Other {
        Other::spawn(
            Command::new(std::env::current_exe().expect("this program has a path")).args(args),
        )
    }

    /// Any program.
    pub fn spawn(command: &mut Command) -> Other {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let input = child.stdin.take();
        Other {
            child,
            input,
            output,
        }
    }

    /// Writes a line to its input.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is taken only at the end");
        writeln!(input, "{line}").expect("the other process lives");
    }

    /// Writes a line to its input and gives back the next of its output.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("the other process speaks UTF-8");
        line.trim().to_owned()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().expect("it was started");
    }
}
