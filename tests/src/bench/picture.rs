//! Results as pictures (SVG), plain enough to be read as text.

use std::fmt::Write as _;

/// Some bars that are compared with each other.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Stands above them.
    pub(super) title: String,
    /// Label and value.
    pub(super) bars: Vec<(String, f64)>,
}

/// A title, and curves by name that share a scale.
pub(super) type Panel = (String, Vec<(String, Vec<(f64, f64)>)>);

const WIDTH: f64 = 720.0;
const LABEL: f64 = 90.0;
const VALUE: f64 = 70.0;
const BAR: f64 = 18.0;

/// Horizontal bars, each group on a scale of its own; the first bar of each is coloured.
pub(super) fn bars(title: &str, groups: &[Group]) -> String {
    let mut text = String::new();
    let mut y = 40.0;
    for group in groups {
        let most = group.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        label(&mut text, 10.0, y + 14.0, "bold", &group.title);
        y += 22.0;
        for (at, (name, value)) in group.bars.iter().enumerate() {
            let width = (WIDTH - LABEL - VALUE) * value / most;
            let colour = if at == 0 { "#e4572e" } else { "#8d99ae" };
            let _ = writeln!(
                text,
                r#"<rect x="{LABEL}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"/>"#,
                BAR - 3.0
            );
            label(&mut text, 10.0, y + 12.0, "normal", name);
            label(&mut text, LABEL + width + 6.0, y + 12.0, "normal", &shown(*value));
            y += BAR;
        }
        y += 12.0;
    }
    framed(title, y, &text)
}

/// One curve each through points with a logarithmic scale across, all curves of a panel on one scale upwards that begins at 0.
pub(super) fn curves(title: &str, panels: &[Panel]) -> String {
    const HEIGHT: f64 = 180.0;
    const COLOURS: [&str; 4] = ["#e4572e", "#8d99ae", "#2a9d8f", "#6d597a"];
    let mut text = String::new();
    let mut top = 40.0;
    for (name, lines) in panels {
        let points = || lines.iter().flat_map(|(_, points)| points);
        let most = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
        let last = points().map(|(x, _)| x.ln()).fold(f64::MIN_POSITIVE, f64::max);
        let place = |(x, y): &(f64, f64)| {
            let across = LABEL + (WIDTH - LABEL - VALUE) * x.ln() / last;
            (across, top + 30.0 + HEIGHT * (1.0 - y / most))
        };
        label(&mut text, 10.0, top + 14.0, "bold", name);
        label(&mut text, 10.0, top + 34.0, "normal", &shown(most));
        label(&mut text, 10.0, top + 30.0 + HEIGHT, "normal", "0");
        for (at, (name, points)) in lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let path: Vec<_> = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let path = path.join(" ");
            let _ = writeln!(text, r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
            if let Some((x, y)) = points.last().map(place) {
                label(&mut text, x + 6.0, y + 4.0, "normal", name);
            }
            for point in points {
                let (x, y) = place(point);
                let _ = writeln!(text, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#);
                if at == 0 {
                    label(&mut text, x - 8.0, top + 46.0 + HEIGHT, "normal", &shown(point.0));
                }
            }
        }
        top += HEIGHT + 66.0;
    }
    framed(title, top, &text)
}

fn framed(title: &str, height: f64, inside: &str) -> String {
    let mut heading = String::new();
    label(&mut heading, 10.0, 24.0, "bold", title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{heading}{inside}</svg>\n"
    )
}

fn label(text: &mut String, x: f64, y: f64, weight: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(text, r##"<text x="{x:.1}" y="{y:.1}" font-weight="{weight}" fill="#222222">{what}</text>"##);
}

/// As many digits as a reader wants.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == v.trunc() => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, bars, curves};

    /// Every element that is opened is closed, and text holds no mark-up.
    fn is_well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let Some((tag, text)) = part.split_once('>') else { return false };
            let name = tag.trim_matches('/').split_whitespace().next().unwrap_or_default();
            if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            if tag.matches('"').count() % 2 == 1 || text.replace("&amp;", "").replace("&lt;", "").contains('&') {
                return false;
            }
        }
        open.is_empty() && svg.starts_with("<svg ")
    }

    #[test]
    fn bars_are_well_formed_and_to_scale() {
        let bars_of = |values: [f64; 2]| vec![("a<b".to_owned(), values[0]), ("c & d".to_owned(), values[1])];
        let svg = bars("t", &[Group { title: "CPU".to_owned(), bars: bars_of([280.0, 560.0]) }]);
        assert!(is_well_formed(&svg), "{svg}");
        assert!(svg.contains(r#"width="280.0""#) && svg.contains(r#"width="560.0""#), "{svg}");
        assert!(svg.contains("a&lt;b"), "{svg}");
    }

    #[test]
    fn curves_are_well_formed_and_begin_at_their_axis() {
        let line = ("remora".to_owned(), vec![(1.0, 50.0), (10_000.0, 100.0)]);
        let svg = curves("t", &[("connections".to_owned(), vec![line])]);
        assert!(is_well_formed(&svg), "{svg}");
        assert!(svg.contains(r#"points="90.0,160.0 650.0,70.0""#), "{svg}");
    }
}
