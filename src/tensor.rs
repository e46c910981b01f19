//! Shapes and host-side arrays: the words in which the layers speak of data.
//! Knows no operation, no device and no file.

use std::fmt;

/// Element type of a value in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: activations, gradients, weights.
    F32,
    /// bfloat16: the upper half of an f32. Only as a plan's storage, never as the type of a node.
    Bf16,
    /// IEEE half. Only as a plan's storage, never as the type of a node.
    F16,
    /// 32-bit signed integer: labels, image indices.
    I32,
    /// Byte: the winner's position in a pooling window.
    U8,
    /// One bit an element; each pixel (the last dimension) is padded to whole 16-bit words.
    Bits,
}

/// Shape of a value. The batch dimension is not a number here: one graph serves every batch size.
///
/// Images are `[N, H, W, C]` (NHWC) inside the engine and `[N, C, H, W]` (NCHW) at its borders; weights keep the
/// PyTorch layout (`[K, C/groups, R, S]` for a convolution, `[out, in]` for a linear layer).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Whether a leading batch dimension N stands before `dims`.
    pub batched: bool,
    /// The other dimensions, outermost first.
    pub dims: Vec<usize>,
}

impl Shape {
    /// `[N, dims..]`.
    pub fn per_image(dims: &[usize]) -> Self {
        assert!(dims.iter().all(|&d| d > 0), "empty dimension in {dims:?}");
        Shape { batched: true, dims: dims.to_vec() }
    }
    /// `[dims..]`, one for the whole batch.
    pub fn fixed(dims: &[usize]) -> Self {
        assert!(dims.iter().all(|&d| d > 0), "empty dimension in {dims:?}");
        Shape { batched: false, dims: dims.to_vec() }
    }
    /// Elements without the batch dimension (1 for a scalar).
    pub fn elems(&self) -> usize {
        self.dims.iter().product()
    }
    /// Elements for a batch of `batch`.
    pub fn len(&self, batch: usize) -> usize {
        self.elems() * if self.batched { batch } else { 1 }
    }
    /// Bytes of one row (one image of a batched value, everything of a fixed one).
    pub fn row_bytes(&self, dtype: DType) -> usize {
        match dtype {
            DType::F32 | DType::I32 => self.elems() * 4,
            DType::Bf16 | DType::F16 => self.elems() * 2,
            DType::U8 => self.elems(),
            DType::Bits => {
                let channels = self.dims.last().copied().unwrap_or(1);
                self.elems() / channels * bits_bytes(channels)
            }
        }
    }
    /// Bytes for a batch of `batch`.
    pub fn bytes(&self, dtype: DType, batch: usize) -> usize {
        self.row_bytes(dtype) * if self.batched { batch } else { 1 }
    }
    /// `(h, w, c)` of an image-shaped value.
    pub fn hwc(&self) -> (usize, usize, usize) {
        assert!(self.batched && self.dims.len() == 3, "expected [N, H, W, C], got {self}");
        (self.dims[0], self.dims[1], self.dims[2])
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.dims.iter().map(ToString::to_string).collect();
        if self.batched {
            parts.insert(0, "N".into());
        }
        write!(f, "[{}]", parts.join(","))
    }
}

/// Bytes that the mask of one pixel with `channels` channels takes: whole 16-bit words, bit i = channel i.
pub const fn bits_bytes(channels: usize) -> usize {
    channels.div_ceil(16) * 2
}

/// Typed data of a [`HostTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// Bytes.
    U8(Vec<u8>),
}

/// An array in host memory, row-major, in the layout of the outside world (NCHW, PyTorch weights).
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements.
    pub data: HostData,
}

impl HostTensor {
    /// A float array. Panics where `data` does not fill `dims`.
    pub fn f32(dims: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "{dims:?} does not describe {} values", data.len());
        HostTensor { dims: dims.to_vec(), data: HostData::F32(data) }
    }
    /// A 64-bit integer array. Panics where `data` does not fill `dims`.
    pub fn i64(dims: &[usize], data: Vec<i64>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "{dims:?} does not describe {} values", data.len());
        HostTensor { dims: dims.to_vec(), data: HostData::I64(data) }
    }
    /// A byte array. Panics where `data` does not fill `dims`.
    pub fn u8(dims: &[usize], data: Vec<u8>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "{dims:?} does not describe {} values", data.len());
        HostTensor { dims: dims.to_vec(), data: HostData::U8(data) }
    }
    /// Number of elements.
    pub fn elems(&self) -> usize {
        self.dims.iter().product()
    }
}

/// `[C, H, W]` to `[H, W, C]` for one image. Both slices hold `c * h * w` values.
pub fn chw_to_hwc<T: Copy>(src: &[T], (h, w, c): (usize, usize, usize), dst: &mut [T]) {
    assert!(src.len() == h * w * c && dst.len() == src.len(), "image of {} values is not {h}x{w}x{c}", src.len());
    for ch in 0..c {
        for p in 0..h * w {
            dst[p * c + ch] = src[ch * h * w + p];
        }
    }
}

/// `[H, W, C]` to `[C, H, W]` for one image. Both slices hold `c * h * w` values.
pub fn hwc_to_chw<T: Copy>(src: &[T], (h, w, c): (usize, usize, usize), dst: &mut [T]) {
    assert!(src.len() == h * w * c && dst.len() == src.len(), "image of {} values is not {h}x{w}x{c}", src.len());
    for ch in 0..c {
        for p in 0..h * w {
            dst[ch * h * w + p] = src[p * c + ch];
        }
    }
}
