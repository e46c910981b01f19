//! Cards, networks and weights: names and shapes against the state dicts of the public codes, every error text, and
//! whole networks against stored PyTorch numbers.

mod golden;
mod weights;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use petard::graph::{Graph, Op, Role};
use petard::nn::{self, ModelCard, Net};
use petard::tensor::{DType, HostTensor, Shape};
use rayon::prelude::*;

/// A few cards whose parameter counts are published, to notice a wrong table of blocks.
const COUNTS: [(&str, usize); 14] = [
    ("resnet8-cifar10", 78_042),
    ("resnet20-cifar10", 272_474),
    ("resnet110-cifar10", 1_730_714),
    ("resnet34", 21_797_672),
    ("resnet101", 44_549_160),
    ("resnet152", 60_192_808),
    ("resnet34-cifar10", 21_282_122),
    ("resnet50-cifar10", 23_520_842),
    ("wrn-40-2-cifar10", 2_243_546),
    ("vgg11", 132_863_336),
    ("vgg13_bn", 133_053_736),
    ("vgg19", 143_667_240),
    ("vgg19_bn", 143_678_248),
    ("vgg11-cifar10", 9_225_610),
];

/// Published sizes of networks for large images: parameters, and multiply-adds as the public code counts them (torchvision's
/// table, rounded to a million; timm's convolutions and linear layers, counted; the papers for the rest, rounded as there).
const SIZES: [(&str, usize, f64); 25] = [
    ("alexnet", 61_100_840, 714e6),
    ("alexnet-original", 60_965_224, 724e6),
    ("vgg16", 138_357_544, 15_470e6),
    ("vgg19", 143_667_240, 19_632e6),
    ("vgg16_bn", 138_365_992, 15_470e6),
    ("vgg19_bn", 143_678_248, 19_632e6),
    ("googlenet", 6_624_904, 1498e6),
    ("bninception", 11_295_240, 2030e6),
    ("inception_v3", 27_161_264 - 3_326_696, 5713e6),
    ("inception_v4", 42_679_816, 12_253_974_624.0),
    ("inception_resnet_v2", 55_843_464, 13_155_794_016.0),
    ("resnet50", 25_557_032, 4089e6),
    ("resnet101", 44_549_160, 7801e6),
    ("resnet152", 60_192_808, 11_514e6),
    ("resnetv2_50", 25_549_352, 4_089_184_256.0),
    ("mobilenetv1_025", 470_072, 41e6),
    ("mobilenetv1_050", 1_331_592, 149e6),
    ("mobilenetv1_100", 4_231_976, 568_740_352.0),
    ("mobilenet_v2", 3_504_872, 301e6),
    ("densenet121", 7_978_856, 2834e6),
    ("densenet161", 28_681_000, 7728e6),
    ("densenet169", 14_149_480, 3360e6),
    ("densenet201", 20_013_928, 4291e6),
    ("resnext50_32x4d", 25_028_904, 4230e6),
    ("nasnetalarge", 88_753_150, 23_783_414_658.0),
];

/// Every trial of this file.
pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("models::sizes", published_sizes),
        Trial::test("models::blue_first", blue_first),
        Trial::test("models::multiplier", multipliers),
        Trial::test("models::cards", every_card_builds),
        Trial::test("models::counts", parameter_counts),
        Trial::test("models::near_names", near_names),
        Trial::test("models::card_files", card_files),
        Trial::test("models::dropout", dropout_in_training_only),
        Trial::test("models::features", features_are_the_heads_input),
        Trial::test("models::shortcuts_without_parameters", shortcuts_without_parameters),
        Trial::test("models::normalise", normalise_is_first_and_skipped_when_neutral),
    ];
    let card_error = |case: &'static CardError| Trial::test(format!("models::card_error::{}", case.name), move || case.run());
    trials.extend(CARD_ERRORS.iter().map(card_error));
    trials.extend(weights::trials());
    trials.extend(golden::trials());
    trials
}

/// A graph with the network of `card`.
struct Built {
    graph: Graph,
    net: Net,
}

fn built(card: &ModelCard, train: bool) -> Built {
    let mut graph = Graph::new();
    let [c, h, w] = card.input;
    let image = graph.input("image", Shape::per_image(&[h, w, c]), DType::F32);
    let net = nn::build(card, &mut graph, image, train);
    Built { graph, net }
}

fn card(name: &str) -> ModelCard {
    ModelCard::find(name).expect("a shipped card")
}

/// A network that writes and loads in no time.
fn tiny() -> ModelCard {
    let text = "arch = 'resnet'\ninput = [1, 8, 8]\nclasses = 3\nblocks = [1, 1]\nwidths = [2, 4]";
    ModelCard::parse(text, "tiny", Path::new("")).expect("a good card")
}

fn trainable(graph: &Graph) -> usize {
    let weight = |v| matches!(graph.node(v).op, Op::Param { role: Role::Weight, .. });
    graph.params().values().filter(|&&v| weight(v)).map(|&v| graph.shape(v).elems()).sum()
}

// Cards.

fn every_card_builds() -> Result<(), Failed> {
    let cards = ModelCard::all();
    assert!(cards.len() > 40, "only {} cards are embedded", cards.len());
    for card in cards {
        assert_eq!(card, self::card(&card.name), "find and all disagree");
        for train in [false, true] {
            let b = built(&card, train);
            assert_eq!(*b.graph.shape(b.net.logits), Shape::per_image(&[card.classes]), "{}", card.name);
            let updates = b.graph.clone().running_updates(0.1).len();
            assert_eq!(updates > 0, train && b.graph.params().keys().any(|n| n.ends_with("running_mean")), "{}", card.name);
        }
    }
    Ok(())
}

fn parameter_counts() -> Result<(), Failed> {
    for (name, want) in COUNTS {
        assert_eq!(trainable(&built(&card(name), false).graph), want, "{name}");
    }
    Ok(())
}

fn published_sizes() -> Result<(), Failed> {
    for (name, parameters, multiply_adds) in SIZES {
        let graph = built(&card(name), false).graph;
        assert_eq!(trainable(&graph), parameters, "{name}");
        let counted = nn::multiply_adds(&graph) as f64;
        // Half a unit of the last digit that is given.
        let unit = if multiply_adds % 10e6 == 0.0 {
            10e6
        } else if multiply_adds % 1e6 == 0.0 {
            1e6
        } else {
            0.0
        };
        assert!((counted - multiply_adds).abs() <= unit / 2.0, "{name}: {counted} multiply-adds, not {multiply_adds}");
    }
    Ok(())
}

/// `mean` and `std` are those of the image's channels; the network's first convolution reads the last of them first.
fn blue_first() -> Result<(), Failed> {
    let text = "arch = 'all_cnn'\ninput = [3, 9, 9]\nclasses = 2\nmean = [0.1, 0.2, 0.3]\nchannels = 'bgr'\nmultiplier = 0.1";
    let graph = built(&ModelCard::parse(text, "blue", Path::new("")).expect("a good card"), false).graph;
    let ops: Vec<&Op> = graph.nodes().iter().map(|n| &n.op).filter(|op| !matches!(op, Op::Param { .. })).collect();
    let plane = |start| Op::SliceChannels { start, len: 1 };
    assert_eq!(*ops[1], Op::Normalise { mean: vec![0.1, 0.2, 0.3], std: vec![1.0; 3] });
    assert_eq!(ops[2..6], [&plane(2), &plane(1), &plane(0), &Op::Concat]);
    assert!(matches!(ops[6], Op::Conv2d(_)), "{:?}", ops[6]);
    Ok(())
}

/// Channels are rounded to multiples of 8, at least 8, never by more than a tenth down; 1 leaves them.
fn multipliers() -> Result<(), Failed> {
    let channels = |multiplier: &str| {
        let text = format!("arch = 'mobilenet_v1'\ninput = [3, 32, 32]\nclasses = 2\nmultiplier = {multiplier}");
        let b = built(&ModelCard::parse(&text, "m", Path::new("")).expect("a good card"), false);
        ["conv_stem", "blocks.0.0.conv_pw", "blocks.4.1.conv_pw"]
            .map(|n| b.graph.shape(b.graph.params()[&format!("{n}.weight")]).dims[0])
    };
    assert_eq!(channels("1.0"), [32, 64, 1024]);
    assert_eq!(channels("0.25"), [8, 16, 256]);
    assert_eq!(channels("0.35"), [16, 24, 360], "11.2 rounds to 8, which is too little; 22.4; 358.4");
    assert_eq!(channels("0.01"), [8, 8, 16]);
    Ok(())
}

fn near_names() -> Result<(), Failed> {
    let error = ModelCard::find("resnet20-cifar").expect_err("no such card");
    assert_eq!(error.to_string(), "there is no model called `resnet20-cifar`");
    let hint = error.hint().expect("a hint");
    assert!(hint.starts_with("did you mean `resnet20-cifar10`"), "{hint}");
    let far = ModelCard::find("zebra").expect_err("no such card").hint().expect("a hint");
    assert_eq!(far, "for a network of your own give the path of a card ending in `.toml`");
    Ok(())
}

fn card_files() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("mine.toml");
    let digest = "AB".repeat(32);
    let keys = format!("weights = 'w/mine.safetensors'\nsha256 = '{digest}'\nclean_accuracy = 0.9\ncommand = 'petard eval'");
    fs::write(&path, format!("{OWN_VGG}{keys}"))?;
    let card = ModelCard::find(path.to_str().expect("a UTF-8 path")).map_err(|e| e.to_string())?;
    assert_eq!(card.name, "mine");
    assert_eq!(card.weights, Some(folder.path().join("w/mine.safetensors")));
    assert_eq!(card.sha256, Some(digest.to_lowercase()));
    assert_eq!((card.mean.as_slice(), card.std.as_slice()), (&[0.0; 3][..], &[1.0; 3][..]));
    let b = built(&card, false);
    assert_eq!(b.graph.shape(b.graph.params()["classifier.weight"]).dims, [10, 2048]);
    let missing = ModelCard::find("no/such.toml").expect_err("no such file").to_string();
    assert_eq!(missing, "cannot read `no/such.toml`: no such file or directory");
    Ok(())
}

const OWN_VGG: &str =
    "arch = 'vgg'\ninput = [3, 32, 32]\nclasses = 10\nlayers = [32, 32, 'M', 64, 64, 'M', 128, 128, 'M']\nbatch_norm = true\n";

/// A card that must be refused, and what must be said.
struct CardError {
    name: &'static str,
    head: &'static str,
    lines: &'static str,
    message: &'static str,
    hint: &'static str,
}

impl CardError {
    fn run(&self) -> Result<(), Failed> {
        let text = format!("{}{}", self.head, self.lines);
        let error = ModelCard::parse(&text, "x.toml", Path::new("")).expect_err("this card is wrong");
        assert_eq!(error.to_string(), format!("card `x.toml`{}", self.message));
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(self.hint), "the hint is: {hint}");
        Ok(())
    }
}

const RESNET: &str = "arch = 'resnet'\ninput = [3, 32, 32]\nclasses = 10\n";
const STAGES: &str = "arch = 'resnet'\ninput = [3, 32, 32]\nclasses = 10\nblocks = [1, 1]\nwidths = [8, 16]\n";
const WIDE: &str = "arch = 'wide_resnet'\ninput = [3, 32, 32]\nclasses = 10\n";
const VGG: &str = "arch = 'vgg'\ninput = [3, 32, 32]\nclasses = 10\n";
const EVERY: &str = "every key is described in `models/README.md`";

#[rustfmt::skip] // one case a line reads as the table it is
const CARD_ERRORS: &[CardError] = &[
    CardError { name: "unknown_key", head: STAGES, lines: "clases = 10", message: ", line 6, `clases = 10`: unknown field `clases`", hint: "did you mean `classes`?" },
    CardError { name: "unknown_arch", head: "", lines: "arch = 'resnt'", message: ", line 1, `arch = 'resnt'`: unknown variant `resnt`, expected one of `resnet`, `preact_resnet`, `wide_resnet`, `vgg`, `alexnet`, `all_cnn`, `densenet`, `googlenet`, `bn_inception`, `inception_v3`, `inception_v4`, `inception_resnet_v2`, `mobilenet_v1`, `mobilenet_v2`, `nasnet`", hint: EVERY },
    CardError { name: "no_arch", head: "", lines: "classes = 10", message: ": missing field `arch`", hint: EVERY },
    CardError { name: "not_toml", head: STAGES, lines: "mean = [", message: ": unclosed array, expected `]`", hint: EVERY },
    CardError { name: "negative", head: "", lines: "arch = 'vgg'\nclasses = -1", message: ", line 2, `classes = -1`: invalid value: integer `-1`, expected usize", hint: EVERY },
    CardError { name: "one_class", head: "", lines: "arch = 'vgg'\ninput = [3, 32, 32]\nclasses = 1", message: ": `classes = 1`: must be between 2 and 1048576", hint: "under `classes`" },
    CardError { name: "flat_input", head: "", lines: "arch = 'vgg'\ninput = [3, 0, 32]\nclasses = 10", message: ": `input = [3, 0, 32]`: must be [channels, height, width] with 1 to 1024 channels and 1 to 8192 pixels a side", hint: "input = [3, 32, 32]" },
    CardError { name: "short_mean", head: STAGES, lines: "mean = [0.5]", message: ": `mean = [0.5]`: must have one value for each of the 3 channels of `input`", hint: "give `mean` 3 values" },
    CardError { name: "nan_mean", head: STAGES, lines: "mean = [0.5, nan, 0.5]", message: ": `mean = [0.5, NaN, 0.5]`: every value must be finite", hint: "units of [0,1]" },
    CardError { name: "zero_std", head: STAGES, lines: "std = [0.2, 0.0, 0.2]", message: ": `std = [0.2, 0.0, 0.2]`: every value must be positive", hint: "such as 0.2471" },
    CardError { name: "labels", head: STAGES, lines: "labels = ['cat', 'dog']", message: ": `labels = [2 names]`: must name each of the 10 classes", hint: "complete the list" },
    CardError { name: "digest", head: STAGES, lines: "sha256 = 'abc'", message: ": `sha256 = \"abc\"`: must be 64 hexadecimal digits", hint: "sha256sum" },
    CardError { name: "percent", head: STAGES, lines: "clean_accuracy = 83.24", message: ": `clean_accuracy = 83.24`: must be a share in [0,1]", hint: "0.8324" },
    CardError { name: "no_blocks", head: RESNET, lines: "widths = [8]", message: ": the key `blocks` is missing", hint: "blocks = [3, 3, 3]" },
    CardError { name: "empty_blocks", head: RESNET, lines: "blocks = []\nwidths = []", message: ": `blocks = []`: must list 1 to 8 stages of 1 to 1000 blocks", hint: "ResNet-20" },
    CardError { name: "lengths", head: RESNET, lines: "blocks = [1, 1]\nwidths = [8]", message: ": `widths = [8]`: must have one entry for each of the 2 stages of `blocks`", hint: "same length" },
    CardError { name: "no_channels", head: RESNET, lines: "blocks = [1]\nwidths = [0]", message: ": `widths = [.. 0 ..]`: channels must be between 1 and 65536", hint: "under `widths`" },
    CardError { name: "widen_basic", head: STAGES, lines: "widen = 2", message: ": `widen = 2`: only bottlenecks have an inner width", hint: "bottleneck" },
    CardError { name: "identity", head: STAGES, lines: "shortcut = 'identity'", message: ": `shortcut = \"identity\"`: this shortcut cannot go from 8 to 16 channels", hint: "shortcut = \"conv\"" },
    CardError { name: "foreign_key", head: STAGES, lines: "depth = 28", message: ": the key `depth` means nothing here: `arch = \"resnet\"` has no such key", hint: "remove `depth`" },
    CardError { name: "no_depth", head: WIDE, lines: "widen = 10", message: ": the key `depth` is missing", hint: "depth = 34" },
    CardError { name: "depth", head: WIDE, lines: "depth = 30\nwiden = 10", message: ": `depth = 30`: must be 6 n + 4 with n blocks a stage", hint: "28" },
    CardError { name: "widen", head: WIDE, lines: "depth = 28\nwiden = 0", message: ": `widen = 0`: must be between 1 and 256", hint: "under `widen`" },
    CardError { name: "dropout", head: WIDE, lines: "depth = 28\nwiden = 2\ndropout = 1.0", message: ": `dropout = 1`: must be a probability in [0,1)", hint: "dropout = 0.5" },
    CardError { name: "mark", head: VGG, lines: "layers = [8, 'P']", message: ": `layers = [.. \"P\" ..]`: the only mark is \"M\", a max-pool", hint: "under `layers`" },
    CardError { name: "layer_type", head: VGG, lines: "layers = [8, 1.5]", message: ", line 4, `layers = [8, 1.5]`: expected a number of channels or \"M\"", hint: EVERY },
    CardError { name: "only_pools", head: VGG, lines: "layers = ['M']", message: ": `layers = [1 entries]`: must hold 1 to 1000 entries and a convolution", hint: "layers = [64" },
    CardError { name: "too_small", head: VGG, lines: "layers = [8, 'M', 'M', 'M', 'M', 'M', 'M']", message: ": `input = [3, 32, 32]`: 6 max-pools halve the image to nothing", hint: "larger images" },
    CardError { name: "alexnet_map", head: "", lines: "arch = 'alexnet'\ninput = [3, 227, 227]\nclasses = 10\nvariant = 'original'\ngrowth = 3", message: ": the key `growth` means nothing here: `arch = \"alexnet\"` has no such key", hint: "remove `growth`" },
    CardError { name: "alexnet_size", head: "", lines: "arch = 'alexnet'\ninput = [3, 200, 224]\nclasses = 10", message: ": `input = [3, 200, 224]`: the layers must leave a map of 6x6", hint: "[3, 224, 224]" },
    CardError { name: "alexnet_variant", head: "", lines: "arch = 'alexnet'\ninput = [3, 224, 224]\nclasses = 10\nvariant = 'fast'", message: ": `variant = \"fast\"`: `arch = \"alexnet\"` has no such variant", hint: "\"original\"" },
    CardError { name: "names_of_nobody", head: STAGES, lines: "names = 'timm'", message: ": `names = \"timm\"`: nobody's `resnet` has these names", hint: "\"kuangliu\"" },
    CardError { name: "groups_basic", head: STAGES, lines: "groups = 2", message: ": `groups = 2`: only bottlenecks have groups", hint: "bottleneck" },
    CardError { name: "groups_divide", head: STAGES, lines: "block = 'bottleneck'\ngroups = 3", message: ": `groups = 3`: must divide the inner widths, `widths` times 1", hint: "ResNeXt-50" },
    CardError { name: "no_growth", head: "", lines: "arch = 'densenet'\ninput = [3, 32, 32]\nclasses = 10\nblocks = [2]", message: ": the key `growth` is missing", hint: "growth = 32" },
    CardError { name: "dense_too_small", head: "", lines: "arch = 'densenet'\ninput = [3, 4, 32]\nclasses = 10\nblocks = [2, 2]\ngrowth = 4", message: ": `input = [3, 4, 32]`: 3 halvings leave nothing of the image", hint: "larger images" },
    CardError { name: "inception_too_small", head: "", lines: "arch = 'inception_v3'\ninput = [3, 64, 64]\nclasses = 10", message: ": `input = [3, 64, 64]`: this network halves images too often for less than 75 pixels a side", hint: "75x75" },
    CardError { name: "bn_inception_odd", head: "", lines: "arch = 'bn_inception'\ninput = [3, 224, 225]\nclasses = 10", message: ": `input = [3, 224, 225]`: the branches of this network agree only where both sides are multiples of 32", hint: "224" },
    CardError { name: "multiplier", head: "", lines: "arch = 'mobilenet_v1'\ninput = [3, 32, 32]\nclasses = 10\nmultiplier = 0", message: ": `multiplier = 0`: must be between 0.01 and 16", hint: "under `multiplier`" },
    CardError { name: "nasnet_width", head: "", lines: "arch = 'nasnet'\ninput = [3, 32, 32]\nclasses = 10\nblocks = [1]\nwidth = 6", message: ": `width = 6`: must be a multiple of 4 between 4 and 256", hint: "168" },
    CardError { name: "all_cnn_too_small", head: "", lines: "arch = 'all_cnn'\ninput = [3, 8, 8]\nclasses = 10", message: ": `input = [3, 8, 8]`: two halvings and a kernel of 3x3 leave nothing of the image", hint: "9x9" },
    CardError { name: "mlp3_map", head: VGG, lines: "layers = [8, 'M']\nhead = 'mlp3'", message: ": `input = [3, 32, 32]`: `head = \"mlp3\"` takes a 7x7 map, the layers leave 16x16", hint: "224x224" },
];

// Networks.

fn dropout_in_training_only() -> Result<(), Failed> {
    let drops = |b: &Built| b.graph.nodes().iter().filter(|n| matches!(n.op, Op::Dropout { .. })).count();
    let vgg = card("vgg11");
    assert_eq!((drops(&built(&vgg, false)), drops(&built(&vgg, true))), (0, 2));
    let mut b = built(&vgg, true);
    let image = b.graph.input_named("image").expect("the image");
    nn::build(&vgg, &mut b.graph, image, true);
    let mut sites: Vec<u16> = Vec::new();
    for node in b.graph.nodes() {
        if let Op::DropoutMask { site, .. } = node.op {
            sites.push(site);
        }
    }
    assert_eq!(sites, [0, 1, 2, 3], "each layer of each copy draws its own mask");
    let text = "arch = 'wide_resnet'\ninput = [3, 32, 32]\nclasses = 10\ndepth = 10\nwiden = 1\ndropout = 0.3";
    let wide = ModelCard::parse(text, "wide", Path::new("")).expect("a good card");
    assert_eq!((drops(&built(&wide, false)), drops(&built(&wide, true))), (0, 3));
    Ok(())
}

fn features_are_the_heads_input() -> Result<(), Failed> {
    for (name, width) in [("resnet50", 2048), ("wrn-34-10-cifar10", 640), ("vgg16", 4096), ("vgg16-bn-cifar10", 512)] {
        let b = built(&card(name), false);
        assert_eq!(*b.graph.shape(b.net.features), Shape::per_image(&[width]), "{name}");
        let linear = b.graph.node(b.graph.node(b.net.logits).inputs[0]);
        assert!(linear.op == Op::Linear && linear.inputs[0] == b.net.features, "{name}: {linear:?}");
    }
    Ok(())
}

fn shortcuts_without_parameters() -> Result<(), Failed> {
    let head = "arch = 'resnet'\ninput = [3, 32, 32]\nclasses = 10\nblocks = [3, 3, 3]\n";
    let parse = |lines: &str| ModelCard::parse(&format!("{head}{lines}"), "own", Path::new("")).expect("a good card");
    let pads = |b: &Built| -> Vec<Op> {
        b.graph.nodes().iter().filter(|n| matches!(n.op, Op::SubsamplePad { .. })).map(|n| n.op.clone()).collect()
    };
    let pad = built(&parse("widths = [16, 32, 64]\nshortcut = 'pad'\nnames = 'kuangliu'"), false);
    assert_eq!(trainable(&pad.graph), 269_722, "ResNet-20 of the original paper");
    let half = |n| Op::SubsamplePad { stride: 2, before: n, after: n };
    assert_eq!(pads(&pad), [half(8), half(16)]);
    let identity = built(&parse("widths = [16, 16, 16]\nshortcut = 'identity'"), false);
    assert_eq!(pads(&identity), [half(0), half(0)]);
    Ok(())
}

fn normalise_is_first_and_skipped_when_neutral() -> Result<(), Failed> {
    let first = |card: &ModelCard| built(card, false).graph.nodes()[1].op.clone();
    let with = card("resnet20-cifar10");
    assert_eq!(first(&with), Op::Normalise { mean: with.mean.clone(), std: with.std.clone() });
    assert!(matches!(first(&card("wrn-28-10-cifar10")), Op::Param { .. }));
    Ok(())
}

// The generator written out in `architectures.json`.

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Value `i` in [-1,1) of the procedural tensor `name`: the generator written out in `architectures.json`.
pub fn uniform(name: &str) -> impl Fn(usize) -> f64 + Sync + use<> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    move |i| (splitmix64(hash.wrapping_add(i as u64)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

/// Procedural values for one parameter; the rule follows from name and rank.
fn procedural(name: &str, dims: &[usize]) -> Vec<f32> {
    let u = uniform(name);
    let scale = (6.0 / dims[1..].iter().product::<usize>() as f64).sqrt();
    let value = |i: usize| match name.rsplit('.').next() {
        Some("weight") if dims.len() > 1 => u(i) * scale,
        Some("weight") => 1.0 + 0.1 * u(i),
        Some("running_var") => 1.0 + 0.5 * u(i).abs(),
        _ => 0.1 * u(i),
    };
    (0..dims.iter().product()).into_par_iter().map(|i| value(i) as f32).collect()
}

/// Procedural values for every parameter of `graph`.
fn state(graph: &Graph) -> BTreeMap<String, HostTensor> {
    let tensor = |name: &String, dims: &[usize]| HostTensor::f32(dims, procedural(name, dims));
    graph.params().iter().map(|(name, &v)| (name.clone(), tensor(name, &graph.shape(v).dims))).collect()
}
