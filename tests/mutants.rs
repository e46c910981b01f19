//! Faults planted in the kernels' text, each of which a named case has to notice: a check that cannot fail proves nothing.
//! A fault runs in a process of its own, the test binary again with the number of the fault in its environment.
//! Must not know what a kernel computes.

use std::process::Command;

use libtest_mimic::Trial;

use crate::emulated::{self, Fault};
use crate::support::{ignored, trial};

/// Number of the fault that every emulated card of this process has.
const NUMBER: &str = "PETARD_FAULT";

/// File in `kernels/`, text, what takes its place, and a filter of cases of which one has to fail.
const FAULTS: &[(&str, &str, &str, &str)] = &[
    ("loss.cu", "(u32)~i;", "(u32)i;", "loss::grad_margin.k10::emulated-fast"),
    ("loss.cu", "v == 0.0f ? 0.0f : v", "v", "loss::corners::emulated-fast"),
    ("loss.cu", "lead >= -kappa", "lead > -kappa", "loss::grad_hinge.k3::emulated-fast"),
    ("loss.cu", "mine = team < n,", "mine = team < n - 1,", "loss::margin.k3::emulated-fast"),
    ("fft.cu", "0.5f * (k.im + mirror.im)", "0.5f * (k.im - mirror.im)", "fft::forward.9x15.c2::emulated-fast"),
    ("fft.cu", "upper ? conj(z) : z", "z", "fft::forward.8x8.c1::emulated-fast"),
    ("fft.cu", "row + 1 < H ? f(", "row < H ? f(", "fft::forward.9x15.c2::emulated-check"),
    ("fft.cu", "v > 0 && 2 * v != W ? 2.0f", "v > 0 ? 2.0f", "fft::power.8x8.c1::emulated-fast"),
    ("fft.cu", "r == 0 || r == rings - 1) continue", "r == 0) continue", "fft::bass::emulated-fast"),
    ("fft.cu", "mean >= 1.0f ? 0 : 1", "0", "fft::bass::emulated-fast"),
    ("fft.cu", "z = 0.5f * edge", "z = edge", "fft::inverse.32x32.c3::emulated-fast"),
    ("lib/fft_line.cuh", "    __syncthreads();\n}\n\n// All", "}\n\n// All", "fft::forward.32x32.c3::emulated-check"),
    (
        "lib/fft_line.cuh",
        "at <= HALF ? Turn<R>::sin(near) : -Turn<R>::sin(near)",
        "Turn<R>::sin(near)",
        "fft::filter.49x8.c1::emulated-fast",
    ),
    (
        "lib/fft_line.cuh",
        "odd[2] = quarter<BACK>(odd[2])",
        "odd[2] = quarter<!BACK>(odd[2])",
        "fft::inverse.8x8.c1::emulated-fast",
    ),
    ("rows.cu", "flag[image] != 0.0f", "flag[image] > 0.5f", "rows::select.in_place::emulated-fast"),
    ("rows.cu", "a[i] > b[i]", "a[i] >= b[i]", "rows::greater::emulated-fast"),
    ("rows.cu", "fmaxf(a[i], b[i])", "a[i] < b[i] ? b[i] : a[i]", "rows::max_rows::emulated-fast"),
    ("rows.cu", "size >= 0x7f800000u", "size > 0x7f800000u", "rows::grad_status.corners::emulated-fast"),
    ("rows.cu", "k < i + 4 && k < elems", "k < i + 4", "rows::select.7::emulated-check"),
    (
        "lib/reduce_row.cuh",
        "            __syncthreads();\n            v = part[0];",
        "            v = part[0];",
        "pgd::l2.8x8.c3::emulated-check",
    ),
    ("lib/reduce_row.cuh", "lane >= step ? other : 0", "other", "pgd::l1.8x8.c3::emulated-fast"),
    ("apgd.cu", "s[AT_CHECK] >= s[BEST]", "s[AT_CHECK] > s[BEST]", "apgd::state.linf.100::emulated-fast"),
    ("apgd.cu", "loss > s[LAST]", "loss >= s[LAST]", "apgd::state.l2.100::emulated-fast"),
    ("apgd.cu", "last && (fooled", "(fooled", "apgd::state.l1.100.larger::emulated-fast"),
    ("apgd.cu", "(better(s, loss[i]) ? x : best)", "best", "apgd::state.l1.100::emulated-fast"),
    ("apgd.cu", "momentum == 0.0f ? z :", "momentum < 0.0f ? z :", "apgd::corners.linf::emulated-fast"),
    ("apgd.cu", "__fadd_rn(z, -here), rest)", "__fadd_rn(z, -here), momentum)", "apgd::move.linf.3x5.c3::emulated-fast"),
    ("apgd.cu", "d.v[k]) * outer);", "d.v[k]));", "apgd::move.l2.7x9.c5::emulated-fast"),
    ("apgd.cu", "first(x, x0, g) * inner", "first(x, x0, g)", "apgd::move.l2.7x9.c5::emulated-fast"),
    ("pgd.cu", "__fadd_rn(1.0f, -s[TOP])", "s[TOP]", "apgd::move.l1.7x9.c5::emulated-fast"),
    ("pgd.cu", "u32 edge = 1;", "u32 edge = 0;", "apgd::move.l1.32x32.c3::emulated-fast"),
    ("pgd.cu", "v[k] / top", "v[k]", "apgd::start.linf.3x5.c3::emulated-fast"),
    ("pgd.cu", "if (!EDGE) radius", "if (EDGE) radius", "apgd::start.l2.3x5.c3::emulated-fast"),
    ("pgd.cu", "y[at] = __fadd_rn(x0[at], v[k]);", "y[at] = v[k];", "apgd::start.l1.3x5.c3::emulated-fast"),
    ("pgd.cu", "(s > 0.0f) - (s < 0.0f)", "(s >= 0.0f) - (s < 0.0f)", "pgd::linf.3x5.c3::emulated-fast"),
    ("pgd.cu", "(is_nan(s) ? s : 0.0f)", "0.0f", "pgd::corners.linf::emulated-fast"),
    ("pgd.cu", "steepness == 0.0 && rows", "steepness < 0.0 && rows", "pgd::rests.l2::emulated-fast"),
    ("pgd.cu", "x < 1.0f", "x <= 1.0f", "pgd::l1.7x9.c5::emulated-fast"),
    ("pgd.cu", "i <= last", "i < last", "pgd::l1.8x8.c3::emulated-fast"),
    ("pgd.cu", "        __syncthreads();\n        out = found;", "        out = found;", "pgd::l1.8x8.c3::emulated-check"),
    ("pgd.cu", "(rows.elems + 19) / 20", "rows.elems / 20 + 1", "pgd::l1.40x37.c3::emulated-fast"),
    ("pgd.cu", "e % hw * channels + e / hw", "e", "pgd::start.linf.3x5.c3::emulated-fast"),
    (
        "pgd.cu",
        "        __syncthreads();\n        if (threadIdx.x == 0) {\n#pragma unroll 16",
        "        if (threadIdx.x == 0) {\n#pragma unroll 16",
        "pgd::start.l2.7x9.c5::emulated-check",
    ),
    ("pgd.cu", "stream.bits((u32)elems)", "stream.bits((u32)elems - 1)", "pgd::start.l1.3x5.c3::emulated-fast"),
    ("lib/rng.cuh", "c1 ^ k0", "c1 ^ k1", "pgd::start.linf.1x1.c1::emulated-fast"),
    ("lib/rng.cuh", "q == 2 ? -s : -c", "q == 2 ? -s : c", "pgd::start.l2.3x5.c3::emulated-fast"),
    ("hyperplane.cu", "return fmin(level, far);", "return level;", "hyperplane::nearest_point.linf::emulated-fast"),
    (
        "hyperplane.cu",
        "up(w) ? 1.0 - (double)from : (double)from",
        "up(w) ? (double)from : 1.0 - (double)from",
        "hyperplane::nearest_point.l2::emulated-fast",
    ),
    ("hyperplane.cu", "steep == level ? share * far", "steep == level ? far", "hyperplane::nearest_point.l1::emulated-fast"),
    ("hyperplane.cu", "bit = 30; bit >= 0", "bit = 30; bit > 0", "hyperplane::nearest_point.l1::emulated-fast"),
    ("hyperplane.cu", "known ? over + lag", "known ? over", "hyperplane::fab.linf.8x8.c3::emulated-fast"),
    (
        "hyperplane.cu",
        "return NORM == L2 ? sqrt(Block::sum(part)) : Block::sum(part);",
        "return Block::sum(part);",
        "hyperplane::fab.l2.8x8.c3::emulated-fast",
    ),
    (
        "hyperplane.cu",
        "stop[blockIdx.x] != 0.0f ||",
        "stop[blockIdx.x] > 1.0f ||",
        "hyperplane::deepfool.l2.3x5.c3::emulated-fast",
    ),
    ("hyperplane.cu", "(w > 0.0f) - (w < 0.0f)", "(w >= 0.0f) - (w < 0.0f)", "hyperplane::deepfool.linf.8x8.c3::emulated-fast"),
    ("hyperplane.cu", "steep == 0.0 ? __uint_as_float", "steep < 0.0 ? __uint_as_float", "hyperplane::no_slope::emulated-fast"),
    ("hyperplane.cu", "flag[blockIdx.x] != 0.0f && far < old", "far < old", "hyperplane::nearer.l1.3x5.c3::emulated-fast"),
    ("hyperplane.cu", "(turn == 0 || key < last)", "key < last", "hyperplane::rival.corners::emulated-fast"),
    ("hyperplane.cu", "i != y && ", "", "hyperplane::rival.k10.0::emulated-fast"),
    ("hyperplane.cu", "(e + k) % hw * channels + (e + k) / hw", "(e + k)", "hyperplane::start.l2.3x5.c3::emulated-fast"),
    ("hyperplane.cu", "(!moves && x == y)", "!moves", "hyperplane::back.3x5.c3::emulated-fast"),
    ("momentum.cu", "factor > last ?", "factor >= last ?", "momentum::in_place::emulated-fast"),
    ("momentum.cu", "max_keep_nan(mean, 1e-12f)", "mean", "momentum::corners::emulated-fast"),
    ("momentum.cu", "row + e % hw * channels + e / hw", "row + e", "momentum::jitter.3x5.c3::emulated-fast"),
    ("momentum.cu", "__fmul_rn(share, state[2 * image + 1])", "share", "momentum::accumulate.3x5.c3::emulated-fast"),
    (
        "diverse.cu",
        "(u32)max(frame - resized, 1)",
        "(u32)(frame - resized + 1)",
        "momentum::diversify.shrink.32x32.c3::emulated-fast",
    ),
    ("diverse.cu", "if (at == i) f(to, weight);", "f(to, weight);", "momentum::diversify.grow.10x10.c1::emulated-fast"),
    ("diverse.cu", "REACH = 6;", "REACH = 0;", "momentum::diversify.double.17x33.c2::emulated-fast"),
    ("diverse.cu", "from >= 0 && from < h", "from > 0 && from < h", "momentum::blur15.3x5.c3::emulated-fast"),
    (
        "diverse.cu",
        "    __syncthreads();\n    const int row = top",
        "    const int row = top",
        "momentum::blur15.17x15.c2::emulated-check",
    ),
    ("climb.cu", "share == 0.0 ?", "share < 0.0 ?", "climb::corners::emulated-fast"),
    ("climb.cu", "power(second, t)", "power(first, t)", "climb::adam.3x5.c3::emulated-fast"),
    ("climb.cu", "Warp::rank() == 0 && mine(n)", "Warp::rank() == 0", "climb::kl.k10::emulated-check"),
    ("climb.cu", "e % hw * channels + e / hw", "e", "climb::shake.3x5.c3::emulated-fast"),
    ("search.cu", "REST2, __fmul_rn(slope, slope)", "REST1, __fmul_rn(slope, slope)", "search::tanh-step.8x8.c3::emulated-fast"),
    ("search.cu", "s.at[STEP] = 0.0f, s.at[REACHED]", "s.at[STEP] = 1.0f, s.at[REACHED]", "search::rounds::emulated-fast"),
    ("search.cu", "last ? high :", "", "search::next.0.1.8x8.c3::emulated-fast"),
    ("search.cu", "d < -beta ? fmaxf(", "d < beta ? fmaxf(", "search::shrink.8x8.c3::emulated-fast"),
    ("search.cu", "pull == 0.0f ? way : ", "", "search::corners::emulated-fast"),
    ("search.cu", "__fadd_rn(s[STEP], 2.0f)", "__fadd_rn(s[STEP], 3.0f)", "search::momentum.8x8.c3::emulated-fast"),
    ("search.cu", "adam + 2 * (i64)elems)", "adam + 2 * (i64)elems + VEC)", "search::tanh-start.8x8.c3::emulated-check"),
    (
        "minimum.cu",
        "factor = (double)state[ALPHA] / sqrt(",
        "factor = (double)state[ALPHA] / (",
        "minimum::step.l2.8x8.c3::emulated-fast",
    ),
    ("minimum.cu", "i % channels * hw + i / channels", "i", "minimum::in_place.ddn::emulated-fast"),
    ("minimum.cu", "i < trial; }) < wanted - above", "i < trial; }) <= wanted - above", "minimum::step.l0.8x8.c3::emulated-fast"),
    ("minimum.cu", "KIND == L2 && size <= radius", "KIND == L2", "minimum::step.l2.8x8.c3::emulated-fast"),
    ("square.cu", "(size - side + 1)", "(size - side)", "square::step.linf.5x5.c1::emulated-fast"),
    ("square.cu", "schedule[2 * entry] >= number", "schedule[2 * entry] > number", "square::step.linf.8x8.c3::emulated-fast"),
    ("square.cu", "made > 1 ? made - 1 : made", "made", "square::in_place.linf::emulated-fast"),
    ("square.cu", "__syncthreads(); // the windows", "// the windows", "square::in_place.linf::emulated-check"),
    ("square.cu", "delta(e) / (1e-12 + content[ch])", "delta(e) / (1.0 + content[ch])", "square::step.l2.8x8.c3::emulated-fast"),
    ("square.cu", "slack + C * joint[ch]", "slack + joint[ch]", "square::step.l1.8x8.c3::emulated-fast"),
    ("square.cu", "loss[i] > s.y ||", "loss[i] >= s.y ||", "square::control::emulated-fast"),
    ("lib/fit_l1.cuh", "length += cut(d, o, lambda);", "length += fabs(d);", "square::start.l1.8x8.c3::emulated-fast"),
    ("hop.cu", "s[hit ? HIGH : LOW]", "s[hit ? LOW : HIGH]", "hop::control.l2::emulated-fast"),
    ("hop.cu", "if (s[COUNT] >= HALVINGS) return estimate();", "", "hop::control.linf::emulated-fast"),
    ("hop.cu", "fabs(mean) == 1.0 ? 0.0 : mean", "0.0", "hop::query.l2.48::emulated-fast"),
    ("hop.cu", "fabsf(code) == 2.0f", "false", "hop::in_place.l2::emulated-fast"),
    ("hop.cu", "if (e + k < elems) f(e + k, v[k]);", "f(e + k, v[k]);", "hop::query.l2.7::emulated-check"),
    ("loss.cu", "{up, -down}", "{up, down}", "loss::grad_logit.k3::emulated-fast"),
    ("optim.cu", "__fmul_rn(momentum, v), pull)", "__fmul_rn(momentum, v), g)", "optim::in_place::emulated-fast"),
    ("optim.cu", "length / 4 * 4 + (int)threadIdx.x", "length / 4 * 4 + (int)threadIdx.x + 1", "optim::in_place::emulated-fast"),
    ("optim.cu", "(float)(1.0 - (double)given[0])", "given[0]", "optim::ema.300::emulated-fast"),
    ("dropout.cu", ">= p ?", "> 1.0f - p ?", "dropout::mask::emulated-fast"),
    ("dropout.cu", "block <= last / 4", "block < last / 4", "dropout::mask::emulated-fast"),
    ("dropout.cu", "v[i] / keep", "v[i] * keep", "dropout::apply.21::emulated-fast"),
    ("augment.cu", "width - 1 - w", "width - w", "augment::crop_flip::emulated-fast"),
    ("augment.cu", "from_h >= 0 && from_h < height", "from_h > 0 && from_h < height", "augment::crop_flip::emulated-fast"),
    ("norm.cu", "2.0 * sums[i] + shift", "sums[i] + shift", "norm::stats.40x9.c24::emulated-fast"),
    ("lib/reduce.cuh", "lane + half < lanes", "lane + half <= lanes", "norm::stats.40x9.c24::emulated-fast"),
    ("norm.cu", "part < count;", "part < count - 1;", "norm::stats.24x24.c8::emulated-fast"),
    ("norm.cu", "(b[i] - mean[i]) * slope[i]", "b[i] * slope[i]", "norm::train_grad.5x3.c16::emulated-fast"),
    ("norm.cu", "at(3) - at(4) : at(3)", "at(3) + at(4) : at(3)", "norm::eval_after_bias.4x4.c3::emulated-fast"),
    ("pool.cu", "- pad + kernel, size)", "- pad + kernel, size + pad)", "pool::max.7x5.c33.r3x3.s2x2.p1x1::emulated-fast"),
    ("pool.cu", "v[k] > best[k] ||", "v[k] >= best[k] ||", "pool::max_index.8x8.c16.r2x2.s2x2.p0x0::emulated-fast"),
    (
        "pool.cu",
        "(i + pad - kernel) / stride + 1",
        "(i + pad - kernel) / stride",
        "pool::max_grad.7x5.c33.r3x3.s2x2.p1x1::emulated-fast",
    ),
    (
        "pool.cu",
        "min((i + pad) / stride, windows - 1)",
        "(i + pad) / stride",
        "pool::avg_grad.7x5.c17.r2x2.s2x2.p0x0::emulated-fast",
    ),
    (
        "pool.cu",
        "size + 2 * pad) - o * stride",
        "size + pad) - o * stride",
        "pool::avg.6x7.c5.r3x3.s2x2.p1x1.ceil::emulated-fast",
    ),
    ("layout.cu", "from_k < source_c", "from_k <= source_c", "layout::pad.7x7.c16::emulated-fast"),
    ("layout.cu", "j >= 0 && j < source_w", "j >= 0 && j <= source_w", "layout::window.1x1.of7x7.7x7.c16::emulated-fast"),
    ("layout.cu", "v[e] = fill", "v[e] = 0.0f", "layout::window.-2x0.of10x8.7x7.c16::emulated-fast"),
    ("lrn.cu", "before = size / 2", "before = (size - 1) / 2", "lrn::forward.5x4.c17.s4.b0.75::emulated-fast"),
    (
        "lrn.cu",
        "min(before, c - 1 - k); i++) sum",
        "min(after, c - 1 - k); i++) sum",
        "lrn::grad.5x4.c17.s4.b0.75::emulated-fast",
    ),
    ("lrn.cu", "i <= min(after, c - 1 - k)", "i <= after", "lrn::forward.2x3.c4.s5.b0.75::emulated-check"),
    ("layout.cu", "__syncthreads();", "", "layout::flatten.7x7.c16::emulated-fast"),
    ("layout.cu", " && from_j * stride == j", "", "layout::subsample_pad_grad.7x7.c16::emulated-fast"),
    ("pointwise.cu", "c + 1 == channels ?", "c + 1 > channels ?", "norm::normalise.4x4.c3::emulated-fast"),
    ("pointwise.cu", "k < elems; k++)", "k < elems - 1; k++)", "pointwise::scale.3x5.c7::emulated-fast"),
    ("pointwise.cu", "k < bytes &&", "k < bytes - 1 &&", "layout::row.0::emulated-fast"),
    ("lib/epilogue.cuh", "bits >> i & 1 ? v[i] : 0.0f", "bits >> i & 1 ? 0.0f : v[i]", "pointwise::gate.8x8.c64::emulated-fast"),
    (
        "lib/vec.cuh",
        "if (c0 + i < C) row[c0 + i] = narrow<T>(v[i]);",
        "if (c0 + i <= C) row[c0 + i] = narrow<T>(v[i]);",
        "conv::fwd.7x7.c3.k5",
    ),
    ("conv.cu", "flush(total, sum);\n        __syncthreads();", "flush(total, sum);", "conv::fwd.7x7.c3.k5"),
    ("conv.cu", "source >= 0);", "source > 0);", "conv::fwd.7x7.c3.k5"),
    ("lib/taps.cuh", "(u32)x < (u32)g.w", "(u32)x <= (u32)g.w", "conv::fwd.7x7.c3.k5"),
    ("lib/taps.cuh", "i * step_h + phase.oy", "i * step_w + phase.oy", "conv::grad_input.8x11"),
    ("lib/taps.cuh", "(phase.ox + g.pw - s * g.dw) / g.sw", "(phase.ox + g.pw - s * g.dw) / g.sh", "conv::grad_input.8x11"),
    (
        "conv_grad_weight.cu",
        "column % cg) * taps + column / cg",
        "column / taps) * taps + column % taps",
        "conv::grad_weight.7x7.c3.k5",
    ),
    ("conv_grad_weight.cu", "if (row < BK) put(", "if (row + 1 < BK) put(", "conv::grad_weight.8x8.c16.k32"),
    (
        "conv_depthwise.cu",
        "    __syncthreads();\n    const int channel",
        "    const int channel",
        "conv::grad_weight.7x9.c33.k33",
    ),
    ("conv_depthwise.cu", "i < LANES; i++) all", "i < LANES - 1; i++) all", "conv::grad_weight.7x9.c33.k33"),
    (
        "conv_depthwise.cu",
        "source < 0) continue;\n            float",
        "source <= 0) continue;\n            float",
        "conv::fwd.7x9.c33.k33",
    ),
    ("conv_pack.cu", "g * source + col : g", "g * result + col : g", "conv::grad_input.6x6.c8.k12"),
    ("conv_pack.cu", "if constexpr (SCALE) v *= scale[k];", "if constexpr (SCALE) v += scale[k];", "conv::chain_backward.8x8"),
    (
        "lib/mma_tile.cuh",
        "__syncthreads(); // everybody",
        "// everybody",
        "conv_half::bf16.5x6.c64.k64.r3.s1x1.p1.d1x1.n3::emulated-check",
    ),
    (
        "lib/mma_tile.cuh",
        "cp_async_wait<STAGES - 2>",
        "cp_async_wait<STAGES - 1>",
        "conv_half::bf16.9x9.c16.k24.r3.s1x1.p1.d1x1.n8::emulated-fast",
    ),
    ("lib/mma_tile.cuh", "^ k * 32", "^ k * 16", "conv_half::bf16.8x8.c8.k16.r3.s1x1.p1.d1x1.n3::emulated-fast"),
    (
        "lib/mma_tile.cuh",
        "part[i][e] = upper ? got : part[i][e];",
        "part[i][e] = upper ? part[i][e] : got;",
        "conv_half::bf16.8x8.c8.k16.r3.s1x1.p1.d1x1.n3::emulated-fast",
    ),
    (
        "lib/mma_tile.cuh",
        "return f32_to_tf32(__uint_as_float(word));",
        "return word;",
        "conv_half::tf32.9x9.c16.k24.r3.s1x1.p1.d1x1.n8::emulated-fast",
    ),
    (
        "conv_mma.cu",
        "(u32)(left[i] + tap.dx) < (u32)G.w",
        "(u32)(left[i] + tap.dx) <= (u32)G.w",
        "conv_half::bf16.8x8.c8.k16.r3.s1x1.p1.d1x1.n3::emulated-fast",
    ),
    (
        "conv_mma.cu",
        "const bool inside = at < depth;",
        "const bool inside = true;",
        "conv_half::bf16.8x8.c8.k16.r3.s1x1.p1.d1x1.n3::emulated-check",
    ),
    (
        "conv_mma.cu",
        "n0 + row + i * ROWS < K",
        "n0 + row + i * ROWS <= K",
        "conv_half::bf16.9x9.c16.k24.r3.s1x1.p1.d1x1.n8::emulated-check",
    ),
    (
        "conv_mma.cu",
        "m0 < n * phase.rows * phase.cols ?",
        "m0 + BM < n * phase.rows * phase.cols ?",
        "conv_half::bf16.7x7.c24.k32.r3.s2x2.p1.d1x1.n8::emulated-fast",
    ),
    (
        "conv_mma_patch.cu",
        "if (step > 0) __syncthreads(); ",
        "",
        "conv_half::bf16.15x15.c3.k64.r7.s2x2.p3.d1x1.n1::emulated-check",
    ),
    (
        "conv_mma_patch.cu",
        "pack(value(at), value(at + WORDS - 1))",
        "pack(value(at + WORDS - 1), value(at))",
        "conv_half::bf16.12x12.c3.k16.r3.s1x1.p1.d1x1.n3::emulated-check",
    ),
    (
        "conv_mma_weight.cu",
        "dy + (i64)(first + at) * K",
        "dy + (i64)at * K",
        "conv_half::bf16.9x9.c16.k24.r3.s1x1.p1.d1x1.n8::emulated-fast",
    ),
    (
        "conv_mma_weight.cu",
        "col / C / S * G.dh",
        "col / C / R * G.dw",
        "conv_half::bf16.9x8.c16.k16.r3.s1x3.p2.d2x1.n3::emulated-fast",
    ),
    ("lib/conv_store.cuh", "k >= K) return", "k > K) return", "conv_half::bf16.12x12.c3.k16.r3.s1x1.p1.d1x1.n3::emulated-check"),
    (
        "lib/conv_store.cuh",
        "at < n * g.p * g.q ? at",
        "at <= n * g.p * g.q ? at",
        "conv_half::bf16.9x9.c16.k24.r3.s1x1.p1.d1x1.n8::emulated-check",
    ),
    ("objective.cu", "(u32)~c)", "(u32)c)", "objective::grad1_mart.k10::emulated-fast"),
    ("objective.cu", "own * total - ratio(c)", "own * total + ratio(c)", "objective::grad1_mart.k10::emulated-fast"),
    ("objective.cu", "q.log_p(c) - kl", "q.log_p(c)", "objective::grad0_kl.k10::emulated-fast"),
    ("objective.cu", "return c == skip ? 0.0 : exp(", "return exp(", "objective::soft_margin.k10::emulated-fast"),
    ("head.cu", "* scale - (double)x[i] * pull", "* scale + (double)x[i] * pull", "head::unit_grad.7.g32::emulated-fast"),
    ("head.cu", "label[i / len] == c", "label[i / len] != c", "head::margins.7::emulated-fast"),
    ("head.cu", "row * len + (int)blockIdx.x", "row + (int)blockIdx.x * rows", "head::product.7::emulated-fast"),
    ("perturb.cu", "i < chunks;", "i < chunks - 1;", "perturb::weight.4097::emulated-fast"),
    ("perturb.cu", "elems - from < CHUNK ? elems - from : CHUNK", "CHUNK", "perturb::weight.4097::emulated-check"),
    ("pgd.cu", "__fmul_rn(sigma[image], v[k])", "__fmul_rn(sigma[0], v[k])", "pgd::start.normal.3x5.c3::emulated-fast"),
    ("pgd.cu", "__fadd_rn(end.v[k], -from.v[k])", "__fadd_rn(from.v[k], -end.v[k])", "pgd::between.3x5.c3::emulated-fast"),
];

/// The fault of this process, if it has one.
pub fn planted() -> Option<&'static Fault> {
    static PLANTED: std::sync::OnceLock<Option<Fault>> = std::sync::OnceLock::new();
    let find = || {
        let number: usize = std::env::var(NUMBER).ok()?.parse().ok()?;
        FAULTS.get(number).map(|&(path, find, replace, _)| Fault { path, find, replace })
    };
    PLANTED.get_or_init(find).as_ref()
}

pub fn trials() -> Vec<Trial> {
    let missing = emulated::missing();
    let name = |number: usize| format!("mutants::{number:02}.{}", FAULTS[number].0);
    let one = |number: usize| match &missing {
        Some(reason) => ignored(name(number), reason),
        None => trial(name(number), move || caught(number)),
    };
    // A process with a fault has no faults to plant.
    if planted().is_some() { Vec::new() } else { (0..FAULTS.len()).map(one).collect() }
}

fn caught(number: usize) -> Result<(), String> {
    let (path, find, _, filter) = FAULTS[number];
    let program = std::env::current_exe().map_err(|e| format!("where this program lies: {e}"))?;
    let run = Command::new(program)
        .args([filter, "--test-threads=1"])
        .env(NUMBER, number.to_string())
        .env("PETARD_NVRTC", "none")
        .output();
    let out = run.map_err(|e| format!("cannot start this program again: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    let about = format!("{path}: `{find}` changed, {filter}");
    if text.contains("must stand there once") || text.contains(" error: ") {
        return Err(format!("{about}: the fault no longer fits the text:\n{text}"));
    }
    if text.contains("running 0 tests") {
        return Err(format!("{about}: no such case"));
    }
    if out.status.success() { Err(format!("{about}: nobody noticed")) } else { Ok(()) }
}
