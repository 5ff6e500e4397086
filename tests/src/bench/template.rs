//! Configurations of peers: one text for all scenarios, with lines that only some of them keep.

/// Keeps what stands between `#if WORD...` and `#end` where all those words are given (they nest), and fills in `@NAME@`.
///
/// # Panics
/// On an `#end` too many, or a name that nothing fills.
pub(super) fn fill(template: &str, words: &[&str], values: &[(&str, String)]) -> String {
    let mut kept = vec![true];
    let mut text = String::new();
    for line in template.lines() {
        let inside = *kept.last().expect("an #end without its #if");
        if let Some(needed) = line.strip_prefix("#if ") {
            kept.push(inside && needed.split_whitespace().all(|word| words.contains(&word)));
        } else if line == "#end" {
            kept.pop();
        } else if inside && !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    let unfilled = text.split('@').skip(1).step_by(2).find(|name| name.bytes().all(|byte| byte.is_ascii_uppercase()));
    assert_eq!(unfilled, None, "nothing fills it");
    text
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn lines_are_kept_where_all_words_are_given() {
        let text = "# a remark\na\n#if x\nb\n#if y\nc\n#end\n#end\n#if x y\nd\n#end\n@NAME@ \"@type\": e\n";
        let values = [("NAME", "f".to_owned())];
        assert_eq!(fill(text, &["x"], &values), "a\nb\nf \"@type\": e\n");
        assert_eq!(fill(text, &["x", "y"], &values), "a\nb\nc\nd\nf \"@type\": e\n");
        assert_eq!(fill(text, &["y"], &values), "a\nf \"@type\": e\n");
    }

    #[test]
    #[should_panic(expected = "nothing fills it")]
    fn a_forgotten_name_is_found() {
        let _ = fill("listen @PORT@\n", &[], &[]);
    }
}
