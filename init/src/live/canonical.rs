//! One spelling for rules that mean the same.

use ipnet::IpNet;

/// The rule with single blanks, networks as Rust prints them, and numbers in hexadecimal: versions of iptables differ there.
pub(super) fn canonical(rule: &str) -> String {
    rule.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn word(word: &str) -> String {
    if let Ok(net) = word.parse::<IpNet>() {
        return net.trunc().to_string();
    }
    match word.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
        Some(Ok(number)) => format!("{number:#x}"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn spellings_of_one_rule_are_equal() {
        assert_eq!(canonical("-s ::1.2.3.4/128  -j RETURN"), canonical("-s ::102:304/128 -j RETURN"));
        assert_eq!(canonical("-m mark --mark 0x053A"), canonical("-m mark --mark 0x53a"));
        assert_ne!(canonical("-d 10.0.0.0/8 -j RETURN"), canonical("! -d 10.0.0.0/8 -j RETURN"));
    }
}
