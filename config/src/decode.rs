//! From nodes to typed values, with the place of each, collecting every problem instead of stopping at the first.
//!
//! A decoder is a function `(&Located, &mut Problems) -> Option<T>` that has reported why when it answers `None`;
//! [`list`], [`one_of`] and so on make bigger ones of smaller ones. Objects are read through [`Fields`], which knows
//! the names that may occur.

use std::fmt;
use std::ops::RangeInclusive;
use std::rc::Rc;

use crate::errors::{Complaint, Problems, quoted};
use crate::suggest::nearest;
use crate::yaml::{self, Content, Entry, Node, Position};

/// A place in the configuration: its path and its position.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Linked, not text: a long name is not copied for each value below it.
    last: Option<Rc<Step>>,
    at: Position,
}

#[derive(Debug)]
struct Step {
    before: Option<Rc<Step>>,
    name: StepName,
}

#[derive(Debug)]
enum StepName {
    Field(Box<str>),
    Index(usize),
}

/// A node and its place.
pub(crate) struct Located<'n> {
    node: &'n Node,
    pub(crate) place: Place,
}

/// A value that a later complaint may be about.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// A field of an object. `Wrong` is apart from `Absent`, so that one mistake is not reported twice.
#[derive(Clone, Debug, Default)]
pub(crate) enum Field<T> {
    #[default]
    Absent,
    /// Given, refused and reported.
    Wrong,
    Given(T),
}

/// The fields of an object.
pub(crate) struct Fields<'n, 'p> {
    entries: &'n [Entry],
    /// Known names that an unknown one was probably meant to be: not absent, but wrong.
    misspelt: Vec<String>,
    pub(crate) place: Place,
    pub(crate) problems: &'p mut Problems,
}

impl Place {
    fn field(&self, name: &str, at: Position) -> Self {
        self.step(StepName::Field(name.into()), at)
    }

    fn step(&self, name: StepName, at: Position) -> Self {
        Self { last: Some(Rc::new(Step { before: self.last.clone(), name })), at }
    }

    pub(crate) fn at(&self) -> Position {
        self.at
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut next = self.last.as_ref();
        while let Some(step) = next {
            steps.push(&step.name);
            next = step.before.as_ref();
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                StepName::Field(name) => yaml::push_field(&mut path, name),
                StepName::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        f.write_str(&path)
    }
}

impl<T> Field<T> {
    pub(crate) fn given(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<T: Copy> Field<T> {
    /// The value, or `default` where it is absent or wrong.
    pub(crate) fn or(&self, default: T) -> T {
        self.given().copied().unwrap_or(default)
    }
}

impl<T: Copy + Default> Field<T> {
    pub(crate) fn or_default(&self) -> T {
        self.or(T::default())
    }
}

impl<'n> Located<'n> {
    /// The root of a document.
    pub(crate) fn root(node: &'n Node) -> Self {
        Self { node, place: Place { last: None, at: node.at } }
    }

    /// Reports that something else was expected here.
    fn expected(&self, what: &str, problems: &mut Problems) {
        let found = match &self.node.content {
            Content::Scalar { text, plain: true } if yaml::is_nothing(text) => "nothing".to_owned(),
            Content::Scalar { text, .. } => quoted(text),
            Content::Sequence(_) => "a list".to_owned(),
            Content::Mapping(_) => "an object".to_owned(),
        };
        problems.report(&self.place, format!("expected {what}, found {found}"));
    }

    /// The text of an unquoted scalar.
    fn plain(&self) -> Option<&'n str> {
        match &self.node.content {
            Content::Scalar { text, plain: true } => Some(text),
            _ => None,
        }
    }

    /// The text of a scalar that is not nothing.
    fn text(&self) -> Option<&'n str> {
        match &self.node.content {
            Content::Scalar { text, plain } if !(*plain && yaml::is_nothing(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_object(&self) -> bool {
        matches!(self.node.content, Content::Mapping(_))
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.content, Content::Sequence(_))
    }

    /// The object here, every field of which must be one of `known`.
    pub(crate) fn fields<'p>(&self, known: &[&str], problems: &'p mut Problems) -> Option<Fields<'n, 'p>> {
        let Content::Mapping(entries) = &self.node.content else {
            self.expected(&format!("an object with {}", known.join(", ")), problems);
            return None;
        };
        let mut misspelt = Vec::new();
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let suggestion = nearest(&entry.key, known.iter().copied());
            misspelt.extend(suggestion.map(str::to_owned));
            let message = match suggestion {
                Some(_) => "unknown field".to_owned(),
                None => format!("unknown field; known here: {}", known.join(", ")),
            };
            problems.report(
                &self.place.field(&entry.key, entry.at),
                Complaint { message, suggestion: None }.suggest(suggestion),
            );
        }
        Some(Fields { entries, misspelt, place: self.place.clone(), problems })
    }

    /// The names and values of an object whose names are free.
    pub(crate) fn named(&self, what: &str, problems: &mut Problems) -> Option<Vec<(&'n str, Place, Located<'n>)>> {
        let Content::Mapping(entries) = &self.node.content else {
            self.expected(what, problems);
            return None;
        };
        let named = entries.iter().map(|entry| {
            let name = self.place.field(&entry.key, entry.at);
            let value = Located { node: &entry.value, place: self.place.field(&entry.key, entry.value.at) };
            (entry.key.as_str(), name, value)
        });
        Some(named.collect())
    }
}

impl<'n> Fields<'n, '_> {
    /// The field `name`, if it is there.
    pub(crate) fn optional<T>(
        &mut self,
        name: &str,
        decode: impl Fn(&Located<'n>, &mut Problems) -> Option<T>,
    ) -> Field<T> {
        let Some(entry) = self.entries.iter().find(|entry| entry.key == name) else {
            return if self.misspelt.iter().any(|meant| meant == name) { Field::Wrong } else { Field::Absent };
        };
        let at = self.place.field(name, entry.value.at);
        match decode(&Located { node: &entry.value, place: at }, self.problems) {
            Some(value) => Field::Given(value),
            None => Field::Wrong,
        }
    }

    /// The field `name`; its absence is reported and counts as wrong.
    pub(crate) fn required<T>(
        &mut self,
        name: &str,
        decode: impl Fn(&Located<'n>, &mut Problems) -> Option<T>,
    ) -> Field<T> {
        let field = self.optional(name, decode);
        if field.is_absent() {
            self.problems.report(&self.place, format!("{name} is missing"));
            return Field::Wrong;
        }
        field
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == name)
    }

    /// Where the field `name` is, or else the object.
    pub(crate) fn place_of(&self, name: &str) -> Place {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        entry.map_or_else(|| self.place.clone(), |entry| self.place.field(name, entry.at))
    }
}

/// `decode`, with the value's place.
pub(crate) fn spanned<'n, T>(
    decode: impl Fn(&Located<'n>, &mut Problems) -> Option<T>,
) -> impl Fn(&Located<'n>, &mut Problems) -> Option<Spanned<T>> {
    move |at, problems| decode(at, problems).map(|value| Spanned { value, place: at.place.clone() })
}

/// A list of what `decode` reads; what it refuses is left out.
pub(crate) fn list<'n, T>(
    decode: impl Fn(&Located<'n>, &mut Problems) -> Option<T>,
) -> impl Fn(&Located<'n>, &mut Problems) -> Option<Vec<T>> {
    move |at, problems| {
        let Content::Sequence(items) = &at.node.content else {
            at.expected("a list", problems);
            return None;
        };
        let items = items
            .iter()
            .enumerate()
            .map(|(index, node)| Located { node, place: at.place.step(StepName::Index(index), node.at) });
        Some(items.filter_map(|item| decode(&item, problems)).collect())
    }
}

/// A list of what `decode` reads, or a single one without the brackets.
pub(crate) fn one_or_many<'n, T>(
    decode: impl Fn(&Located<'n>, &mut Problems) -> Option<T>,
) -> impl Fn(&Located<'n>, &mut Problems) -> Option<Vec<T>> {
    move |at, problems| {
        if at.is_list() { list(&decode)(at, problems) } else { decode(at, problems).map(|one| vec![one]) }
    }
}

/// [`one_or_many`], at least one: where an empty list would silently mean "all" or "none".
pub(crate) fn some<'n, T>(
    decode: impl Fn(&Located<'n>, &mut Problems) -> Option<T>,
) -> impl Fn(&Located<'n>, &mut Problems) -> Option<Vec<T>> {
    move |at, problems| {
        if matches!(&at.node.content, Content::Sequence(items) if items.is_empty()) {
            problems.report(&at.place, "is empty; give at least one, or leave the field out");
            return None;
        }
        one_or_many(&decode)(at, problems)
    }
}

/// One of some words.
pub(crate) fn one_of<'n, T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Located<'n>, &mut Problems) -> Option<T> {
    move |at, problems| {
        let known = || words.iter().map(|(word, _)| *word);
        let all = known().collect::<Vec<_>>().join(", ");
        let Some(text) = at.text() else {
            at.expected(&format!("one of {all}"), problems);
            return None;
        };
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let complaint = Complaint::from(format!("{} is not one of {all}", quoted(text)));
            problems.report(&at.place, complaint.suggest(nearest(text, known())));
        }
        found.map(|(_, value)| *value)
    }
}

/// Text that `parse` understands; `what` is expected where there is no text at all.
pub(crate) fn parsed<'n, T>(
    what: &'static str,
    parse: impl Fn(&str) -> Result<T, Complaint>,
) -> impl Fn(&Located<'n>, &mut Problems) -> Option<T> {
    move |at, problems| {
        let Some(text) = at.text() else {
            at.expected(what, problems);
            return None;
        };
        parse(text).map_err(|complaint| problems.report(&at.place, complaint)).ok()
    }
}

/// A whole number within `bounds`.
pub(crate) fn number<'n>(bounds: RangeInclusive<u32>) -> impl Fn(&Located<'n>, &mut Problems) -> Option<u32> {
    move |at, problems| {
        let digits = at.plain().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let Some(digits) = digits else {
            at.expected(&format!("a whole number from {} to {}", bounds.start(), bounds.end()), problems);
            return None;
        };
        let number = digits.parse().ok().filter(|number| bounds.contains(number));
        if number.is_none() {
            let message = format!("{} is not from {} to {}", quoted(digits), bounds.start(), bounds.end());
            problems.report(&at.place, message);
        }
        number
    }
}

/// `true` or `false`.
pub(crate) fn boolean(at: &Located<'_>, problems: &mut Problems) -> Option<bool> {
    match at.plain() {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => {
            at.expected("true or false", problems);
            None
        }
    }
}
