//! A client that says what it is told to, byte by byte: written from the description of the wire format, without its code.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use switchback_identity::Role;
use switchback_identity::tls::{ExpectedPeer, client_config, server_name};
use switchback_replica::ReplicaError;

use crate::support::{PATIENCE, Site, request};

pub(crate) const HELLO: u8 = 1;
pub(crate) const WELCOME: u8 = 2;
pub(crate) const OPEN: u8 = 16;
pub(crate) const FRAME: u8 = 20;
pub(crate) const BARRIER: u8 = 22;
pub(crate) const DONE: u8 = 128;
pub(crate) const FAILED: u8 = 129;

pub(crate) struct Raw(StreamOwned<ClientConnection, TcpStream>);

impl Raw {
    pub(crate) fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(StreamOwned::new(ClientConnection::new(tls, server_name()).unwrap(), stream))
    }

    /// With an agent's certificate.
    pub(crate) fn agent(site: &Site) -> Self {
        let expected = ExpectedPeer { roles: vec![Role::Target], name: None };
        let tls = client_config(&site.live(Role::Source), expected, site.clock.clone()).unwrap();
        Self::connect(site.address, tls)
    }

    /// With an open session of epoch 5.
    pub(crate) fn opened(site: &Site) -> Self {
        let mut raw = Self::agent(site);
        raw.send(HELLO, u64::MAX, br#"{"min":1,"max":1,"build":"raw"}"#);
        assert_eq!(raw.receive().unwrap().0, WELCOME);
        raw.send(OPEN, 5, &serde_json::to_vec(&request(7)).unwrap());
        assert_eq!(raw.receive().unwrap().0, DONE);
        raw
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // The server may have gone already: what it said is what counts.
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
    }

    pub(crate) fn head(kind: u8, len: u32, epoch: u64) -> Vec<u8> {
        [&[kind, 0, 7, 0][..], &len.to_le_bytes(), &epoch.to_le_bytes()].concat()
    }

    pub(crate) fn send(&mut self, kind: u8, epoch: u64, payload: &[u8]) {
        let head = Self::head(kind, u32::try_from(payload.len()).unwrap(), epoch);
        self.bytes(&[&head, payload].concat());
    }

    /// The next message, or `None` at the end of the connection.
    pub(crate) fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 16];
            self.0.read_exact(&mut head).ok()?;
            let mut payload = vec![0; u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize];
            self.0.read_exact(&mut payload).ok()?;
            if head[0] != 3 {
                return Some((head[0], payload));
            }
        }
    }

    /// The error the server answers with.
    pub(crate) fn error(&mut self) -> ReplicaError {
        let (kind, payload) = self.receive().expect("an answer");
        assert_eq!(kind, FAILED);
        serde_json::from_slice(&payload).unwrap()
    }

    pub(crate) fn close(mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
    }
}
