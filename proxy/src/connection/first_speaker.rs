//! Who speaks first, where the client is silent.

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{Accepted, Carried, Dialled};
use crate::Error;
use crate::http::fields::Trust;
use crate::inspect::{self, Inspected};
use crate::io::{Downstream, Replay};

/// How long a silent client whose upstream cannot be reached may still turn out to speak HTTP.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Accepted {
    /// The client is silent: dial, and let whoever speaks first decide.
    pub(super) async fn first_speaker(mut self, mut io: Replay<Downstream>, trust: Trust) -> Option<Carried> {
        let mut dialled = None;
        let spoken = tokio::select! {
            spoken = self.who_speaks(&mut io, &mut dialled) => spoken,
            () = self.unwanted() => return None,
        };
        let inspected = match spoken {
            Ok(Ok(inspected)) => inspected,
            Ok(Err(error)) => return self.broken(&error),
            Err(error) => return self.fail(&error),
        };
        match (inspected, io.stream) {
            // A sidecar whose hello was late.
            (Inspected::Tls(hello), Downstream::Plain(stream)) if hello.is_mesh() && self.terminates() => {
                drop(dialled);
                Box::pin(self.accept_mesh(Replay { prefix: io.prefix, stream })).await
            }
            (inspected, stream) => {
                let io = Replay { prefix: io.prefix, stream };
                // A client that speaks HTTP takes its own way, and the dial is dropped unused.
                let http = matches!(inspected, Inspected::Http1 | Inspected::Http2);
                match dialled.filter(|_| !http) {
                    Some(dialled) => self.relay(io, dialled),
                    None => Box::pin(self.inspected(io, inspected, trust)).await,
                }
            }
        }
    }

    /// Dials, and says what the client speaks; a server that speaks before it makes it TCP.
    async fn who_speaks(
        &self,
        io: &mut Replay<Downstream>,
        dialled: &mut Option<Dialled>,
    ) -> Result<io::Result<Inspected>, Error> {
        let mut inspected = pin!(inspect::inspect(io, self.limits(None)));
        let mut dial = pin!(self.dial_tcp());
        let upstream = tokio::select! {
            biased;
            inspected = &mut inspected => {
                let inspected = inspected.map(|inspected| self.as_declared(inspected));
                let bytes = match &inspected {
                    Ok(Inspected::Tcp | Inspected::Eof) => true,
                    Ok(Inspected::Tls(hello)) => !(hello.is_mesh() && self.terminates()),
                    _ => false,
                };
                if bytes {
                    // The dial under way is the one it needs.
                    *dialled = Some(dial.await?);
                }
                return Ok(inspected);
            }
            upstream = &mut dial => upstream,
        };
        let upstream = match upstream {
            Ok(upstream) => &mut dialled.insert(upstream).0,
            // Who speaks HTTP after all is told why; for all others the connection ends.
            Err(error) => {
                let last = tokio::time::timeout(LAST_WORD, inspected).await;
                return match last.map(|inspected| inspected.map(|inspected| self.as_declared(inspected))) {
                    Ok(Ok(http @ (Inspected::Http1 | Inspected::Http2))) => Ok(Ok(http)),
                    _ => Err(error),
                };
            }
        };
        tokio::select! {
            biased;
            inspected = inspected => Ok(inspected.map(|inspected| self.as_declared(inspected))),
            // Its first bytes stay in the prefix for the relay.
            _ = upstream.stream.read_buf(&mut upstream.prefix) => Ok(Ok(Inspected::Tcp)),
        }
    }
}
