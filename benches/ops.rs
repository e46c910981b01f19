//! Times each op alone, on the layers of the shipped networks, as a share of what this machine can do.
//! `PETARD_BENCH=all` measures every layer; the README beside this file says how to read a line.

#[path = "ops/cards.rs"]
mod cards;
#[path = "ops/conv.rs"]
mod conv;
#[path = "ops/fft.rs"]
mod fft;
#[path = "ops/gemm.rs"]
mod gemm;
#[path = "ops/hop.rs"]
mod hop;
#[path = "ops/hyperplane.rs"]
mod hyperplane;
#[path = "ops/layout.rs"]
mod layout;
#[path = "ops/loss.rs"]
mod loss;
#[path = "ops/lrn.rs"]
mod lrn;
mod meter;
#[path = "ops/minimum.rs"]
mod minimum;
#[path = "../tests/support/naive/mod.rs"]
mod naive;
#[path = "ops/norm.rs"]
mod norm;
#[path = "ops/objective.rs"]
mod objective;
#[path = "ops/oracle.rs"]
mod oracle;
#[path = "ops/pgd.rs"]
mod pgd;
#[path = "ops/pointwise.rs"]
mod pointwise;
#[path = "ops/pool.rs"]
mod pool;
#[path = "ops/run.rs"]
mod run;
#[path = "ops/search.rs"]
mod search;
#[path = "ops/work.rs"]
mod work;

use std::cell::OnceCell;
use std::time::Duration;

use criterion::Criterion;

use cards::{Case, Site, cases};
use run::Ready;
use work::{Roof, copy_bandwidth};

/// Gives the ops of a stem their name and shape.
type Describe = fn(&Site) -> Option<(&'static str, String)>;

const STEMS: &[Describe] = &[
    conv::describe,
    fft::describe,
    gemm::describe,
    norm::describe,
    pool::describe,
    pointwise::describe,
    loss::describe,
    objective::describe,
    pgd::describe,
    layout::describe,
    lrn::describe,
    hyperplane::describe,
    minimum::describe,
    search::describe,
    hop::describe,
];

const SAMPLES: usize = 10;

fn main() {
    let everything = std::env::var("PETARD_BENCH").is_ok_and(|v| v == "all");
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    if !std::env::args().any(|a| a.contains("baseline")) {
        // Not compared with the last run unless asked: only taking turns compares, see the README.
        criterion = criterion.retain_baseline("none".into(), false);
    }
    let mut cases = cases(everything);
    cases.sort_by_key(|c| c.name);
    let peak = OnceCell::new();
    println!("{}", meter::header());
    for case in &cases {
        bench(&mut criterion, case, || *peak.get_or_init(|| arithmetic_peak(&cases)));
    }
    criterion.final_summary();
}

/// Times one case, if the filter of the command line lets it through. A wrong result is not timed: it ends the run.
fn bench(criterion: &mut Criterion, case: &Case, peak: impl Fn() -> f64) {
    let mut ready: Option<Ready> = None;
    criterion.bench_function(&format!("{}/{}/{}", case.name, meter::device(), case.shape), |b| {
        let ready = ready.get_or_insert_with(|| Ready::new(case, false).unwrap_or_else(|e| panic!("not timed: {e}")));
        b.iter_custom(|times| ready.time(times));
    });
    if let Some(ready) = ready.filter(|_| meter::measuring()) {
        let seconds = ready.median(SAMPLES);
        let roof = Roof { flops_per_second: peak(), bytes_per_second: copy_bandwidth(case.bytes()) };
        println!("{:>38}, {}", ready.work.rate(seconds), ready.work.share(seconds, roof));
    }
}

/// Operations a second that this machine reaches, measured once a run. No loop outside the engine gets at the vector
/// units without `unsafe`, so it is that of its best direct 3x3 convolution: algorithms with fewer multiplications go
/// above 100 %. `PETARD_PEAK`, in GFLOP/s, takes its place.
fn arithmetic_peak(cases: &[Case]) -> f64 {
    if let Ok(text) = std::env::var("PETARD_PEAK") {
        return 1e9 * text.parse::<f64>().unwrap_or_else(|_| panic!("PETARD_PEAK is `{text}`: give GFLOP/s, such as `205`"));
    }
    let mut best = (0.0, "none");
    for case in cases.iter().filter(|c| c.name == "conv.fprop" && c.shape.ends_with(".r3")) {
        let mut ready = Ready::new(case, true).unwrap_or_else(|e| panic!("no peak: {e}"));
        for _ in 0..4 {
            ready.time(2);
        }
        let rate = ready.work.flops / ready.median(3);
        if rate > best.0 {
            best = (rate, &case.shape);
        }
    }
    println!("# arithmetic roof: {:.1} GFLOP/s, the direct convolution {}", best.0 / 1e9, best.1);
    best.0
}
