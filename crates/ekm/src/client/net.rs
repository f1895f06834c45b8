//! One request on one connection over TLS, to an address that was looked at.
//!
//! Invariant: the address that is connected to is one of those that were checked; nothing resolves the name again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use claviger_crypto::tls::ClientConfig;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::wire::BODY_BYTES;

/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 4;

/// Whom to ask.
pub(super) struct Whom {
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether it may be on this machine or in a private network.
    pub(super) private: bool,
}

/// Sends a request; gives the status and the body of the answer, or a sentence of what went wrong.
pub(super) async fn exchange(
    whom: &Whom,
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let stream = connect(whom).await?;
    let Whom { host, .. } = whom;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|e| format!("{host} is not a name: {e}"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|e| format!("no TLS with {host}: {e}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| format!("no HTTP with {host}: {e}"))?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| format!("no answer of {host}: {e}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES).collect().await;
        let body = body.map_err(|e| format!("no whole answer of {host}: {e}"))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(talk);
    let mut done = false;
    loop {
        tokio::select! {
            answer = &mut talk => return answer,
            // What it broke with, the request is told.
            _ = &mut connection, if !done => done = true,
        }
    }
}

async fn connect(whom: &Whom) -> Result<TcpStream, String> {
    let Whom { host, port, private } = whom;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = lookup_host((bare, *port)).await.map_err(|e| format!("{host} has no address: {e}"))?;
    let (mut why, mut tried) = (format!("{host} has no address"), 0);
    for address in found {
        if !may_connect(address.ip(), *private) {
            why = format!("{host} is at {}, which this server does not connect to", address.ip());
            continue;
        }
        tried += 1;
        if tried > MAX_ADDRESSES {
            break;
        }
        match open(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("no connection to {host}: {error}"),
        }
    }
    Err(why)
}

async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether an address may be connected to.
fn may_connect(address: IpAddr, private: bool) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let never =
                v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_link_local() || a == 0;
            !never && (private || !(v4.is_loopback() || v4.is_private() || shared))
        }
        IpAddr::V6(v6) => {
            let never = v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local();
            !never && (private || !(v6.is_loopback() || v6.is_unique_local()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_of_private_networks_need_a_leave_and_others_have_none() {
        for (address, public, private) in [
            ("93.184.216.34", true, true),
            ("2606:2800:220:1::1", true, true),
            ("127.0.0.1", false, true),
            ("::1", false, true),
            ("10.1.2.3", false, true),
            ("172.16.0.1", false, true),
            ("192.168.0.1", false, true),
            ("100.64.0.1", false, true),
            ("fd00::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("::ffff:10.0.0.1", false, true),
            // The metadata of clouds.
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                (may_connect(address, false), may_connect(address, true)),
                (public, private),
                "{address}"
            );
        }
    }
}
