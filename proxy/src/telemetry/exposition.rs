//! The registry's counts as text: Prometheus' exposition format 0.0.4, and plain `name: value` pairs.

mod gather;

use std::fmt::{self, Write};

pub(crate) use gather::gather;

/// A series' value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A measure, such as seconds.
    Measure(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Measure(measure) => measure.fmt(f),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric and its series, by their labels as written.
#[derive(Debug)]
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Suffix, labels without braces, value; a histogram's buckets in order of their bounds.
    series: Vec<(&'static str, String, Value)>,
}

/// Writes a label's value as Prometheus wants it quoted.
pub(crate) fn label(into: &mut String, name: &str, value: &str) {
    if !into.is_empty() {
        into.push(',');
    }
    into.push_str(name);
    into.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            c => into.push(c),
        }
    }
    into.push('"');
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        label(&mut text, name, value);
    }
    text
}

pub(crate) fn family(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    series: Vec<(&'static str, String, Value)>,
) -> Family {
    Family { name, help, kind, series }
}

impl Family {
    /// A metric of one series without labels.
    pub(crate) fn single(name: &'static str, help: &'static str, kind: Kind, value: Value) -> Self {
        family(name, help, kind, vec![("", String::new(), value)])
    }
}

/// Prometheus' text format; metrics without series are left out.
pub(crate) fn prometheus(families: &[Family]) -> String {
    let mut text = String::with_capacity(16 * 1024);
    for family in families.iter().filter(|family| !family.series.is_empty()) {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name);
        for (suffix, labels, value) in &family.series {
            let _ = match labels.is_empty() {
                true => writeln!(text, "{}{suffix} {value}", family.name),
                false => writeln!(text, "{}{suffix}{{{labels}}} {value}", family.name),
            };
        }
    }
    text
}

/// Every series by its full name; sorted by metric, a histogram's buckets in order of their bounds.
pub(crate) fn stats(families: &[Family]) -> Vec<(String, Value)> {
    let mut families: Vec<_> = families.iter().collect();
    families.sort_by_key(|family| family.name);
    families
        .into_iter()
        .flat_map(|family| {
            family.series.iter().map(|(suffix, labels, value)| match labels.is_empty() {
                true => (format!("{}{suffix}", family.name), *value),
                false => (format!("{}{suffix}{{{labels}}}", family.name), *value),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
