//! Trace contexts in header fields: W3C Trace Context and B3, read and written. Pure.
//!
//! What cannot be read is as if it were absent; nothing a client sends is an error.

use http::{HeaderMap, HeaderName, HeaderValue};
use remora_model::telemetry::Propagation;

use crate::lanes::{HIGH, ONES, at_least};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Bounds of a `tracestate` that is passed on (W3C Trace Context, sections 3.3.1.1 and 3.3.1.5).
const TRACESTATE_MEMBERS: usize = 32;
const TRACESTATE_BYTES: usize = 512;

/// A position in a trace, as headers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// Whether its spans are exported.
    pub sampled: bool,
    /// B3's debug flag: sampled, and more.
    pub debug: bool,
    /// W3C's random-trace-id flag (level 2), passed on.
    pub random: bool,
}

/// A set of header formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats(u8);

impl Formats {
    const NONE: Self = Self(0);
    /// W3C Trace Context's `traceparent`.
    pub const TRACE_CONTEXT: Self = Self(1);
    /// B3's single header.
    pub const B3: Self = Self(2);
    /// B3's `x-b3-` headers.
    pub const B3_MULTI: Self = Self(4);

    /// Those that a configuration names.
    pub fn of(propagation: &[Propagation]) -> Self {
        propagation.iter().fold(Self::NONE, |all, format| {
            all.and(match format {
                Propagation::TraceContext => Self::TRACE_CONTEXT,
                Propagation::B3 => Self::B3,
                Propagation::B3Multi => Self::B3_MULTI,
            })
        })
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn is_single(self) -> bool {
        self.0.count_ones() == 1
    }
}

/// What a request's headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The caller's span.
    pub parent: Option<Parent>,
    /// The caller's decision; `None`: it left it to us.
    pub sampled: Option<bool>,
    /// B3's debug flag.
    pub debug: bool,
    /// The parent was read from `traceparent`, so `tracestate` belongs to it.
    pub w3c: bool,
    /// There is a `tracestate`.
    pub tracestate: bool,
    /// The formats of which any header is there, readable or not.
    pub found: Formats,
    /// These, and B3's headers where there is its parent's id alone, which says nothing.
    pub present: Formats,
}

/// The caller's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// W3C's random-trace-id flag (level 2).
    pub random: bool,
}

impl Incoming {
    /// Whether headers are there, and none of them says anything that can be read.
    pub fn is_unreadable(&self) -> bool {
        self.parent.is_none() && self.sampled.is_none() && self.found != Formats::NONE
    }

    /// Whether the headers already say to everyone after us that this trace is not sampled, in every format of `written`
    /// and in one voice, so that they may pass as they are.
    pub fn says_unsampled_to(&self, written: Formats) -> bool {
        self.parent.is_some() && self.sampled == Some(false) && self.found.is_single() && self.found.contains(written)
    }
}

/// Reads the W3C context, else the B3 single header, else the B3 headers.
pub fn read(headers: &HeaderMap) -> Incoming {
    // One look at each field: to ask for each that may be there would cost more than the rest.
    let mut incoming = Incoming::default();
    let (mut traceparent, mut b3) = (None, None);
    for (name, value) in headers {
        let (format, once) = match name.as_str() {
            "traceparent" => (Formats::TRACE_CONTEXT, &mut traceparent),
            "b3" => (Formats::B3, &mut b3),
            "x-b3-traceid" | "x-b3-spanid" | "x-b3-sampled" | "x-b3-flags" => {
                incoming.found = incoming.found.and(Formats::B3_MULTI);
                continue;
            }
            "x-b3-parentspanid" => {
                incoming.present = Formats::B3_MULTI;
                continue;
            }
            "tracestate" => {
                incoming.tracestate = true;
                continue;
            }
            _ => continue,
        };
        // One that comes twice is not believed.
        *once = (!incoming.found.contains(format)).then(|| value.as_bytes().trim_ascii());
        incoming.found = incoming.found.and(format);
    }
    incoming.present = incoming.present.and(incoming.found);
    if let Some((parent, sampled)) = traceparent.and_then(parse_traceparent) {
        (incoming.parent, incoming.sampled, incoming.w3c) = (Some(parent), Some(sampled), true);
        return incoming;
    }
    let multi = || incoming.found.contains(Formats::B3_MULTI).then(|| parse_b3_multi(headers)).flatten();
    if let Some(b3) = b3.and_then(parse_b3).or_else(multi) {
        (incoming.parent, incoming.sampled, incoming.debug) = (b3.parent, b3.sampled, b3.debug);
    }
    incoming
}

/// The value of a header that must not come twice.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// W3C Trace Context, section 3.2: versions above 00 may have more behind what 00 has; ff is no version.
fn parse_traceparent(value: &[u8]) -> Option<(Parent, bool)> {
    let (known, more) = value.split_first_chunk::<55>()?;
    let [v0, v1, b'-', ids @ .., b'-', f0, f1] = known else { return None };
    let (trace, [b'-', span @ ..]) = ids.split_first_chunk::<32>()? else { return None };
    let mut digits = Digits::LOWER;
    let outer = digits.eight([*v0, *v1, *f0, *f1, b'0', b'0', b'0', b'0']) >> 16;
    let (version, flags) = (outer >> 8, outer & 0xff);
    let (trace_id, span_id) = (digits.all(trace), digits.all(span) as u64);
    let versions = version != 0xff && (more.is_empty() || (version != 0 && more[0] == b'-'));
    if !digits.are_valid() || !versions || trace_id == 0 || span_id == 0 {
        return None;
    }
    Some((Parent { trace_id, span_id, random: flags & 2 != 0 }, flags & 1 != 0))
}

struct B3Context {
    parent: Option<Parent>,
    sampled: Option<bool>,
    debug: bool,
}

/// B3's single header: `0`, `1`, `d`, or `TRACE-SPAN[-STATE[-PARENT]]`.
fn parse_b3(value: &[u8]) -> Option<B3Context> {
    let state = |text: &[u8]| match text {
        b"0" => Some((Some(false), false)),
        b"1" => Some((Some(true), false)),
        b"d" => Some((Some(true), true)),
        _ => None,
    };
    if let Some((sampled, debug)) = state(value) {
        return Some(B3Context { parent: None, sampled, debug });
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let parent = b3_parent(parts.next()?, parts.next()?)?;
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some(text) => state(text)?,
    };
    let grandparent = parts.next().is_none_or(|id| id.len() == 16 && hex(id).is_some());
    (grandparent && parts.next().is_none()).then_some(B3Context { parent: Some(parent), sampled, debug })
}

fn parse_b3_multi(headers: &HeaderMap) -> Option<B3Context> {
    let debug = single(headers, &B3_FLAGS) == Some(b"1");
    let sampled = match single(headers, &B3_SAMPLED) {
        _ if debug => Some(true),
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    let ids = single(headers, &B3_TRACE_ID).zip(single(headers, &B3_SPAN_ID));
    let parent = ids.and_then(|(trace, span)| b3_parent(trace, span));
    (parent.is_some() || sampled.is_some()).then_some(B3Context { parent, sampled, debug })
}

/// B3 ids: trace ids of 64 or 128 bits.
fn b3_parent(trace: &[u8], span: &[u8]) -> Option<Parent> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let trace_id = hex(trace).filter(|id| *id != 0)?;
    let span_id = hex(span).filter(|id| *id != 0)?;
    Some(Parent { trace_id, span_id: span_id as u64, random: false })
}

/// Hexadecimal digits of either case, 16 or 32.
fn hex(digits: &[u8]) -> Option<u128> {
    let mut seen = Digits::EITHER;
    let value = seen.all(digits);
    seen.are_valid().then_some(value)
}

/// Reads hexadecimal digits eight at a time, in one word: every request that is traced, or told not to be, brings 52.
struct Digits {
    /// What makes a letter lower case that may be upper case.
    case: u64,
    /// The highest bit of each byte of a word, as long as all were digits.
    valid: u64,
}

impl Digits {
    /// W3C allows lower case only.
    const LOWER: Self = Self { case: 0, valid: HIGH };
    const EITHER: Self = Self { case: 0x20 * ONES, valid: HIGH };

    fn are_valid(&self) -> bool {
        self.valid == HIGH
    }

    /// The value of a number of digits that is a multiple of eight.
    fn all(&mut self, digits: &[u8]) -> u128 {
        digits.as_chunks().0.iter().fold(0, |value, eight| value << 32 | u128::from(self.eight(*eight)))
    }

    fn eight(&mut self, digits: [u8; 8]) -> u32 {
        let text = u64::from_be_bytes(digits);
        let low = text & !HIGH;
        let figures = at_least(low, b'0') & !at_least(low, b'9' + 1);
        let folded = low | self.case;
        let letters = at_least(folded, b'a') & !at_least(folded, b'f' + 1) & HIGH;
        self.valid &= (figures | letters) & !text;
        let mut value = (low & (0xf * ONES)) + (letters >> 7) * 9;
        value = (value | value >> 4) & 0x00ff_00ff_00ff_00ff;
        value = (value | value >> 8) & 0x0000_ffff_0000_ffff;
        (value | value >> 16) as u32
    }
}

/// The sixteen digits of `value`, eight at a time.
fn hex_digits(value: u64) -> [u8; 16] {
    let eight = |half: u32| {
        let mut digits = u64::from(half);
        digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
        digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
        digits = (digits | digits << 4) & (0xf * ONES);
        let letters = (at_least(digits, 10) & HIGH) >> 7;
        u128::from(digits + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'9' - 1))
    };
    (eight((value >> 32) as u32) << 64 | eight(value as u32)).to_be_bytes()
}

/// Writes `context` in every format of `formats` and takes away what the others said of those that are `present`.
pub fn write(headers: &mut HeaderMap, context: &TraceContext, formats: Formats, present: Formats) {
    if !formats.contains(present) {
        remove_others(headers, formats);
    }
    let mut ids = [b'-'; 49];
    for (at, half) in [(0, (context.trace_id >> 64) as u64), (16, context.trace_id as u64), (33, context.span_id)] {
        ids[at..at + 16].copy_from_slice(&hex_digits(half));
    }
    if formats.contains(Formats::TRACE_CONTEXT) {
        let mut value = *b"00-................................-................-00";
        value[3..52].copy_from_slice(&ids);
        value[54] = b'0' + u8::from(context.sampled) + 2 * u8::from(context.random);
        set(headers, &TRACEPARENT, &value);
    }
    if formats.contains(Formats::B3) {
        let mut value = [b'-'; 51];
        value[..49].copy_from_slice(&ids);
        value[50] = if context.debug { b'd' } else { b'0' + u8::from(context.sampled) };
        set(headers, &B3, &value);
    }
    if formats.contains(Formats::B3_MULTI) {
        write_b3_multi(headers, context, &ids);
    }
}

fn remove_others(headers: &mut HeaderMap, formats: Formats) {
    let all: [(Formats, &[&HeaderName]); 3] = [
        (Formats::TRACE_CONTEXT, &[&TRACEPARENT]),
        (Formats::B3, &[&B3]),
        (Formats::B3_MULTI, &[&B3_TRACE_ID, &B3_SPAN_ID, &B3_PARENT_SPAN_ID, &B3_SAMPLED, &B3_FLAGS]),
    ];
    for name in all.into_iter().filter(|(format, _)| !formats.contains(*format)).flat_map(|(_, names)| names) {
        headers.remove(*name);
    }
}

fn write_b3_multi(headers: &mut HeaderMap, context: &TraceContext, ids: &[u8; 49]) {
    set(headers, &B3_TRACE_ID, &ids[..32]);
    set(headers, &B3_SPAN_ID, &ids[33..]);
    headers.remove(&B3_PARENT_SPAN_ID);
    if context.debug {
        headers.remove(&B3_SAMPLED);
        set(headers, &B3_FLAGS, b"1");
    } else {
        headers.remove(&B3_FLAGS);
        set(headers, &B3_SAMPLED, if context.sampled { b"1" } else { b"0" });
    }
}

fn set(headers: &mut HeaderMap, name: &'static HeaderName, value: &[u8]) {
    let value = HeaderValue::from_bytes(value).expect("only hexadecimal digits and dashes");
    // Fails for a head with as many names as a map can hold, which is refused.
    let _ = headers.try_insert(name, value);
}

/// Takes `tracestate` away (a new trace begins), or cuts one that is too long behind its last member that fits.
pub fn limit_tracestate(headers: &mut HeaderMap, continued: bool) {
    if !continued {
        headers.remove(&TRACESTATE);
        return;
    }
    let values: Vec<&[u8]> = headers.get_all(&TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    let members = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
    let members: Vec<&[u8]> = members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect();
    if members.len() <= TRACESTATE_MEMBERS
        && values.iter().map(|value| value.len() + 1).sum::<usize>() <= TRACESTATE_BYTES
    {
        return;
    }
    let mut kept = Vec::with_capacity(TRACESTATE_BYTES);
    for member in members.into_iter().take(TRACESTATE_MEMBERS) {
        if kept.len() + 1 + member.len() > TRACESTATE_BYTES {
            break;
        }
        if !kept.is_empty() {
            kept.push(b',');
        }
        kept.extend_from_slice(member);
    }
    match HeaderValue::from_bytes(&kept) {
        Ok(value) if !kept.is_empty() => drop(headers.try_insert(&TRACESTATE, value)),
        _ => drop(headers.remove(&TRACESTATE)),
    }
}

/// The `tracestate` that a span of this request carries.
pub fn tracestate(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get(&TRACESTATE)?.to_str().ok().map(Box::from)
}

#[cfg(test)]
mod tests;
