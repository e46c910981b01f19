//! Convolutions: forward, gradient of the input, gradient of the weights.
//! Must not know how they are computed.

use petard::graph::{Conv, Op};

use crate::cards::Site;

/// Name and shape of a convolution, such as `conv.fprop` and `n64.c64.32x32.k64.r3`; stride, groups and dilation follow
/// where they are not 1. Height and width are those of the forward convolution's input.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let n = site.batch;
    let text = |conv: &Conv, h: usize, w: usize| {
        let side = |d: [usize; 2]| if d[0] == d[1] { d[0].to_string() } else { format!("{}x{}", d[0], d[1]) };
        let mut text = format!("n{n}.c{}.{h}x{w}.k{}.r{}", conv.c, conv.k, side(conv.kernel));
        for (letter, value) in [("s", side(conv.stride)), ("g", conv.groups.to_string()), ("d", side(conv.dilation))] {
            if value != "1" {
                text += &format!(".{letter}{value}");
            }
        }
        text
    };
    match site.op() {
        Op::Conv2d(conv) => {
            let (h, w, _) = site.input(0).hwc();
            Some(("conv.fprop", text(conv, h, w)))
        }
        Op::Conv2dGradInput { conv, hw: [h, w] } => Some(("conv.dgrad", text(conv, *h, *w))),
        Op::Conv2dGradWeight(conv) => {
            let (h, w, _) = site.input(0).hwc();
            Some(("conv.wgrad", text(conv, h, w)))
        }
        _ => None,
    }
}
