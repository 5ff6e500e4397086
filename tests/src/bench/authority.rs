//! The certificate authority under load: signing requests made beforehand, connections kept, tokens of an OIDC issuer.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use remora_certs::proto::istio::IstioCertificateRequest;
use remora_certs::proto::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use super::Round;
use super::sidecars::cpu_seconds;
use crate::authority::{Authority, script, with_ca};
use crate::mesh::Folder;
use crate::netns::run;

/// Connections at once, each with one request under way.
const CONNECTIONS: usize = 16;

type Client = IstioCertificateServiceClient<Channel>;

/// An authority that is up, and what its clients need.
#[derive(Debug)]
pub struct Ca {
    authority: Authority,
    config: Arc<ClientConfig>,
    authorization: MetadataValue<Ascii>,
    runtime: tokio::runtime::Runtime,
    _folder: Folder,
}

impl Ca {
    /// Starts one that knows the keys of an issuer, and has a token of that issuer.
    ///
    /// # Errors
    /// The token or the roots cannot be used.
    ///
    /// # Panics
    /// When the authority does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let (folder, ca) = with_ca();
        let place = folder.path().to_str().context("the folder's name is no text")?;
        let tokens: serde_json::Value = serde_json::from_slice(&run(&mut script("tokens.py", &[place]))?.stdout)?;
        let token = tokens["es256"].as_str().context("no token")?;
        let jwks = format!("{place}/jwks.json");
        let oidc = ["--oidc-issuer", "https://issuer.example", "--oidc-jwks", &jwks];
        // All load is one caller's, whom the limit must not stop.
        let authority = Authority::start(folder.path(), &ca, &[&oidc[..], &["--rate", "100000000"]].concat());
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(ca.join("bundle.pem"))? {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            authority,
            config: Arc::new(config),
            authorization: format!("Bearer {token}").parse()?,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            _folder: folder,
        })
    }

    /// Has `count` certificates made, and measures it.
    ///
    /// # Errors
    /// The first request that failed.
    pub fn certificates(&self, count: u64) -> anyhow::Result<Round> {
        let requests = (0..count).map(|_| signing_request()).collect::<anyhow::Result<Vec<_>>>()?;
        self.runtime.block_on(self.load(requests))
    }

    async fn load(&self, requests: Vec<String>) -> anyhow::Result<Round> {
        let count = requests.len() as f64;
        let requests = Arc::new(Mutex::new(requests));
        let mut clients = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            clients.push(connect(self.authority.grpc, &self.config).await?);
        }
        let before = cpu_seconds(&self.authority.process);
        let began = Instant::now();
        let mut working = tokio::task::JoinSet::new();
        for client in clients {
            working.spawn(ask(client, Arc::clone(&requests), self.authorization.clone()));
        }
        while let Some(done) = working.join_next().await {
            done??;
        }
        let took = began.elapsed().as_secs_f64();
        let after = cpu_seconds(&self.authority.process);
        let cpu = (after - before) * 1e6 / count;
        Ok([("certificates_s", count / took), ("cpu_us_per_certificate", cpu)]
            .map(|(name, value)| (name.to_owned(), value))
            .into())
    }
}

/// A key of its own, and no name: the token says who asks.
fn signing_request() -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

async fn connect(server: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<Client> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let tls = TlsConnector::from(Arc::clone(config)).connect(ServerName::from(server.ip()), stream).await?;
    let mut tls = Some(TokioIo::new(tls));
    let once = tower::service_fn(move |_: Uri| {
        let tls = tls.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { tls }
    });
    let endpoint = Endpoint::from_static("http://authority").origin(Uri::from_static("https://authority"));
    Ok(Client::new(endpoint.connect_with_connector(once).await?))
}

/// One client: the next request once the last is answered, until none is left.
async fn ask(
    mut client: Client,
    requests: Arc<Mutex<Vec<String>>>,
    authorization: MetadataValue<Ascii>,
) -> anyhow::Result<()> {
    let next = || requests.lock().unwrap_or_else(PoisonError::into_inner).pop();
    while let Some(csr) = next() {
        let asked = IstioCertificateRequest { csr, validity_duration: 3600, metadata: None };
        let mut request = tonic::Request::new(asked);
        request.metadata_mut().insert("authorization", authorization.clone());
        let answer = client.create_certificate(request).await?.into_inner();
        anyhow::ensure!(answer.cert_chain.len() > 1, "a certificate without its roots");
    }
    Ok(())
}
