//! Lowers convolutions: packs the weights of a direction, picks a kernel and its tiles.
//! Must not know networks; what exactly is summed stands in `kernels/conv.cu` and `kernels/lib/taps.cuh`.

use super::conv_mma;
use super::driver::Dims;
use super::lower::{Lower, Operand, PackKey, Work, code, split_epilogue};
use super::pointwise;
use super::spec::KernelSpec;
use crate::graph::{Conv, Op, Value};
use crate::plan::{Fused, Step};
use crate::tensor::DType;

/// A convolution or its input gradient as sums over taps of source pixels: see `kernels/lib/taps.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gather {
    pub conv: Conv,
    /// Input gradient instead of forward: the source is the output's gradient.
    pub grad: bool,
    pub n: usize,
    /// Height and width of a source image.
    pub source: [usize; 2],
    /// Height and width of a result image.
    pub result: [usize; 2],
}

impl Gather {
    /// `x [N, hw, C]` -> `[N, P, Q, K]`.
    pub fn forward(conv: Conv, n: usize, hw: [usize; 2]) -> Self {
        Gather { conv, grad: false, n, source: hw, result: conv.out_hw(hw[0], hw[1]).into() }
    }
    /// `g [N, P, Q, K]` -> `[N, hw, C]`.
    pub fn grad_input(conv: Conv, n: usize, hw: [usize; 2]) -> Self {
        Gather { conv, grad: true, n, source: conv.out_hw(hw[0], hw[1]).into(), result: hw }
    }
    /// Channels of a source pixel and of a result pixel, all groups together.
    pub fn channels(&self) -> (usize, usize) {
        if self.grad { (self.conv.k, self.conv.c) } else { (self.conv.c, self.conv.k) }
    }
    /// The same of one group.
    pub fn group_channels(&self) -> (usize, usize) {
        let (from, to) = self.channels();
        (from / self.conv.groups, to / self.conv.groups)
    }
    pub fn taps(&self) -> usize {
        self.conv.kernel.iter().product()
    }
    /// Sets of result pixels that share one list of taps.
    pub fn phases(&self) -> usize {
        if self.grad { self.conv.stride.iter().product() } else { 1 }
    }
    /// Result pixels of the largest phase, which is the first.
    pub fn pixels(&self) -> usize {
        let step = if self.grad { self.conv.stride } else { [1, 1] };
        self.n * self.result[0].div_ceil(step[0]) * self.result[1].div_ceil(step[1])
    }
    /// Products and sums of the definition, those with padding included.
    pub fn flops(&self) -> u64 {
        let [p, q] = if self.grad { self.source } else { self.result };
        2 * self.n as u64 * self.conv.macs(p, q) as u64
    }
    /// The fields of `Geometry` in their order, under the names they have as constants.
    pub fn fields(&self) -> [(&'static str, usize); 13] {
        let Conv { kernel, stride, pad, dilation, .. } = self.conv;
        [
            ("P_H", self.source[0]),
            ("P_W", self.source[1]),
            ("P_P", self.result[0]),
            ("P_Q", self.result[1]),
            ("P_R", kernel[0]),
            ("P_S", kernel[1]),
            ("P_SH", stride[0]),
            ("P_SW", stride[1]),
            ("P_PH", pad[0]),
            ("P_PW", pad[1]),
            ("P_DH", dilation[0]),
            ("P_DW", dilation[1]),
            ("P_GRAD", usize::from(self.grad)),
        ]
    }
    /// The same as kernel arguments.
    pub fn args(&self) -> impl Iterator<Item = Operand> + use<> {
        self.fields().into_iter().map(|(_, v)| int(v))
    }
    /// Asserts what the kernels' 32-bit indices rest on.
    pub fn check(&self) {
        self.conv.check();
        for [h, w] in [self.source, self.result] {
            let pixels = self.n * h * w;
            assert!(pixels < 1 << 31, "{pixels} pixels in one value: use smaller batches");
        }
        assert!(self.taps() <= 768, "{} taps exceed a block's shared memory: {self:?}", self.taps());
        let sizes = self.fields().into_iter().map(|(_, v)| v);
        assert!(sizes.chain([self.conv.c, self.conv.k]).all(|v| v < 1 << 24), "sizes of {self:?}");
    }
}

/// Weights `[K, C/groups, R, S]` as `[group][result channel][tap][source channel]`, the source channels contiguous; rows
/// and channels are padded with zeros to multiples. The input gradient's source channels are the K of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packing {
    pub stored: DType,
    /// Result channels of a group are padded to a multiple of this.
    pub rows: usize,
    /// Source channels of a group are padded to a multiple of this.
    pub cols: usize,
}

/// The packed weights of `gather`; `scale` is the constant whose scale multiplies the K channels of an input gradient's source.
pub(super) fn packed(cx: &mut Lower, gather: &Gather, weight: Value, packing: Packing, scale: Option<usize>) -> Operand {
    let (source, result) = gather.group_channels();
    pack(cx, weight, gather.grad, [gather.conv.groups, result, gather.taps(), source], packing, scale)
}

/// Threads of a block of the packing kernels, as in `kernels/conv_pack.cu`.
const PACK_THREADS: usize = 256;

/// `[group][result][tap][source]`, where `swapped` says that the K of the weights are the sources.
fn pack(
    cx: &mut Lower,
    weight: Value,
    swapped: bool,
    [groups, result, taps, source]: [usize; 4],
    Packing { stored, rows, cols }: Packing,
    scale: Option<usize>,
) -> Operand {
    let (padded_rows, padded_cols) = (result.next_multiple_of(rows), source.next_multiple_of(cols));
    let total = groups * padded_rows * taps * padded_cols;
    let layout = format!("conv {groups}x{padded_rows}x{taps}x{padded_cols} {stored:?} {swapped}");
    assert!(total < 1 << 31, "{total} packed weights");
    let bytes = (total * if stored == DType::F32 { 4 } else { 2 }) as u64;
    cx.packed(PackKey { weight, layout, scale }, bytes, |cx, out| {
        let scale = scale.map_or(Operand::Null, |index| cx.constant(index).0);
        let entry = if swapped { "conv_pack_grad" } else { "conv_pack" };
        let scaled = i64::from(scale != Operand::Null);
        let spec = KernelSpec::new("conv_pack", entry).with("P_Y", code(stored)).with("P_SCALE", scaled);
        let sizes = [groups, result, taps, source, padded_rows, padded_cols];
        let mut args = vec![cx.at(weight), scale, out];
        args.extend(sizes.map(int));
        let work = Work { flops: 0, bytes: bytes + cx.bytes(weight) };
        cx.emit(spec, Dims::linear(grid(total.div_ceil(PACK_THREADS)), PACK_THREADS as u32), args, work);
    })
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One channel a group on either side: no products to share.
    Depthwise,
    /// A product of matrices, f32.
    Gather,
}

impl Way {
    fn choose(conv: &Conv) -> Self {
        if conv.groups > 1 && conv.groups == conv.c && conv.groups == conv.k { Way::Depthwise } else { Way::Gather }
    }
}

/// Result pixels and channels that a block computes, and how many of either a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    block: [usize; 2],
    thread: [usize; 2],
}

impl Tile {
    /// Narrow where there are few channels; as high as still gives every multiprocessor a block. Sums are the same in all.
    fn choose(gather: &Gather, sms: usize) -> Self {
        let (_, channels) = gather.group_channels();
        let width = width_for(channels, [16, 32, 64]);
        let heights = [(128, 8), (64, 8), (32, 4)];
        let tiles = heights.map(|(height, rows)| Tile { block: [height, width], thread: [rows, 4] });
        *tiles.iter().find(|tile| tile.blocks(gather) >= sms).unwrap_or(&tiles[2])
    }
    fn grid(&self, gather: &Gather) -> [usize; 3] {
        let (_, channels) = gather.group_channels();
        let tiles = gather.pixels().div_ceil(self.block[0]) * channels.div_ceil(self.block[1]);
        [tiles, gather.conv.groups, gather.phases()]
    }
    fn blocks(&self, gather: &Gather) -> usize {
        self.grid(gather).iter().product()
    }
    fn threads(&self) -> usize {
        self.block[0] / self.thread[0] * (self.block[1] / self.thread[1])
    }
}

/// The least of `widths` that holds `channels`, or the largest.
fn width_for(channels: usize, widths: [usize; 3]) -> usize {
    *widths.iter().find(|&&w| channels <= w).unwrap_or(&widths[2])
}

/// Room for a list of taps: few sizes, because each is another kernel.
fn tap_room(taps: usize) -> usize {
    [1, 9, 25, 49].into_iter().find(|&room| taps <= room).unwrap_or(taps.next_multiple_of(64))
}

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let n = cx.n();
    match *op {
        Op::Conv2d(conv) => {
            let [h, w, _] = cx.hwc(step.inputs[0]);
            gather(cx, step, &Gather::forward(conv, n, [h, w]));
        }
        Op::Conv2dGradInput { conv, hw } => gather(cx, step, &Gather::grad_input(conv, n, hw)),
        Op::Conv2dGradWeight(conv) => {
            let [h, w, _] = cx.hwc(step.inputs[0]);
            grad_weight(cx, step, &Gather::forward(conv, n, [h, w]));
        }
        ref other => unreachable!("{other:?} is no convolution"),
    }
}

/// A forward convolution or an input gradient: `(source, weights)`, with what rides on it.
pub(super) fn gather(cx: &mut Lower, step: &Step, gather: &Gather) {
    gather.check();
    if conv_mma::takes(cx, gather) {
        return conv_mma::gather(cx, step, gather);
    }
    let way = Way::choose(&gather.conv);
    let (_, channels) = gather.group_channels();
    // A vector of eight channels that is shared by two groups has no one place to be finished.
    let whole = way == Way::Depthwise || gather.conv.groups == 1 || channels.is_multiple_of(8);
    let (mine, rest) = if whole { split_epilogue(&step.epilogue) } else { step.epilogue.split_at(0) };
    match way {
        Way::Depthwise => depthwise(cx, step, gather, mine),
        Way::Gather => product(cx, step, gather, mine),
    }
    pointwise::follow(cx, step.output, rest);
}

fn product(cx: &mut Lower, step: &Step, gather: &Gather, fused: &[Fused]) {
    let (x, y) = (step.inputs[0], step.output);
    let tile = Tile::choose(gather, cx.props.sms as usize);
    let packing = Packing { stored: DType::F32, rows: tile.block[1], cols: 1 };
    let weights = packed(cx, gather, step.inputs[1], packing, step.prologue);
    let ((c, k), (cg, kg)) = (gather.channels(), gather.group_channels());
    let epilogue = cx.epilogue(fused);
    let spec = KernelSpec::new("conv", "conv_gather")
        .with("P_X", code(cx.stored(x)))
        .with("P_Y", code(cx.stored(y)))
        .with("P_K", k as i64)
        .with("P_KG", kg as i64)
        .with("P_VEC", i64::from(cg.is_multiple_of(4)))
        .with("P_TAPS", tap_room(gather.taps()) as i64)
        .with("P_BM", tile.block[0] as i64)
        .with("P_BN", tile.block[1] as i64)
        .with("P_TM", tile.thread[0] as i64)
        .with("P_TN", tile.thread[1] as i64);
    let mut args = vec![cx.at(x), weights, cx.at(y)];
    args.extend(epilogue.args());
    args.extend(gather.args());
    args.extend([gather.n, c, cg].map(int));
    let dims = Dims { grid: tile.grid(gather).map(grid), block: tile.threads() as u32, shared: 0 };
    let work = Work { flops: gather.flops(), bytes: cx.bytes(x) + cx.bytes(step.inputs[1]) + cx.bytes(y) + epilogue.bytes };
    cx.emit(epilogue.constants(spec), dims, args, work);
}

/// Channels and pixels of a thread of `conv_depthwise`.
const DEPTHWISE: (usize, usize) = (8, 4);
const THREADS: usize = 256;

fn depthwise(cx: &mut Lower, step: &Step, gather: &Gather, fused: &[Fused]) {
    let (x, y, c) = (step.inputs[0], step.output, gather.conv.c);
    // As of one group that sums over all channels into one: `[tap][channel]`.
    let packing = Packing { stored: DType::F32, rows: 1, cols: 1 };
    let weights = pack(cx, step.inputs[1], true, [1, 1, gather.taps(), c], packing, step.prologue);
    let epilogue = cx.epilogue(fused);
    let spec = depthwise_spec(cx, "conv_depthwise", (x, y), gather);
    let mut args = vec![cx.at(x), weights, cx.at(y)];
    args.extend(epilogue.args());
    args.extend(gather.args());
    args.push(int(gather.n));
    let threads = gather.pixels().div_ceil(DEPTHWISE.1) * c.div_ceil(DEPTHWISE.0);
    let dims = Dims { grid: [threads.div_ceil(THREADS), 1, gather.phases()].map(grid), block: THREADS as u32, shared: 0 };
    let work = Work { flops: gather.flops(), bytes: cx.bytes(x) + cx.bytes(step.inputs[1]) + cx.bytes(y) + epilogue.bytes };
    cx.emit(epilogue.constants(spec), dims, args, work);
}

fn depthwise_spec(cx: &Lower, entry: &'static str, (x, y): (Value, Value), gather: &Gather) -> KernelSpec {
    KernelSpec::new("conv_depthwise", entry)
        .with("P_X", code(cx.stored(x)))
        .with("P_Y", code(cx.stored(y)))
        .with("P_C", gather.conv.c as i64)
        .with("P_TAPS", tap_room(gather.taps()) as i64)
}

/// How a weight gradient's sum over pixels is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    parts: usize,
    /// Pixels of a part, the last one's may be fewer.
    pixels: usize,
}

impl Split {
    /// Enough parts to fill the device twice when `tiles` blocks share one, of at least `SPLIT_PIXELS` pixels.
    fn choose(pixels: usize, tiles: usize, sms: usize) -> Self {
        let parts = (2 * sms).div_ceil(tiles).min(pixels.div_ceil(SPLIT_PIXELS)).max(1);
        let pixels_each = pixels.div_ceil(parts).next_multiple_of(64);
        Split { parts: pixels.div_ceil(pixels_each), pixels: pixels_each }
    }
}

/// Fewest pixels worth a part of their own.
const SPLIT_PIXELS: usize = 256;

/// `(x, dy)` -> `dw`: partial sums in scratch memory, then their sum. `gather` is the forward convolution.
pub(super) fn grad_weight(cx: &mut Lower, step: &Step, gather: &Gather) {
    gather.check();
    assert!(step.epilogue.is_empty() && step.prologue.is_none(), "nothing rides on a weight gradient: {}", step.label);
    if conv_mma::takes_grad_weight(cx, gather) {
        return conv_mma::grad_weight(cx, step, gather);
    }
    let (conv, pixels, sms) = (gather.conv, gather.pixels(), cx.props.sms as usize);
    let (cg, kg) = gather.group_channels();
    let columns = gather.taps() * cg;
    let depthwise = Way::choose(&conv) == Way::Depthwise;
    let tile = match width_for(kg, [16, 32, 64]) {
        64 => Tile { block: [64, 128], thread: [8, 4] },
        height => Tile { block: [height, 64], thread: [4, 4] },
    };
    let tiles = if depthwise {
        [conv.c.div_ceil(DEPTHWISE_CHANNELS), gather.taps(), 1]
    } else {
        [columns.div_ceil(tile.block[1]), kg.div_ceil(tile.block[0]), conv.groups]
    };
    let split = Split::choose(pixels, tiles.iter().product(), sms);
    let pitch = columns.next_multiple_of(4);
    let parts = cx.scratch((split.parts * conv.k * pitch * 4) as u64);

    let (x, dy) = (step.inputs[0], step.inputs[1]);
    let mut args = vec![cx.at(x), cx.at(dy), parts];
    args.extend(gather.args());
    let spec = if depthwise {
        args.extend([gather.n, split.pixels, pitch].map(int));
        let epilogue = cx.epilogue(&[]);
        epilogue.constants(depthwise_spec(cx, "conv_depthwise_grad_weight", (x, dy), gather))
    } else {
        args.extend([gather.n, conv.c, conv.k, cg, kg, split.parts, split.pixels, pitch].map(int));
        KernelSpec::new("conv_grad_weight", "conv_grad_weight")
            .with("P_X", code(cx.stored(x)))
            .with("P_DY", code(cx.stored(dy)))
            .with("P_VX", i64::from(cg.is_multiple_of(4)))
            .with("P_VK", i64::from(kg.is_multiple_of(4)))
            .with("P_BM", tile.block[0] as i64)
            .with("P_BN", tile.block[1] as i64)
            .with("P_TM", tile.thread[0] as i64)
    };
    let block = if depthwise { THREADS } else { tile.threads() };
    let dims = Dims { grid: [tiles[0], tiles[1], tiles[2] * split.parts].map(grid), block: block as u32, shared: 0 };
    cx.emit(spec, dims, args, Work { flops: gather.flops(), bytes: cx.bytes(x) + cx.bytes(dy) });
    sum_parts(cx, step.output, parts, [conv.k, cg, gather.taps(), split.parts, pitch]);
}

/// Channels of a block of `conv_depthwise_grad_weight`.
const DEPTHWISE_CHANNELS: usize = 64;

/// Adds the parts `[parts][k][pitch]` of a weight gradient in order.
pub(super) fn sum_parts(cx: &mut Lower, dw: Value, from: Operand, sizes: [usize; 5]) {
    let [k, cg, taps, parts, _] = sizes;
    // Constants of the other entry of the file, which this one does not read.
    let unused = ["P_X", "P_DY", "P_VX", "P_VK"]
        .into_iter()
        .fold(KernelSpec::new("conv_grad_weight", "conv_grad_weight_sum"), |spec, name| spec.with(name, 0));
    let spec = unused.with("P_BM", 16).with("P_BN", 64).with("P_TM", 4);
    let mut args = vec![from, cx.at(dw)];
    args.extend(sizes.map(int));
    let total = k * cg * taps;
    let work = Work { flops: (total * parts) as u64, bytes: 4 * (total * (parts + 1)) as u64 };
    cx.emit(spec, Dims::linear(grid(total.div_ceil(THREADS)), THREADS as u32), args, work);
}

/// An `int` of a kernel.
pub(super) fn int(v: usize) -> Operand {
    Operand::I32(i32::try_from(v).expect("the sizes have been checked"))
}

pub(super) fn grid(blocks: usize) -> u32 {
    u32::try_from(blocks).expect("fewer than 2^32 blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ImageNet stem, a stage of a residual network, its strided step, a grouped layer, CIFAR's stem backwards, a classifier.
    fn layers() -> Vec<Gather> {
        let strided = Conv { groups: 4, ..Conv::square(32, 16, 3, 2, 1) };
        vec![
            Gather::forward(Conv::square(3, 64, 7, 2, 3), 8, [224, 224]),
            Gather::forward(Conv::square(64, 64, 3, 1, 1), 512, [32, 32]),
            Gather::grad_input(Conv::square(64, 128, 3, 2, 1), 512, [33, 31]),
            Gather::grad_input(strided, 3, [7, 6]),
            Gather::grad_input(Conv::square(3, 64, 3, 1, 1), 256, [32, 32]),
            Gather::forward(Conv::square(512, 10, 1, 1, 0), 5, [1, 1]),
        ]
    }

    #[test]
    fn phases_share_out_the_pixels_of_a_result() {
        let gather = Gather::grad_input(Conv::square(4, 8, 3, 2, 1), 2, [5, 4]);
        assert_eq!((gather.source, gather.phases(), gather.pixels()), ([3, 2], 4, 2 * 3 * 2));
        assert_eq!((gather.channels(), gather.taps()), ((8, 4), 9));
        let forward = Gather::forward(gather.conv, 2, [5, 4]);
        assert_eq!((forward.result, forward.phases(), forward.pixels()), ([3, 2], 1, 2 * 3 * 2));
        assert_eq!(forward.flops(), gather.flops());
    }

    #[test]
    fn tiles_cover_results_and_suit_the_kernel() {
        for (gather, sms) in layers().into_iter().flat_map(|g| [2, 108, 132].map(|sms| (g, sms))) {
            let tile = Tile::choose(&gather, sms);
            let ([height, width], [rows, cols]) = (tile.block, tile.thread);
            let (_, channels) = gather.group_channels();
            let [tiles, groups, phases] = tile.grid(&gather);
            assert!(tiles / channels.div_ceil(width) * height >= gather.pixels(), "{gather:?} in {tile:?}");
            assert_eq!((groups, phases), (gather.conv.groups, gather.phases()), "{gather:?}");
            assert!((height / rows).is_multiple_of(8) && (width / cols).is_multiple_of(4), "warps of {tile:?}");
            assert!(width <= 16 || width / 2 < channels, "{tile:?} is too wide for {channels} channels");
            // Loads of one value and of four: sixteen or four threads side by side.
            for side in [16, 4] {
                let pass = tile.threads() / side;
                assert!(height.is_multiple_of(pass) && width.is_multiple_of(pass), "loads of {tile:?}");
            }
        }
    }

    #[test]
    fn few_pixels_are_cut_finer() {
        let [large, small] = [512, 1].map(|n| Gather::forward(Conv::square(64, 64, 3, 1, 1), n, [32, 32]));
        assert_eq!(Tile::choose(&large, 132), Tile { block: [128, 64], thread: [8, 4] });
        assert_eq!(Tile::choose(&small, 132), Tile { block: [32, 64], thread: [4, 4] });
    }

    #[test]
    fn splits_cover_all_pixels() {
        for (pixels, tiles, sms) in [(1, 1, 132), (255, 3, 2), (64 * 1024, 1, 132), (524_288, 36, 132), (100, 999, 108)] {
            let split = Split::choose(pixels, tiles, sms);
            assert!(split.pixels.is_multiple_of(64), "{split:?}");
            assert!((split.parts - 1) * split.pixels < pixels && split.parts * split.pixels >= pixels, "{split:?} of {pixels}");
            assert!(split.parts == 1 || split.parts * tiles <= 2 * sms + tiles, "{split:?} of {tiles} tiles");
        }
    }

    #[test]
    fn lists_of_taps_have_room() {
        for taps in 1..200 {
            assert!((taps..taps + 64).contains(&tap_room(taps)), "{taps} taps");
        }
    }
}
