//! Status codes as label values, bounded.

use http::StatusCode;

/// The codes that have a series of their own (the IANA HTTP status code registry); index 0 is "no response was begun".
/// Others share their class's series, so that an upstream cannot make series at will.
pub(crate) const CODES: [(u16, &str); 69] = [
    (0, "0"),
    (100, "100"),
    (101, "101"),
    (102, "102"),
    (103, "103"),
    (199, "1xx"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (203, "203"),
    (204, "204"),
    (205, "205"),
    (206, "206"),
    (207, "207"),
    (208, "208"),
    (226, "226"),
    (299, "2xx"),
    (300, "300"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (305, "305"),
    (307, "307"),
    (308, "308"),
    (399, "3xx"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (407, "407"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (423, "423"),
    (424, "424"),
    (425, "425"),
    (426, "426"),
    (428, "428"),
    (429, "429"),
    (431, "431"),
    (451, "451"),
    (498, "4xx"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (506, "506"),
    (507, "507"),
    (508, "508"),
    (510, "510"),
    (511, "511"),
    (599, "5xx"),
    (999, "other"),
];

/// The index in [`CODES`] of each status from 100 to 599.
const CODE_INDEX: [u8; 500] = code_index();

const fn code_index() -> [u8; 500] {
    let mut table = [0; 500];
    let mut status = 100;
    while status < 600 {
        let class_end = [199, 299, 399, 498, 599][status / 100 - 1];
        let mut index = 0;
        while index < CODES.len() {
            let code = CODES[index].0 as usize;
            if code == status || (code == class_end && table[status - 100] == 0) {
                table[status - 100] = index as u8;
            }
            index += 1;
        }
        status += 1;
    }
    table
}

/// The index in [`CODES`] of a status.
pub(crate) fn code_slot(status: Option<StatusCode>) -> usize {
    match status.map(|status| usize::from(status.as_u16())) {
        None => 0,
        Some(code @ 100..600) => usize::from(CODE_INDEX[code - 100]),
        Some(_) => CODES.len() - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_codes_are_exact_and_others_share_their_class() {
        let label = |status: u16| CODES[code_slot(StatusCode::from_u16(status).ok())].1;
        for code in [100, 200, 204, 226, 304, 308, 404, 418, 429, 451, 500, 503, 511] {
            assert_eq!(label(code), code.to_string());
        }
        for (code, expected) in [(199, "1xx"), (250, "2xx"), (299, "2xx"), (399, "3xx"), (498, "4xx"), (499, "4xx")] {
            assert_eq!(label(code), expected, "{code}");
        }
        assert_eq!((label(599), label(600), label(799), label(999)), ("5xx", "other", "other", "other"));
        assert_eq!(CODES[code_slot(None)].1, "0");
    }
}
