//! Lowers convolutions and linear layers to tensor cores, as every card from compute capability 8.0 on has them.
//! Must not know networks; what is summed stands in `kernels/conv_mma*.cu`.

use super::conv::{Gather, Packing, grid, int, packed, sum_parts};
use super::driver::{DeviceProps, Dims};
use super::lower::{Lower, Operand, Work, code, split_epilogue};
use super::pointwise;
use super::spec::KernelSpec;
use crate::graph::Conv;
use crate::plan::{Precision, Step};
use crate::tensor::DType;

/// Channels of a 16-byte copy of halves: what rows of operands are a multiple of.
const VECTOR: usize = 8;
/// Longest patch that is gathered value by value, in values.
const PATCH_MAX: usize = 512;
/// Threads of a block of every tile.
const THREADS: usize = 128;

/// What of a matrix product a block computes, and how it gets there: the constants of `kernels/lib/mma_tile.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Rows and columns of the tile.
    size: [usize; 2],
    /// Those of a warp's part.
    warp: [usize; 2],
    /// Contraction of a stage, in elements.
    depth: usize,
    stages: usize,
    /// Blocks of a multiprocessor.
    blocks: usize,
}

/// Tiles of `THREADS` threads: size, a warp's part, and how many blocks the registers of a multiprocessor hold.
const TILES: &[([usize; 2], [usize; 2], usize)] = &[
    ([128, 128], [64, 64], 2),
    ([256, 64], [64, 64], 2),
    ([128, 64], [64, 32], 3),
    ([64, 128], [32, 64], 3),
    ([64, 64], [32, 32], 4),
    ([128, 32], [32, 32], 4),
    ([128, 16], [32, 16], 4),
    ([128, 8], [32, 8], 4),
];
/// Contraction of a stage in bytes: a whole line of shared memory, or half of one where little is contracted.
const DEPTHS: [usize; 2] = [128, 64];
const STAGES: usize = 4;
/// Fewest pixels of a part of a weight gradient.
const RANGE_MIN: usize = 256;

/// A matrix product as the choice of its tile sees it.
#[derive(Clone, Copy, Debug)]
struct Product {
    rows: usize,
    cols: usize,
    depth: usize,
    /// Products of this size.
    count: usize,
    /// Bytes of an element.
    elem: usize,
    /// Shared memory of a block beside the stages.
    fixed: usize,
}

impl Tile {
    fn stage_bytes(&self, elem: usize) -> usize {
        (self.size[0] + self.size[1]) * self.depth * elem
    }

    /// As many blocks and stages as fit; `None` where not even two stages do.
    fn fit(shape: ([usize; 2], [usize; 2], usize), depth_bytes: usize, product: &Product, props: &DeviceProps) -> Option<Self> {
        let (size, warp, most) = shape;
        let tile = Tile { size, warp, depth: depth_bytes / product.elem, stages: 0, blocks: 0 };
        // The driver takes 1 KiB of every block.
        let room = |blocks: usize| (props.shared_bytes as usize / blocks).saturating_sub(product.fixed + 1024);
        let with = |least: usize| {
            (1..=most).rev().find_map(|blocks| {
                let stages = (room(blocks) / tile.stage_bytes(product.elem)).min(STAGES);
                (stages >= least).then_some(Tile { stages, blocks, ..tile })
            })
        };
        with(3).or_else(|| with(2))
    }

    /// Cycles that the product takes at least on the busiest multiprocessor.
    fn cycles(&self, product: &Product, props: &DeviceProps) -> usize {
        let [rows, cols] = self.size;
        let tiles = product.rows.div_ceil(rows) * product.cols.div_ceil(cols) * product.count;
        let steps = product.depth.div_ceil(self.depth) * self.depth * product.elem / 32;
        // Two cycles for an mma of 16 x 8, 128 bytes a cycle for what warps read and what is copied.
        let mma = rows * cols / 64;
        let shared = (THREADS / 32 * (self.warp[0] + self.warp[1]) + rows + cols) * 32 / 128;
        let each = tiles.div_ceil(props.sms as usize);
        // Filling the ring and storing the tile is hidden only behind the other blocks.
        let ends = 1500 + rows * cols / 8;
        // What all blocks copy comes from the second-level cache, at 32 bytes a cycle and multiprocessor.
        let filled = tiles * steps * (rows + cols) / props.sms as usize;
        (each * steps * mma.max(shared)).max(filled) + each.div_ceil(self.blocks) * ends
    }

    fn choose(product: &Product, props: &DeviceProps) -> Option<Self> {
        let fits = TILES.iter().flat_map(|&t| DEPTHS.map(|d| Tile::fit(t, d, product, props))).flatten();
        fits.min_by_key(|tile| tile.cycles(product, props))
    }

    /// The tile that wastes least on what is outside of a `[k, columns]` matrix; pixels fill the card in any case.
    fn choose_grad_weight([k, cols]: [usize; 2], stored: DType, props: &DeviceProps) -> Self {
        let product = Product { rows: k, cols, depth: 1, count: 1, elem: elem(stored), fixed: 0 };
        let wide = TILES.iter().filter(|(size, ..)| size[1] >= 64);
        let fits = wide.filter_map(|&t| Tile::fit(t, DEPTHS[1], &product, props));
        let copied = |t: &Tile| {
            let padded = k.next_multiple_of(t.size[0]) * cols.next_multiple_of(t.size[1]);
            padded / t.size[0] * (t.size[0] + t.size[1]) / t.size[1]
        };
        fits.min_by_key(copied).expect("the smallest tile fits every card")
    }

    /// `[tiles, layers]` blocks.
    fn dims(&self, [tiles, layers]: [usize; 2], stored: DType) -> Dims {
        let shared = self.stages * self.stage_bytes(elem(stored));
        Dims { grid: [grid(tiles), 1, grid(layers)], block: THREADS as u32, shared: shared as u32 }
    }

    fn constants(&self, spec: KernelSpec) -> KernelSpec {
        let spec = spec.with("P_BM", self.size[0] as i64).with("P_BN", self.size[1] as i64).with("P_BK", self.depth as i64);
        let spec = spec.with("P_WM", self.warp[0] as i64).with("P_WN", self.warp[1] as i64);
        spec.with("P_STAGES", self.stages as i64).with("P_BLOCKS", self.blocks as i64)
    }
}

/// The storage of operands, where a plan's precision is one of tensor cores.
fn operands(cx: &Lower) -> Option<DType> {
    match cx.plan.precision() {
        Precision::F32 => None,
        Precision::Tf32 => Some(DType::F32),
        Precision::Bf16 => Some(DType::Bf16),
        Precision::F16 => Some(DType::F16),
    }
}

fn elem(stored: DType) -> usize {
    if stored == DType::F32 { 4 } else { 2 }
}

/// Whether rows of operands are whole vectors on a card that has the instructions.
fn fits(cx: &Lower, gather: &Gather) -> bool {
    cx.props.arch >= 80 && gather.conv.groups == 1 && gather.channels().0.is_multiple_of(VECTOR)
}

/// Whether a forward convolution's source has so few channels that patches are gathered value by value.
fn is_patch(gather: &Gather) -> bool {
    let depth = gather.conv.c * gather.taps();
    !gather.grad && gather.conv.groups == 1 && gather.conv.c < VECTOR && depth <= PATCH_MAX
}

/// Whether tensor cores take this convolution or input gradient.
pub(super) fn takes(cx: &Lower, gather: &Gather) -> bool {
    let chosen = |stored| Tile::choose(&product(gather, stored), cx.props).is_some();
    operands(cx).is_some_and(|stored| (cx.props.arch >= 80 && is_patch(gather)) || (fits(cx, gather) && chosen(stored)))
}

/// Whether tensor cores take the weight gradient of this forward convolution.
pub(super) fn takes_grad_weight(cx: &Lower, gather: &Gather) -> bool {
    operands(cx).is_some() && fits(cx, gather) && gather.conv.k.is_multiple_of(VECTOR)
}

fn product(gather: &Gather, stored: DType) -> Product {
    let (from, to) = gather.channels();
    let depth = (from * gather.taps()).div_ceil(gather.phases());
    // The list of taps lies before an array that is aligned to 1 KiB.
    let fixed = (gather.taps() * 16).next_multiple_of(1024);
    Product { rows: gather.pixels(), cols: to, depth, count: gather.phases(), elem: elem(stored), fixed }
}

/// A forward convolution or an input gradient: `(source, weights)` with what rides on it. [`takes`] has said yes.
pub(super) fn gather(cx: &mut Lower, step: &Step, gather: &Gather) {
    let stored = operands(cx).expect("asked before");
    if is_patch(gather) {
        return patch(cx, step, gather, stored);
    }
    let tile = Tile::choose(&product(gather, stored), cx.props).expect("asked before");
    let x = cx.in_storage(step.inputs[0], stored);
    let w = packed(cx, gather, step.inputs[1], Packing { stored, rows: 1, cols: 1 }, step.prologue);
    launch(cx, step, gather, KernelSpec::new("conv_mma", "conv_mma_gather"), tile, [x, w]);
}

/// A convolution of images: its weights are those of one tap with as many channels as a patch has values.
fn patch(cx: &mut Lower, step: &Step, gather: &Gather, stored: DType) {
    assert_eq!(cx.stored(step.inputs[0]), DType::F32, "images are f32");
    let depth = 64 / elem(stored);
    let (size, warp) = if gather.conv.k <= 32 { ([128, 32], [32, 32]) } else { ([128, 64], [64, 32]) };
    let tile = Tile { size, warp, depth, stages: 1, blocks: 4 };
    let flat = Conv::square(gather.conv.c * gather.taps(), gather.conv.k, 1, 1, 0);
    let packing = Packing { stored, rows: 1, cols: depth };
    let w = packed(cx, &Gather::forward(flat, 1, [1, 1]), step.inputs[1], packing, None);
    let x = cx.at(step.inputs[0]);
    launch(cx, step, gather, KernelSpec::new("conv_mma_patch", "conv_mma_patch"), tile, [x, w]);
}

fn launch(cx: &mut Lower, step: &Step, gather: &Gather, spec: KernelSpec, tile: Tile, [x, w]: [Operand; 2]) {
    let stored = operands(cx).expect("asked before");
    let (mine, rest) = split_epilogue(&step.epilogue);
    let epilogue = cx.epilogue(mine);
    let spec = tile.constants(geometry(spec, gather, stored)).with("P_Y", code(cx.stored(step.output)));
    let mut args = vec![x, w, cx.at(step.output)];
    args.extend(epilogue.args());
    args.push(int(gather.n));
    let tiles = gather.pixels().div_ceil(tile.size[0]) * gather.channels().1.div_ceil(tile.size[1]);
    let dims = tile.dims([tiles, gather.phases()], stored);
    let work = Work { flops: gather.flops(), bytes: bytes(x) + bytes(w) + cx.bytes(step.output) + epilogue.bytes };
    cx.emit(epilogue.constants(spec), dims, args, work);
    pointwise::follow(cx, step.output, rest);
}

fn bytes(operand: Operand) -> u64 {
    if let Operand::At { bytes, .. } = operand { bytes } else { 0 }
}

fn geometry(spec: KernelSpec, gather: &Gather, stored: DType) -> KernelSpec {
    let (from, to) = gather.channels();
    let spec = spec.with("P_C", from as i64).with("P_K", to as i64).with("P_X", code(stored));
    gather.fields().into_iter().fold(spec, |spec, (name, value)| spec.with(name, value as i64))
}

/// `(x, dy)` -> `dw` of a forward convolution: partial sums over ranges of pixels, as there are few weights and many
/// pixels, then their sum. [`takes_grad_weight`] has said yes.
pub(super) fn grad_weight(cx: &mut Lower, step: &Step, gather: &Gather) {
    let stored = operands(cx).expect("asked before");
    let Conv { c, k, .. } = gather.conv;
    let (cols, pixels) = (gather.taps() * c, gather.pixels());
    let tile = Tile::choose_grad_weight([k, cols], stored, cx.props);
    let tiles = k.div_ceil(tile.size[0]) * cols.div_ceil(tile.size[1]);
    let wanted = (cx.props.sms as usize * tile.blocks).div_ceil(tiles);
    let range = pixels.div_ceil(wanted).next_multiple_of(tile.depth).max(RANGE_MIN);
    let splits = pixels.div_ceil(range);
    let [x, dy] = [0, 1].map(|i| cx.in_storage(step.inputs[i], stored));
    let parts = cx.scratch((splits * k * cols * 4) as u64);
    let spec = tile.constants(geometry(KernelSpec::new("conv_mma_weight", "conv_mma_grad_weight"), gather, stored));
    let work = Work { flops: gather.flops(), bytes: bytes(x) + bytes(dy) + bytes(parts) };
    cx.emit(spec, tile.dims([tiles, splits], stored), vec![x, dy, parts, int(gather.n), int(range)], work);
    sum_parts(cx, step.output, parts, [k, c, gather.taps(), splits, cols]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(arch: u32, sms: u32, shared_kib: u32) -> DeviceProps {
        let shared_bytes = shared_kib << 10;
        DeviceProps { name: String::new(), arch, sms, shared_bytes, l2_bytes: 0, memory_bytes: 0 }
    }

    #[test]
    fn tiles_suit_the_layers_of_a_residual_network() {
        let layer = |c, k, hw| Gather::forward(Conv::square(c, k, 3, 1, 1), 512, [hw, hw]);
        let chosen = |gather, card: &DeviceProps| Tile::choose(&product(&gather, DType::Bf16), card).expect("it fits");
        let h200 = card(90, 132, 227);
        assert_eq!(chosen(layer(64, 64, 32), &h200).size, [256, 64], "few columns: more rows for each copy of the weights");
        assert_eq!(chosen(layer(128, 128, 16), &h200).size, [128, 128]);
        assert_eq!(chosen(layer(512, 512, 4), &h200).size, [128, 128]);
        let image = Gather::grad_input(Conv::square(3, 64, 3, 1, 1), 512, [32, 32]);
        assert_eq!(chosen(image, &h200).size, [128, 8], "three channels need no more columns");
        let few = Gather::forward(Conv::square(512, 512, 3, 1, 1), 8, [4, 4]);
        let [rows, cols] = chosen(few, &h200).size;
        assert!(
            128usize.div_ceil(rows) * 512usize.div_ceil(cols) >= 32,
            "a small batch is spread over the card: {rows} x {cols}"
        );
    }

    #[test]
    fn stages_and_blocks_fit_every_card() {
        for card in [card(80, 2, 48), card(80, 108, 163), card(86, 84, 99), card(90, 132, 227)] {
            for (stored, c, k) in [DType::F32, DType::Bf16].into_iter().flat_map(|s| [(s, 16, 3), (s, 72, 200), (s, 512, 512)]) {
                let product = product(&Gather::forward(Conv::square(c, k, 3, 1, 1), 64, [8, 8]), stored);
                let tile = Tile::choose(&product, &card).expect("every card has a tile");
                let block = tile.stages * tile.stage_bytes(product.elem) + product.fixed;
                assert!(tile.stages >= 2 && block * tile.blocks <= card.shared_bytes as usize, "{tile:?} on {card:?}");
                let rows = THREADS / (tile.depth * product.elem / 16);
                assert!(tile.size[0].is_multiple_of(rows) && rows.is_multiple_of(8), "copies of {tile:?}");
            }
        }
    }
}
