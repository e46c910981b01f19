//! Networks: a card says which one, `build` writes it into a graph, `Weights` fills its parameters.
//! Must not know memory, plans, devices or attacks.

mod alexnet;
mod all_cnn;
mod card;
mod checkpoint;
mod densenet;
mod embedded;
mod inception;
mod init;
mod keys;
mod layers;
mod mobilenet;
mod nasnet;
mod pickle;
mod preact;
mod resnet;
mod sphere;
mod tensorfile;
mod torch;
mod vgg;
mod weights;
mod wide;
mod zip;

pub use alexnet::{AlexNet, AlexVariant};
pub use all_cnn::AllCnn;
pub use card::ModelCard;
pub use densenet::DenseNet;
pub use inception::{Inception, InceptionVersion};
pub use init::parameters;
pub use mobilenet::{MobileNetV1, MobileNetV2};
pub use nasnet::NasNet;
pub use preact::{PreAct, PreActVariant};
pub use resnet::{Block, Names, ResNet, Shortcut, Stem};
pub use sphere::Sphere;
pub use torch::{StateDict, read_state_dict};
pub use vgg::{Head, Layer, Vgg};
pub use weights::Weights;
pub use wide::WideResNet;

use crate::graph::{Graph, Op, Value};
use layers::Layers;

/// A family of networks with its numbers settled.
#[derive(Clone, Debug, PartialEq)]
pub enum Arch {
    /// Residual network, 224-pixel and CIFAR forms. He et al. 2015, <https://arxiv.org/abs/1512.03385>.
    ResNet(ResNet),
    /// Pre-activation residual network. He et al. 2016, <https://arxiv.org/abs/1603.05027>.
    PreAct(PreAct),
    /// Wide residual network. Zagoruyko and Komodakis 2016, <https://arxiv.org/abs/1605.07146>.
    Wide(WideResNet),
    /// Plain stack of 3x3 convolutions. Simonyan and Zisserman 2014, <https://arxiv.org/abs/1409.1556>.
    Vgg(Vgg),
    /// Five convolutions and three linear layers. Krizhevsky et al. 2012, <https://papers.nips.cc/paper/4824>.
    AlexNet(AlexNet),
    /// Convolutions alone. Springenberg et al. 2014, <https://arxiv.org/abs/1412.6806>.
    AllCnn(AllCnn),
    /// Densely connected network. Huang et al. 2016, <https://arxiv.org/abs/1608.06993>.
    DenseNet(DenseNet),
    /// Blocks of parallel branches. Szegedy et al. 2014, <https://arxiv.org/abs/1409.4842>.
    Inception(Inception),
    /// Depthwise and pointwise convolutions. Howard et al. 2017, <https://arxiv.org/abs/1704.04861>.
    MobileNetV1(MobileNetV1),
    /// Inverted residual blocks. Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>.
    MobileNetV2(MobileNetV2),
    /// Cells found by search. Zoph et al. 2017, <https://arxiv.org/abs/1707.07012>.
    NasNet(NasNet),
}

impl Arch {
    /// The family as cards name it in `arch`.
    pub fn name(&self) -> &'static str {
        match self {
            Arch::ResNet(_) => "resnet",
            Arch::PreAct(_) => "preact_resnet",
            Arch::Wide(_) => "wide_resnet",
            Arch::Vgg(_) => "vgg",
            Arch::AlexNet(_) => "alexnet",
            Arch::AllCnn(_) => "all_cnn",
            Arch::DenseNet(_) => "densenet",
            Arch::Inception(net) => net.version.name(),
            Arch::MobileNetV1(_) => "mobilenet_v1",
            Arch::MobileNetV2(_) => "mobilenet_v2",
            Arch::NasNet(_) => "nasnet",
        }
    }
}

/// What [`build`] adds to a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// `[N, classes]`.
    pub logits: Value,
    /// Input of the last linear layer, `[N, width]`.
    pub features: Value,
}

/// Appends the network of `card` to `graph`. `image` is `[N, H, W, C]` with values in [0,1]; the card's normalisation
/// is the network's first op, left out where mean is 0 and std 1.
///
/// With `train` batch norms use the batch's own statistics and dropout is drawn, by a seed of 0; dropout reads the inputs `index`
/// (`[N]`, position of each image in its split) and `step` (scalar), made here where the graph has none. Built twice
/// into one graph, both networks share their parameters. Panics where `image` has another shape than the card says.
pub fn build(card: &ModelCard, graph: &mut Graph, image: Value, train: bool) -> Net {
    append(card, graph, image, train.then_some(0))
}

/// [`build`] for training, with dropout drawn by `seed`.
pub fn build_training(card: &ModelCard, graph: &mut Graph, image: Value, seed: u64) -> Net {
    append(card, graph, image, Some(seed))
}

fn append(card: &ModelCard, graph: &mut Graph, image: Value, train: Option<u64>) -> Net {
    let [c, h, w] = card.input;
    assert_eq!(graph.shape(image).hwc(), (h, w, c), "card `{}` describes {h}x{w}x{c} images", card.name);
    let neutral = card.mean.iter().all(|&m| m == 0.0) && card.std.iter().all(|&s| s == 1.0);
    let mut x = if neutral { image } else { graph.normalise(image, &card.mean, &card.std) };
    if card.bgr {
        let planes: Vec<Value> = (0..c).rev().map(|start| graph.push(Op::SliceChannels { start, len: 1 }, &[x])).collect();
        x = graph.concat(&planes);
    }
    let mut layers = Layers { graph, train };
    let net = match &card.arch {
        Arch::ResNet(net) => net.build(&mut layers, x, card.classes),
        Arch::PreAct(net) => net.build(&mut layers, x, card.classes),
        Arch::Wide(net) => net.build(&mut layers, x, card.classes),
        Arch::Vgg(net) => net.build(&mut layers, x, card.classes),
        Arch::AlexNet(net) => net.build(&mut layers, x, card.classes),
        Arch::AllCnn(net) => net.build(&mut layers, x, card.classes),
        Arch::DenseNet(net) => net.build(&mut layers, x, card.classes),
        Arch::Inception(net) => net.build(&mut layers, x, card.classes),
        Arch::MobileNetV1(net) => net.build(&mut layers, x, card.classes),
        Arch::MobileNetV2(net) => net.build(&mut layers, x, card.classes),
        Arch::NasNet(net) => net.build(&mut layers, x, card.classes),
    };
    card.sphere.map_or(net, |sphere| sphere.end(graph, net))
}

/// Multiply-adds of the convolutions and linear layers of `graph` for one image: what is published as a network's FLOPs.
pub fn multiply_adds(graph: &Graph) -> usize {
    let of = |node: &crate::graph::Node| match &node.op {
        Op::Conv2d(conv) => {
            let (p, q, _) = node.shape.hwc();
            conv.macs(p, q)
        }
        Op::Linear => node.inputs.iter().map(|&v| graph.shape(v).elems()).next_back().expect("a weight"),
        _ => 0,
    };
    graph.nodes().iter().map(of).sum()
}
