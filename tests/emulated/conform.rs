//! What small kernels must answer, worked out here by other means: data movement, conversions and integers to the bit.
//! Must not know the emulator: a card can be asked the same.

use crate::support::Rng;

/// One launch of an entry of `kernels/conform.cu`.
pub struct Question {
    pub entry: &'static str,
    pub blocks: u32,
    pub threads: u32,
    pub shared: u32,
    pub n: i32,
    pub input: Vec<u32>,
    /// What `out` holds before.
    pub before: Option<u32>,
    pub answer: Vec<u32>,
}

impl Question {
    fn new(entry: &'static str, n: usize, input: Vec<u32>, answer: Vec<u32>) -> Self {
        Question { entry, blocks: 1, threads: n as u32, shared: 0, n: n as i32, input, before: None, answer }
    }
    /// Over several blocks, the last one not full.
    fn grid(entry: &'static str, n: usize, input: Vec<u32>, answer: Vec<u32>) -> Self {
        Question { blocks: (n as u32).div_ceil(128), threads: 128, ..Question::new(entry, n, input, answer) }
    }
}

/// Every question, in the order of the file.
pub fn questions() -> Vec<Question> {
    let mut all = vec![indices(), halves(), narrow(), integers(), rounded()];
    all.extend([1, 3, 9].map(shuffles));
    all.extend([votes(), barriers(), atomics(), ldmatrix(), cp_async()]);
    all.extend([0, 1, 2].map(mma));
    all
}

fn words(name: &str, n: usize) -> Vec<u32> {
    let mut rng = Rng::named(name);
    (0..n).map(|_| rng.bits() as u32).collect()
}

/// Floats where conversions have corners, then random bits of all kinds.
fn floats(name: &str, n: usize) -> Vec<u32> {
    let corners = [
        0.0,
        1.0,
        1.0 / 3.0,
        2049.0,
        2051.0,
        65504.0,
        65519.99,
        65520.0,
        1e10,
        1e-10,
        6.1e-5,
        5.97e-8,
        2.98e-8,
        2.99e-8,
        257.0,
        258.99,
        1.003_906_3,
        1.011_718_8,
        3.4e38,
        1e-40,
        1e-45,
        f32::MAX,
        f32::INFINITY,
        2147483520.0,
        2147483648.0,
        0.5,
        1.5,
        2.5,
    ];
    let mut all: Vec<u32> = corners.iter().flat_map(|v: &f32| [v.to_bits(), (-v).to_bits()]).collect();
    all.extend(words(name, n - all.len()));
    // What a NaN's bits become is not laid down.
    all.iter_mut().filter(|v| f32::from_bits(**v).is_nan()).for_each(|v| *v &= 0x807f_ffff);
    all
}

/// The bits of the nearest number with `exponent` and `mantissa` bits, ties to even; infinite beyond the largest.
fn nearest(v: f32, exponent: i32, mantissa: i32) -> u32 {
    let sign = (v.to_bits() >> 31) << (exponent + mantissa);
    let (bias, infinite) = ((1 << (exponent - 1)) - 1, ((1u32 << exponent) - 1) << mantissa);
    if v == 0.0 || v.is_infinite() {
        return sign | if v == 0.0 { 0 } else { infinite };
    }
    let size = f64::from(v.abs());
    let scale = (size.log2().floor() as i32).max(1 - bias);
    // log2 may round up to the next power.
    let scale = if 2f64.powi(scale) > size && scale > 1 - bias { scale - 1 } else { scale };
    let steps = (size / 2f64.powi(scale - mantissa)).round_ties_even() as u32;
    sign | (steps + (((scale + bias - 1) as u32) << mantissa)).min(infinite)
}

fn half(bits: u32) -> f32 {
    let (sign, exponent, mantissa) = (bits >> 15 & 1, (bits >> 10 & 31) as i32, f64::from(bits & 1023));
    let size = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 => f64::INFINITY,
        e => (1024.0 + mantissa) * 2f64.powi(e - 25),
    };
    if sign == 1 { -size as f32 } else { size as f32 }
}

fn indices() -> Question {
    let answer = (0..300u32).flat_map(|i| [i / 128, i % 128, 3, 128]).collect();
    Question::grid("conform_indices", 300, vec![0], answer)
}

/// All halves but the NaNs.
fn halves() -> Question {
    let input: Vec<u32> = (0..65536).filter(|v| v & 0x7c00 != 0x7c00 || v & 1023 == 0).collect();
    let back = input.iter().map(|&v| v | nearest(half(v), 8, 7) << 16);
    let answer = input.iter().map(|&v| half(v).to_bits()).chain(back).collect();
    Question::grid("conform_halves", input.len(), input, answer)
}

fn narrow() -> Question {
    let input = floats("narrow", 4096);
    let answer = |&bits: &u32| {
        let v = f32::from_bits(bits);
        let both = nearest(v, 8, 7) | nearest(v, 5, 10) << 16;
        // Ties of tf32 go away from zero; its largest numbers round to infinity.
        let tf32 = if v.is_infinite() { bits } else { (bits + 0x1000) & 0xffff_e000 };
        [both, both, tf32]
    };
    let answer = input.iter().flat_map(answer).collect();
    Question::grid("conform_narrow", input.len(), input, answer)
}

fn integers() -> Question {
    let mut input = words("integers", 512);
    input[..8].copy_from_slice(&[0, 0, 1, u32::MAX, 1 << 31, 7, 3, 1 << 31]);
    let answer = |pair: &[u32]| {
        let (a, b) = (pair[0], pair[1]);
        let (wide, both) = (u64::from(a) << 32 | u64::from(b), u64::from(b) << 32 | u64::from(a));
        let first = |v: u64| if v == 0 { 0 } else { v.trailing_zeros() + 1 };
        let byte = |i: u32| (both >> (8 * i)) as u32 & 255;
        [
            ((u64::from(a) * u64::from(b)) >> 32) as u32,
            ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32,
            ((u128::from(wide) * u128::from(wide)) >> 96) as u32,
            a.reverse_bits(),
            a.leading_zeros() | wide.leading_zeros() << 8 | first(b.into()) << 16 | wide.count_ones() << 24,
            a.count_ones() + 100 * first(wide),
            byte(0) | byte(4) << 8 | byte(2) << 16 | byte(6) << 24,
            (both << (b & 31) >> 32) as u32,
            (a as i32).min(b as i32) as u32 ^ a.max(b),
            (a >> 1).wrapping_add((both >> 7) as u32),
        ]
    };
    let answer = input.chunks_exact(2).flat_map(answer).collect();
    Question::grid("conform_integers", input.len() / 2, input, answer)
}

/// Pairs whose results are all numbers.
fn rounded() -> Question {
    let mut rng = Rng::named("rounded");
    let mut draw = || ((rng.unit() - 0.5) * 2f64.powi(rng.below(60) as i32 - 20)) as f32;
    let mut input: Vec<u32> = (0..2048).map(|_| draw().to_bits()).collect();
    input[..8].copy_from_slice(&[0.0f32, -0.0, -0.0, 0.5, 2.5, -1.5, -3e9, 3.0].map(f32::to_bits));
    input[1] = 1e-3f32.to_bits();
    let answer = |pair: &[u32]| {
        let (a, b) = (f32::from_bits(pair[0]), f32::from_bits(pair[1]));
        let floats = [a + b, a - b, a * b + b, a / b, a.abs().sqrt(), a.mul_add(b, a), a.min(b), a.max(b)];
        let mut out = floats.map(f32::to_bits).to_vec();
        out.extend([a.round_ties_even() as i32 as u32, b as u32]);
        out
    };
    let answer = input.chunks_exact(2).flat_map(answer).collect();
    Question::grid("conform_rounded", input.len() / 2, input, answer)
}

/// By `n` lanes, over the warp and in groups of eight.
fn shuffles(n: usize) -> Question {
    let input = words("shuffles", 32);
    let from = |pick: &dyn Fn(usize) -> usize| (0..32).map(|l| input[pick(l)]).collect::<Vec<u32>>();
    let answer = [
        from(&|_| n),
        from(&|l| if l >= n { l - n } else { l }),
        from(&|l| if l + n < 32 { l + n } else { l }),
        from(&|l| l ^ n),
        from(&|l| l / 8 * 8 + (l + n) % 8),
        from(&|l| if l % 8 >= n { l - n } else { l }),
        from(&|l| if l % 8 + n < 8 { l + n } else { l }),
    ];
    Question { n: n as i32, ..Question::new("conform_shuffles", 32, input.clone(), answer.concat()) }
}

fn votes() -> Question {
    let input: Vec<u32> = words("votes", 32).iter().map(|v| v % 1000).collect();
    let odd = input.iter().enumerate().fold(0, |all, (l, v)| all | (v & 1) << l);
    let whole = [
        odd,
        input.contains(&7).into(),
        1,
        input.iter().sum(),
        *input.iter().max().expect("32 lanes"),
        (*input.iter().min().expect("32 lanes") as i32 - 100) as u32,
        input.iter().fold(0, |all, v| all | v),
        input.iter().fold(u32::MAX, |all, v| all & (v | 8)),
    ];
    let mut answer: Vec<u32> = whole.iter().flat_map(|&v| [v; 32]).collect();
    answer.extend([[odd & 0xffff; 16], [odd & 0xffff_0000; 16]].concat());
    Question::new("conform_votes", 32, input, answer)
}

fn barriers() -> Question {
    let input = words("barriers", 200);
    let odd = input.iter().filter(|v| *v & 1 == 1).count() as u32;
    let answer = input.iter().flat_map(|_| [odd, 0, 1]).collect();
    Question::new("conform_barriers", 200, input, answer)
}

fn atomics() -> Question {
    let input = words("atomics", 100);
    let answer = vec![
        input.iter().fold(0u32, |all, v| all.wrapping_add(*v)),
        *input.iter().min().expect("100 words"),
        *input.iter().max().expect("100 words"),
        input.iter().fold(0, |all, v| all | v),
        input.iter().fold(u32::MAX, |all, v| all & v),
        input.iter().fold(0, |all, v| all ^ v),
        506,
        9,
    ];
    Question { before: Some(5), threads: 128, ..Question::new("conform_atomics", 100, input, answer) }
}

fn ldmatrix() -> Question {
    let input = words("ldmatrix", 128);
    // Row r of tile i lies at word 4 (8 i + r) and holds eight halves.
    let at = |tile: usize, row: usize, column: usize| input[4 * (8 * tile + row) + column / 2] >> (16 * (column % 2)) & 0xffff;
    let (mut plain, mut transposed) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        plain.extend((0..4).map(|i| at(i, g, 2 * t) | at(i, g, 2 * t + 1) << 16));
        transposed.extend((0..4).map(|i| at(i, 2 * t, g) | at(i, 2 * t + 1, g) << 16));
    }
    let answer = [plain, transposed].concat();
    Question { shared: 32 * 48, ..Question::new("conform_ldmatrix", 32, input, answer) }
}

fn cp_async() -> Question {
    let n = 96;
    let input = words("cp_async", 8 * n);
    let copied = |i: usize| if i >= n && i % n % 2 == 1 { vec![0; 4] } else { input[4 * i..4 * i + 4].to_vec() };
    let answer = (0..2 * n).flat_map(|i| copied(i / n * n + (i + 1) % n)).collect();
    Question { shared: 2 * n as u32 * 16, ..Question::new("conform_cp_async", n, input.clone(), answer) }
}

/// 0 bf16, 1 half, 2 tf32.
fn mma(format: usize) -> Question {
    let depth = if format == 2 { 8 } else { 16 };
    let mut rng = Rng::named("mma");
    let numbers: Vec<i32> = (0..16 * depth + depth * 8 + 128).map(|_| rng.below(33) as i32 - 16).collect();
    let (a, rest) = numbers.split_at(16 * depth);
    let (b, c) = rest.split_at(depth * 8);
    let sum = |i: usize| (0..depth).map(|k| a[i / 8 * depth + k] * b[k * 8 + i % 8]).sum::<i32>() + c[i];
    let answer = (0..128).map(|i| (sum(i) as f32).to_bits()).collect();
    let input = numbers.iter().map(|&v| (v as f32).to_bits()).collect();
    Question { n: format as i32, ..Question::new("conform_mma", 32, input, answer) }
}
