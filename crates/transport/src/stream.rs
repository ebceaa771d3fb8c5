//! Messages to and from a TLS stream.

use std::io;

use bytes::Bytes;
use switchback_delta::FRAME_HEADER_LEN;
use switchback_disk::AlignedPool;
use switchback_model::Epoch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::throttle::{PIECE, RateLimit};
use crate::wire::{self, HEAD_LEN, Head, Kind, Outgoing, Request, WireError};

/// Payloads up to this many bytes are gathered with their neighbours into one write; longer ones are sent from where
/// they are. One TLS record.
pub(crate) const GATHER_LEN: usize = 16 * 1024;
/// Bytes gathered at most before they are written.
pub(crate) const GATHERED_MAX: usize = 64 * 1024;

/// How receiving ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// With close_notify between two messages.
    #[error("the other end closed the connection")]
    Closed,
    /// In any other way.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer does not keep to the wire format.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The next message's header, signs of life left out.
pub(crate) async fn receive_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Head, ReceiveError> {
    loop {
        let mut bytes = [0; HEAD_LEN];
        // The end of the stream between two messages is an end; within one it is a loss.
        let first = stream.read(&mut bytes).await?;
        if first == 0 {
            return Err(ReceiveError::Closed);
        }
        stream.read_exact(&mut bytes[first..]).await?;
        let head = Head::decode(bytes)?;
        if head.kind != Kind::Alive {
            return Ok(head);
        }
    }
}

/// The payload of a message that is not a frame. Its length has been checked against its kind.
pub(crate) async fn receive_payload(
    stream: &mut (impl AsyncRead + Unpin),
    head: Head,
) -> Result<Vec<u8>, ReceiveError> {
    // Grown as bytes arrive: a peer that only promises 4 MiB costs nothing.
    let mut payload = Vec::new();
    stream.take(head.len.into()).read_to_end(&mut payload).await?;
    if payload.len() < head.len as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(payload)
}

/// The rest of a request.
pub(crate) async fn receive_request(
    stream: &mut (impl AsyncRead + Unpin),
    head: Head,
) -> Result<Request, ReceiveError> {
    if head.kind != Kind::Frame {
        let payload = receive_payload(stream, head).await?;
        return Ok(Request::decode(head.kind, &payload)?);
    }
    let mut header = [0; FRAME_HEADER_LEN];
    if (head.len as usize) < header.len() {
        return Err(
            WireError::Payload { kind: Kind::Frame, detail: "shorter than a frame's header".into() }.into()
        );
    }
    stream.read_exact(&mut header).await?;
    let (mut frame, stored_len) = wire::frame_header(&header, head.len)?;
    frame.stored = receive_stored(stream, stored_len).await?;
    Ok(Request::Frame(frame))
}

/// A frame's stored bytes, straight into the buffer from which they will be written to disk.
async fn receive_stored(stream: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Bytes> {
    let mut buffer = AlignedPool::shared().take(len);
    stream.read_exact(&mut buffer).await?;
    Ok(buffer.freeze())
}

/// Bytes that are sent at once where a limit may come and there is none now.
const UNLIMITED_PIECE: usize = 1 << 20;

/// Sends messages: small ones gathered, large ones from where they are.
#[derive(Debug)]
pub(crate) struct Sender<W> {
    stream: W,
    gathered: Vec<u8>,
    limits: Vec<RateLimit>,
    /// Whether a message has been sent in part only: if sending was given up then, nothing may follow.
    partial: bool,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    pub(crate) fn new(stream: W, limits: Vec<RateLimit>) -> Self {
        Self { stream, gathered: Vec::with_capacity(GATHERED_MAX), limits, partial: false }
    }

    /// Sends a message, or keeps it to be sent with the next: [`Sender::flush`] after the last.
    pub(crate) async fn send(
        &mut self,
        message: &Outgoing,
        request: u16,
        resume: bool,
        epoch: Option<Epoch>,
    ) -> io::Result<()> {
        let head = message.head(request, resume, epoch).map_err(io::Error::other)?;
        self.gathered.extend_from_slice(&head.encode());
        self.gathered.extend_from_slice(&message.small);
        if message.bulk.len() <= GATHER_LEN {
            self.gathered.extend_from_slice(&message.bulk);
            if self.gathered.len() < GATHERED_MAX {
                return Ok(());
            }
            return self.write_gathered().await;
        }
        self.write_gathered().await?;
        self.write(&message.bulk).await
    }

    /// Sends messages that are encoded already.
    pub(crate) async fn send_encoded(&mut self, messages: &[u8]) -> io::Result<()> {
        self.write_gathered().await?;
        self.write(messages).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.partial = true;
        let mut left = bytes;
        while !left.is_empty() {
            // Looked at with every piece: a limit may come and go while a message is being sent.
            let is_limited = self.limits.iter().any(RateLimit::is_set);
            let most = match (is_limited, self.limits.is_empty()) {
                (true, _) => PIECE,
                (false, true) => left.len(),
                (false, false) => UNLIMITED_PIECE,
            };
            let (piece, rest) = left.split_at(most.min(left.len()));
            left = rest;
            self.wait_for(piece.len()).await;
            self.stream.write_all(piece).await?;
            if is_limited {
                self.stream.flush().await?;
            }
        }
        self.partial = false;
        Ok(())
    }

    /// Until so many bytes may be sent.
    async fn wait_for(&self, bytes: usize) {
        for limit in &self.limits {
            limit.take(bytes).await;
        }
    }

    async fn write_gathered(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.partial = true;
        self.wait_for(self.gathered.len()).await;
        self.stream.write_all(&self.gathered).await?;
        self.gathered.clear();
        self.partial = false;
        Ok(())
    }

    /// Sends what is kept.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.write_gathered().await?;
        self.stream.flush().await
    }

    /// Sends a sign of life.
    pub(crate) async fn alive(&mut self) -> io::Result<()> {
        self.send(&Outgoing::new(Kind::Alive, Vec::new()), 0, false, None).await?;
        self.flush().await
    }

    /// Says a last word, if that is still possible, and close_notify.
    pub(crate) async fn close(&mut self, last: Option<(&Outgoing, u16)>) -> io::Result<()> {
        if !self.partial {
            if let Some((message, request)) = last {
                self.send(message, request, false, None).await?;
            }
            self.flush().await?;
        }
        self.stream.shutdown().await
    }
}
