//! Ranges of bytes of one disk, and sets of them.
//!
//! An [`ExtentSet`] is kept sorted, disjoint and coalesced after every operation, so that two sets
//! of the same bytes are equal, and walking one is walking the disk in order.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// No disk is longer than this (8 EiB), so that `start + len` never overflows.
pub const LEN_MAX: u64 = i64::MAX as u64;

/// `len` bytes of a disk from byte `start`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Number of bytes; 0 is an empty extent, which sets never hold.
    pub len: u64,
}

impl Extent {
    /// The extent from `start`, `len` bytes long.
    ///
    /// # Panics
    /// When it would end beyond [`LEN_MAX`]; check untrusted numbers with [`Extent::checked`] first.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        match Self::checked(start, len) {
            Some(extent) => extent,
            None => panic!("extent beyond the end of any disk"),
        }
    }

    /// The extent from `start`, `len` bytes long, or `None` when it would end beyond [`LEN_MAX`].
    #[must_use]
    pub const fn checked(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) if end <= LEN_MAX => Some(Self { start, len }),
            _ => None,
        }
    }

    /// The extent from `start` up to, not including, `end`; empty when `end <= start`.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        Self::new(start, end.saturating_sub(start))
    }

    /// First byte behind the extent.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.len
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The bytes that both hold (possibly none).
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self::between(start, self.end().min(other.end()).max(start))
    }

    /// Whether `other` lies wholly within.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The extent widened to multiples of `unit` bytes, not beyond `limit`.
    #[must_use]
    pub fn aligned_to(self, unit: u64, limit: u64) -> Self {
        if self.is_empty() {
            return self;
        }
        let start = self.start / unit * unit;
        Self::between(start, self.end().div_ceil(unit).saturating_mul(unit).min(limit).max(start))
    }

    /// The extent cut at multiples of `unit`, in order: each piece lies within one unit.
    pub fn pieces(self, unit: u64) -> impl Iterator<Item = Self> + Clone {
        let mut at = self.start;
        std::iter::from_fn(move || {
            let piece = Self::between(at, (at / unit + 1).saturating_mul(unit).min(self.end()));
            at = piece.end();
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {}", self.start, self.end())
    }
}

/// A set of bytes of one disk, as sorted, disjoint, non-adjacent extents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// start → end
    runs: BTreeMap<u64, u64>,
}

impl ExtentSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds all bytes of `extent`.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let (mut start, mut end) = (extent.start, extent.end());
        if let Some((&before, &before_end)) = self.runs.range(..start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        // The common case, a bitmap walked in order, touches only the last run.
        while let Some((&next, &next_end)) = self.runs.range(start..=end).next() {
            end = end.max(next_end);
            self.runs.remove(&next);
        }
        self.runs.insert(start, end);
    }

    /// Takes all bytes of `extent` out.
    pub fn remove(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let (start, end) = (extent.start, extent.end());
        if let Some((&before, &before_end)) = self.runs.range(..start).next_back()
            && before_end > start
        {
            self.runs.insert(before, start);
            if before_end > end {
                self.runs.insert(end, before_end);
                return;
            }
        }
        while let Some((&next, &next_end)) = self.runs.range(start..end).next() {
            self.runs.remove(&next);
            if next_end > end {
                self.runs.insert(end, next_end);
            }
        }
    }

    /// The extents in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + Clone + '_ {
        self.runs.iter().map(|(&start, &end)| Extent::between(start, end))
    }

    /// The parts of `window` that the set holds, in order.
    pub fn within(&self, window: Extent) -> impl Iterator<Item = Extent> + '_ {
        let first = self.runs.range(..=window.start).next_back().map_or(window.start, |(&start, _)| start);
        self.runs
            .range(first..window.end().max(first))
            .map(move |(&start, &end)| Extent::between(start, end).intersection(window))
            .filter(|extent| !extent.is_empty())
    }

    /// Whether any byte of `extent` is in the set.
    #[must_use]
    pub fn intersects(&self, extent: Extent) -> bool {
        self.within(extent).next().is_some()
    }

    /// Whether any byte is in both sets.
    #[must_use]
    pub fn intersects_set(&self, other: &Self) -> bool {
        let (few, many) = if self.runs.len() < other.runs.len() { (self, other) } else { (other, self) };
        few.iter().any(|extent| many.intersects(extent))
    }

    /// Whether every byte of `extent` is in the set.
    #[must_use]
    pub fn contains(&self, extent: Extent) -> bool {
        extent.is_empty() || self.within(extent).next() == Some(extent)
    }

    /// Number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(|extent| extent.len).sum()
    }

    /// Number of extents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The set with every extent widened to multiples of `unit` bytes, not beyond `limit`.
    #[must_use]
    pub fn aligned_to(&self, unit: u64, limit: u64) -> Self {
        self.iter().map(|extent| extent.aligned_to(unit, limit)).collect()
    }
}

impl Extend<Extent> for ExtentSet {
    fn extend<I: IntoIterator<Item = Extent>>(&mut self, extents: I) {
        extents.into_iter().for_each(|extent| self.insert(extent));
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        set.extend(extents);
        set
    }
}

impl From<Extent> for ExtentSet {
    fn from(extent: Extent) -> Self {
        std::iter::once(extent).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

    use super::{Extent, ExtentSet, LEN_MAX};

    fn small() -> impl Strategy<Value = Extent> {
        (0_u64..64, 0_u64..16).prop_map(|(start, len)| Extent::new(start, len))
    }

    fn bytes(set: &ExtentSet) -> BTreeSet<u64> {
        set.iter().flat_map(|extent| extent.start..extent.end()).collect()
    }

    proptest! {
        /// Against the obvious model, a set of single bytes.
        #[test]
        fn behaves_as_a_set_of_bytes(
            ops in proptest::collection::vec((any::<bool>(), small()), 0..40), window in small(), unit in 1_u64..9,
        ) {
            let (mut set, mut model) = (ExtentSet::new(), BTreeSet::new());
            for (insert, extent) in ops {
                if insert {
                    set.insert(extent);
                    model.extend(extent.start..extent.end());
                } else {
                    set.remove(extent);
                    model.retain(|byte| !(extent.start..extent.end()).contains(byte));
                }
                let runs: Vec<_> = set.iter().collect();
                prop_assert_eq!(runs.windows(2).filter(|pair| pair[0].end() >= pair[1].start).count(), 0);
                prop_assert_eq!(&bytes(&set), &model);
            }
            let inside: BTreeSet<_> = set.within(window).flat_map(|e| e.start..e.end()).collect();
            let expected: BTreeSet<_> =
                model.iter().copied().filter(|b| (window.start..window.end()).contains(b)).collect();
            prop_assert_eq!(set.intersects(window), !expected.is_empty());
            prop_assert_eq!(set.contains(window), expected.len() as u64 == window.len);
            prop_assert_eq!(inside, expected);
            let aligned: BTreeSet<_> = model.iter().flat_map(|b| b / unit * unit..(b / unit + 1) * unit)
                .filter(|b| *b < 100).collect();
            prop_assert_eq!(bytes(&set.aligned_to(unit, 100)), aligned);
        }

        #[test]
        fn pieces_cover_the_extent_in_order(extent in small(), unit in 1_u64..9) {
            let pieces: Vec<_> = extent.pieces(unit).collect();
            prop_assert_eq!(pieces.iter().map(|p| p.len).sum::<u64>(), extent.len);
            prop_assert_eq!(pieces.iter().filter(|p| p.start / unit != (p.end() - 1) / unit).count(), 0);
        }
    }

    #[test]
    fn an_extent_cannot_overflow() {
        assert!(Extent::checked(LEN_MAX, 1).is_none());
        assert!(Extent::checked(u64::MAX, u64::MAX).is_none());
        assert_eq!(Extent::checked(0, LEN_MAX).unwrap().end(), LEN_MAX);
        assert_eq!(Extent::new(1, LEN_MAX - 1).aligned_to(4096, LEN_MAX).end(), LEN_MAX);
    }
}
