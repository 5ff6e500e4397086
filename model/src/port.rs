//! Port ranges, as redirection rules and filter chains name them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An inclusive range of TCP ports, `1..=65535`, written `8080` or `8000-8099`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is not a [`PortRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPortRange {
    /// Not a number from 1 to 65535.
    #[error("\"{0}\" is not a port (1 to 65535)")]
    Port(String),
    /// The range ends before it begins.
    #[error("port range {first}-{last} ends before it begins")]
    Reversed {
        /// The first port as given.
        first: u16,
        /// The last port as given.
        last: u16,
    },
}

impl PortRange {
    /// The range `first..=last`.
    ///
    /// # Errors
    /// Port 0, or `last` below `first`.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidPortRange> {
        if first == 0 {
            return Err(InvalidPortRange::Port("0".into()));
        }
        if last < first {
            return Err(InvalidPortRange::Reversed { first, last });
        }
        Ok(Self { first, last })
    }

    /// The lowest port of the range.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port of the range.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |part: &str| match part.parse::<u16>() {
            Ok(port) if port > 0 && part.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
            _ => Err(InvalidPortRange::Port(part.to_owned())),
        };
        let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
        Self::new(port(first)?, port(last)?)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_single_ports_and_ranges() {
        assert_eq!("80".parse(), PortRange::new(80, 80));
        assert_eq!("8000-8099".parse(), PortRange::new(8000, 8099));
        assert_eq!("8000:8099".parse(), PortRange::new(8000, 8099));
    }

    #[test]
    fn refuses_what_is_no_port() {
        for text in ["", "0", "65536", "+1", "-1", "a", "1-", "9-8", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?} was accepted");
        }
    }
}
