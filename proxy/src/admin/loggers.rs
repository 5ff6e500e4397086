//! Log levels, read and set at run time.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Targets that have a level of their own, at most.
const TARGETS: usize = 64;

/// Why a level was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLevel {
    /// No such level.
    #[error("\"{0}\" is no level: trace, debug, info, warn, error or off")]
    Level(String),
    /// Not a module path.
    #[error("\"{0}\" is no target, such as remora_proxy::tls")]
    Target(String),
    /// Too many targets.
    #[error("more than {TARGETS} targets have levels of their own")]
    TooMany,
    /// The subscriber is gone, or refuses the filter.
    #[error("cannot be set: {0}")]
    Refused(String),
}

/// A level, as `tracing` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(&'static str);

impl FromStr for Level {
    type Err = InvalidLevel;

    /// Takes Envoy's `warning` and `critical` too.
    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        let level = match text.to_ascii_lowercase().as_str() {
            "trace" => "trace",
            "debug" => "debug",
            "info" => "info",
            "warn" | "warning" => "warn",
            "error" | "critical" => "error",
            "off" => "off",
            _ => return Err(InvalidLevel::Level(text.to_owned())),
        };
        Ok(Self(level))
    }
}

type Set = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The levels in force, and the way to change them.
pub struct Loggers {
    levels: Mutex<Levels>,
    set: Set,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Levels {
    /// Of every target without one of its own.
    default: Level,
    targets: BTreeMap<String, Level>,
    /// Directives for spans and fields, kept as they were given.
    others: Vec<String>,
}

impl Loggers {
    /// Levels that begin as `filter` says (the syntax of `tracing_subscriber::EnvFilter`), changed by `set`.
    ///
    /// # Errors
    /// `filter` cannot be parsed.
    pub fn new(
        filter: &str,
        set: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self, InvalidLevel> {
        Ok(Self { levels: Mutex::new(filter.parse()?), set: Box::new(set) })
    }

    /// Installs the process's log: text or JSON lines on standard error, filtered as `filter` says.
    ///
    /// # Errors
    /// `filter` cannot be parsed, or a log is installed already.
    pub fn install(filter: &str, json: bool) -> Result<Self, InvalidLevel> {
        let levels: Levels = filter.parse()?;
        let (layer, handle) = reload::Layer::new(levels.filter()?);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(super::lines::Lines::start().map_err(|error| InvalidLevel::Refused(error.to_string()))?)
            .with_ansi(false);
        let registry = tracing_subscriber::registry().with(layer);
        let installed = if json { registry.with(lines.json()).try_init() } else { registry.with(lines).try_init() };
        installed.map_err(|error: TryInitError| InvalidLevel::Refused(error.to_string()))?;
        Self::new(filter, move |filter| handle.reload(filter).map_err(|error| error.to_string()))
    }

    /// Sets the level of everything, as Envoy's `/logging?level=` does.
    ///
    /// # Errors
    /// No such level, or the log refuses it.
    pub fn set_all(&self, level: &str) -> Result<(), InvalidLevel> {
        let level = level.parse()?;
        self.change(|levels| {
            levels.default = level;
            levels.targets.clear();
            Ok(())
        })
    }

    /// Sets the level of one target and what is below it, such as `remora_proxy::tls`.
    ///
    /// # Errors
    /// No such level, no possible target, too many targets, or the log refuses it.
    pub fn set_target(&self, target: &str, level: &str) -> Result<(), InvalidLevel> {
        let level = level.parse()?;
        if !is_target(target) {
            return Err(InvalidLevel::Target(target.to_owned()));
        }
        self.change(|levels| {
            levels.targets.insert(target.to_owned(), level);
            if levels.targets.len() > TARGETS { Err(InvalidLevel::TooMany) } else { Ok(()) }
        })
    }

    fn change(&self, change: impl FnOnce(&mut Levels) -> Result<(), InvalidLevel>) -> Result<(), InvalidLevel> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = levels.clone();
        change(&mut changed)?;
        (self.set)(changed.filter()?).map_err(InvalidLevel::Refused)?;
        *levels = changed;
        Ok(())
    }
}

/// One line a target, the default first.
impl fmt::Display for Loggers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(f, "default: {}", levels.default.0)?;
        levels.targets.iter().try_for_each(|(target, level)| writeln!(f, "{target}: {}", level.0))?;
        levels.others.iter().try_for_each(|other| writeln!(f, "{other}"))
    }
}

fn is_target(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b'.');
    !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed)
}

impl FromStr for Levels {
    type Err = InvalidLevel;

    fn from_str(filter: &str) -> Result<Self, InvalidLevel> {
        let mut levels = Self { default: Level("error"), targets: BTreeMap::new(), others: Vec::new() };
        for directive in filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            match directive.split_once('=') {
                Some((target, level)) if is_target(target) => {
                    levels.targets.insert(target.to_owned(), level.parse()?);
                }
                None => match directive.parse() {
                    Ok(level) => levels.default = level,
                    Err(_) if is_target(directive) && directive.contains("::") => {
                        levels.targets.insert(directive.to_owned(), Level("trace"));
                    }
                    Err(error) => return Err(error),
                },
                Some(_) => levels.others.push(directive.to_owned()),
            }
        }
        levels.filter()?;
        Ok(levels)
    }
}

impl Levels {
    fn filter(&self) -> Result<EnvFilter, InvalidLevel> {
        let targets = self.targets.iter().map(|(target, level)| format!("{target}={}", level.0));
        let directives: Vec<String> =
            [self.default.0.to_owned()].into_iter().chain(targets).chain(self.others.iter().cloned()).collect();
        EnvFilter::builder().parse(directives.join(",")).map_err(|error| InvalidLevel::Refused(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Loggers, and the filter they set last.
    fn loggers(filter: &str) -> (Loggers, Arc<Mutex<String>>) {
        let last = Arc::new(Mutex::new(String::new()));
        let set = Arc::clone(&last);
        let loggers = Loggers::new(filter, move |filter| {
            *set.lock().unwrap() = filter.to_string();
            Ok(())
        });
        (loggers.unwrap(), last)
    }

    #[test]
    fn levels_are_listed_and_set() {
        let (loggers, last) = loggers("info,h2=warn");
        assert_eq!(loggers.to_string(), "default: info\nh2: warn\n");
        loggers.set_target("remora_proxy::tls", "TRACE").unwrap();
        assert_eq!(loggers.to_string(), "default: info\nh2: warn\nremora_proxy::tls: trace\n");
        assert!(last.lock().unwrap().contains("remora_proxy::tls=trace"), "{last:?}");
        loggers.set_all("warning").unwrap();
        assert_eq!(loggers.to_string(), "default: warn\n");
        assert_eq!(*last.lock().unwrap(), "warn");
    }

    #[test]
    fn nonsense_changes_nothing() {
        let (loggers, last) = loggers("info");
        assert_eq!(loggers.set_all("loud"), Err(InvalidLevel::Level("loud".into())));
        assert_eq!(loggers.set_target("a,b", "info"), Err(InvalidLevel::Target("a,b".into())));
        assert_eq!(loggers.set_target("", "info"), Err(InvalidLevel::Target(String::new())));
        assert_eq!((loggers.to_string().as_str(), last.lock().unwrap().as_str()), ("default: info\n", ""));
        assert!("loud".parse::<Levels>().is_err());
    }

    #[test]
    fn targets_are_bounded() {
        let (loggers, _) = loggers("info");
        for n in 0..TARGETS {
            loggers.set_target(&format!("target{n}"), "debug").unwrap();
        }
        assert_eq!(loggers.set_target("one_more", "debug"), Err(InvalidLevel::TooMany));
        loggers.set_target("target0", "info").unwrap();
    }
}
