//! Initial weights: the parameters of a network before training.
//! Must not know plans or training.
//! He et al. 2015, <https://arxiv.org/abs/1502.01852>; LeCun et al. 1998 (the uniform default of PyTorch).

use std::collections::BTreeMap;

use super::{Arch, InceptionVersion, ModelCard, Names, Weights, build};
use crate::graph::{Graph, Value};
use crate::rng::{Purpose, Stream};
use crate::tensor::{DType, HostTensor, Shape};

/// A graph that holds the eval-mode network of `card` over an input called `x`: every parameter with its shape.
pub fn parameters(card: &ModelCard) -> Graph {
    let mut graph = Graph::new();
    let [c, h, w] = card.input;
    let x = graph.input("x", Shape::per_image(&[h, w, c]), DType::F32);
    build(card, &mut graph, x, false);
    graph
}

impl Weights {
    /// Weights to start training from; equal seeds give equal bits.
    ///
    /// Convolutions: normal with variance `2 / fan_out`, biases 0, as in torchvision's ResNet and VGG and in the wide
    /// networks of TRADES; where the public code leaves PyTorch's default (kuangliu's networks, pre-activation networks)
    /// uniform within `1 / sqrt(fan_in)`, biases too. Linear layers: PyTorch's default everywhere. Batch norms: weight 1,
    /// bias 0, running mean 0, running variance 1.
    pub fn initial(card: &ModelCard, seed: u64) -> Weights {
        let graph = parameters(card);
        let he = match &card.arch {
            Arch::ResNet(net) => net.names == Names::Torchvision,
            Arch::PreAct(_) => false,
            Arch::DenseNet(net) => net.names == Names::Torchvision,
            Arch::MobileNetV1(net) => net.names == Names::Timm,
            Arch::MobileNetV2(net) => net.names == Names::Torchvision,
            Arch::Inception(net) => net.version != InceptionVersion::V1Cifar,
            Arch::AlexNet(_) => false,
            Arch::Wide(_) | Arch::Vgg(_) | Arch::AllCnn(_) | Arch::NasNet(_) => true,
        };
        let draw = |(index, (name, &value)): (usize, (&String, &Value))| {
            let dims = &graph.shape(value).dims;
            let stream = Stream { seed, index: index as u32, step: 0, purpose: Purpose::Init, restart: 0 };
            let data = values(&graph, he, name, dims, &stream);
            (name.clone(), HostTensor::f32(dims, data))
        };
        let tensors: BTreeMap<String, HostTensor> = graph.params().iter().enumerate().map(draw).collect();
        Weights::from_tensors(tensors, &graph).expect("names and shapes are the graph's own, values are finite")
    }
}

fn values(graph: &Graph, he: bool, name: &str, dims: &[usize], stream: &Stream) -> Vec<f32> {
    let count = dims.iter().product();
    let (layer, kind) = name.rsplit_once('.').unwrap_or(("", name));
    // What the layer is follows from the rank of its weight: 4 a convolution, 2 a linear layer, 1 a batch norm.
    let weight = graph.params().get(&format!("{layer}.weight")).map_or(dims, |&v| &graph.shape(v).dims);
    let fan_in = weight[1..].iter().product::<usize>() as f64;
    match (kind, weight.len()) {
        ("running_var", _) | ("weight", 1) => vec![1.0; count],
        ("running_mean", _) | ("bias", 1) => vec![0.0; count],
        ("bias", 4) if he => vec![0.0; count],
        ("weight", 4) if he => {
            let fan_out = weight[0] * weight[2] * weight[3];
            let mut out = vec![0.0; count];
            stream.fill_normal(&mut out);
            let scale = (2.0 / fan_out as f64).sqrt();
            out.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
            out
        }
        ("weight" | "bias", _) => {
            let mut out = vec![0.0; count];
            stream.fill_uniform(&mut out);
            let bound = 1.0 / fan_in.sqrt();
            out.iter_mut().for_each(|v| *v = ((2.0 * f64::from(*v) - 1.0) * bound) as f32);
            out
        }
        (other, rank) => unreachable!("`{layer}.{other}` of rank {rank} is no parameter of a layer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostData;

    fn moments(tensor: &HostTensor) -> (f64, f64, f64) {
        let HostData::F32(data) = &tensor.data else { unreachable!("weights are f32") };
        let n = data.len() as f64;
        let mean = data.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = data.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, var.sqrt(), data.iter().fold(0.0, |m, &v| m.max(f64::from(v).abs())))
    }

    #[test]
    fn spreads_follow_the_public_codes() {
        let weights = |name: &str| Weights::initial(&ModelCard::find(name).expect("a shipped card"), 1).tensors;
        let he = weights("resnet18");
        let (mean, std, _) = moments(&he["layer3.0.conv1.weight"]);
        let want = (2.0 / (256.0 * 9.0f64)).sqrt();
        assert!((std / want - 1.0).abs() < 0.01 && mean.abs() < 0.01 * want, "mean {mean:e}, std {std:e}, not {want:e}");
        let (_, std, most) = moments(&he["fc.weight"]);
        let bound = 1.0 / 512f64.sqrt();
        assert!(most <= bound && (std * 3f64.sqrt() / bound - 1.0).abs() < 0.01, "{std} in {bound}");
        assert_eq!(moments(&he["bn1.weight"]), (1.0, 0.0, 1.0));
        assert_eq!(moments(&he["bn1.bias"]), (0.0, 0.0, 0.0));
        assert_eq!(moments(&he["bn1.running_var"]), (1.0, 0.0, 1.0));
        let uniform = weights("preactresnet18-cifar10");
        let (_, _, most) = moments(&uniform["layer3.0.conv1.weight"]);
        assert!(most <= 1.0 / (128.0 * 9.0f64).sqrt(), "{most}");
        let plain = weights("vgg11-cifar10");
        assert_eq!(moments(&plain["features.0.bias"]), (0.0, 0.0, 0.0));
        assert!(moments(&plain["classifier.bias"]).2 > 0.0);
    }

    #[test]
    fn seeds_and_layers_differ_and_runs_agree() {
        let card = ModelCard::find("resnet8-cifar10").expect("a shipped card");
        let (a, b, c) = (Weights::initial(&card, 1), Weights::initial(&card, 1), Weights::initial(&card, 2));
        assert_eq!(a, b);
        assert_ne!(a.tensors["conv1.weight"], c.tensors["conv1.weight"]);
        assert_ne!(a.tensors["layer1.0.conv1.weight"], a.tensors["layer1.0.conv2.weight"]);
    }

    #[test]
    fn every_shipped_card_can_be_started() {
        for card in ModelCard::all().into_iter().filter(|c| c.input[1] == 32 && !c.name.starts_with("wrn")) {
            Weights::initial(&card, 0);
        }
    }
}
