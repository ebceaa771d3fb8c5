//! What a loss of power leaves of bytes that were written but not made durable.
//!
//! [`Content`] keeps bytes twice, as the kernel would give them (`current`) and as the medium has them
//! (`durable`), and the changes between the two in order. Durable bytes never change but by a change that
//! is applied to them: so what was synced survives, by construction.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What a medium writes whole or not at all, in bytes.
pub(super) const SECTOR: usize = 512;

/// One change that is not durable yet.
pub(super) enum Change {
    /// Writes bytes, making the content longer if needed.
    Write { start: usize, data: Vec<u8> },
    /// Zeroes bytes; never makes the content longer.
    Zero { start: usize, len: usize },
    /// Cuts, or adds zeros.
    SetLen(usize),
}

impl Change {
    /// The bytes it may change in contents that are `len` bytes long.
    fn range(&self, len: usize) -> Range<usize> {
        match self {
            Self::Write { start, data } => *start..start + data.len(),
            Self::Zero { start, len } => *start..start + len,
            Self::SetLen(to) => (*to).min(len)..len.max(*to),
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => content.resize(*len, 0),
            Self::Write { .. } | Self::Zero { .. } => self.apply_part(content, self.range(0)),
        }
    }

    /// Applies what it does to the bytes in `part` of its range.
    fn apply_part(&self, content: &mut Vec<u8>, part: Range<usize>) {
        match self {
            Self::Write { start, data } => {
                if !part.is_empty() && content.len() < part.end {
                    content.resize(part.end, 0);
                }
                content[part.clone()].copy_from_slice(&data[part.start - start..part.end - start]);
            }
            Self::Zero { .. } => {
                let len = content.len();
                content[part.start.min(len)..part.end.min(len)].fill(0);
            }
            Self::SetLen(_) => unreachable!("a length has no parts"),
        }
    }

    /// The same change, of `part` only.
    fn part(&self, part: Range<usize>) -> Self {
        match self {
            Self::Write { start, data } => {
                Self::Write { start: part.start, data: data[part.start - start..part.end - start].to_vec() }
            }
            Self::Zero { .. } => Self::Zero { start: part.start, len: part.len() },
            Self::SetLen(len) => Self::SetLen(*len),
        }
    }
}

/// The bytes of a disk or file.
#[derive(Default)]
pub(super) struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Content {
    /// `len` durable zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Self { current: vec![0; len], durable: vec![0; len], pending: Vec::new() }
    }

    /// The bytes as a reader finds them.
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// Changes the content; durable only after [`Content::sync`].
    pub(super) fn apply(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// Applies what gets done of `change` when it is interrupted: none, some or all of its sectors.
    pub(super) fn apply_torn(&mut self, change: &Change, rng: &mut ChaCha8Rng) {
        if matches!(change, Change::SetLen(_)) {
            if rng.random() {
                self.apply(change.part(0..0));
            }
            return;
        }
        for part in surviving(change.range(0), rng) {
            self.apply(change.part(part));
        }
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Power is lost and comes back: each change since the last sync is kept, kept in part, or lost.
    ///
    /// Independently, but in order where they overlap: a drive's cache may forget a later write of a sector
    /// and keep an earlier one, but not let the earlier one win when it keeps both.
    pub(super) fn lose_power(&mut self, rng: &mut ChaCha8Rng) {
        let pending = std::mem::take(&mut self.pending);
        let len = self.current.len();
        for change in &pending {
            if let Change::SetLen(_) = change {
                if rng.random() {
                    change.apply(&mut self.durable);
                }
                continue;
            }
            let range = change.range(0);
            for part in surviving(range.clone(), rng) {
                change.apply_part(&mut self.durable, part);
            }
            // File systems that allocate late may have the new length and not the bytes: zeros.
            let grows = matches!(change, Change::Write { .. }) && self.durable.len() < range.end;
            if grows && rng.random() {
                self.durable.resize(range.end, 0);
            }
        }
        if self.durable.len() == len && !pending.iter().any(|change| matches!(change, Change::SetLen(_))) {
            // Disks always come here; copying only what may differ is what makes runs take microseconds.
            for change in &pending {
                let range = change.range(len);
                self.current[range.clone()].copy_from_slice(&self.durable[range]);
            }
        } else {
            self.current.clone_from(&self.durable);
        }
    }

    /// Changes the bytes on the medium itself, as a defect does; what was pending becomes durable before.
    pub(super) fn damage(&mut self, defect: impl Fn(&mut Vec<u8>)) {
        self.sync();
        defect(&mut self.current);
        defect(&mut self.durable);
    }
}

/// The parts of `range`, at sector boundaries, that survive; each fate is as likely as the others.
fn surviving(range: Range<usize>, rng: &mut ChaCha8Rng) -> Vec<Range<usize>> {
    if range.is_empty() {
        return Vec::new();
    }
    match rng.random_range(0..4) {
        0 => vec![range],
        1 => Vec::new(),
        2 => {
            let sectors = range.end.div_ceil(SECTOR) - range.start / SECTOR;
            let end = (range.start / SECTOR + rng.random_range(0..sectors)) * SECTOR;
            if end > range.start { vec![range.start..end] } else { Vec::new() }
        }
        _ => some_sectors(range, rng),
    }
}

/// Each sector with even chances, neighbours as one part.
fn some_sectors(range: Range<usize>, rng: &mut ChaCha8Rng) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = ((at / SECTOR + 1) * SECTOR).min(range.end);
        if rng.random() {
            match parts.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => parts.push(at..end),
            }
        }
        at = end;
    }
    parts
}
