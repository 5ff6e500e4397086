//! slowhttptest: clients that take their time are ended by the proxy's limits, and others are served meanwhile.

use remora_test::process::Process;
use remora_test::sidecar::ask;

use crate::course::{Course, Way};
use crate::peers::peers;
use crate::report::Report;

/// Far below the defaults, so that it is over soon.
const LIMITS: &str = "limits: {header_timeout: 2s, stream_idle: 2s}";
/// Connections of one attack.
const COUNT: usize = 20;

struct Attack {
    case: &'static str,
    arguments: &'static [&'static str],
    path: &'static str,
    /// How requests are counted that the proxy ended.
    flag: Option<&'static str>,
    /// Whether the tool sees that it is over. Who does not read sees nothing of it: what was sent before is the kernel's, not the
    /// proxy's.
    sees: bool,
}

const ATTACKS: [Attack; 4] = [
    Attack { case: "slow headers", arguments: &["-H", "-i", "1"], path: "/name", flag: Some("DPE"), sees: true },
    Attack {
        case: "slow body",
        arguments: &["-B", "-i", "8", "-s", "8192"],
        path: "/delay/60000",
        flag: Some("SI"),
        sees: true,
    },
    Attack {
        case: "slow read",
        arguments: &["-X", "-n", "8", "-z", "32", "-w", "10", "-y", "20"],
        path: "/bytes/3000000",
        flag: Some("SI"),
        sees: false,
    },
    Attack { case: "ranges", arguments: &["-R", "-t", "HEAD"], path: "/name", flag: None, sees: true },
];

impl Attack {
    /// Lets the tool attack, and asks what anybody asks until it is done.
    fn judge(&self, course: &Course) -> Result<(), String> {
        let ended = || {
            let flag = self.flag?;
            Some(course.nearest().metric("remora_requests_total", &[("flag", flag)]))
        };
        let before = ended();
        let mut command = course.client.command("slowhttptest");
        command.args(["-c", &COUNT.to_string(), "-r", "50", "-l", "12", "-p", "30"]).args(self.arguments);
        command.args(["-u", &format!("http://{}{}", course.to, self.path)]);
        let mut attack = Process::start("slowhttptest", &course.file("slowhttptest.log"), &mut command);
        while attack.ended().is_none() {
            match ask(&course.client, course.to, "GET", "/name") {
                Some(answer) if answer.code == 200 => {}
                other => return Err(format!("somebody else was told {other:?}")),
            }
        }
        let said = attack.stdout();
        let over = !self.sees || said.contains("No open connections left");
        let counted = ended().zip(before).is_none_or(|(after, before)| after - before >= COUNT as f64);
        if over && counted { Ok(()) } else { Err(format!("counted: {counted}; {said}")) }
    }
}

#[test]
fn slowhttptest() {
    let Some([]) = peers("slowhttptest", []) else { return };
    Way::both(|way| {
        let course = Course::peer_with(way, LIMITS);
        let mut report = Report::new("slowhttptest", "Debian's", way);
        for attack in &ATTACKS {
            report.case(attack.case, attack.judge(&course));
        }
        report.conclude();
    });
}
