//! How the channels and pixels of a feature map are dealt out to threads: the host's side of `kernels/lib/group.cuh`.
//! Must not know what is done with them.

use super::driver::Dims;

/// Threads of every block that takes pixels in tiles.
pub(super) const THREADS: usize = 256;
/// Groups side by side in a block at most.
const COLUMNS: usize = 32;

/// Channels of a group: eight where every one of these counts is whole vectors, else one.
pub(super) fn group(counts: &[usize]) -> usize {
    if counts.iter().all(|c| c.is_multiple_of(8)) { 8 } else { 1 }
}

/// `total` threads in blocks of [`THREADS`].
pub(super) fn linear(total: usize) -> Dims {
    Dims::linear(u32::try_from(total.div_ceil(THREADS)).expect("fewer than 2^40 threads"), THREADS as u32)
}

/// A number of threads or pixels as a kernel's `int`.
pub(super) fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or_else(|_| panic!("{count} is too much for one launch"))
}

/// The channels of a block, and how many blocks they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Groups side by side in a block.
    pub columns: usize,
    /// Blocks side by side.
    pub tiles: usize,
    /// Pixels that a block takes at once.
    pub lanes: usize,
}

impl Columns {
    /// For `c` channels in groups of `v`: as few blocks as fit, equally wide.
    pub fn new(c: usize, v: usize) -> Self {
        let groups = c / v;
        let tiles = groups.div_ceil(COLUMNS);
        let columns = groups.div_ceil(tiles);
        Columns { columns, tiles, lanes: THREADS / columns }
    }
    /// `across` times all channels.
    pub fn grid(&self, across: usize) -> Dims {
        Dims { grid: [int(across) as u32, self.tiles as u32, 1], block: THREADS as u32, shared: 0 }
    }
    /// Pixels that one thread takes after the other, and blocks for `pixels` of them, so that each of `sms` processors has
    /// several blocks and each thread between `least` and `most` pixels.
    pub fn runs(&self, pixels: usize, sms: usize, [least, most]: [usize; 2]) -> (usize, usize) {
        let rows = (pixels * self.tiles / (self.lanes * BLOCKS_PER_SM * sms)).clamp(least, most);
        (rows, pixels.div_ceil(self.lanes * rows))
    }
}

/// Enough to hide the latency of memory, few enough to be resident at once.
const BLOCKS_PER_SM: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_and_every_pixel_has_a_thread() {
        for c in [1, 3, 8, 10, 16, 17, 64, 80, 160, 256, 264, 296, 320, 512, 640, 2048] {
            let v = group(&[c]);
            let cols = Columns::new(c, v);
            assert!(cols.columns <= COLUMNS && cols.lanes * cols.columns <= THREADS, "{c}: {cols:?}");
            assert!(cols.tiles * cols.columns * v >= c && (cols.tiles - 1) * cols.columns * v < c, "{c}: {cols:?}");
            for pixels in [1, 7, 255, 32 * 32 * 128, 256 * 112 * 112] {
                let (rows, blocks) = cols.runs(pixels, 132, [4, 64]);
                assert!(blocks * rows * cols.lanes >= pixels && (blocks - 1) * rows * cols.lanes < pixels, "{c}, {pixels}");
            }
        }
    }
}
