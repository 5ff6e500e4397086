//! Two gateways in this process, in front of one origin.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use remora_proxy::admin::Loggers;
use remora_proxy::control;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) struct Gateways([SocketAddr; 2]);

impl Gateways {
    /// Those of a proxy that is ready.
    pub(crate) fn start() -> Self {
        let origin = super::origin::start(super::arrived);
        let [http1, http2, admin, metrics, readiness] = free_addresses();
        let config = format!(
            "gateway:\n\
             - {{listen: '{http1}', routes: [{{path: /, to: '{origin}'}}]}}\n\
             - {{listen: '{http2}', routes: [{{path: /, to: '{origin}'}}]}}\n\
             admin: {{address: '{admin}', metrics: '{metrics}', readiness: '{readiness}'}}\n\
             access_log: {{filter: off}}\nworkers: 1\n"
        );
        let file = std::env::temp_dir().join(format!("remora-fuzz-{}.yaml", std::process::id()));
        std::fs::write(&file, config).expect("a temporary file");
        catch_broken_pipes();
        thread::spawn(move || serve(file));
        while TcpStream::connect(http2).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Self([http1, http2])
    }

    /// A connection to the one that is told HTTP/1.
    pub(crate) fn http1(&self) -> TcpStream {
        TcpStream::connect(self.0[0]).expect("the gateway lives")
    }

    /// A connection to the one that is told HTTP/2.
    pub(crate) fn http2(&self) -> TcpStream {
        TcpStream::connect(self.0[1]).expect("the gateway lives")
    }
}

/// Rust's own main ignores the signal; that of libFuzzer leaves it to kill whoever writes to a connection that ended.
fn catch_broken_pipes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let _entered = runtime.enter();
    drop(signal(SignalKind::pipe()).expect("a handler, which stays"));
}

/// The proxy ends only with the process.
fn serve(file: PathBuf) {
    let loggers = Loggers::new("off", |_| Ok(())).expect("a level");
    let ended = control::run(file, loggers);
    eprintln!("the gateway ended: {ended:?}");
    std::process::abort();
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address"))
}
