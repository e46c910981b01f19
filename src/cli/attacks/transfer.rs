//! Options of the attacks with a momentum, which are made to carry over to other networks.
//! Must not know how they work.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::super::value::Preset;
use super::Entry;
use crate::attack::{Attack, AttackLoss, Kernel, Momentum};
use crate::error::{Error, Result};

const USES: &[&str] = &[
    "norm",
    "eps",
    "alpha",
    "steps",
    "decay",
    "copies",
    "probability",
    "resize",
    "kernel",
    "samples",
    "beta",
    "eot",
    "random-start",
    "restarts",
    "loss",
    "target",
    "preset",
];
const UNUSED: &[(&str, &str)] = &[("start", "it has a start of its own"), ("return", "it returns the last iterate")];

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "mi-fgsm",
        aliases: &["mifgsm", "mi_fgsm", "mim"],
        about: "steps along the sign of a momentum of normalised gradients",
        paper: "Dong et al. 2018, https://arxiv.org/abs/1710.06081",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, |_, _| {}),
    },
    Entry {
        name: "ni-fgsm",
        aliases: &["nifgsm", "ni_fgsm"],
        about: "mi-fgsm with each gradient taken ahead along the momentum",
        paper: "Lin et al. 2020, https://arxiv.org/abs/1908.06281",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, |attack, _| attack.ahead = true),
    },
    Entry {
        name: "si-ni-fgsm",
        aliases: &["sinifgsm", "si_ni_fgsm"],
        about: "ni-fgsm on the mean gradient of darker and darker copies",
        paper: "Lin et al. 2020, https://arxiv.org/abs/1908.06281",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, |attack, _| (attack.ahead, attack.copies) = (true, 5)),
    },
    Entry {
        name: "di-fgsm",
        aliases: &["difgsm", "di_fgsm", "di2-fgsm"],
        about: "gradients of images that are resized and framed by chance",
        paper: "Xie et al. 2019, https://arxiv.org/abs/1803.06978",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, diverse),
    },
    Entry {
        name: "ti-fgsm",
        aliases: &["tifgsm", "ti_fgsm"],
        about: "blurred gradients; by torchattacks' preset of resized images too",
        paper: "Dong et al. 2019, https://arxiv.org/abs/1904.02884",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, blurred),
    },
    Entry {
        name: "vmi-fgsm",
        aliases: &["vmifgsm", "vmi_fgsm"],
        about: "mi-fgsm tuned by the gradients of random neighbours",
        paper: "Wang and He 2021, https://arxiv.org/abs/2103.15571",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, |attack, official| attack.samples = if official { 20 } else { 5 }),
    },
    Entry {
        name: "vni-fgsm",
        aliases: &["vnifgsm", "vni_fgsm"],
        about: "ni-fgsm tuned by the gradients of random neighbours",
        paper: "Wang and He 2021, https://arxiv.org/abs/2103.15571",
        uses: USES,
        unused: UNUSED,
        build: |args, _| build(args, |attack, official| (attack.ahead, attack.samples) = (true, if official { 20 } else { 5 })),
    },
];

fn diverse(attack: &mut Momentum, official: bool) {
    attack.probability = 0.5;
    if !official {
        attack.decay = 0.0;
    }
}

fn blurred(attack: &mut Momentum, official: bool) {
    attack.kernel = Some(Kernel::Gaussian);
    if !official {
        (attack.decay, attack.probability) = (0.0, 0.5);
    }
}

/// The attack with the defaults of its preset, then what was typed.
fn build(args: &AttackArgs, switch: fn(&mut Momentum, bool)) -> Result<Arc<dyn Attack>> {
    let official = match args.preset {
        None | Some(Preset::Torchattacks) => false,
        Some(Preset::Official) => true,
        Some(Preset::Foolbox | Preset::Su2018) => {
            return Err(Error::usage(format!("there is no such preset of `--attack {}`", args.name()))
                .with_hint("use `--preset torchattacks` or `--preset official`"));
        }
    };
    let threat = args.threat_or(if official { 16.0 / 255.0 } else { 8.0 / 255.0 })?;
    let alpha = args.alpha()?.unwrap_or(if official { threat.eps / 10.0 } else { 2.0 / 255.0 });
    let base = Momentum::new(threat, alpha, args.steps.unwrap_or(10));
    let mut attack = Momentum { name: args.name(), resize: if official { 1.1 } else { 0.9 }, ..base };
    switch(&mut attack, official);
    attack.decay = args.decay.unwrap_or(attack.decay);
    attack.copies = args.copies.unwrap_or(attack.copies);
    attack.probability = args.probability.unwrap_or(attack.probability);
    attack.resize = args.resize.unwrap_or(attack.resize);
    attack.kernel = args.kernel.map_or(attack.kernel, |blur| blur.0);
    attack.samples = args.samples.unwrap_or(attack.samples);
    attack.beta = args.beta.unwrap_or(attack.beta);
    attack.eot = args.eot.unwrap_or(1);
    attack.random_start = args.random_start.unwrap_or(false);
    attack.restarts = args.restarts.map_or(1, |n| n as usize);
    attack.loss = args.loss.unwrap_or(AttackLoss::CrossEntropy);
    attack.target = args.target();
    Ok(Arc::new(attack))
}
