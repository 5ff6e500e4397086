//! Trace contexts in header fields: W3C Trace Context and B3, read and written. Pure.
//!
//! What cannot be read is as if it were absent; nothing a client sends is an error.

use http::{HeaderMap, HeaderName, HeaderValue};
use remora_model::telemetry::Propagation;

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

    /// The format that a field of this name belongs to.
    fn of_name(name: &str) -> Self {
        match name {
            "traceparent" => Self::TRACE_CONTEXT,
            "b3" => Self::B3,
            "x-b3-traceid" | "x-b3-spanid" | "x-b3-parentspanid" | "x-b3-sampled" | "x-b3-flags" => Self::B3_MULTI,
            _ => Self::NONE,
        }
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
    // One look at each name: to ask for each that may be there would cost more than the rest.
    let mut incoming = Incoming::default();
    for name in headers.keys().map(HeaderName::as_str).filter(|name| *name != B3_PARENT_SPAN_ID.as_str()) {
        incoming.found = incoming.found.and(Formats::of_name(name));
        incoming.tracestate |= name == TRACESTATE.as_str();
    }
    let found = incoming.found;
    if found.contains(Formats::TRACE_CONTEXT)
        && let Some((parent, sampled)) = single(headers, &TRACEPARENT).and_then(parse_traceparent)
    {
        (incoming.parent, incoming.sampled, incoming.w3c) = (Some(parent), Some(sampled), true);
    }
    let b3 = found.contains(Formats::B3).then(|| single(headers, &B3).and_then(parse_b3)).flatten();
    let multi = found.contains(Formats::B3_MULTI).then(|| parse_b3_multi(headers)).flatten();
    for b3 in [b3, multi].into_iter().flatten() {
        if let (None, None) = (incoming.parent, incoming.sampled) {
            (incoming.parent, incoming.sampled, incoming.debug) = (b3.parent, b3.sampled, b3.debug);
        }
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
    let (version, rest) = (hex_lower(value.get(..2)?)?, value.get(2..)?);
    let known = rest.get(..53)?;
    let more = &rest[53..];
    if version == 0xff || (version == 0 && !more.is_empty()) || !(more.is_empty() || more[0] == b'-') {
        return None;
    }
    let [b'-', ids @ ..] = known else { return None };
    if ids[32] != b'-' || ids[49] != b'-' {
        return None;
    }
    let trace_id = hex_lower(&ids[..32]).filter(|id| *id != 0)?;
    let span_id = hex_lower(&ids[33..49]).filter(|id| *id != 0)?;
    let flags = hex_lower(&ids[50..])?;
    let parent = Parent { trace_id, span_id: span_id as u64, random: flags & 2 != 0 };
    Some((parent, flags & 1 != 0))
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

/// Hexadecimal digits of either case, 32 at most.
fn hex(digits: &[u8]) -> Option<u128> {
    digits_below(digits, UPPER << 1)
}

/// W3C allows lower case only.
fn hex_lower(digits: &[u8]) -> Option<u128> {
    digits_below(digits, UPPER)
}

/// Beside the value of a digit in upper case.
const UPPER: u8 = 0x10;
/// What each byte means as a digit: every request that is traced, or told not to be, brings 48 of them.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789ABCDEF"[value] as usize] = UPPER | value as u8;
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// 32 digits at most, each of which means less than `bound`, a power of two.
fn digits_below(digits: &[u8], bound: u8) -> Option<u128> {
    let mut meant = 0;
    let mut word = |half: &[u8]| {
        half.iter().fold(0_u64, |value, byte| {
            let digit = DIGITS[usize::from(*byte)];
            meant |= digit;
            value << 4 | u64::from(digit & 0xf)
        })
    };
    let (high, low) = digits.split_at(digits.len().saturating_sub(16));
    let value = u128::from(word(high)) << 64 | u128::from(word(low));
    (high.len() <= 16 && meant < bound).then_some(value)
}

/// Writes `context` in every format of `formats` and takes away what other formats said.
pub fn write(headers: &mut HeaderMap, context: &TraceContext, formats: Formats) {
    let others: Vec<HeaderName> =
        headers.keys().filter(|name| !formats.contains(Formats::of_name(name.as_str()))).cloned().collect();
    for name in others {
        headers.remove(name);
    }
    let mut ids = [b'-'; 49];
    write_hex(&context.trace_id.to_be_bytes(), &mut ids[..32]);
    write_hex(&context.span_id.to_be_bytes(), &mut ids[33..]);
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

fn write_b3_multi(headers: &mut HeaderMap, context: &TraceContext, ids: &[u8; 49]) {
    set(headers, &B3_TRACE_ID, &ids[..32]);
    set(headers, &B3_SPAN_ID, &ids[33..]);
    headers.remove(&B3_PARENT_SPAN_ID);
    if context.debug {
        headers.remove(&B3_SAMPLED);
        headers.insert(&B3_FLAGS, HeaderValue::from_static("1"));
    } else {
        headers.remove(&B3_FLAGS);
        headers.insert(&B3_SAMPLED, HeaderValue::from_static(if context.sampled { "1" } else { "0" }));
    }
}

fn set(headers: &mut HeaderMap, name: &'static HeaderName, value: &[u8]) {
    let value = HeaderValue::from_bytes(value).expect("only hexadecimal digits and dashes");
    headers.insert(name, value);
}

fn write_hex(value: &[u8], into: &mut [u8]) {
    const PAIRS: [[u8; 2]; 256] = {
        let mut pairs = [[0; 2]; 256];
        let mut value = 0;
        while value < 256 {
            pairs[value] = [b"0123456789abcdef"[value >> 4], b"0123456789abcdef"[value & 15]];
            value += 1;
        }
        pairs
    };
    for (pair, byte) in into.as_chunks_mut().0.iter_mut().zip(value) {
        *pair = PAIRS[usize::from(*byte)];
    }
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
        Ok(value) if !kept.is_empty() => drop(headers.insert(&TRACESTATE, value)),
        _ => drop(headers.remove(&TRACESTATE)),
    }
}

/// The `tracestate` that a span of this request carries.
pub fn tracestate(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get(&TRACESTATE)?.to_str().ok().map(Box::from)
}

#[cfg(test)]
mod tests;
