//! One command line, one pair of files: the rules it makes for IPv4 and IPv6.
//!
//! `UPDATE_GOLDENS=1 cargo test -p remora-init --test goldens` writes them anew. The namespace tests feed every file to
//! `iptables-restore --test` of both backends.

#![allow(clippy::unwrap_used)] // a test

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use remora_init::cli::parse;
use remora_init::plan::{Family, plan};

/// Name and flags.
const SCENARIOS: &[(&str, &str)] = &[
    ("default", ""),
    ("inbound-include-ports", "--include-inbound-ports 8080,9000-9010"),
    ("inbound-exclude-port", "--exclude-inbound-ports 22"),
    ("inbound-exclude-wins", "--include-inbound-ports 8000-8099 --exclude-inbound-ports 8080"),
    ("inbound-none", "--include-inbound-ports="),
    ("inbound-exclude-clients", "--exclude-inbound-cidrs 10.1.0.0/16,fd00:1::/32,192.0.2.7"),
    ("outbound-exclude-port", "--exclude-outbound-ports 3306"),
    (
        "outbound-forty-ports",
        "--exclude-outbound-ports 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,\
         100-109,200-209,300-309,400-409,500-509,600-609,700-709,800-809,900-909,1000,1002,1004,1006,1008,1010,1012,1014,1016,1018,1020",
    ),
    ("outbound-ports-joined", "--exclude-outbound-ports 80,81,443,82-90,85"),
    ("outbound-include-ports", "--include-outbound-ports 80,443,8000-8999"),
    ("outbound-include-v4", "--include-outbound-cidrs 10.0.0.0/8,172.16.0.0/12"),
    ("outbound-include-v6", "--include-outbound-cidrs fd00::/8"),
    ("outbound-include-both", "--include-outbound-cidrs 10.0.0.0/8,fd00::/8 --include-outbound-ports 9090"),
    ("outbound-include-everything-by-net", "--include-outbound-cidrs 0.0.0.0/0,::/0"),
    ("outbound-exclude-cidrs", "--exclude-outbound-cidrs 169.254.169.254,10.96.0.1/32,fd00:ec2::254"),
    ("outbound-exclude-wins", "--include-outbound-cidrs 10.0.0.0/8 --exclude-outbound-cidrs 10.1.0.0/16"),
    ("outbound-host-bits", "--exclude-outbound-cidrs 10.1.2.3/8,2001:db8::1:2/64"),
    ("outbound-loopback", "--include-outbound-cidrs 127.5.0.0/16,::1/128,10.0.0.0/8"),
    ("outbound-none", "--include-outbound-cidrs="),
    ("nothing", "--include-inbound-ports= --include-outbound-cidrs="),
    ("owners", "--proxy-uid 1337,2000 --proxy-gid 1337,3000"),
    ("owners-none", "--proxy-uid= --proxy-gid="),
    ("users-excluded", "--exclude-uids 0,65534 --exclude-gids 2102"),
    ("interfaces", "--exclude-interfaces net1,tun+"),
    ("virtual-machines", "--virtual-interfaces vnet0,vnet1"),
    ("virtual-machines-networks", "--virtual-interfaces vnet0 --include-outbound-cidrs 10.0.0.0/8,fd00::/8"),
    ("proxy-ports", "--inbound-port 4143 --outbound-port 4140"),
    (
        "everything-at-once",
        "--exclude-inbound-ports 22,9000-9099 --exclude-inbound-cidrs 10.1.0.0/16 --exclude-outbound-ports 25 \
      --include-outbound-ports 80 --include-outbound-cidrs 10.0.0.0/8,fd00::/8 --exclude-outbound-cidrs 10.96.0.1 --exclude-uids 9 \
      --exclude-interfaces net1 --virtual-interfaces vnet0",
    ),
    ("tproxy", "--inbound-mode tproxy"),
    ("tproxy-include-ports", "--inbound-mode tproxy --include-inbound-ports 8080"),
    (
        "tproxy-exclude",
        "--inbound-mode tproxy --exclude-inbound-ports 22 --exclude-outbound-ports 25 --exclude-interfaces net1",
    ),
    ("tproxy-mark", "--inbound-mode tproxy --tproxy-mark 1 --tproxy-table 100 --proxy-uid= --proxy-gid 1337"),
    ("tproxy-virtual-machines", "--inbound-mode tproxy --virtual-interfaces vnet0"),
    ("istio-injected", "--compat istio -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x= -b * -d 15090,15021,15020"),
    ("istio-no-flags", "--compat istio"),
    ("istio-inbound-list", "--compat istio -i * -b 8080,9090 -d 22"),
    ("istio-networks", "--compat istio -i 10.0.0.0/8,fd00::/8 -x 10.1.0.0/16 -b * -q 7777 -o 25,26"),
    ("istio-tproxy", "--compat istio -m TPROXY -i * -b * -g 1337 -u 0 -t 1338 -r 134"),
    ("istio-interfaces", "--compat istio -i * -b * -c net1,net2 -k vnet0"),
    (
        "linkerd-injected",
        "--compat linkerd --ipv6=false -p 4143 -o 4140 -u 2102 --inbound-ports-to-ignore 4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568",
    ),
    ("linkerd-listed", "--compat linkerd -p 4143 -o 4140 -r 80 -r 8080 -w"),
    (
        "linkerd-subnets",
        "--compat linkerd -p 4143 -o 4140 -u 2102 --proxy-gid 2102 --subnets-to-ignore 10.0.0.0/8,fd00::/8",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn rules(flags: &str, family: Family) -> String {
    let words = std::iter::once("remora-init").chain(flags.split_whitespace());
    let arguments: Vec<_> = words.map(Into::into).collect();
    let invocation = parse(&arguments).unwrap_or_else(|error| panic!("{flags}: {error}")).unwrap();
    plan(&invocation.spec, family).to_string()
}

#[test]
fn each_command_line_makes_its_rules() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut wrong = Vec::new();
    for (name, flags) in SCENARIOS {
        for (family, ending) in [(Family::V4, "v4"), (Family::V6, "v6")] {
            let path = folder().join(format!("{name}.{ending}"));
            let made = format!("# remora-init {flags}\n{}", rules(flags, family));
            if update {
                std::fs::write(&path, &made).unwrap();
            }
            let wanted = std::fs::read_to_string(&path).unwrap_or_default();
            if made != wanted {
                wrong.push(format!("--- {}\n{wanted}\n+++ made now\n{made}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDENS=1 writes these anew:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_has_its_scenario() {
    let names: BTreeSet<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), SCENARIOS.len(), "a name twice");
    assert!(names.len() >= 25);
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(names.contains(stem.as_str()), "{} belongs to no scenario", path.display());
    }
}
