//! Load tools: by their own account every request must be answered, and well; h2load's and nghttp's figures are those without sidecars.

use crate::course::{Course, Way};
use crate::peers::peers;
use crate::report::Report;

struct Tool {
    case: &'static str,
    /// Program, arguments, and the path that is asked for.
    command: &'static [&'static str],
    /// What it says, and how often.
    says: (&'static str, usize),
    /// What it must not say.
    silent: &'static [&'static str],
}

const TOOLS: [Tool; 6] = [
    Tool {
        case: "nghttp, 50 streams at once",
        command: &["nghttp", "-nv", "-m", "50", "/bytes/20000"],
        says: (":status: 200", 50),
        silent: &["RST_STREAM", "[ERROR]"],
    },
    Tool {
        case: "h2load, HTTP/1.1",
        command: &["h2load", "--h1", "-n", "800", "-c", "8", "/name"],
        says: ("status codes: 800 2xx, 0 3xx, 0 4xx, 0 5xx", 1),
        silent: &[],
    },
    Tool {
        case: "h2load, HTTP/2",
        command: &["h2load", "-n", "4000", "-c", "8", "-m", "40", "/name"],
        says: ("status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx", 1),
        silent: &[],
    },
    Tool {
        case: "h2load, HTTP/2 in small windows",
        command: &["h2load", "-n", "400", "-c", "2", "-m", "20", "-w", "10", "-W", "12", "/bytes/20000"],
        says: ("status codes: 400 2xx, 0 3xx, 0 4xx, 0 5xx", 1),
        silent: &[],
    },
    Tool {
        case: "h2load, uploads",
        command: &["h2load", "-n", "200", "-c", "4", "-m", "10", "-d", env!("CARGO_MANIFEST_PATH"), "/echo"],
        says: ("status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx", 1),
        silent: &[],
    },
    Tool {
        case: "wrk, 16 connections",
        command: &["wrk", "-d", "2s", "-c", "16", "-t", "2", "--timeout", "30s", "/name"],
        says: ("requests in", 1),
        silent: &["Non-2xx", "Socket errors"],
    },
];

impl Tool {
    /// As they are directly, `direct`, the figures of what it says must be; these are the answer.
    fn judge(&self, course: &Course, direct: Option<&[String]>) -> Result<Vec<String>, String> {
        let [program, arguments @ .., path] = self.command else { unreachable!("each has a path") };
        let mut command = course.client.command(program);
        command.args(arguments).arg(format!("http://{}{path}", course.to));
        let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        let (said, times) = self.says;
        let wrong = text.matches(said).count() != times || self.silent.iter().any(|word| text.contains(word));
        let figures = figures(&text);
        let differs = direct.is_some_and(|direct| direct != figures);
        if wrong || differs || !output.status.success() {
            return Err(format!("{}: {text}; directly {direct:?}", output.status));
        }
        Ok(figures)
    }
}

/// What does not depend on time: how requests ended, and the bytes of all bodies, by h2load; by nghttp each answer's status and length.
fn figures(text: &str) -> Vec<String> {
    let figure = |line: &str| match line.split_once(": ") {
        Some(("requests" | "status codes", _)) => Some(line.to_owned()),
        Some(("traffic", sizes)) => sizes.rsplit_once('(').map(|(_, data)| data.to_owned()),
        _ => [":status: ", "content-length: "].iter().find_map(|name| line.find(name)).map(|at| line[at..].to_owned()),
    };
    let mut figures: Vec<_> = text.lines().filter_map(figure).collect();
    figures.sort();
    figures
}

#[test]
fn tools() {
    let Some([]) = peers("load tools", []) else { return };
    let course = Course::peer(Way::Direct);
    let direct = TOOLS.each_ref().map(|tool| tool.judge(&course, None).unwrap());
    drop(course);
    assert_eq!(direct.each_ref().map(Vec::len), [100, 3, 3, 3, 3, 0], "{direct:?}");
    Way::both(|way| {
        let course = Course::peer(way);
        let mut report = Report::new("load tools", "Debian's", way);
        for (tool, direct) in TOOLS.iter().zip(&direct) {
            report.case(tool.case, tool.judge(&course, Some(direct)).map(drop));
        }
        report.conclude();
    });
}
