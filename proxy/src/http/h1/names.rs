//! Field names that came before. Applications say the same ones in each message, and to make a name anew takes its memory, its lower case
//! and a search among those that everybody knows.

use std::cell::RefCell;

use http::HeaderName;

use super::invalid::InvalidHead;
use crate::http::spelling::Form;

/// Names that a worker remembers at most, and the bytes of each.
const SLOTS: usize = 256;
const LONGEST: usize = 32;

thread_local! {
    /// Empty until the first name comes.
    static KNOWN: RefCell<Vec<Option<Known>>> = const { RefCell::new(Vec::new()) };
}

struct Known {
    written: Box<[u8]>,
    name: HeaderName,
    form: Form,
}

/// The name that is written so, and its form.
pub(super) fn name(written: &[u8]) -> Result<(HeaderName, Form), InvalidHead> {
    let make = || {
        let name = HeaderName::from_bytes(written).map_err(|_| InvalidHead::FieldName)?;
        Ok((name, Form::of(written)))
    };
    let Some(slot) = slot(written) else { return make() };
    KNOWN.with_borrow_mut(|all| {
        if all.is_empty() {
            all.resize_with(SLOTS, || None);
        }
        match &mut all[slot] {
            Some(known) if *known.written == *written => Ok((known.name.clone(), known.form)),
            other => {
                let (name, form) = make()?;
                *other = Some(Known { written: written.into(), name: name.clone(), form });
                Ok((name, form))
            }
        }
    })
}

/// Where a name is remembered, if it is.
fn slot(written: &[u8]) -> Option<usize> {
    let [first, .., last] = *written else { return None };
    let middle = written[written.len() / 2];
    let sum = usize::from(first) * 29 + usize::from(middle) * 11 + usize::from(last) * 3 + written.len();
    (written.len() <= LONGEST).then_some(sum % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_the_second_time_and_takes_no_other_ones_place() {
        let long = "x-".repeat(100);
        // The second and third have one slot.
        let names = ["Host", "x-one-1", "x-eno-1", "X-One-1", "a", "traceparent", "ETag", &long];
        assert_eq!(slot(names[1].as_bytes()), slot(names[2].as_bytes()));
        for written in names.iter().chain(&names).chain(&names) {
            let (name, form) = name(written.as_bytes()).unwrap();
            assert_eq!(name.as_str(), written.to_ascii_lowercase());
            assert_eq!(form, Form::of(written.as_bytes()), "{written}");
        }
        for refused in ["", "x y", "x\u{e9}", "x y"] {
            assert!(name(refused.as_bytes()).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        for count in 0..10_000 {
            name(format!("x-{count}").as_bytes()).unwrap();
        }
        name(&[b'x'; LONGEST + 1]).unwrap();
        KNOWN.with_borrow(|all| {
            assert_eq!(all.len(), SLOTS);
            assert!(all.iter().flatten().all(|known| known.written.len() <= LONGEST));
        });
    }
}
