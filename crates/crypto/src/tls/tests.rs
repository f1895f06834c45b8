//! Whom a client trusts, shown by whole handshakes in memory.
//!
//! Invariant: none: tests.

use std::io;

use rustls::{ClientConnection, Connection, ServerConnection};

use super::*;

const OWN: &str = include_str!("testdata/self.pem");
const OWN_KEY: &str = include_str!("testdata/self.key");
const CA: &str = include_str!("testdata/ca.pem");
const LEAF: &str = include_str!("testdata/leaf.pem");
const LEAF_KEY: &str = include_str!("testdata/leaf.key");
/// Of the key of [`LEAF`], signed by the key of [`OWN`], which is no authority.
const BY_LEAF: &str = include_str!("testdata/by_leaf.pem");

const IN_2030: u64 = 1_893_456_000;

fn der(pem: &str) -> Vec<u8> {
    certificate::from_pem(pem).unwrap().remove(0)
}

fn pinned(pem: &str) -> Trust {
    Trust::Pinned(vec![der(pem)])
}

/// Moves bytes between two ends until both are done.
fn handshake(trust: Trust, name: &'static str, at: u64, chain: &str, key: &str) -> Result<(), rustls::Error> {
    let client = client(trust, Arc::new(move || at)).unwrap();
    meet(client, name, server(chain, key.as_bytes()).unwrap()).map(drop)
}

/// The server's side of a connection that both agreed on.
fn meet(
    client: Arc<ClientConfig>,
    name: &'static str,
    server: Arc<ServerConfig>,
) -> Result<Connection, rustls::Error> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = Connection::from(ClientConnection::new(client, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server).unwrap());
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    Ok(server)
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = io::Cursor::new(bytes);
    while rest.position() < rest.get_ref().len() as u64 {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn a_pinned_leaf_is_trusted_for_its_names_and_its_time() {
    let ends = |name, at| handshake(pinned(OWN), name, at, OWN, OWN_KEY);
    assert_eq!(ends("ekm.example.com", IN_2030), Ok(()));
    assert_eq!(ends("127.0.0.1", IN_2030), Ok(()));
    for (name, at) in
        [("other.example.com", IN_2030), ("localhost", 1_000_000_000), ("localhost", 5_000_000_000)]
    {
        assert!(ends(name, at).is_err(), "{name} {at}");
    }
}

#[test]
fn a_pinned_authority_is_trusted_with_what_it_vouches_for() {
    assert_eq!(handshake(pinned(CA), "localhost", IN_2030, LEAF, LEAF_KEY), Ok(()));
    assert_eq!(handshake(Trust::Roots(vec![der(CA)]), "localhost", IN_2030, LEAF, LEAF_KEY), Ok(()));
    assert!(handshake(pinned(CA), "other.example.com", IN_2030, LEAF, LEAF_KEY).is_err());
    assert!(handshake(pinned(CA), "localhost", 5_000_000_000, LEAF, LEAF_KEY).is_err());
}

#[test]
fn what_is_not_pinned_is_not_trusted() {
    for (trust, chain, key) in [
        (pinned(CA), OWN, OWN_KEY),
        (pinned(OWN), LEAF, LEAF_KEY),
        (pinned(LEAF), OWN, OWN_KEY),
        // A leaf that is pinned does not vouch for others.
        (pinned(OWN), BY_LEAF, LEAF_KEY),
    ] {
        assert!(handshake(trust, "localhost", IN_2030, chain, key).is_err());
    }
}

#[test]
fn what_cannot_be_shown_or_trusted_is_refused_at_once() {
    assert!(server(OWN, LEAF_KEY.as_bytes()).is_err());
    assert!(server("", OWN_KEY.as_bytes()).is_err());
    assert!(server(OWN, b"no key").is_err());
    assert!(client(Trust::Pinned(Vec::new()), Arc::new(|| 0)).is_err());
    assert!(client(Trust::Roots(Vec::new()), Arc::new(|| 0)).is_err());
    assert!(client(Trust::Pinned(vec![b"no certificate".to_vec()]), Arc::new(|| 0)).is_err());
}

#[test]
fn a_server_that_asks_takes_clients_whom_its_authority_vouches_for_and_no_others() {
    let identity = |cert: &str, key: &str| Identity::from_pem(cert, key.as_bytes()).unwrap();
    let meets = |shown: Option<Identity>, at: u64| {
        let client = client_as(pinned(OWN), shown, &[b"h2"], Arc::new(|| IN_2030)).unwrap();
        let authorities = Some(vec![der(CA)]);
        let server = server_as(identity(OWN, OWN_KEY), authorities, &[b"h2"], Arc::new(move || at));
        meet(client, "ekm.example.com", server.unwrap())
    };
    let server = meets(Some(identity(LEAF, LEAF_KEY)), IN_2030).unwrap();
    assert_eq!(server.peer_certificates().unwrap()[0].as_ref(), der(LEAF));
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert!(matches!(meets(None, IN_2030), Err(rustls::Error::NoCertificatesPresented)));
    assert!(meets(Some(identity(OWN, OWN_KEY)), IN_2030).is_err(), "another vouches for it");
    assert!(meets(Some(identity(LEAF, LEAF_KEY)), 9_999_999_999).is_err(), "its time is over");
}

#[test]
fn an_identity_of_parts_that_do_not_belong_together_is_refused() {
    let mixed = || Identity::from_pem(OWN, LEAF_KEY.as_bytes()).unwrap();
    assert!(client_as(pinned(OWN), Some(mixed()), &[], Arc::new(|| IN_2030)).is_err());
    assert!(server_as(mixed(), None, &[], Arc::new(|| IN_2030)).is_err());
    assert!(Identity::from_pem("x", OWN_KEY.as_bytes()).is_err());
    assert!(Identity::from_pem(OWN, b"x").is_err());
    assert!(!format!("{:?}", mixed()).contains("key"));
}
