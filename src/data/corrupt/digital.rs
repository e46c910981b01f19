//! What cameras and files do: contrast, rubber, large pixels, JPEG.
//! Must not know severities.

use std::f32::consts::PI;

use super::plane::{Outside, Picture, gaussian};
use crate::rng::Stream;

/// Moves every value towards the mean of its channel.
pub fn contrast(picture: &mut Picture, keep: f32) {
    picture.each_plane(|plane| {
        let mean = plane.iter().sum::<f32>() / plane.len() as f32;
        plane.iter_mut().for_each(|v| *v = mean + keep * (*v - mean));
    });
}

/// A sheet of rubber: an affine map that moves three points by up to `tilt`, then a smooth field of pushes. All in pixels.
pub fn elastic(picture: &mut Picture, [push, smooth, tilt]: [f32; 3], stream: &Stream) {
    let (height, width) = (picture.height, picture.width);
    let side = height.min(width) as f32 / 3.0;
    let (cy, cx) = (height as f32 / 2.0, width as f32 / 2.0);
    let from = [(cy + side, cx + side), (cy - side, cx + side), (cy - side, cx - side)];
    let moved = |i: u32| tilt * (2.0 * stream.uniform(i) - 1.0);
    let to: Vec<(f32, f32)> = from.iter().zip(0..).map(|(p, i)| (p.0 + moved(2 * i), p.1 + moved(2 * i + 1))).collect();
    let map = affine([to[0], to[1], to[2]], from);
    picture.warp(|y, x| map(y as f32, x as f32), Outside::Mirror);
    if push == 0.0 {
        return;
    }
    let field = |first: u32| {
        let mut field: Vec<f32> = (0..height * width).map(|i| 2.0 * stream.uniform(first + i as u32) - 1.0).collect();
        gaussian(&mut field, height, width, smooth);
        field
    };
    let (dy, dx) = (field(6), field(6 + (height * width) as u32));
    picture.warp(|y, x| (y as f32 + push * dy[y * width + x], x as f32 + push * dx[y * width + x]), Outside::Mirror);
}

/// The affine map that takes each of `to` back to its point of `from`, by Cramer's rule.
fn affine(to: [(f32, f32); 3], from: [(f32, f32); 3]) -> impl Fn(f32, f32) -> (f32, f32) {
    let [(y0, x0), (y1, x1), (y2, x2)] = to;
    let det = (y1 - y0) * (x2 - x0) - (y2 - y0) * (x1 - x0);
    let solve = move |a: f32, b: f32, c: f32| {
        let by_y = ((b - a) * (x2 - x0) - (c - a) * (x1 - x0)) / det;
        let by_x = ((y1 - y0) * (c - a) - (y2 - y0) * (b - a)) / det;
        (by_y, by_x, a - by_y * y0 - by_x * x0)
    };
    let (row, col) = (solve(from[0].0, from[1].0, from[2].0), solve(from[0].1, from[1].1, from[2].1));
    move |y, x| (row.0 * y + row.1 * x + row.2, col.0 * y + col.1 * x + col.2)
}

/// Shrinks to `share` of the size by averaging boxes, and enlarges again by repeating pixels.
pub fn pixelate(picture: &mut Picture, share: f32) {
    let (height, width) = (picture.height, picture.width);
    let small = |n: usize| ((n as f32 * share) as usize).max(1);
    let (rows, cols) = (small(height), small(width));
    picture.each_plane(|plane| {
        let narrow: Vec<f32> = plane.chunks_exact(width).flat_map(|row| boxes(row, cols)).collect();
        let mut less = vec![0.0; rows * cols];
        for x in 0..cols {
            let column: Vec<f32> = (0..height).map(|y| narrow[y * cols + x]).collect();
            boxes(&column, rows).into_iter().enumerate().for_each(|(y, v)| less[y * cols + x] = v);
        }
        for (i, v) in plane.iter_mut().enumerate() {
            *v = less[i / width * rows / height * cols + i % width * cols / width];
        }
    });
}

/// `count` equal parts of a line, each by its mean; a value that two parts share counts in both, by what lies in each.
fn boxes(line: &[f32], count: usize) -> Vec<f32> {
    let each = line.len() as f32 / count as f32;
    let one = |k: usize| {
        let (begin, end) = (k as f32 * each, (k + 1) as f32 * each);
        let part = |i: usize| ((i + 1) as f32).min(end) - (i as f32).max(begin);
        let last = (end.ceil() as usize).min(line.len());
        (begin as usize..last).map(|i| line[i] * part(i)).sum::<f32>() / each
    };
    (0..count).map(one).collect()
}

/// Baseline JPEG: luminance and halved chrominance in blocks of 8, quantised by the standard's tables at `quality`. What a file
/// loses is done to the picture; no file is written, for its coding loses nothing more.
pub fn jpeg(picture: &mut Picture, quality: u32) {
    let (height, width, size) = (picture.height, picture.width, picture.size());
    picture.data.iter_mut().for_each(|v| *v = (v.clamp(0.0, 1.0) * 255.0).round());
    if picture.channels == 3 {
        let mut planes: [Vec<f32>; 3] = std::array::from_fn(|_| Vec::with_capacity(size));
        for p in 0..size {
            let [r, g, b] = [0, 1, 2].map(|c| picture.data[c * size + p]);
            planes[0].push(0.299 * r + 0.587 * g + 0.114 * b);
            planes[1].push(128.0 - 0.168_736 * r - 0.331_264 * g + 0.5 * b);
            planes[2].push(128.0 + 0.5 * r - 0.418_688 * g - 0.081_312 * b);
        }
        quantise(&mut planes[0], height, width, &table(&LUMINANCE, quality));
        let (rows, cols) = (height.div_ceil(2), width.div_ceil(2));
        for plane in &mut planes[1..] {
            let at = |y: usize, x: usize| plane[y.min(height - 1) * width + x.min(width - 1)];
            let four = |i: usize| {
                let (y, x) = (i / cols * 2, i % cols * 2);
                (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 4.0
            };
            let mut less: Vec<f32> = (0..rows * cols).map(four).collect();
            quantise(&mut less, rows, cols, &table(&CHROMINANCE, quality));
            *plane = (0..size).map(|p| less[p / width / 2 * cols + p % width / 2]).collect();
        }
        let [luma, blue, red] = &planes;
        for (p, ((y, cb), cr)) in luma.iter().zip(blue).zip(red).enumerate() {
            let (cb, cr) = (cb - 128.0, cr - 128.0);
            let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
            (0..3).for_each(|c| picture.data[c * size + p] = rgb[c]);
        }
    } else {
        let table = table(&LUMINANCE, quality);
        picture.each_plane(|plane| quantise(plane, height, width, &table));
    }
    picture.data.iter_mut().for_each(|v| *v /= 255.0);
}

/// Tables K.1 and K.2 of ITU-T T.81, row by row.
const LUMINANCE: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80,
    62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98,
    112, 100, 103, 99,
];
const CHROMINANCE: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99,
];

/// A table at a quality of 1 to 100, as the IJG's library scales it.
fn table(base: &[u16; 64], quality: u32) -> [f32; 64] {
    let scale = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    base.map(|v| ((u32::from(v) * scale + 50) / 100).clamp(1, 255) as f32)
}

/// Blocks of 8 by 8 to their cosines, divided, rounded, and back; the last block is filled with its edge.
fn quantise(plane: &mut [f32], height: usize, width: usize, table: &[f32; 64]) {
    let cosine: [[f32; 8]; 8] = std::array::from_fn(|k| {
        let norm = if k == 0 { 0.125f32.sqrt() } else { 0.5 };
        std::array::from_fn(|x| norm * ((2 * x + 1) as f32 * k as f32 * PI / 16.0).cos())
    });
    for (top, left) in (0..height).step_by(8).flat_map(|y| (0..width).step_by(8).map(move |x| (y, x))) {
        let at = |y: usize, x: usize| plane[(top + y).min(height - 1) * width + (left + x).min(width - 1)] - 128.0;
        let block: [f32; 64] = std::array::from_fn(|i| at(i / 8, i % 8));
        let rows: [f32; 64] = std::array::from_fn(|i| (0..8).map(|x| block[i / 8 * 8 + x] * cosine[i % 8][x]).sum());
        let whole: [f32; 64] = std::array::from_fn(|i| (0..8).map(|y| rows[y * 8 + i % 8] * cosine[i / 8][y]).sum());
        let kept: [f32; 64] = std::array::from_fn(|i| (whole[i] / table[i]).round() * table[i]);
        let rows: [f32; 64] = std::array::from_fn(|i| (0..8).map(|k| kept[i / 8 * 8 + k] * cosine[k][i % 8]).sum());
        for (y, x) in (0..8.min(height - top)).flat_map(|y| (0..8.min(width - left)).map(move |x| (y, x))) {
            let value: f32 = (0..8).map(|k| rows[k * 8 + x] * cosine[k][y]).sum();
            plane[(top + y) * width + left + x] = (value + 128.0).round().clamp(0.0, 255.0);
        }
    }
}
