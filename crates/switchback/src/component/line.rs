//! One connection to a configuration server: HTTP/1.1 inside mutual TLS, one request after the other.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use switchback_identity::tls::{TlsFailure, server_name};
use switchback_model::JobError;
use switchback_model::component::MESSAGE_LEN_MAX;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::error::ChannelError;

/// Time for the connection and the handshake.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// After so long without an acknowledgement of what was sent, the other end is dead.
const DEAD_AFTER_MS: u32 = 20_000;

/// The bytes of a request, in one piece.
pub(super) struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A connection. Dropping it ends it.
pub(super) struct Line {
    server: String,
    sender: SendRequest<Whole>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    /// Connects to `server`, `HOST:PORT`.
    pub(super) async fn open(server: &str, tls: Arc<ClientConfig>) -> Result<Self, ChannelError> {
        let unreachable = |detail: String| ChannelError::Unreachable { server: server.into(), detail };
        let connect = async {
            let stream = TcpStream::connect(server).await.map_err(|error| unreachable(error.to_string()))?;
            stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
            rustix::net::sockopt::set_tcp_user_timeout(&stream, DEAD_AFTER_MS)
                .map_err(|error| unreachable(error.to_string()))?;
            let stream = TlsConnector::from(tls).connect(server_name(), stream).await;
            stream.map_err(|error| match TlsFailure::of(&error) {
                Some(failure) => ChannelError::Identity { server: server.into(), failure },
                None => unreachable(error.to_string()),
            })
        };
        let stream = tokio::time::timeout(CONNECT_MAX, Box::pin(connect))
            .await
            .unwrap_or_else(|_| Err(unreachable(format!("no answer within {} s", CONNECT_MAX.as_secs()))))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
        // Its errors come out of the requests, too.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { server: server.into(), sender, task })
    }

    /// Whether a request can be sent to `server`.
    pub(super) fn is_open_to(&self, server: &str) -> bool {
        self.server == server && !self.sender.is_closed()
    }

    /// Sends a request and waits for its answer; after an error that is not [`ChannelError::Refused`] the connection is of no use.
    pub(super) async fn post(&mut self, path: &str, body: Bytes) -> Result<Bytes, ChannelError> {
        let failed = |server: &str, error: &hyper::Error| {
            // With TLS 1.3 a server's refusal of our certificate arrives after the handshake.
            let source =
                std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
            match source.and_then(TlsFailure::of) {
                Some(failure) => ChannelError::Identity { server: server.into(), failure },
                None => ChannelError::Unreachable { server: server.into(), detail: error.to_string() },
            }
        };
        let request = Request::post(path)
            .header(HOST, "switchback.invalid")
            .header(CONTENT_TYPE, "application/json")
            .body(Whole(Some(body)))
            .expect("paths are constants");
        self.sender.ready().await.map_err(|error| failed(&self.server, &error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| failed(&self.server, &error))?;
        let status = answer.status();
        let body = whole(answer).await.map_err(|detail| self.protocol(detail))?;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<JobError>(&body) {
            Ok(error) => Err(ChannelError::Refused {
                server: self.server.clone(),
                status: status.as_u16(),
                error: Box::new(error),
            }),
            Err(_) => Err(self.protocol(format!("status {status}"))),
        }
    }

    pub(super) fn protocol(&self, detail: String) -> ChannelError {
        ChannelError::Protocol { server: self.server.clone(), detail }
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, String> {
    let mut body = answer.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > MESSAGE_LEN_MAX {
                return Err(format!("an answer of more than {MESSAGE_LEN_MAX} bytes"));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes.freeze())
}
