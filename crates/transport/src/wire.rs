//! The wire format, byte by byte.
//!
//! A connection carries messages over TLS 1.3, each a header of 16 bytes and a payload. Integers are little-endian.
//! ```text
//! offset size
//!  0     1   kind, see `Kind`
//!  1     1   flags: 1 = resume (see below); all others 0
//!  2     2   request: counts the client's requests, wrapping; a reply has its request's
//!  4     4   len: bytes of payload that follow, at most what the kind allows
//!  8     8   epoch the sender believes in; 2⁶⁴−1 for none. 0 in replies
//! 16   len   payload
//! ```
//! The kind first, as it limits all that follows; the epoch in every header, so that no request can be looked at
//! without it. Payloads are JSON, except:
//! ```text
//! frame       delta's frame header (64 bytes), then the frame's stored bytes: they are all that is behind the
//!             header, so the receiver reads them straight into the buffer it later writes to disk
//! end-part    the part's checksum (32 bytes)
//! nodes       n × 32 bytes, the digests of n nodes in order
//! leaves      per node: its number (4), how many leaves (4), n × 32 bytes
//! ```
//! # Order of a connection
//! ```text
//! client: hello {min, max, build}          server: welcome {version, build}     or failed
//! client: open SessionRequest              server: done ReplicaStatus           or failed
//! client: requests, in order               server: replies, in the same order
//! both:   alive, whenever nothing else was sent for a third of the time after which a silent peer is dead
//! ```
//! `hello`, `welcome` and `failed` keep their form in all versions, so that two versions that have nothing in
//! common can still say so. `renew` may come instead of `open`.
//!
//! `begin-part`, `frame` and `end-part` are answered only when they fail. After `failed` with `paused`, the server skips
//! these three, and answers all else with the same error, until a request with the flag *resume* shows that the client has seen
//! it: frames that were on their way must not be taken behind one that was not.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use switchback_delta::{Digest, FRAME_HEADER_LEN, FRAME_MAX, Frame};
use switchback_model::{DiskIndex, Epoch};
use switchback_replica::{
    CommitCycle, LeafDigests, NodeDigest, OpenCycle, PartHeader, ReplicaError, SessionRequest,
};

/// The versions this build speaks. A changelog of the wire format:
/// 1: the first.
pub(crate) const VERSION_MIN: u32 = 1;
/// The newest of them.
pub(crate) const VERSION_MAX: u32 = 1;

/// Bytes of a header.
pub(crate) const HEAD_LEN: usize = 16;
/// Most bytes of a JSON payload: 4 MiB.
pub(crate) const CONTROL_LEN_MAX: u32 = 4 << 20;
/// Most bytes of `hello` and `welcome`, which come from peers of any version.
const HELLO_LEN_MAX: u32 = 4096;
/// Nodes whose digests one request may ask for: 4 GiB of disk, so that a request is a matter of seconds even if
/// all must be read.
pub(crate) const NODES_MAX: u32 = 256;
/// Nodes whose leaves one request may ask for: 1 GiB of disk, 512 KiB of digests.
pub(crate) const LEAF_NODES_MAX: usize = 64;

const LEAVES_PER_NODE: usize = switchback_delta::NODE_LEAVES as usize;
const NO_EPOCH: u64 = u64::MAX;
const FLAG_RESUME: u8 = 1;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Welcome = 2,
    Alive = 3,
    Open = 16,
    Status = 17,
    OpenCycle = 18,
    BeginPart = 19,
    Frame = 20,
    EndPart = 21,
    Barrier = 22,
    Commit = 23,
    AbortCycle = 24,
    NodeDigests = 25,
    LeafDigests = 26,
    Renew = 48,
    Done = 128,
    Failed = 129,
    Nodes = 130,
    Leaves = 131,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Hello,
        Self::Welcome,
        Self::Alive,
        Self::Open,
        Self::Status,
        Self::OpenCycle,
        Self::BeginPart,
        Self::Frame,
        Self::EndPart,
        Self::Barrier,
        Self::Commit,
        Self::AbortCycle,
        Self::NodeDigests,
        Self::LeafDigests,
        Self::Renew,
        Self::Done,
        Self::Failed,
        Self::Nodes,
        Self::Leaves,
    ];

    #[expect(clippy::cast_possible_truncation, reason = "both are small constants")]
    const fn len_max(self) -> u32 {
        match self {
            Self::Hello | Self::Welcome => HELLO_LEN_MAX,
            Self::Alive | Self::Status | Self::Barrier | Self::AbortCycle => 0,
            Self::Frame => FRAME_HEADER_LEN as u32 + FRAME_MAX,
            Self::EndPart => 32,
            Self::Nodes => NODES_MAX * 32,
            Self::Leaves => (LEAF_NODES_MAX * (8 + LEAVES_PER_NODE * 32)) as u32,
            _ => CONTROL_LEN_MAX,
        }
    }
}

/// Why bytes are not what the wire format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("message kind {0} is not known to this version")]
    Kind(u8),
    #[error("flags or reserved bits are set that this version does not know ({0})")]
    Flags(u8),
    #[error("a {kind:?} message of {len} bytes is too long")]
    Length { kind: Kind, len: u32 },
    #[error("the payload of a {kind:?} message cannot be read: {detail}")]
    Payload { kind: Kind, detail: String },
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) resume: bool,
    pub(crate) request: u16,
    pub(crate) len: u32,
    pub(crate) epoch: Option<Epoch>,
}

impl Head {
    pub(crate) fn encode(self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[0] = self.kind as u8;
        out[1] = if self.resume { FLAG_RESUME } else { 0 };
        out[2..4].copy_from_slice(&self.request.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.epoch.map_or(NO_EPOCH, |epoch| epoch.0).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: [u8; HEAD_LEN]) -> Result<Self, WireError> {
        let [kind, flags, request @ .., _, _, _, _, _, _, _, _, _, _, _, _] = bytes;
        let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(WireError::Kind(kind))?;
        if flags & !FLAG_RESUME != 0 {
            return Err(WireError::Flags(flags));
        }
        let len = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if len > kind.len_max() {
            return Err(WireError::Length { kind, len });
        }
        let mut epoch = [0; 8];
        epoch.copy_from_slice(&bytes[8..]);
        let epoch = u64::from_le_bytes(epoch);
        Ok(Self {
            kind,
            resume: flags & FLAG_RESUME != 0,
            request: u16::from_le_bytes(request),
            len,
            epoch: (epoch != NO_EPOCH).then_some(Epoch(epoch)),
        })
    }
}

/// A client's first words. Unknown fields are ignored, as a newer client may say more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) build: String,
}

/// A server's answer to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) version: u32,
    pub(crate) build: String,
}

/// Asks for a new certificate for the key of a request (PKCS #10, DER).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Renew {
    pub(crate) key_request: Vec<u8>,
}

/// The new certificate, and the authority's (both DER).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Renewed {
    pub(crate) certificate: Vec<u8>,
    pub(crate) authority: Vec<u8>,
}

/// Digests asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRange {
    pub(crate) disk: DiskIndex,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Leaves asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeList {
    pub(crate) disk: DiskIndex,
    pub(crate) nodes: Vec<u32>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Open(SessionRequest),
    Status,
    OpenCycle(OpenCycle),
    BeginPart(PartHeader),
    Frame(Frame),
    EndPart([u8; 32]),
    Barrier,
    Commit(CommitCycle),
    AbortCycle,
    NodeDigests(NodeRange),
    LeafDigests(NodeList),
    Renew(Renew),
}

/// A message ready to be sent: what is small, and what is sent from where it is.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) kind: Kind,
    pub(crate) small: Vec<u8>,
    pub(crate) bulk: Bytes,
}

impl Outgoing {
    pub(crate) fn new(kind: Kind, small: Vec<u8>) -> Self {
        Self { kind, small, bulk: Bytes::new() }
    }

    pub(crate) fn json(kind: Kind, payload: &impl Serialize) -> Self {
        Self::new(kind, serde_json::to_vec(payload).expect("plain data becomes JSON"))
    }

    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        HEAD_LEN + self.small.len() + self.bulk.len()
    }

    /// Its header.
    ///
    /// # Errors
    /// When it is longer than the kind allows: the receiver would refuse it.
    pub(crate) fn head(&self, request: u16, resume: bool, epoch: Option<Epoch>) -> Result<Head, WireError> {
        let len = u32::try_from(self.small.len() + self.bulk.len()).unwrap_or(u32::MAX);
        if len > self.kind.len_max() {
            return Err(WireError::Length { kind: self.kind, len });
        }
        Ok(Head { kind: self.kind, resume, request, len, epoch })
    }
}

impl Request {
    pub(crate) fn encode(self) -> Outgoing {
        match self {
            Self::Open(request) => Outgoing::json(Kind::Open, &request),
            Self::Status => Outgoing::new(Kind::Status, Vec::new()),
            Self::OpenCycle(request) => Outgoing::json(Kind::OpenCycle, &request),
            Self::BeginPart(header) => Outgoing::json(Kind::BeginPart, &header),
            Self::Frame(frame) => {
                Outgoing { kind: Kind::Frame, small: frame.header().to_vec(), bulk: frame.stored }
            }
            Self::EndPart(checksum) => Outgoing::new(Kind::EndPart, checksum.to_vec()),
            Self::Barrier => Outgoing::new(Kind::Barrier, Vec::new()),
            Self::Commit(commit) => Outgoing::json(Kind::Commit, &commit),
            Self::AbortCycle => Outgoing::new(Kind::AbortCycle, Vec::new()),
            Self::NodeDigests(range) => Outgoing::json(Kind::NodeDigests, &range),
            Self::LeafDigests(list) => Outgoing::json(Kind::LeafDigests, &list),
            Self::Renew(renew) => Outgoing::json(Kind::Renew, &renew),
        }
    }

    /// Decodes all but frames, which the reader takes apart while it receives them.
    pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Self, WireError> {
        Ok(match kind {
            Kind::Open => Self::Open(json(kind, payload)?),
            Kind::Status => Self::Status,
            Kind::OpenCycle => Self::OpenCycle(json(kind, payload)?),
            Kind::BeginPart => Self::BeginPart(json(kind, payload)?),
            Kind::EndPart => {
                Self::EndPart(payload.try_into().map_err(|_| unreadable(kind, "a checksum has 32 bytes"))?)
            }
            Kind::Barrier => Self::Barrier,
            Kind::Commit => Self::Commit(json(kind, payload)?),
            Kind::AbortCycle => Self::AbortCycle,
            Kind::NodeDigests => {
                let range: NodeRange = json(kind, payload)?;
                if range.count > NODES_MAX {
                    return Err(unreadable(kind, "too many nodes asked for"));
                }
                Self::NodeDigests(range)
            }
            Kind::LeafDigests => {
                let list: NodeList = json(kind, payload)?;
                if list.nodes.len() > LEAF_NODES_MAX {
                    return Err(unreadable(kind, "too many nodes asked for"));
                }
                Self::LeafDigests(list)
            }
            Kind::Renew => Self::Renew(json(kind, payload)?),
            other => return Err(unreadable(other, "not a request")),
        })
    }
}

/// Decodes a JSON payload.
pub(crate) fn json<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(payload).map_err(|error| unreadable(kind, &error.to_string()))
}

fn unreadable(kind: Kind, detail: &str) -> WireError {
    WireError::Payload { kind, detail: detail.into() }
}

/// A frame's header and how many bytes of payload are behind it.
pub(crate) fn frame_header(
    bytes: &[u8; FRAME_HEADER_LEN],
    payload_len: u32,
) -> Result<(Frame, usize), WireError> {
    let (frame, stored_len) =
        Frame::parse_header(bytes).map_err(|error| unreadable(Kind::Frame, &error.to_string()))?;
    if FRAME_HEADER_LEN + stored_len != payload_len as usize {
        return Err(unreadable(Kind::Frame, "the frame's length is not that of its message"));
    }
    Ok((frame, stored_len))
}

pub(crate) fn failed(error: &ReplicaError) -> Outgoing {
    Outgoing::json(Kind::Failed, error)
}

pub(crate) fn encode_nodes(nodes: &[NodeDigest]) -> Outgoing {
    Outgoing::new(Kind::Nodes, nodes.iter().flat_map(|node| node.0.0).collect())
}

pub(crate) fn decode_nodes(payload: &[u8]) -> Result<Vec<NodeDigest>, WireError> {
    let (digests, rest) = payload.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(unreadable(Kind::Nodes, "not a whole number of digests"));
    }
    Ok(digests.iter().map(|digest| NodeDigest(Digest(*digest))).collect())
}

pub(crate) fn encode_leaves(nodes: &[LeafDigests]) -> Outgoing {
    let mut out = Vec::with_capacity(nodes.len() * (8 + LEAVES_PER_NODE * 32));
    for node in nodes {
        out.extend_from_slice(&node.node.to_le_bytes());
        let count = u32::try_from(node.leaves.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        node.leaves.iter().for_each(|leaf| out.extend_from_slice(&leaf.0));
    }
    Outgoing::new(Kind::Leaves, out)
}

pub(crate) fn decode_leaves(mut payload: &[u8]) -> Result<Vec<LeafDigests>, WireError> {
    let short = || unreadable(Kind::Leaves, "it ends early");
    let mut nodes = Vec::new();
    while !payload.is_empty() {
        let ([node, count], rest) = payload
            .split_first_chunk::<8>()
            .map(|(head, rest)| {
                let word =
                    |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                ([word(0), word(4)], rest)
            })
            .ok_or_else(short)?;
        let count = count as usize;
        if count > LEAVES_PER_NODE {
            return Err(unreadable(Kind::Leaves, "a node has at most 256 leaves"));
        }
        let (leaves, rest) = rest.split_at_checked(count * 32).ok_or_else(short)?;
        let leaves = leaves.as_chunks::<32>().0.iter().map(|leaf| Digest(*leaf)).collect();
        nodes.push(LeafDigests { node, leaves });
        payload = rest;
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests;
