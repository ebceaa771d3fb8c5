//! Which of several layers holds each byte of a disk.
//!
//! The contents of a recovery point are "the first reverse delta after it that holds the block, else the
//! disk"; those of a cycle are "the last part that holds it". An [`Overlay`] answers both: it maps every byte of a
//! disk to at most one layer, whatever order the layers come in.

use std::collections::BTreeMap;

use switchback_model::{Extent, ExtentSet};

/// A map from bytes of a disk to layers, kept as sorted, disjoint runs. `L` names a layer, usually a delta
/// and a frame in it. Runs are never joined: each lies within one extent that was put.
#[derive(Clone, Debug)]
pub struct Overlay<L> {
    /// start → (end, layer)
    runs: BTreeMap<u64, (u64, L)>,
}

impl<L> Default for Overlay<L> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<L: Copy> Overlay<L> {
    /// The overlay without layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `layer` where nothing is yet in `extent`: the first layer wins.
    pub fn put_under(&mut self, extent: Extent, layer: L) {
        let bare: Vec<_> =
            self.lookup(extent).filter(|(_, there)| there.is_none()).map(|(piece, _)| piece).collect();
        for piece in bare {
            self.runs.insert(piece.start, (piece.end(), layer));
        }
    }

    /// Puts `layer` in all of `extent`: the last layer wins.
    pub fn put_over(&mut self, extent: Extent, layer: L) {
        if extent.is_empty() {
            return;
        }
        let (start, end) = (extent.start, extent.end());
        if let Some((_, run)) = self.runs.range_mut(..start).next_back()
            && run.0 > start
        {
            let (before_end, before) = *run;
            run.0 = start;
            if before_end > end {
                self.runs.insert(end, (before_end, before));
            }
        }
        while let Some((&next, &(next_end, covered))) = self.runs.range(start..end).next() {
            self.runs.remove(&next);
            if next_end > end {
                self.runs.insert(end, (next_end, covered));
            }
        }
        self.runs.insert(start, (end, layer));
    }

    /// All of `window` in order, as pieces with the layer that holds each, or `None` where none does.
    pub fn lookup(&self, window: Extent) -> impl Iterator<Item = (Extent, Option<L>)> + '_ {
        let (mut at, end) = (window.start, window.end());
        let first = self.runs.range(..=at).next_back().map_or(at, |(&start, _)| start);
        let mut runs = self
            .runs
            .range(first..end.max(first))
            .map(|(&start, &(run_end, layer))| (start, run_end, layer))
            .skip_while(move |&(_, run_end, _)| run_end <= window.start)
            .peekable();
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (piece, layer) = match runs.peek() {
                None => (Extent::between(at, end), None),
                Some(&(start, _, _)) if start > at => (Extent::between(at, start), None),
                Some(&(_, run_end, layer)) => {
                    runs.next();
                    (Extent::between(at, run_end.min(end)), Some(layer))
                }
            };
            at = piece.end();
            Some((piece, layer))
        })
    }

    /// The runs in order, each with its layer.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Extent, L)> + '_ {
        self.runs.iter().map(|(&start, &(end, layer))| (Extent::between(start, end), layer))
    }

    /// The bytes that any layer holds.
    #[must_use]
    pub fn extents(&self) -> ExtentSet {
        self.iter().map(|(extent, _)| extent).collect()
    }

    /// Number of runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no layer holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
    use switchback_model::Extent;

    use super::Overlay;

    fn small() -> impl Strategy<Value = Extent> {
        (0_u64..64, 0_u64..20).prop_map(|(start, len)| Extent::new(start, len))
    }

    proptest! {
        /// Against an array with a place for every byte.
        #[test]
        fn behaves_as_an_array_of_layers(
            ops in proptest::collection::vec((any::<bool>(), small()), 0..40), window in small(),
        ) {
            let (mut overlay, mut model) = (Overlay::new(), [None; 100]);
            for (layer, (over, extent)) in ops.into_iter().enumerate() {
                if over { overlay.put_over(extent, layer) } else { overlay.put_under(extent, layer) }
                for byte in extent.start..extent.end() {
                    let place = &mut model[usize::try_from(byte).unwrap()];
                    if over || place.is_none() { *place = Some(layer) }
                }
                let pieces: Vec<_> = overlay.lookup(Extent::new(0, 100)).collect();
                let flat: Vec<_> = pieces.iter()
                    .flat_map(|(piece, layer)| (piece.start..piece.end()).map(move |_| *layer)).collect();
                prop_assert_eq!(&flat[..], &model[..]);
            }
            let mut at = window.start;
            for (piece, layer) in overlay.lookup(window) {
                prop_assert!(piece.start == at && !piece.is_empty());
                at = piece.end();
                for byte in piece.start..piece.end() {
                    prop_assert_eq!(layer, model[usize::try_from(byte).unwrap()]);
                }
            }
            prop_assert_eq!(at, window.end());
            prop_assert_eq!(overlay.extents().bytes(), model.iter().flatten().count() as u64);
            prop_assert_eq!(overlay.is_empty(), model.iter().flatten().next().is_none());
            prop_assert_eq!(overlay.len(), overlay.iter().count());
        }
    }
}
