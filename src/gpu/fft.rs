//! Lowers transforms of images and what is done to their spectra: tables, geometry, and which sizes the kernels take.
//! Must not know what a spectrum is taken for.

use std::f64::consts::TAU;

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use super::tile::int;
use crate::graph::{Op, Rings};
use crate::plan::Step;
use crate::tensor::DType;

/// Whether the kernels transform images of this size: 8 to 512 pixels, products of 2, 3, 5 and 7.
pub fn takes(height: usize, width: usize) -> bool {
    [height, width].into_iter().all(|n| {
        let rest = [2, 3, 5, 7].into_iter().fold(n, |mut n, p| {
            while n > 0 && n.is_multiple_of(p) {
                n /= p;
            }
            n
        });
        (8..=512).contains(&n) && rest == 1
    })
}

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let image = if matches!(op, Op::Irfft2 { .. }) { step.output } else { step.inputs[0] };
    let [h, w, c] = cx.hwc(image);
    assert!(takes(h, w), "no kernel transforms {h}x{w} pixels: sizes are 8 to 512, products of 2, 3, 5 and 7");
    let inputs: Vec<Operand> = step.inputs.iter().map(|&v| cx.in_storage(v, DType::F32)).collect();
    let shape = Shape::of(cx, h, w);
    let tables = cx.table(&tables(h, w));
    let work = if shape.shared { Operand::Null } else { cx.scratch((cx.n() * c * plane(h, w) * 8) as u64) };
    let y = cx.at(step.output);
    let channels = Operand::I32(int(c));
    let common = [tables, work, channels];
    let pixels = (h * w) as f32;
    let (entry, args) = match op {
        Op::Rfft2 { dual } => {
            let [edge, inner] = if *dual { [1.0 / pixels, 2.0 / pixels] } else { [1.0, 1.0] };
            ("fft_forward", vec![inputs[0], y, tables, work, channels, Operand::F32(edge), Operand::F32(inner)])
        }
        Op::Irfft2 { dual, .. } => {
            let [edge, inner] = if *dual { [1.0, 0.5] } else { [1.0 / pixels, 1.0 / pixels] };
            ("fft_inverse", vec![inputs[0], y, tables, work, channels, Operand::F32(edge), Operand::F32(inner)])
        }
        Op::SpectrumFilter => ("fft_filter", [&[inputs[0], inputs[1], y][..], &common].concat()),
        Op::RingSums { power } => {
            let [starts, members, rings] = ring_tables(cx, h, w);
            let power = Operand::I32(i32::from(*power));
            ("fft_rings", [&[inputs[0], y][..], &common, &[starts, members, rings, power]].concat())
        }
        Op::Bass => ("fft_bass", [&[inputs[0], y][..], &common, &ring_tables(cx, h, w)].concat()),
        other => unreachable!("{other:?} is no spectral op"),
    };
    let blocks = u32::try_from(cx.n() * c).expect("fewer than 2^32 channels");
    let dims = Dims { grid: [blocks, 1, 1], block: shape.threads, shared: shape.bytes };
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    let spec = KernelSpec::new("fft", entry)
        .with("P_H", h as i64)
        .with("P_W", w as i64)
        .with("P_THREADS", i64::from(shape.threads))
        .with("P_SHARED", i64::from(shape.shared));
    cx.emit(spec, dims, args, Work { flops: flops(op, blocks, h, w), bytes });
}

/// Where a channel lies and how many threads work on it.
struct Shape {
    shared: bool,
    threads: u32,
    bytes: u32,
}

impl Shape {
    fn of(cx: &Lower, h: usize, w: usize) -> Self {
        let table = (3 * (h + w)).next_multiple_of(2) * 4;
        let whole = u32::try_from(table + plane(h, w) * 8).expect("an image has fewer than 2^29 pixels");
        // BaSS holds its rings in shared memory as well.
        let shared = whole + 4096 <= cx.props.shared_bytes;
        // One block fills a multiprocessor's shared memory, but of those that leave it alone several fit.
        let threads = (h.div_ceil(2) * w / 8).next_multiple_of(32).clamp(64, if shared { 512 } else { 256 }) as u32;
        Shape { shared, threads, bytes: if shared { whole } else { table as u32 } }
    }
}

/// Complex numbers of a channel as `kernels/fft.cu` lays it out.
fn plane(h: usize, w: usize) -> usize {
    let pitch = if w.is_multiple_of(2) { w + 1 } else { w + 2 };
    h.div_ceil(2) * pitch
}

/// The radix of the first stage of `n` values, as `radix_of` in `kernels/lib/fft_line.cuh`.
fn radix(n: usize) -> usize {
    match n {
        1 => 1,
        16 => 4,
        _ => [7, 5, 3, 8, 4, 2].into_iter().find(|&r| n.is_multiple_of(r)).expect("a product of 2, 3, 5 and 7"),
    }
}

/// Where frequency `k` of `n` lies after the transform: its digits reversed.
fn slot(mut k: usize, n: usize) -> usize {
    let (mut left, mut at) = (n, 0);
    while left > 1 {
        let r = radix(left);
        left /= r;
        at += k % r * left;
        k /= r;
    }
    at
}

/// Roots of unity of rows, then of columns, as pairs of f32; then the slots of both as i32.
fn tables(h: usize, w: usize) -> Vec<u8> {
    let roots = |n: usize| {
        (0..n).flat_map(move |i| {
            let (sin, cos) = (-TAU * i as f64 / n as f64).sin_cos();
            [cos as f32, sin as f32]
        })
    };
    let slots = |n: usize| (0..n).map(move |k| slot(k, n) as i32);
    let mut bytes: Vec<u8> = roots(w).chain(roots(h)).flat_map(f32::to_le_bytes).collect();
    bytes.extend(slots(w).chain(slots(h)).flat_map(i32::to_le_bytes));
    bytes
}

/// Where the members of each ring begin and how large each is in the whole spectrum; the members (row and column of the
/// half); the number of rings.
fn ring_tables(cx: &mut Lower, h: usize, w: usize) -> [Operand; 3] {
    let rings = Rings::new(h, w);
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); rings.count()];
    for (u, v) in (0..h).flat_map(|u| (0..rings.half()).map(move |v| (u, v))) {
        members[rings.ring(u, v)].push(u as u32 | (v as u32) << 16);
    }
    let ends = members.iter().scan(0u32, |end, ring| {
        *end += ring.len() as u32;
        Some(*end)
    });
    let sizes = rings.sizes().into_iter().map(|size| size as u32);
    let starts: Vec<u8> = std::iter::once(0).chain(ends).chain(sizes).flat_map(u32::to_le_bytes).collect();
    let members: Vec<u8> = members.concat().into_iter().flat_map(u32::to_le_bytes).collect();
    [cx.table(&starts), cx.table(&members), Operand::I32(int(rings.count()))]
}

/// `5/2 N log2 N` for a real transform of N values, as is usual; twice that with the way back.
fn flops(op: &Op, channels: u32, h: usize, w: usize) -> u64 {
    let pixels = (h * w) as f64;
    let ways = if matches!(op, Op::SpectrumFilter | Op::Bass) { 2.0 } else { 1.0 };
    (f64::from(channels) * ways * 2.5 * pixels * pixels.log2()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let sizes: Vec<usize> = (0..=600).filter(|&n| takes(n, 8)).collect();
        assert_eq!(sizes[..12], [8, 9, 10, 12, 14, 15, 16, 18, 20, 21, 24, 25]);
        assert_eq!((sizes.len(), sizes.last()), (99, Some(&512)));
        assert!(!takes(32, 11) && !takes(4, 32) && takes(224, 512));
    }

    #[test]
    fn slots_are_a_permutation() {
        for n in (8..=512).filter(|&n| takes(n, n)) {
            let mut seen = vec![false; n];
            (0..n).for_each(|k| seen[slot(k, n)] = true);
            assert!(seen.into_iter().all(|s| s), "{n}");
        }
    }
}
