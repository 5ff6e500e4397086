//! What has to follow the world while the command runs: the identity its clock, the configuration and /etc/hosts the other runs, name
//! service the host's.
//!
//! Five times a second a handful of small files are looked at. That is less than notifications would take to be sure of: a run that is
//! killed changes no file, only the lock on its record is gone, and resolv.conf is replaced in every way there is.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use remora_model::capture::PROXY_ID;
use tokio::time::{MissedTickBehavior, interval};

use super::identity::Identity;
use super::mesh::Mesh;
use super::place::{self, Place};
use super::state::{Record, State};
use super::{Error, names, namespace, readable_folder, relay, say, sidecar};

const LOOK: Duration = Duration::from_millis(200);
/// After a certificate could not be issued.
const RETRY: Duration = Duration::from_secs(10);
const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS: u16 = 53;

/// One run's.
#[derive(Debug)]
pub(super) struct Upkeep<'a> {
    place: &'a Place,
    network: &'a File,
    mesh: Mesh,
    identity: Identity,
    /// When the next certificate is due.
    due: SystemTime,
    seen: Seen,
    /// The sidecar's.
    configuration: String,
    /// The host's name servers that the run is led to.
    servers: BTreeSet<IpAddr>,
}

/// What the files were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    runs: Vec<Record>,
    hosts: String,
    resolv_conf: String,
}

impl Seen {
    fn look(state: &State) -> Result<Self, Error> {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Ok(Self { runs: state.alive()?, hosts: text(HOSTS), resolv_conf: text(RESOLV_CONF) })
    }
}

impl<'a> Upkeep<'a> {
    /// Makes everything for the first time.
    pub(super) fn begin(place: &'a Place, network: &'a File, mesh: Mesh, life: Duration) -> Result<Self, Error> {
        let identity = Identity { id: place::id(&place.record.name), folder: place.folder().join("sidecar"), life };
        readable_folder(&identity.folder, PROXY_ID)?;
        File::create(identity.folder.join("remora-proxy")).map_err(Error::file(&identity.folder))?;
        let due = identity.issue(&place.state)?;
        let now = Seen::look(&place.state)?;
        let configuration = mesh.configuration(&place.record, &now.runs);
        sidecar::write(&identity.folder, &configuration)?;
        let (seen, servers) = (now.clone(), BTreeSet::new());
        let mut upkeep = Self { place, network, mesh, identity, due, seen, configuration, servers };
        upkeep.names(&now)?;
        Ok(upkeep)
    }

    /// What is mounted over what in the run: its names; over the state folder what the sidecar may see of it; and the
    /// sidecar's program, which may lie where its user cannot go.
    pub(super) fn binds(&self, proxy: &Path) -> Vec<(PathBuf, PathBuf)> {
        let (folder, state) = (self.place.folder(), self.place.state.folder());
        let names =
            [("hosts", HOSTS), ("resolv.conf", RESOLV_CONF)].map(|(ours, over)| (folder.join(ours), over.into()));
        let mut binds: Vec<_> = names.into_iter().filter(|(_, over): &(_, PathBuf)| over.exists()).collect();
        binds.push((self.identity.folder.clone(), state.to_owned()));
        binds.push((proxy.to_owned(), state.join("remora-proxy")));
        binds
    }

    /// Keeps it so.
    pub(super) async fn go_on(&mut self) -> Infallible {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = String::new();
        loop {
            look.tick().await;
            self.renew();
            let said = self.follow().await.err().map(|error| error.to_string()).unwrap_or_default();
            // Once, not five times a second.
            if !said.is_empty() && said != complaint {
                say(&said);
            }
            complaint = said;
        }
    }

    fn renew(&mut self) {
        let now = SystemTime::now();
        if now < self.due {
            return;
        }
        self.due = self.identity.issue(&self.place.state).unwrap_or_else(|error| {
            say(&format!("the identity is not renewed: {error}"));
            now + RETRY
        });
    }

    async fn follow(&mut self) -> Result<(), Error> {
        let now = Seen::look(&self.place.state)?;
        if now == self.seen {
            return Ok(());
        }
        let text = self.mesh.configuration(&self.place.record, &now.runs);
        if text != self.configuration {
            // First: no name is known before the sidecar knows whom to expect behind it.
            sidecar::configure(&self.identity.folder, &text, self.place.record.address).await?;
            self.configuration = text;
        }
        self.names(&now)?;
        self.seen = now;
        Ok(())
    }

    fn names(&mut self, now: &Seen) -> Result<(), Error> {
        let folder = self.place.folder();
        names::rewrite(&folder.join("hosts"), &names::hosts(&now.runs, &now.hosts))?;
        names::rewrite(&folder.join("resolv.conf"), &now.resolv_conf)?;
        for server in names::loopback_servers(&now.resolv_conf) {
            if self.servers.insert(server) {
                self.lead_to(server)?;
            }
        }
        Ok(())
    }

    /// Answers inside, at the very address that resolv.conf names, with what the host's server there says.
    fn lead_to(&self, server: IpAddr) -> Result<(), Error> {
        let address = (server, DNS).into();
        let bind = || Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?));
        let (udp, tcp) = namespace::inside(self.network, bind)?.map_err(|source| Error::Listen { address, source })?;
        relay::udp(udp, address)
            .and_then(|()| relay::tcp(tcp, address))
            .map_err(|source| Error::Listen { address, source })
    }
}
