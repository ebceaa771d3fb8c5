//! Enrolment over the network: moves the messages of `switchback_identity`'s exchange.
//!
//! Each message is its length (u32, little-endian, at most 64 KiB) and its bytes, in a TLS 1.3 connection of the protocol
//! `switchback-enrol/1`.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use switchback_disk::Clock;
use switchback_identity::tls::{enrolment_client_config, server_name};
use switchback_identity::{
    ChannelBinding, Credentials, EnrolError, EnrolmentClient, EnrolmentSecret, EnrolmentService,
    MESSAGE_LEN_MAX, Newcomer, PeerIdentity,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;

use crate::connect::dial;

/// Where to enrol, and as whom.
#[derive(Clone, Debug)]
pub struct EnrolConfig {
    /// `host:port` of the authority.
    pub address: String,
    /// The site's passphrase, or a ticket.
    pub secret: EnrolmentSecret,
    /// Who to become.
    pub identity: PeerIdentity,
    /// For all of it together.
    pub timeout: Duration,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The runtime it runs on.
    pub runtime: Handle,
}

/// Enrols; the credentials are to be stored by the caller. Not to be called from async code.
///
/// # Errors
/// [`EnrolError`]; [`EnrolError::Protocol`] also when the connection fails.
pub fn enrol(config: &EnrolConfig) -> Result<Credentials, EnrolError> {
    let attempt = async { tokio::time::timeout(config.timeout, exchange(config)).await };
    config.runtime.block_on(attempt).unwrap_or_else(|_| {
        Err(failed(config, &format!("it did not answer within {} s", config.timeout.as_secs_f32())))
    })
}

fn failed(config: &EnrolConfig, detail: &dyn std::fmt::Display) -> EnrolError {
    EnrolError::Protocol { detail: format!("{}: {detail}", config.address) }
}

async fn exchange(config: &EnrolConfig) -> Result<Credentials, EnrolError> {
    let lost = |error: io::Error| match switchback_identity::tls::TlsFailure::of(&error) {
        Some(failure) => failed(config, &failure),
        None => failed(config, &error),
    };
    let tls = enrolment_client_config(config.clock.clone()).map_err(|error| failed(config, &error))?;
    let stream = dial(&config.address).await.map_err(lost)?;
    let mut stream = TlsConnector::from(tls).connect(server_name(), stream).await.map_err(lost)?;
    let binding = ChannelBinding::of(stream.get_ref().1).map_err(|error| failed(config, &error))?;
    let (client, start) = EnrolmentClient::start(&config.secret, config.identity.clone(), binding);
    write_message(&mut stream, &start).await.map_err(lost)?;
    let challenge = read_message(&mut stream).await.map_err(lost)?;
    let (client, proof) = client.prove(&challenge)?;
    write_message(&mut stream, &proof).await.map_err(lost)?;
    let grant = read_message(&mut stream).await.map_err(lost)?;
    let credentials = client.finish(&grant)?;
    let _ = stream.shutdown().await;
    Ok(credentials)
}

/// The server's end of one enrolment, on a connection of the protocol [`ALPN_ENROL`](switchback_identity::tls::ALPN_ENROL) from `from`; `service`:
/// where there is an authority. Before the newcomer gets its certificate, `record` writes down that it belongs to the site, and uses its
/// ticket up: what fails there is told to it. Ends the connection; `None`: nobody was enrolled, and the other end knows why.
///
/// # Errors
/// When the connection fails.
pub async fn admit<S, F>(
    stream: &mut TlsStream<S>,
    service: Option<&EnrolmentService>,
    from: IpAddr,
    record: impl FnOnce(Newcomer) -> F,
) -> io::Result<Option<PeerIdentity>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<(), String>>,
{
    let binding = ChannelBinding::of(stream.get_ref().1).map_err(io::Error::other)?;
    let enrolled = exchange_as_server(stream, service, from, binding, record).await?;
    stream.shutdown().await?;
    linger(stream).await;
    Ok(enrolled)
}

async fn exchange_as_server<F: Future<Output = Result<(), String>>>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    service: Option<&EnrolmentService>,
    from: IpAddr,
    binding: ChannelBinding,
    record: impl FnOnce(Newcomer) -> F,
) -> io::Result<Option<PeerIdentity>> {
    let Some(service) = service else {
        let detail =
            "there is no certificate authority on this host; enrol where the site's authority is".into();
        let refusal = EnrolmentService::refusal(&EnrolError::Protocol { detail });
        return write_message(stream, &refusal).await.map(|()| None);
    };
    let begun = service.begin(from, binding, &read_message(stream).await?);
    let finished = match begun {
        Ok((pending, challenge)) => {
            write_message(stream, &challenge).await?;
            service.finish(pending, &read_message(stream).await?)
        }
        Err(error) => Err(error),
    };
    let recorded = match finished {
        Ok((newcomer, grant)) => {
            let recorded = record(newcomer.clone()).await;
            recorded.map(|()| (newcomer.identity, grant)).map_err(|detail| EnrolError::Protocol { detail })
        }
        Err(error) => Err(error),
    };
    match recorded {
        Ok((identity, grant)) => {
            tracing::info!(%identity, %from, "enrolled");
            write_message(stream, &grant).await?;
            Ok(Some(identity))
        }
        Err(error) => {
            tracing::warn!(%from, %error, "not enrolled");
            write_message(stream, &EnrolmentService::refusal(&error)).await?;
            Ok(None)
        }
    }
}

/// Reads on for a moment and throws away: closing a socket with unread bytes would make the kernel send a reset, which can
/// overtake the last word that tells the client why.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + Unpin)) {
    let drain = async {
        let mut sink = [0; 4096];
        let mut left = 256;
        while left > 0 && matches!(stream.read(&mut sink).await, Ok(1..)) {
            left -= 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = stream.read_u32_le().await?;
    if len as usize > MESSAGE_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an enrolment message is too long"));
    }
    let mut message = Vec::new();
    stream.take(len.into()).read_to_end(&mut message).await?;
    if message.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}
