//! What the spool knows beside its log: whose it is, how far it has been forwarded, and how the
//! next hop stood when it was last heard of, so that writers can go on while it is away.
//!
//! # File `state.json`: one line of JSON ([`State`]), one line with the hexadecimal BLAKE3 hash of the first
//! JSON, as a person may have to look at it. It is small and replaced whole, once for each cycle forwarded and each
//! segment deleted. The hash is there because a flipped digit is still JSON.

use serde::{Deserialize, Serialize};
use switchback_disk::Volume;
use switchback_model::{Epoch, ReplicaName};
use switchback_replica::{DiskSpec, ReplicaStatus};

use crate::error::SpoolError;
use crate::segment::{HEADER_LEN, hex, segment_name};
use crate::standing::Standing;

/// The file's name.
pub(crate) const STATE_NAME: &str = "state.json";

const FORMAT: u32 = 1;
/// A few lines for each of at most 65,536 disks.
const STATE_LEN_MAX: usize = 4 << 20;

/// A place in the log: before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Of the record.
    pub(crate) number: u64,
    /// The first record of its segment; or of the segment that ends here.
    pub(crate) segment: u64,
    /// Bytes from the segment's start.
    pub(crate) offset: u64,
}

impl Place {
    /// The beginning of the segment whose first record is `number`.
    pub(crate) fn start_of(number: u64) -> Self {
        Self { number, segment: number, offset: HEADER_LEN as u64 }
    }

    /// The file it is in.
    pub(crate) fn segment_name(self) -> String {
        segment_name(self.segment)
    }
}

/// Acknowledged data was lost or had to be dropped. Ends with the commit of a resync opened after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResyncNeeded {
    /// A resync opened by this record or a later one will do.
    pub(crate) from: u64,
    /// What happened, for the writer.
    pub(crate) detail: String,
}

/// What is kept in the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    /// The spool's id, hexadecimal: segments of another one are refused.
    spool: String,
    /// Whose data it is.
    pub(crate) replica: ReplicaName,
    /// The newest epoch seen from either side.
    pub(crate) epoch: Epoch,
    /// The writer's disks; empty before the first writer.
    pub(crate) disks: Vec<DiskSpec>,
    /// Everything before is durable at the next hop, or was dropped.
    pub(crate) first: Place,
    /// How the replica stands there.
    pub(crate) standing: Standing,
    /// Why nothing but a resync may follow what is spooled.
    pub(crate) resync_needed: Option<ResyncNeeded>,
    /// The next hop when it was last heard of; `None`: it must be asked before any writer is let in.
    pub(crate) hop: Option<ReplicaStatus>,
}

impl State {
    /// That of a new spool.
    pub(crate) fn new(spool: [u8; 16], replica: ReplicaName) -> Self {
        Self {
            format: FORMAT,
            spool: hex(&spool),
            replica,
            epoch: Epoch(0),
            disks: Vec::new(),
            first: Place::start_of(0),
            standing: Standing::default(),
            resync_needed: None,
            hop: None,
        }
    }

    /// The spool's id.
    pub(crate) fn spool(&self) -> Option<[u8; 16]> {
        Some(self.spool.parse::<switchback_model::ReplicaId>().ok()?.0)
    }

    /// Writes it; durable on return.
    pub(crate) fn store(&self, volume: &dyn Volume) -> Result<(), SpoolError> {
        let mut text = serde_json::to_string(self).expect("plain data with text keys always serializes");
        let hash = blake3::hash(text.as_bytes());
        text.push('\n');
        text.push_str(&hash.to_hex());
        text.push('\n');
        volume
            .write_atomic(STATE_NAME, text.as_bytes())
            .map_err(SpoolError::io(format!("writing {STATE_NAME}")))
    }

    /// Reads it; `Damaged` when it is not what was written.
    pub(crate) fn load(volume: &dyn Volume) -> Result<Self, SpoolError> {
        let data = volume
            .read_all(STATE_NAME, STATE_LEN_MAX)
            .map_err(SpoolError::io(format!("reading {STATE_NAME}")))?;
        Self::decode(&data).ok_or_else(|| SpoolError::Damaged {
            segment: STATE_NAME.into(),
            offset: 0,
            detail: "it does not match its checksum, or is of another version".into(),
        })
    }

    /// From bytes that may be anything.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let (text, hash) = std::str::from_utf8(data).ok()?.split_once('\n')?;
        if *blake3::hash(text.as_bytes()).to_hex() != *hash.strip_suffix('\n')? {
            return None;
        }
        let state: Self = serde_json::from_str(text).ok()?;
        (state.format == FORMAT && state.spool().is_some()).then_some(state)
    }
}
