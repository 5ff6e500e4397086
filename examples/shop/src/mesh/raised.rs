//! The mesh: a wire, pods on it, certificates, redirection, processes; and its end.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;

use crate::command::{self, ip_batch};
use crate::http_client::{Ask, once};
use crate::jaeger::{OTLP_PORT, QUERY_PORT, Store};
use crate::namespace;
use crate::pods::{
    self, ALL, CATALOG_VIRTUAL, GATEWAY, HOST, HOST_INTERFACE, PROXY_UID, Pod, TRACES, TRACES_UID, WIRE,
};
use crate::process::Process;
use crate::screen::Screen;
use crate::sidecar;
use crate::state;

/// The trust domain of the shop.
pub const TRUST_DOMAIN: &str = "shop.example";
const BINARIES: [&str; 4] = ["remora-proxy", "remora-init", "remora-certs", "remora-shop"];

/// What runs.
#[derive(Default)]
pub struct Mesh {
    processes: Vec<Process>,
    store: Option<Store>,
}

impl Mesh {
    /// Makes everything and starts everything; returns when all of it is ready.
    pub async fn raise(&mut self, screen: &Screen, config: &Path, store: Store) -> anyhow::Result<()> {
        screen.busy("copying binaries, issuing certificates");
        prepare(&ALL, config).await?;
        for pod in pods::meshed() {
            issue(pod).await?;
        }
        screen.busy("making the pods' network namespaces");
        let traces = if matches!(store, Store::Running { .. }) { HOST } else { TRACES.address() };
        wire(&ALL, traces).await?;
        screen.busy("starting the trace store");
        self.start_store(&store).await?;
        self.store = Some(store.clone());
        screen.busy("redirecting the pods' traffic with remora-init");
        let mut redirected = Vec::new();
        for pod in ALL {
            redirected.push(if pod.is_redirected() { redirect(pod).await? } else { "-".to_owned() });
        }
        screen.busy("starting applications and sidecars");
        self.start(&ALL).await?;
        print(screen, &redirected, &store);
        Ok(())
    }

    /// The trace store.
    pub fn store(&self) -> anyhow::Result<&Store> {
        self.store.as_ref().context("the mesh is not up")
    }

    /// Starts the applications and sidecars of `pods`, and waits until all of them are ready.
    pub async fn start(&mut self, pods: &[Pod]) -> anyhow::Result<()> {
        for pod in pods::sidecars(pods) {
            self.start_pod(pod)?;
        }
        self.wait_until_ready(pods).await
    }

    /// The processes that were started, in their order.
    pub fn processes(&mut self) -> &mut Vec<Process> {
        &mut self.processes
    }

    fn start_pod(&mut self, pod: Pod) -> anyhow::Result<()> {
        if let Some(application) = pod.application {
            self.processes.push(Process::start(pod, application.uid, "remora-shop", application.arguments, &[])?);
        }
        let config = text(&sidecar::config_path(pod));
        // The pods end together: no caller is left who has yet to hear of it.
        let environment = [("REMORA_LAME_DUCK", "0")];
        self.processes.push(Process::start(pod, PROXY_UID, "remora-proxy", &["--config", &config], &environment)?);
        Ok(())
    }

    /// In the order in which [`Mesh::start_pod`] started them.
    async fn wait_until_ready(&mut self, pods: &[Pod]) -> anyhow::Result<()> {
        for process in &mut self.processes {
            if let Some(pod) = pods::sidecars(pods).find(|pod| process.name == format!("remora-proxy in {}", pod.name))
            {
                process.wait_until(|| sidecar::is_ready(pod)).await?;
            }
            let listening = pods::sidecars(pods).find(|pod| process.name == format!("remora-shop in {}", pod.name));
            if let Some((pod, application)) = listening.and_then(|pod| Some((pod, pod.application?))) {
                process.wait_until(|| accepts(pod, application.port)).await?;
            }
        }
        Ok(())
    }

    async fn start_store(&mut self, store: &Store) -> anyhow::Result<()> {
        let mut process = match store {
            Store::Running { query, .. } => {
                let to = std::net::SocketAddr::new(query.ip(), OTLP_PORT);
                let listen = std::net::SocketAddr::from((HOST, OTLP_PORT));
                let program = std::env::current_exe()?;
                let mut relay = std::process::Command::new(program);
                relay.args(["relay", "--listen", &listen.to_string(), "--to", &to.to_string()]);
                std::os::unix::process::CommandExt::process_group(&mut relay, 0);
                let relay = relay.stdin(std::process::Stdio::null()).spawn().context("cannot start the relay")?;
                return state::remember_relay(relay.id());
            }
            Store::Built { folder } => {
                copy(&folder.join("jaeger"), "bin/jaeger", 0o755)?;
                copy(&folder.join("jaeger.yaml"), "traces/jaeger.yaml", 0o644)?;
                copy_folder(&folder.join("ui"), &state::path("traces/ui"))?;
                let config = text(&state::path("traces/jaeger.yaml"));
                let ui = text(&state::path("traces/ui"));
                let environment = [("JAEGER_LISTEN", "0.0.0.0"), ("JAEGER_UI", ui.as_str())];
                Process::start(TRACES, TRACES_UID, "jaeger", &["--config", &config], &environment)?
            }
            Store::Memory => {
                let (listen, query) = (format!("0.0.0.0:{OTLP_PORT}"), format!("0.0.0.0:{QUERY_PORT}"));
                let arguments = ["collector", "--listen", &listen, "--query", &query];
                Process::start(TRACES, TRACES_UID, "remora-shop", &arguments, &[])?
            }
        };
        let ready = process.wait_until(|| async {
            let services = store.query("/api/services".to_owned()).await;
            services.is_ok_and(|reply| reply.json().is_ok())
        });
        let ready = ready.await;
        self.processes.push(process);
        ready
    }

    /// When something failed: what the processes said last.
    pub fn show_last_words(&mut self, screen: &Screen) {
        for process in &mut self.processes {
            let (what, lines) = match process.ended() {
                Some(status) => (format!("ended ({status})"), process.last_words(8)),
                None => ("warned".to_owned(), process.last_warnings(4)),
            };
            if !lines.is_empty() {
                screen.note(&format!("{} {what}:", process.name));
                for line in lines {
                    screen.note(&format!("  {line}"));
                }
            }
        }
    }

    /// Whether there is anything to take down that would take time.
    pub fn is_up(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Ends every process and forgets them.
    pub fn stop(&mut self) {
        state::end_processes();
        self.processes.clear();
    }

    /// Lets the processes outlive this one.
    pub fn leave_running(&mut self) {
        self.processes.clear();
    }

    /// Where to go from here, for a mesh that stays up.
    pub fn show_what_to_try(&self, screen: &Screen, trace: Option<&str>) {
        let door = GATEWAY.at(8080);
        let mut rows = vec![
            ("the shop", format!("curl http://{door}/products")),
            ("an order", format!("curl -d '{{\"product\":\"teapot\"}}' http://{door}/orders")),
            ("a thief", "ip netns exec shop-mallory curl http://storefront:8080/products".to_owned()),
            ("metrics", "ip netns exec shop-storefront curl http://127.0.0.1:15000/stats/prometheus".to_owned()),
            ("certificates", "ip netns exec shop-catalog-1 curl http://127.0.0.1:15000/certs".to_owned()),
            ("the rules", "ip netns exec shop-catalog-1 iptables -t nat -S".to_owned()),
            ("the wire", format!("ip netns exec {WIRE} tcpdump -ni any -A port 50051 or port 8080")),
            ("a rotation", rotation_by_hand()),
            ("logs", format!("tail -f {}/*/*.log", state::FOLDER)),
        ];
        if let Some(trace) = trace {
            rows.insert(2, ("Jaeger", trace.to_owned()));
            if trace.contains(&TRACES.address().to_string()) {
                let tunnel = format!("ssh -L {QUERY_PORT}:{} THIS-MACHINE", TRACES.at(QUERY_PORT));
                rows.insert(3, ("  from afar", format!("{tunnel}, then http://localhost:{QUERY_PORT}")));
            }
        }
        rows.push(("the end", "make demo-down".to_owned()));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, how)| vec![what.to_owned(), how]).collect();
        screen.table(&["try", ""], &rows);
    }
}

fn rotation_by_hand() -> String {
    let folder = state::FOLDER;
    format!(
        "{folder}/bin/remora-certs issue --ca {folder}/ca --id spiffe://{TRUST_DOMAIN}/ns/shop/sa/pricing --out {folder}/pricing"
    )
}

/// The folders of `pods`, the binaries, the certificate authority and the sidecars' configurations, from `config`.
pub async fn prepare(pods: &[Pod], config: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(state::path("bin"))?;
    copy_binaries()?;
    for pod in pods {
        fs::create_dir_all(state::path(pod.name))?;
    }
    run("remora-certs", &["init", "--dir", &text(&state::path("ca")), "--trust-domain", TRUST_DOMAIN]).await?;
    fs::set_permissions(state::path("ca"), Permissions::from_mode(0o700))?;
    for pod in pods::sidecars(pods) {
        let from = config.join(format!("{}.yaml", pod.name));
        fs::copy(&from, sidecar::config_path(pod)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// The namespaces of `pods`, joined by a bridge; they know `traces` as the address of the trace store.
pub async fn wire(pods: &[Pod], traces: Ipv4Addr) -> anyhow::Result<()> {
    make_wire().await?;
    for pod in pods {
        make_pod(*pod, &hosts(pods, traces)).await?;
    }
    Ok(())
}

/// Writes a new certificate and key for the pod's sidecar.
pub async fn issue(pod: Pod) -> anyhow::Result<()> {
    let account = pod.account.context("only a pod with a sidecar has a certificate")?;
    let id = format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}");
    let owner = format!("{PROXY_UID}:{PROXY_UID}");
    let (ca, out) = (text(&state::path("ca")), text(&state::path(pod.name)));
    run("remora-certs", &["issue", "--ca", &ca, "--id", &id, "--out", &out, "--ttl", "24h", "--owner", &owner]).await?;
    Ok(())
}

/// Runs one of the demo's binaries on this machine itself.
pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    command::run(&text(&state::path("bin").join(program)), arguments).await
}

fn copy_binaries() -> anyhow::Result<()> {
    let here = std::env::current_exe()?;
    let here = here.parent().context("a program has a folder")?;
    for name in BINARIES {
        copy(&here.join(name), &format!("bin/{name}"), 0o755)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &str, mode: u32) -> anyhow::Result<()> {
    let to = state::path(to);
    let copied = fs::copy(from, &to).and_then(|_| fs::set_permissions(&to, Permissions::from_mode(mode)));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The bridge, in a namespace of its own, and this machine's interface on it.
async fn make_wire() -> anyhow::Result<()> {
    ip_batch(None, &format!("netns add {WIRE}\n")).await?;
    ip_batch(
        Some(WIRE),
        "link set lo up\nlink add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n",
    )
    .await?;
    ip_batch(
        None,
        &format!(
            "link add {HOST_INTERFACE} type veth peer name host netns {WIRE}\n\
             addr add {HOST}/24 dev {HOST_INTERFACE}\nlink set {HOST_INTERFACE} up\n"
        ),
    )
    .await?;
    ip_batch(Some(WIRE), "link set host master br0 up\n").await
}

async fn make_pod(pod: Pod, hosts: &str) -> anyhow::Result<()> {
    let namespace = pod.namespace();
    ip_batch(None, &format!("netns add {namespace}\n")).await?;
    let (address, port) = (pod.address(), format!("p{}", pod.number));
    ip_batch(
        Some(WIRE),
        &format!("link add {port} type veth peer name eth0 netns {namespace}\nlink set {port} master br0 up\n"),
    )
    .await?;
    ip_batch(
        Some(&namespace),
        &format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {HOST}\n"),
    )
    .await?;
    let etc = namespace::etc(&namespace);
    fs::create_dir_all(&etc)?;
    fs::write(etc.join("hosts"), hosts)?;
    // No name server: what is not in the hosts file does not exist.
    fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
    Ok(())
}

fn hosts(pods: &[Pod], traces: Ipv4Addr) -> String {
    let mut hosts = format!("127.0.0.1 localhost\n{CATALOG_VIRTUAL} catalog\n{traces} traces\n");
    for other in pods.iter().filter(|other| **other != TRACES) {
        hosts.push_str(&format!("{} {}\n", other.address(), other.name));
    }
    hosts
}

/// The real initialiser, in the pod; what it says it did, in short.
pub async fn redirect(pod: Pod) -> anyhow::Result<String> {
    let init = text(&state::path("bin/remora-init"));
    command::run("ip", &["netns", "exec", &pod.namespace(), &init]).await?;
    let rules = command::run("ip", &["netns", "exec", &pod.namespace(), "iptables-save", "-t", "nat"]).await?;
    let count = rules.lines().filter(|line| line.starts_with("-A")).count();
    if count == 0 {
        bail!("remora-init left no rule in {}", pod.name);
    }
    Ok(format!("{count} rules"))
}

async fn accepts(pod: Pod, port: u16) -> bool {
    let namespace = pod.namespace();
    let connected =
        namespace::within(
            &namespace,
            move || async move { Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?) },
        );
    tokio::time::timeout(Duration::from_secs(1), connected).await.is_ok_and(|connected| connected.is_ok())
}

fn print(screen: &Screen, redirected: &[String], store: &Store) {
    let rows = ALL.into_iter().zip(redirected).map(|(pod, redirected)| {
        let application = match pod.application {
            Some(application) => format!("{} :{}", application.arguments[0], application.port),
            None if pod == TRACES => store.name().to_owned(),
            None => "-".to_owned(),
        };
        let user = match pod.application {
            Some(application) => application.uid.to_string(),
            None if pod == TRACES && !matches!(store, Store::Running { .. }) => TRACES_UID.to_string(),
            None => "-".to_owned(),
        };
        let identity = pod.account.map_or_else(|| "no certificate".to_owned(), |account| format!("…/sa/{account}"));
        let sidecar = pod.account.map_or("-", |_| "ready");
        vec![
            pod.name.to_owned(),
            pod.address().to_string(),
            application,
            user,
            sidecar.to_owned(),
            redirected.clone(),
            identity,
        ]
    });
    let heading = ["pod", "address", "application", "user", "sidecar", "redirection", "identity"];
    screen.table(&heading, &rows.collect::<Vec<_>>());
    screen.note(&format!("each pod is a network namespace; sidecars run as user {PROXY_UID} with no capability"));
}

/// The door, as a customer in the gateway's pod sees it: customers speak plain HTTP, which is not for the wire.
pub fn door() -> std::net::SocketAddr {
    (Ipv4Addr::LOCALHOST, 8080).into()
}

/// One request at the door.
pub async fn ask_at_the_door(ask: Ask) -> anyhow::Result<serde_json::Value> {
    namespace::within(&GATEWAY.namespace(), move || async move { once(door(), ask).await?.json() }).await
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
