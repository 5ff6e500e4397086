//! What a request costs as work grows: one curve for each thing there can be more of. HTTP/1.1 with mTLS, Remora alone.

use std::path::Path;

use serde_json::{Value, json};

use super::picture::{Panel, curves};
use super::report::rounded;
use super::{Chain, Kind, Round, Scenario};

/// The most connections that are measured, where there are files for them.
pub const MOST: u32 = 10_000;

/// How much of everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Connections of the client at once.
    pub connections: u32,
    /// Endpoints of the entry that is used.
    pub endpoints: u32,
    /// Outbound entries; one is used.
    pub entries: u32,
    /// Of each sidecar.
    pub workers: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { connections: 32, endpoints: 1, entries: 1, workers: 2 }
    }
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Connections of the client, each with one request at a time.
    Connections,
    /// Endpoints of a cluster, all of one application.
    Endpoints,
    /// Outbound entries.
    Entries,
    /// Workers of each sidecar.
    Workers,
}

impl Growth {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Endpoints, Self::Entries, Self::Workers];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Endpoints => "endpoints",
            Self::Entries => "entries",
            Self::Workers => "workers",
        }
    }

    /// Where it is measured. A sidecar takes as many connections as half of the `files` that a process may open allow, less some for
    /// everything else: with fewer than 22,000 the last point of connections is lower than it should be.
    #[must_use]
    pub fn points(self, files: u64) -> Vec<u32> {
        let most = u32::try_from(files.saturating_sub(2_000) / 2).map_or(MOST, |most| most.min(MOST));
        match self {
            Self::Connections => {
                let fewer = [1, 10, 100, 1_000, 3_000].into_iter().filter(|count| *count < most);
                fewer.chain([most.max(1)]).collect()
            }
            Self::Endpoints | Self::Entries => vec![1, 10, 100, 1_000],
            Self::Workers => vec![1, 2],
        }
    }

    fn shape(self, count: u32) -> Shape {
        let mut shape = Shape::default();
        match self {
            Self::Connections => shape.connections = count,
            Self::Endpoints => shape.endpoints = count,
            Self::Entries => shape.entries = count,
            Self::Workers => shape.workers = count,
        }
        shape
    }

    /// Measures one point.
    ///
    /// # Panics
    /// When a request fails.
    #[must_use]
    pub fn measure(self, count: u32, seconds: f64) -> Round {
        // Envoy is not started.
        Chain::shaped(Kind::Remora, Scenario::H1Mtls, Path::new(""), self.shape(count)).steady(seconds)
    }
}

/// Points of every curve: how many, and what was measured.
pub type Curves = Vec<(Growth, Vec<(u32, Round)>)>;

/// The file for a program.
#[must_use]
pub fn scale_json(all: &Curves, seconds: f64) -> Value {
    let point = |(count, round): &(u32, Round)| {
        let values = round.iter().map(|(name, value)| (name.clone(), json!(rounded(*value))));
        let mut point: serde_json::Map<_, _> = values.collect();
        point.insert("count".to_owned(), json!(count));
        Value::Object(point)
    };
    let of = |points: &Vec<_>| Value::Array(points.iter().map(point).collect());
    let all: serde_json::Map<_, _> =
        all.iter().map(|(growth, points)| (growth.name().to_owned(), of(points))).collect();
    json!({ "what": "h1-mtls through two sidecars of Remora, one round a point; only one thing grows at a time", "seconds": seconds, "curves": all })
}

/// CPU and memory, as pictures.
#[must_use]
pub fn scale_picture(all: &Curves) -> String {
    let panels = all.iter().flat_map(|(growth, points)| {
        [("cpu_us_per_req", "CPU µs/request of both sidecars"), ("rss_load_mib", "RSS MiB of the larger sidecar")].map(
            |(value, title)| {
                let line = points.iter().filter_map(|(count, round)| Some((f64::from(*count), *round.get(value)?)));
                let panel: Panel = (format!("{title} by {}", growth.name()), vec![(String::new(), line.collect())]);
                panel
            },
        )
    });
    curves("Cost as work grows (h1-mtls)", &panels.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::{Growth, scale_json, scale_picture};

    #[test]
    fn connections_end_where_files_do() {
        let last = |files| Growth::Connections.points(files).pop();
        assert_eq!([20_000, 21_999, 22_000, u64::MAX].map(last), [9_000, 9_999, 10_000, 10_000].map(Some));
        assert_eq!(
            [256, 4_096].map(|files| Growth::Connections.points(files)),
            [vec![1], vec![1, 10, 100, 1_000, 1_048]]
        );
    }

    #[test]
    fn every_point_is_in_the_file_and_the_picture() {
        let point = |count, cpu| (count, [("cpu_us_per_req".to_owned(), cpu)].into());
        let all = vec![(Growth::Entries, vec![point(1, 40.0), point(1_000, 44.444_4)])];
        let json = scale_json(&all, 6.0);
        assert_eq!(json["curves"]["entries"][1], serde_json::json!({"count": 1_000, "cpu_us_per_req": 44.44}));
        assert_eq!(scale_picture(&all).matches("<circle").count(), 2);
    }
}
