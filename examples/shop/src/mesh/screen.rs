//! What a person sees: numbered sections, aligned columns, claims with a mark; colour and a moving last line only on a
//! terminal.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Standard output as the demo writes it.
pub struct Screen {
    terminal: bool,
    colour: bool,
    section: Cell<u32>,
    /// Whether the last line is one that the next line replaces.
    transient: Cell<bool>,
    started: Instant,
}

/// How a word looks on a terminal.
#[derive(Clone, Copy)]
enum Paint {
    Bold,
    Dim,
    Red,
    Green,
}

impl Screen {
    /// Standard output as it is now.
    #[must_use]
    pub fn current() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            section: Cell::new(0),
            transient: Cell::new(false),
            started: Instant::now(),
        }
    }

    /// Begins a section.
    pub fn title(&self, title: &str) {
        self.section.set(self.section.get() + 1);
        let number = self.section.get().to_string();
        self.line("");
        self.line(&format!("{}  {}", self.paint(Paint::Dim, &number), self.paint(Paint::Bold, title)));
    }

    /// What takes a while and is under way: on a terminal a line that the next one replaces.
    pub fn busy(&self, doing: &str) {
        if self.terminal {
            self.clear();
            let seconds = self.started.elapsed().as_secs();
            self.write(&format!("   {}", self.paint(Paint::Dim, &format!("… {doing} ({seconds} s)"))));
            self.transient.set(true);
        } else {
            self.line(&format!("   … {doing}"));
        }
    }

    /// How far something is, between `busy` and its result: on a terminal only.
    pub fn progress(&self, doing: &str) {
        if self.terminal {
            self.busy(doing);
        }
    }

    /// A claim that held.
    pub fn good(&self, claim: &str) {
        self.line(&format!("   {} {claim}", self.paint(Paint::Green, "✔")));
    }

    /// The end of a demo whose claims all held.
    pub fn finished(&self) {
        self.line("");
        self.line(&format!("   everything held, in {} s", self.started.elapsed().as_secs()));
    }

    /// Something worth knowing.
    pub fn note(&self, text: &str) {
        self.line(&format!("   {}", self.paint(Paint::Dim, text)));
    }

    /// One line as it is.
    pub fn plain(&self, text: &str) {
        self.line(&format!("   {text}"));
    }

    /// The claim that did not hold, or what made the demo impossible.
    pub fn failed(&self, error: &anyhow::Error) {
        self.clear();
        let mark = if self.colour { self.paint(Paint::Red, "✘") } else { "✘".to_owned() };
        drop(writeln!(std::io::stderr(), "   {mark} {error:#}"));
    }

    /// Rows under a heading, as wide as their widest cells; columns of numbers stand right.
    pub fn table(&self, heading: &[&str], rows: &[Vec<String>]) {
        let columns = heading.len();
        let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let numeric: Vec<bool> = (0..columns).map(|column| rows.iter().all(|row| is_number(&row[column]))).collect();
        let format = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).zip(&numeric).map(|((cell, width), numeric)| {
                let fill = " ".repeat(width - cell.chars().count());
                if *numeric { format!("{fill}{cell}") } else { format!("{cell}{fill}") }
            });
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        };
        let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
        self.line(&format!("   {}", self.paint(Paint::Dim, &format(&heading))));
        for row in rows {
            self.line(&format!("   {}", format(row)));
        }
    }

    fn line(&self, text: &str) {
        self.clear();
        self.write(&format!("{text}\n"));
    }

    /// That nobody reads any more (`| head`) is no reason to stop, and even less to stop without cleaning up.
    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }

    fn clear(&self) {
        if self.transient.replace(false) {
            self.write("\r\x1b[K");
        }
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Red => 31,
            Paint::Green => 32,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether a cell holds a quantity: a digit first, and nothing but digits, separators and a unit after it.
fn is_number(cell: &str) -> bool {
    let mut words = cell.split(' ');
    let first = words.next().unwrap_or_default();
    let quantity = cell == "-" || (first.starts_with(|c: char| c.is_ascii_digit()) && first.parse::<f64>().is_ok());
    quantity && words.all(|word| matches!(word, "%" | "ms" | "s" | "kB" | "B"))
}
