//! Makes the launch that crops and mirrors training images on the device. Must not know batches or how places are drawn.

use super::driver::Dims;
use super::lower::{Launch, Operand, Work};
use super::spec::KernelSpec;

/// Threads of a block, as in `kernels/augment.cu`.
const THREADS: usize = 256;

/// Which images are cropped where. All arrays are read from memory when the launch runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crops {
    /// Images of the batch.
    pub n: usize,
    /// Height, width and channels of an image.
    pub hwc: [usize; 3],
    /// Black pixels around an image.
    pub pad: usize,
    /// Whether the resident bytes are `[C, H, W]` an image, not `[H, W, C]`.
    pub planar: bool,
    /// `[IMAGES]` images of bytes.
    pub set: Operand,
    /// `[N]` i32: which image of the set.
    pub image: Operand,
    /// `[N]` i32, 0 to twice `pad`: first row of the crop in the padded image.
    pub top: Operand,
    /// `[N]` i32, 0 to twice `pad`: first column.
    pub left: Operand,
    /// `[N]` i32: 1 where the crop is mirrored left to right, else 0.
    pub mirrored: Operand,
    /// `[N, H, W, C]` f32 in [0,1]: the result.
    pub y: Operand,
}

/// The launch that makes a batch of training images.
pub fn crop_flip(crops: &Crops) -> Launch {
    let [h, w, c] = crops.hwc;
    let parts = (h * w * c).div_ceil(THREADS);
    let spec = KernelSpec::new("augment", "augment_crop_flip").with("P_C", c as i64).with("P_PLANAR", i64::from(crops.planar));
    let mut args = vec![crops.set, crops.image, crops.top, crops.left, crops.mirrored, crops.y];
    args.extend([h, w, crops.pad, parts].map(|v| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 pixels"))));
    let dims = Dims::linear(u32::try_from(crops.n * parts).expect("fewer than 2^32 blocks"), THREADS as u32);
    let work = Work { flops: 0, bytes: 5 * (crops.n * h * w * c) as u64 };
    Launch { spec, dims, args, work, label: "augment".into() }
}
