//! Command lines: what they mean, and what is refused. The rules they make are goldens.

use remora_model::capture::Ports;

use super::*;

fn read(line: &str) -> Result<Invocation, Error> {
    let words = std::iter::once("remora-init").chain(line.split_whitespace());
    let arguments: Vec<OsString> = words.map(Into::into).collect();
    parse(&arguments).unwrap_or_else(|told| Err(Error::Arguments(told.to_string())))
}

fn refused(line: &str) -> String {
    match read(line) {
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        }
        Ok(invocation) => panic!("`{line}` was accepted: {invocation:?}"),
    }
}

#[test]
fn without_flags_everything_is_captured() {
    let invocation = read("").unwrap();
    assert_eq!(invocation.spec, CaptureSpec::default());
    assert_eq!(invocation.action, Action::Apply);
    assert_eq!(read("verify").unwrap().action, Action::Verify);
    assert_eq!(read("--wait 1 cleanup").unwrap().action, Action::Cleanup);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (line, part) in [
        ("--exclude-inbound-ports 80,x", "--exclude-inbound-ports x"),
        ("--exclude-outbound-ports 0", "\"0\" is not a port"),
        ("--exclude-outbound-ports 90-80", "ends before it begins"),
        ("--exclude-outbound-cidrs 10.0.0.0/33", "--exclude-outbound-cidrs 10.0.0.0/33"),
        ("--exclude-outbound-cidrs *", "--exclude-outbound-cidrs *"),
        ("--proxy-uid root", "--proxy-uid root"),
        ("--exclude-interfaces=-jACCEPT", "--exclude-interfaces -jACCEPT"),
        ("--inbound-mode magic", "--inbound-mode magic"),
        ("--inbound-mode tproxy --tproxy-mark 0", "mark 0"),
        ("--backend iptables", "--backend iptables"),
        ("--ipv6 maybe", "--ipv6 maybe"),
        ("--inbound-port 15001", "15001"),
        ("--outbound-port 0", "0 is not a port"),
        ("--compat kuma", "--compat kuma"),
        ("--no-such-flag", "--no-such-flag"),
        ("destroy", "destroy"),
        ("--compat istio --redirect-dns", "--redirect-dns is not supported"),
        ("--compat istio -x *", "-x *"),
        ("--compat linkerd -p 4143", "--outgoing-proxy-port"),
        ("--compat linkerd -p 4143 -o 4140 --iptables-mode x", "--iptables-mode x"),
    ] {
        let told = refused(line);
        assert!(told.contains(part), "`{line}`: {told}");
    }
}

#[test]
fn the_same_letter_means_what_its_tool_means() {
    let istio = read("--compat istio -p 1 -z 2 -o 3 -i * -b * -r 7").unwrap().spec;
    assert_eq!((istio.outbound.proxy_port, istio.inbound.proxy_port), (1, 2));
    assert_eq!(istio.outbound.exclude_ports, ["3".parse().unwrap()]);
    let linkerd = read("--compat linkerd -p 1 -o 3 -r 7").unwrap().spec;
    assert_eq!((linkerd.inbound.proxy_port, linkerd.outbound.proxy_port), (1, 3));
    assert_eq!(linkerd.inbound.include_ports, Ports::Only(vec!["7".parse().unwrap()]));
    assert!(linkerd.proxy_uids.is_empty() && linkerd.proxy_gids.is_empty());
}

#[test]
fn istio_without_inclusions_captures_nothing() {
    let spec = read("--compat istio").unwrap().spec;
    assert_eq!(spec.inbound.include_ports, Ports::Only(vec![]));
    assert_eq!(spec.outbound.include, Destinations::Only { cidrs: vec![], ports: vec![] });
    assert_eq!((spec.proxy_uids, spec.proxy_gids), (vec![1337], vec![1337]));
    assert_eq!(read("--compat istio -u 0,7").unwrap().spec.proxy_gids, [0, 7], "the gids are the uids unless given");
}

#[test]
fn switches_of_other_tools_become_ours() {
    assert!(read("--compat istio -n").unwrap().dry_run);
    assert!(!read("--compat istio --dry-run=false").unwrap().dry_run);
    assert_eq!(read("--compat istio --cleanup-only").unwrap().action, Action::Cleanup);
    assert_eq!(read("--compat istio --skip-rule-apply --run-validation").unwrap().action, Action::Verify);
    let linkerd =
        read("--compat=linkerd -p 1 -o 2 --simulate -w --netns /run/netns/x --timeout-close-wait-secs 3600").unwrap();
    assert!(linkerd.dry_run);
    assert_eq!((linkerd.netns, linkerd.close_wait), (Some("/run/netns/x".into()), Some(3600)));
    let nft = read("--compat linkerd -p 1 -o 2 --firewall-bin-path iptables-nft --ipv6=false").unwrap();
    assert_eq!((nft.options.backend, nft.options.ipv6), (Some(Backend::Nft), Ipv6::Off));
}

#[test]
fn every_flag_has_an_environment_variable() {
    use clap::CommandFactory;
    for argument in Native::command().get_arguments() {
        let Some(long) = argument.get_long().filter(|name| !["help", "version"].contains(name)) else { continue };
        let wanted = format!("REMORA_INIT_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env(), Some(OsStr::new(&wanted)), "--{long}");
    }
}
