//! The right edge of a tree: what must be known of it so that it can grow and have a root.
//!
//! Invariant: it holds the hashes of the last, partial tile of each level, and no more; so its size in memory is
//! bounded, whatever the size of the tree.

use super::tree::{Hash, fold, peaks};
use super::{Contents, TILE_WIDTH, Tile};

/// A tile that became full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullTile {
    /// Its level.
    pub level: u8,
    /// Its place in the level.
    pub index: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

/// The right edge of a tree; see the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The edge of a tree of `size` entries. `levels` are the hashes of its partial tiles, from level 0 on.
    ///
    /// Gives none when the hashes are not as many as such a tree has.
    #[must_use]
    pub fn new(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let width = |level: usize| {
            let level = u8::try_from(level).ok()?;
            usize::try_from(Contents::Hashes(level).count(size) % TILE_WIDTH).ok()
        };
        let fits = levels.iter().enumerate().all(|(level, hashes)| width(level) == Some(hashes.len()));
        let above = u8::try_from(levels.len()).ok()?;
        (fits && Contents::Hashes(above).count(size) == 0).then_some(Self { size, levels })
    }

    /// How many entries the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of a level's partial tile.
    #[must_use]
    pub fn partial(&self, level: u8) -> &[Hash] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// Takes the hash of the next entry. Tiles that became full by it go to `full`, from the lowest level on.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0..=u8::MAX {
            let place = usize::from(level);
            if self.levels.len() <= place {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(place) else { return };
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH as usize {
                return;
            }
            let hashes = std::mem::take(hashes);
            hash = fold(&peaks(&hashes));
            let index = Contents::Hashes(level).count(self.size) / TILE_WIDTH - 1;
            full.push(FullTile { level, index, hashes });
        }
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let all: Vec<_> = self.levels.iter().rev().flat_map(|hashes| peaks(hashes)).collect();
        fold(&all)
    }

    /// The partial tiles and their hashes.
    pub fn partial_tiles(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        self.levels.iter().enumerate().filter_map(|(level, hashes)| {
            let contents = Contents::Hashes(u8::try_from(level).ok()?);
            let tile = Tile::at(contents, contents.count(self.size) / TILE_WIDTH, self.size)?;
            Some((tile, hashes.as_slice()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::plain_root;
    use super::*;

    #[test]
    fn the_root_at_every_size_is_that_of_the_plain_recursion_and_tiles_hold_what_the_specification_says() {
        let leaves: Vec<_> = (0..70_000u32).map(|i| Hash::leaf(&i.to_be_bytes())).collect();
        let (mut edge, mut full) = (Edge::default(), Vec::new());
        assert_eq!(edge.root(), Hash::empty());
        for (index, leaf) in leaves.iter().enumerate() {
            edge.push(*leaf, &mut full);
            if index < 600 || [65_535, 65_536, 65_793, 69_999].contains(&index) {
                assert_eq!(edge.root(), plain_root(&leaves[..=index]), "{index}");
            }
        }
        assert_eq!(full.iter().filter(|tile| tile.level == 0).count(), 273);
        for tile in &full {
            let span = 256usize.pow(u32::from(tile.level));
            let start = usize::try_from(tile.index).unwrap() * 256 * span;
            for (index, hash) in tile.hashes.iter().enumerate() {
                let from = start + index * span;
                assert_eq!(*hash, plain_root(&leaves[from..from + span]), "{} {index}", tile.level);
            }
        }
        let partial: Vec<_> =
            edge.partial_tiles().map(|(tile, hashes)| (tile.path(), hashes.len())).collect();
        let expected = [("tile/0/273.p/112", 112), ("tile/1/001.p/17", 17), ("tile/2/000.p/1", 1)];
        assert_eq!(partial, expected.map(|(path, count)| (path.to_owned(), count)));
    }

    #[test]
    fn an_edge_is_made_again_from_its_partial_tiles_and_from_no_others() {
        let (mut edge, mut full) = (Edge::default(), Vec::new());
        for i in 0..600u32 {
            edge.push(Hash::leaf(&i.to_be_bytes()), &mut full);
        }
        let levels: Vec<_> = [0, 1].map(|level| edge.partial(level).to_vec()).into();
        assert_eq!(Edge::new(600, levels.clone()), Some(edge));
        assert_eq!(Edge::new(601, levels.clone()), None);
        assert_eq!(Edge::new(600, levels[..1].to_vec()), None);
        assert_eq!(Edge::new(0, vec![]), Some(Edge::default()));
    }
}
