use serde_json::json;

use super::*;

fn read(text: &str) -> Manifest {
    Manifest::read(text.as_bytes(), &Limits::default()).unwrap()
}

/// Changes the only document and changes it back.
fn there_and_back(text: &str, change: fn(&mut Value)) -> (String, String) {
    let manifest = read(text);
    let old = manifest.documents[0].value.clone().unwrap();
    let mut new = old.clone();
    change(&mut new);
    let written = manifest.with(&[Some(new)]);
    assert_eq!(written.rewritten, Vec::<usize>::new(), "not edited in place:\n{text}");
    let back = read(&written.text).with(&[Some(old)]);
    assert_eq!(back.rewritten, Vec::<usize>::new(), "not edited back in place:\n{}", written.text);
    (written.text, back.text)
}

fn add_and_prepend(value: &mut Value) {
    value["spec"]["list"].as_array_mut().unwrap().insert(0, json!({"name": "new", "args": ["yes", "1"]}));
    value["spec"]["added"] = json!({"a": [{"name": "x"}], "b": "on"});
}

#[test]
fn edits_in_block_style_keep_everything_else() {
    let text = "\
# head
spec:   # the spec
  list:  # items
    # about old
    - name: old   # trailing
      text: |
        block
          more

    # after
  last: 'quoted'  # comment
# tail
";
    let (changed, back) = there_and_back(text, add_and_prepend);
    let expected = "\
# head
spec:   # the spec
  list:  # items
    - name: new
      args:
        - \"yes\"
        - \"1\"
    # about old
    - name: old   # trailing
      text: |
        block
          more

    # after
  last: 'quoted'  # comment
  added:
    a:
      - name: x
    b: \"on\"
# tail
";
    assert_eq!(changed, expected);
    assert_eq!(back, text);
}

#[test]
fn every_layout_comes_back_byte_for_byte() {
    for text in [
        "spec:\n  list:\n  - name: old\n  z: 1",
        "spec:\r\n  list:\r\n  - name: old\r\n  z: 1\r\n",
        "\u{feff}spec:\n    list:\n        - name: old\n",
        "{\"spec\":{\"list\":[{\"name\":\"old\"}]}}",
        "{\"spec\": {\"list\": [{\"name\": \"old\"}], \"u\": \"\\ud83d\\ude00\"}}\n",
        "{\n\t\"spec\": {\n\t\t\"list\": [\n\t\t\t{\n\t\t\t\t\"name\": \"old\"\n\t\t\t}\n\t\t]\n\t}\n}\n",
        "spec: {list: [{name: old}], z: 'ü'}\n",
        "---\nspec:\n  list:\n  - name: old\n...\n",
        "%YAML 1.2\n---\nspec:\n  list:\n  - {name: old}\n",
    ] {
        let (changed, back) = there_and_back(text, add_and_prepend);
        assert_ne!(changed, text);
        assert_eq!(back, text, "by way of\n{changed}");
    }
}

#[test]
fn empty_places_are_filled_and_emptied() {
    let change = |value: &mut Value| {
        value["a"] = json!([{"name": "x"}]);
        value["b"] = json!({"k": "v"});
        value["c"] = json!({"k": "v"});
        value["d"] = json!("new");
    };
    for text in ["a: []\nb: {}  # none\nc:\nd: old\n", "a: []\nb:   # none\nc: {}\nd: \"old\""] {
        let manifest = read(text);
        let old = manifest.documents[0].value.clone().unwrap();
        let (changed, back) = there_and_back(text, change);
        assert!(changed.contains("a:\n- name: x"), "{changed}");
        assert_eq!(read(&back).documents[0].value, Some(old), "{back}");
        assert_eq!(back.replace(": null", ":"), text);
    }
}

#[test]
fn aliases_are_read_and_written_anew_where_an_edit_meets_one() {
    let text = "x: &x {a: 1}\ny: *x\nz: {<<: *x, b: 2}\n---\nother: true\n";
    let manifest = read(text);
    let value = manifest.documents[0].value.clone().unwrap();
    assert_eq!(value, json!({"x": {"a": 1}, "y": {"a": 1}, "z": {"a": 1, "b": 2}}));
    let mut new = value.clone();
    new["y"]["a"] = json!(3);
    let written = manifest.with(&[Some(new.clone()), None]);
    assert_eq!(written.rewritten, [0]);
    assert_eq!(read(&written.text).documents[0].value, Some(new));
    assert!(written.text.ends_with("---\nother: true\n"), "{}", written.text);
    // What is anchored changes in two places at once, which nobody asked for.
    let mut new = value;
    new["x"]["a"] = json!(3);
    let written = manifest.with(&[Some(new.clone()), None]);
    assert_eq!(written.rewritten, [0]);
    assert_eq!(read(&written.text).documents[0].value, Some(new));
}

#[test]
fn what_is_broken_or_too_much_is_refused_with_its_place() {
    let limits = Limits { bytes: 10_000, depth: 20, values: 100, documents: 3 };
    let deep = format!("{}{}", "[".repeat(30), "]".repeat(30));
    let bomb = "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b]\n";
    let escaped = "? \"".to_owned() + &"\\u0019".repeat(171) + "\"\n: 1\n";
    for (text, told) in [
        ("a: 1\nb: [\n", "3:1: "),
        ("a: 1\na: 2\n", "2:1: key \"a\" is given twice"),
        ("{\"a\": [1, 2}", "1:12: not valid JSON"),
        ("{\"a\": 1, \"a\": 2}", "is given twice"),
        ("? [a]\n: b\n", "a key must be a plain word"),
        (escaped.as_str(), "1:3: key"),
        ("a: *nothing\n", "1:4: not valid YAML"),
        ("a: &a [*a]\n", "alias"),
        (deep.as_str(), "nested deeper than 20 levels"),
        (bomb, "more than 100 values"),
        ("---\n---\n---\n---\n", "more than 3 documents"),
    ] {
        let problem = Manifest::read(text.as_bytes(), &limits).unwrap_err().to_string();
        assert!(problem.contains(told), "{text:?}: {problem}");
    }
    let big = vec![b'a'; 10_001];
    assert!(Manifest::read(&big, &limits).is_err());
    assert_eq!(Manifest::read(b"a: \xff", &limits).unwrap_err().to_string(), "1:4: not UTF-8 text");
}

#[test]
fn a_document_that_is_indented_is_judged_with_its_indentation() {
    for text in ["            ?\n", " ?\n\n\n", "\n  -\n"] {
        let manifest = read(text);
        let mut new = manifest.documents[0].value.clone().unwrap();
        match &mut new {
            Value::Array(items) => items.push(json!({"name": "last"})),
            other => other["added"] = json!(1),
        }
        let written = manifest.with(&[Some(new.clone())]);
        assert_eq!(read(&written.text).documents[0].value, Some(new), "{text:?}: {written:?}");
    }
}

#[test]
fn indented_documents_do_not_overlap() {
    let text = "        a: 1\n...\n          b: {c: 1}\n";
    let manifest = read(text);
    let change = |document: &Document| {
        let mut value = document.value.clone().unwrap();
        value["added"] = json!(1);
        Some(value)
    };
    let new: Vec<Option<Value>> = manifest.documents.iter().map(change).collect();
    let again = read(&manifest.with(&new).text);
    assert_eq!(again.documents.into_iter().map(|document| document.value).collect::<Vec<_>>(), new);
}

#[test]
fn the_longest_key_reads_back() {
    let key = "\u{19}".repeat(170);
    let text = format!("{key}: {{}}\n");
    let manifest = read(&text);
    let new = json!({key: {"a": 1}, "b": 2});
    assert_eq!(read(&manifest.with(&[Some(new.clone())]).text).documents[0].value, Some(new));
}
