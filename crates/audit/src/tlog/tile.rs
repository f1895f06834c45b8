//! Tiles: which there are for a tree of a size, and their paths.
//!
//! Invariant: a tile has one path; a path that is not written as [`Tile::path`] writes it is none.

use super::number;

/// Hashes, or entries, in a full tile.
pub const TILE_WIDTH: u64 = 256;
/// Bits of an index that one level of tiles stands for.
const TILE_HEIGHT: u32 = TILE_WIDTH.trailing_zeros();
/// Levels above have no tiles, as an index has 64 bits.
const LEVELS: u8 = 8;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contents {
    /// Hashes of full tiles of the level below; at level 0 hashes of entries.
    Hashes(u8),
    /// Entries.
    Entries,
}

impl Contents {
    /// How many hashes, or entries, a tree of `size` entries has here, in all tiles.
    #[must_use]
    pub fn count(self, size: u64) -> u64 {
        match self {
            Self::Hashes(level) => size.checked_shr(u32::from(level) * TILE_HEIGHT).unwrap_or(0),
            Self::Entries => size,
        }
    }
}

/// A tile: up to 256 hashes of one level, or entries, that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// What it holds.
    pub contents: Contents,
    /// Its place among its like, from 0.
    pub index: u64,
    /// How many hashes or entries it holds, 1 to 256.
    pub width: u16,
}

impl Tile {
    /// The tile at a place of a tree of `size` entries, as full as that tree has it.
    #[must_use]
    pub fn at(contents: Contents, index: u64, size: u64) -> Option<Self> {
        let count = contents.count(size);
        let left = count.checked_sub(index.checked_mul(TILE_WIDTH)?).filter(|left| *left > 0)?;
        let width = u16::try_from(left.min(TILE_WIDTH)).ok()?;
        Some(Self { contents, index, width })
    }

    /// All tiles of a tree of `size` entries.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let kinds = std::iter::once(Contents::Entries).chain((0..LEVELS).map(Contents::Hashes));
        kinds.flat_map(move |contents| {
            let tiles = contents.count(size).div_ceil(TILE_WIDTH);
            (0..tiles).filter_map(move |index| Self::at(contents, index, size))
        })
    }

    /// Whether it has all its hashes or entries, so that it never changes.
    #[must_use]
    pub fn is_full(self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The same tile once it is full.
    #[must_use]
    pub fn filled(self) -> Self {
        Self { width: TILE_WIDTH as u16, ..self }
    }

    /// The place of its first hash or entry among all of its level.
    #[must_use]
    pub fn start(self) -> u64 {
        self.index.saturating_mul(TILE_WIDTH)
    }

    /// Its path below the log's prefix, such as `tile/0/x001/x234/067.p/5`.
    #[must_use]
    pub fn path(self) -> String {
        let mut index = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % 1000);
            rest /= 1000;
        }
        let kind = match self.contents {
            Contents::Hashes(level) => level.to_string(),
            Contents::Entries => "entries".to_owned(),
        };
        let part = if self.is_full() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{kind}/{index}{part}")
    }

    /// Reads a path.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let contents = match kind {
            "entries" => Contents::Entries,
            level => Contents::Hashes(u8::try_from(number(level)?).ok().filter(|level| *level < LEVELS)?),
        };
        let (digits, width) = match rest.split_once(".p/") {
            Some((digits, width)) => (digits, u16::try_from(number(width)?).ok()?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut index: u64 = 0;
        for part in digits.split('/') {
            let digits = part.strip_prefix('x').unwrap_or(part);
            let three = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok().filter(|_| three)?)?;
        }
        let tile = Self { contents, index, width };
        ((1..=TILE_WIDTH as u16).contains(&width) && tile.path() == path).then_some(tile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |contents, index, width| Tile { contents, index, width };
        for (tile, path) in [
            (tile(Contents::Hashes(0), 0, 256), "tile/0/000"),
            (tile(Contents::Hashes(2), 1_234_067, 256), "tile/2/x001/x234/067"),
            (tile(Contents::Entries, 1000, 5), "tile/entries/x001/000.p/5"),
            (tile(Contents::Entries, 999, 255), "tile/entries/999.p/255"),
        ] {
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse(path), Some(tile));
        }
        for wrong in [
            "",
            "tile/0/",
            "tile/0/0",
            "tile/0/00",
            "tile/00/000",
            "tile/8/000",
            "tile/64/000",
            "tile/x/000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/05",
            "tile/0/000.p/",
            "tile/0/+12",
            "tile/0/000/",
            "/tile/0/000",
            "tile/0/../000",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_of_the_specifications_example() {
        let tiles: Vec<_> = Tile::all(70_000).collect();
        let of = |contents| {
            let mut widths = Vec::new();
            for tile in tiles.iter().filter(|tile| tile.contents == contents) {
                assert_eq!(tile.index, u64::try_from(widths.len()).unwrap());
                widths.push(tile.width);
            }
            widths
        };
        let rows = |full: usize, partial: u16| [vec![256; full], vec![partial]].concat();
        assert_eq!(of(Contents::Entries), rows(273, 112));
        assert_eq!(of(Contents::Hashes(0)), rows(273, 112));
        assert_eq!(of(Contents::Hashes(1)), rows(1, 17));
        assert_eq!(of(Contents::Hashes(2)), [1]);
        assert_eq!(tiles.len(), 274 + 274 + 2 + 1);
        let small: Vec<_> = Tile::all(256).map(Tile::path).collect();
        assert_eq!(small, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(Tile::all(0).count(), 0);
    }
}
