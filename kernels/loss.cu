// loss.cu: losses on logits, their gradients, and whether an image fools the network. In f64, rounded to f32 once.
//
//   computes   loss_value: out[n] = loss(z[n]);  loss_grad: out[n] = its gradient by z[n], for the kinds of graph::Loss
//   shapes     z : [N, CLASSES] f32;  label, target : [N] i32;  out : [N], of loss_grad [N, CLASSES]
//   launch     loss_value, loss_grad: a team of TEAM threads an image: grid (ceil(N / (THREADS / TEAM))), block THREADS
//   constants  P_TEAM threads an image: 32, or those of a block for many classes
//   limits     0 <= label, target < CLASSES;  CLASSES >= 1, 2 with a rival, 3 for DLR, 4 for targeted DLR; a NaN shows in the value
//   order      sums over the classes by Team: fixed by TEAM and CLASSES
//   source     margin: Carlini and Wagner 2017;  DLR: Croce and Hein 2020, https://arxiv.org/abs/2003.01690
//   twins      src/gpu/loss.rs  src/cpu/loss.rs  tests/kernels/loss.rs  benches/ops/loss.rs
//
//   computes   loss_fooled: out[n] = 1 where (the highest logit is at the label) == hit, else 0; a row with a NaN points nowhere
//   shapes     z : [N, CLASSES] f32;  label : [N] i32;  out : [N]
//   launch     loss_fooled: as loss_value
//   constants  as above
//   limits     0 <= label < CLASSES; of equal logits the lowest class is the highest
//   order      no sums
//   source     none
//   twins      src/gpu/loss.rs  src/cpu/loss.rs  tests/kernels/rows.rs  benches/ops/loss.rs
#include "lib/reduce_row.cuh"

constexpr int TEAM = P_TEAM, THREADS = TEAM > 128 ? TEAM : 128;
static_assert(THREADS % TEAM == 0 && (TEAM == 32 || TEAM == THREADS), "loss: a team is a warp or a block");
typedef Team<TEAM> Crew;

enum : int {
    CROSS_ENTROPY, MARGIN, HINGE, DLR, TARGETED_CROSS_ENTROPY, TARGETED_MARGIN, TARGETED_DIFFERENCE, TARGETED_DLR, LOGIT, TARGETED_LOGIT
};

// One image; `row` repeats the last image for teams beyond it, which must not store.
struct Image {
    const float* z;
    int classes, row;
    bool mine;

    DEV Image(const float* logits, int classes, int n) : classes(classes) {
        const int team = (int)blockIdx.x * (THREADS / TEAM) + (int)threadIdx.x / TEAM;
        mine = team < n, row = mine ? team : n - 1;
        z = logits + (i64)row * classes;
    }
    DEV double at(int i) const { return (double)z[i]; }
};

// Sorts as the floats do, +0 and -0 being equal and a NaN above all.
DEV u32 rising(float v) {
    const u32 bits = __float_as_uint(v == 0.0f ? 0.0f : v);
    return is_nan(v) ? ~0u : bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The highest class and the highest other than `skip`: of equals the lowest class.
DEV void highest(const Image& image, int skip, int& top, int& other) {
    u64 all = 0, rest = 0;
    for (int i = Crew::rank(); i < image.classes; i += TEAM) {
        const u64 key = (u64)rising(image.z[i]) << 32 | (u32)~i;
        all = Max()(all, key);
        rest = i == skip ? rest : Max()(rest, key);
    }
    top = (int)~(u32)Crew::join(all, Max());
    other = (int)~(u32)Crew::join(rest, Max());
}

// The four highest classes: of equals the higher class comes first. With three classes the last means nothing.
DEV void ranked(const Image& image, int (&rank)[4]) {
    u64 last = ~0ull;
#pragma unroll
    for (int place = 0; place < 4; place++) {
        u64 best = 0;
        for (int i = Crew::rank(); i < image.classes; i += TEAM) {
            const u64 key = (u64)rising(image.z[i]) << 32 | (u32)i;
            best = key < last ? Max()(best, key) : best;
        }
        last = Crew::join(best, Max());
        rank[place] = (int)(u32)last;
    }
}

// A loss that reads a few logits: its value, and its gradient as parts at classes; a class named twice gets the sum.
struct Few {
    double value;
    int at[5];
    double by[5];
};

DEV Few ratio(const Image& image, bool to_target, int y, int t) {
    int rank[4];
    ranked(image, rank);
    const int b = to_target ? t : rank[0] == y ? rank[1] : rank[0];
    const int low = to_target ? rank[3] : rank[2];
    // A NaN ranks first and so reaches `below`.
    const double below = image.at(rank[0]) - 0.5 * (image.at(rank[2]) + image.at(low)) + 1e-12;
    const double value = -(image.at(y) - image.at(b)) / below, half = 0.5 * value / below;
    return {value, {y, b, rank[0], rank[2], low}, {-1.0 / below, 1.0 / below, -value / below, half, half}};
}

DEV Few few(int kind, double kappa, const Image& image, int y, int t) {
    if (kind == DLR || kind == TARGETED_DLR) return ratio(image, kind == TARGETED_DLR, y, t);
    if (kind == TARGETED_DIFFERENCE || kind >= LOGIT) {
        // What rises, and what falls, as far as it has a part.
        const double up = kind == LOGIT ? 0.0 : 1.0, down = kind == TARGETED_LOGIT ? 0.0 : 1.0;
        return {(up == 0.0 ? 0.0 : image.at(t)) - (down == 0.0 ? 0.0 : image.at(y)), {t, y, -1, -1, -1}, {up, -down}};
    }
    int top, other;
    const int own = kind == TARGETED_MARGIN ? t : y;
    highest(image, own, top, other);
    // A loss that reads two logits must not hide a third.
    const double poison = is_nan(image.z[top]) ? image.at(top) : 0.0;
    const double lead = image.at(own) - image.at(other);
    if (kind == MARGIN) return {-lead + poison, {other, own, -1, -1, -1}, {1.0, -1.0}};
    if (kind == TARGETED_MARGIN) return {lead + poison, {own, other, -1, -1, -1}, {1.0, -1.0}};
    const double slope = lead >= -kappa ? 1.0 : 0.0;
    return {lead + poison < -kappa ? -kappa : lead + poison, {own, other, -1, -1, -1}, {slope, -slope}};
}

// The sum of exp(z - top).
DEV double exp_sum(const Image& image, double top) {
    double part = 0.0;
    for (int i = Crew::rank(); i < image.classes; i += TEAM) part += exp(image.at(i) - top);
    return Crew::sum(part);
}

// `logsumexp(z) - (1 - s) z_y - s mean(z)`.
DEV double cross_entropy(double smoothing, const Image& image, int y) {
    int at, unused;
    highest(image, -1, at, unused);
    const double top = image.at(at), total = exp_sum(image, top);
    double others = 0.0;
    // A class at minus infinity has no say without smoothing.
    if (smoothing != 0.0) {
        double part = 0.0;
        for (int i = Crew::rank(); i < image.classes; i += TEAM) part += image.at(i) - top;
        others = smoothing * Crew::sum(part) / image.classes;
    }
    return log(total) - (1.0 - smoothing) * (image.at(y) - top) - others;
}

// `amount`: smoothing of the cross-entropy, kappa of the hinge.
extern "C" __global__ __launch_bounds__(THREADS)
void loss_value(const float* z, const int* label, const int* target, float* out, int kind, float amount, int classes, int n) {
    const Image image(z, classes, n);
    const int y = label[image.row], t = target[image.row];
    double value;
    if (kind == CROSS_ENTROPY) {
        value = cross_entropy(amount, image, y);
    } else if (kind == TARGETED_CROSS_ENTROPY) {
        value = -cross_entropy(0.0, image, t);
    } else {
        value = few(kind, amount, image, y, t).value;
    }
    if (image.mine && Crew::rank() == 0) out[image.row] = (float)value;
}

extern "C" __global__ __launch_bounds__(THREADS)
void loss_grad(const float* z, const int* label, const int* target, float* out, int kind, float amount, int classes, int n) {
    const Image image(z, classes, n);
    const int y = label[image.row], t = target[image.row];
    out += (i64)image.row * classes;
    if (kind == CROSS_ENTROPY || kind == TARGETED_CROSS_ENTROPY) {
        const bool plain = kind == CROSS_ENTROPY;
        const double smoothing = plain ? (double)amount : 0.0, even = smoothing / classes, sign = plain ? 1.0 : -1.0;
        const int wanted = plain ? y : t;
        int at, unused;
        highest(image, -1, at, unused);
        const double top = image.at(at), total = exp_sum(image, top);
        for (int i = Crew::rank(); i < classes && image.mine; i += TEAM) {
            const double share = exp(image.at(i) - top) / total;
            out[i] = (float)(sign * (share - (even + (i == wanted ? 1.0 - smoothing : 0.0))));
        }
    } else {
        const Few parts = few(kind, amount, image, y, t);
        for (int i = Crew::rank(); i < classes && image.mine; i += TEAM) {
            double grad = 0.0;
#pragma unroll
            for (int k = 0; k < 5; k++) grad += parts.at[k] == i ? parts.by[k] : 0.0;
            out[i] = (float)grad;
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void loss_fooled(const float* z, const int* label, float* out, int hit, int classes, int n) {
    const Image image(z, classes, n);
    int top, unused;
    highest(image, -1, top, unused);
    const int at_label = top == label[image.row] && !is_nan(image.z[top]);
    if (image.mine && Crew::rank() == 0) out[image.row] = at_label == hit ? 1.0f : 0.0f;
}
