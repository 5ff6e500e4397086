//! What waiting was like: quantiles, of h2load's own log.

/// The value below which a share of the values lies (nearest rank); NaN of none. Sorts them.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// Milliseconds of each request in a log of h2load: start, status and microseconds, separated by tabs.
pub(super) fn milliseconds(log: &str) -> Vec<f64> {
    let micros = log.lines().filter_map(|line| line.split('\t').nth(2)?.trim().parse::<f64>().ok());
    micros.map(|micros| micros / 1e3).collect()
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, quantile};

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), 100.0);
        assert_eq!(quantile(&mut values, 0.99), 198.0);
        assert_eq!(quantile(&mut [7.0], 0.99), 7.0);
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn a_log_is_read() {
        assert_eq!(milliseconds("1795805603498246\t200\t1176\n1795805603498241\t200\t250\n"), [1.176, 0.25]);
    }
}
