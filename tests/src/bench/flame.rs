//! Where time goes: samples of `perf` folded by stack, and drawn as a flame graph (SVG).

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Samples by stack, outermost function first.
pub type Stacks = BTreeMap<Vec<String>, u64>;

const WIDTH: f64 = 1_200.0;
const ROW: f64 = 16.0;
/// What is narrower is not drawn.
const LEAST: f64 = 0.5;

/// Reads what `perf script` prints: a line that names the thread, then one for each frame, innermost first, then an empty one.
pub(super) fn folded(script: &str) -> Stacks {
    let mut stacks = Stacks::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.is_empty());
        let Some(thread) = lines.next().and_then(|head| head.split_whitespace().next()) else { continue };
        let mut stack: Vec<String> = lines.filter_map(function).collect();
        stack.push(thread.to_owned());
        stack.reverse();
        *stacks.entry(stack).or_default() += 1;
    }
    stacks
}

/// The function of a frame, `ADDRESS NAME+OFFSET (FILE)`, without Rust's hash.
fn function(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
    let name = name.rsplit_once("+0x").map_or(name, |(name, _)| name);
    let name = name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(name, |(name, _)| name);
    Some(name.to_owned())
}

/// A function and what it called.
#[derive(Debug, Default)]
struct Node {
    samples: u64,
    calls: BTreeMap<String, Self>,
}

/// Draws stacks, callers below; the width is the share of samples, and each frame tells its name and share on hovering.
#[must_use]
pub fn flame(title: &str, stacks: &Stacks) -> String {
    let mut root = Node::default();
    for (stack, samples) in stacks {
        root.samples += samples;
        let mut node = &mut root;
        for name in stack {
            node = node.calls.entry(name.clone()).or_default();
            node.samples += samples;
        }
    }
    // As high as the highest stack that is drawn.
    let height = ROW * depth(&root, root.samples.max(1)) as f64 + 40.0;
    let mut inside = String::new();
    let mut x = 0.0;
    for (name, node) in &root.calls {
        draw(&mut inside, name, node, (x, height - ROW - 4.0), root.samples);
        x += width(node, root.samples);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"8\" y=\"18\" font-size=\"14\">{}, {} samples</text>\n{inside}</svg>\n",
        escaped(title),
        root.samples
    )
}

fn width(node: &Node, all: u64) -> f64 {
    WIDTH * node.samples as f64 / all as f64
}

fn depth(node: &Node, all: u64) -> usize {
    let calls = node.calls.values().filter(|call| width(call, all) >= LEAST);
    calls.map(|call| 1 + depth(call, all)).max().unwrap_or(0)
}

fn draw(text: &mut String, name: &str, node: &Node, (x, y): (f64, f64), all: u64) {
    let width = width(node, all);
    if width < LEAST {
        return;
    }
    let share = 100.0 * node.samples as f64 / all as f64;
    // The same colour for the same function in every graph.
    let hash = name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let (green, blue) = (90 + hash % 120, hash / 128 % 60);
    let full = escaped(name);
    let _ = write!(
        text,
        r#"<g><title>{full} {share:.1} %</title><rect x="{x:.1}" y="{y:.0}" width="{width:.1}" height="{:.0}" fill="rgb(235,{green},{blue})"/>"#,
        ROW - 1.0
    );
    let letters = ((width - 4.0) / 6.7) as usize;
    if letters >= 3 {
        let short = escaped(&name.chars().take(letters).collect::<String>());
        let _ = write!(text, r#"<text x="{:.1}" y="{:.0}">{short}</text>"#, x + 2.0, y + 11.0);
    }
    text.push_str("</g>\n");
    let mut x = x;
    for (name, call) in &node.calls {
        draw(text, name, call, (x, y - ROW), all);
        x += WIDTH * call.samples as f64 / all as f64;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Stacks, flame, folded};

    const SCRIPT: &str = "worker-0 12 cpu-clock: \n\t55d0 proxy::serve::h0123456789abcdef+0x12 (/x/proxy)\n\t55c0 main+0x1 (/x/proxy)\n\n\
                          worker-0 12 cpu-clock: \n\tffff [unknown] ([kernel.kallsyms])\n\t55c0 main+0x1 (/x/proxy)\n\n\
                          worker-0 12 cpu-clock: \n\t55d0 proxy::serve::h0123456789abcdef+0x44 (/x/proxy)\n\t55c0 main+0x1 (/x/proxy)\n";

    fn stack(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn samples_are_folded_by_function() {
        let expected = Stacks::from([
            (stack(&["worker-0", "main", "proxy::serve"]), 2),
            (stack(&["worker-0", "main", "[unknown]"]), 1),
        ]);
        assert_eq!(folded(SCRIPT), expected);
    }

    #[test]
    fn widths_are_shares() {
        let svg = flame("a & b", &folded(SCRIPT));
        assert!(svg.contains("<title>proxy::serve 66.7 %</title>") && svg.contains(r#"width="800.0""#), "{svg}");
        assert!(svg.contains("a &amp; b, 3 samples"), "{svg}");
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
