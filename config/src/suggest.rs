//! "Did you mean": the known word closest to a mistyped one.

/// Longer words are not compared: the cost grows with the product of the lengths.
const MAX_LENGTH: usize = 64;
/// Of very many candidates only the first are compared.
const MAX_CANDIDATES: usize = 1000;

/// The candidate nearest to `word`, if it is near enough to be a slip of the hand (a third of its letters).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = letters(word)?;
    let allowed = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        .filter_map(|candidate| Some((distance(&word, &letters(candidate)?), candidate)))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Lower case with `-` and `_` alike, since these are slips too; `None`: too long to be one of ours.
fn letters(word: &str) -> Option<Vec<char>> {
    (word.len() <= MAX_LENGTH)
        .then(|| word.chars().flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect())
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitution = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitution.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_slip() {
        let known = ["endpoints", "dns", "identity", "drain_timeout", "api"];
        for (typed, meant) in [
            ("endpoins", Some("endpoints")),
            ("enpdoints", Some("endpoints")),
            ("Identity", Some("identity")),
            ("drain-timeout", Some("drain_timeout")),
            ("ap", Some("api")),
            ("dnsx", Some("dns")),
            ("weight", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn gives_up_on_long_words() {
        let long = "x".repeat(10_000);
        assert_eq!(nearest(&long, [long.as_str()]), None);
    }
}
