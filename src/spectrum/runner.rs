//! One spectral operation on a device: NCHW images in, its values out.
//! Must not know what the values are for.

use crate::device::Device;
use crate::error::Result;
use crate::gpu;
use crate::graph::{Graph, Op, Rings, Value};
use crate::plan::{Executor, Precision, Segment, compile_for};
use crate::tensor::{DType, Shape, chw_to_hwc, hwc_to_chw};

/// What is computed of each image.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// The image itself, reweighted by `[H, W/2+1]`.
    Filter(Vec<f32>),
    /// Half spectra `[C, H, W/2+1, 2]`.
    Spectrum,
    /// Amplitude or power summed over rings, `[C, R]`.
    RingSums {
        /// Squares of amplitudes.
        power: bool,
    },
    /// The image after BaSS.
    Bass,
}

/// A plan with one operation, bound.
pub struct Runner {
    executor: Box<dyn Executor>,
    x: Value,
    y: Value,
    shape: [usize; 3],
    image: bool,
    hwc: Vec<f32>,
    note: Option<String>,
}

impl Runner {
    /// Binds `task` for images of `[C, H, W]` in batches of `batch`. A card's kernels take sizes from 8 to 512 that are products
    /// of 2, 3, 5 and 7; other sizes are computed on the CPU, and [`Runner::note`] says so.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn new(device: &Device, shape: [usize; 3], task: &Task, batch: usize) -> Result<Self> {
        let [c, h, w] = shape;
        let mut graph = Graph::new();
        let x = graph.input("x", Shape::per_image(&[h, w, c]), DType::F32);
        let weight = graph.input("weight", Shape::fixed(&[h, Rings::new(h, w).half()]), DType::F32);
        let y = match task {
            Task::Filter(_) => graph.push(Op::SpectrumFilter, &[x, weight]),
            Task::Spectrum => graph.push(Op::Rfft2 { dual: false }, &[x]),
            Task::RingSums { power } => graph.push(Op::RingSums { power: *power }, &[x]),
            Task::Bass => graph.push(Op::Bass, &[x]),
        };
        let segment = Segment { name: "infer".into(), outputs: vec![y], carries: Vec::new() };
        let plan = compile_for(&graph, &[segment], batch, Precision::F32)?;
        let off_card = device.card().is_some() && !gpu::fft::takes(h, w);
        let note = off_card
            .then(|| format!("spectra of {h}x{w} pixels are computed on the CPU: a card takes 8 to 512, 2^a 3^b 5^c 7^d"));
        let mut executor = if off_card {
            Device::open("cpu", &crate::device::DeviceOptions::default())?.bind(plan, true)?
        } else {
            device.bind(plan, true)?
        };
        if let Task::Filter(weights) = task {
            executor.write_f32(weight, 0, weights)?;
        }
        executor.run("pack")?;
        let image = matches!(task, Task::Filter(_) | Task::Bass);
        Ok(Runner { executor, x, y, shape, image, hwc: vec![0.0; c * h * w], note })
    }
    /// Why the device asked for is not the one that computes.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
    /// Images in a batch.
    pub fn batch(&self) -> usize {
        self.executor.plan().batch()
    }
    /// Values of an image's result.
    pub fn each(&self) -> usize {
        self.executor.plan().graph().shape(self.y).elems()
    }

    /// The results of NCHW images, one after the other; images come out as NCHW again. Any number of images: what the last batch
    /// lacks is filled with its own last image.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn run(&mut self, images: &[f32]) -> Result<Vec<f32>> {
        let [c, h, w] = self.shape;
        let (elems, batch, each) = (c * h * w, self.batch(), self.each());
        assert!(images.len().is_multiple_of(elems), "{} values in images of {:?}", images.len(), self.shape);
        let mut out = Vec::with_capacity(images.len() / elems * each);
        for group in images.chunks(batch * elems) {
            let count = group.len() / elems;
            for row in 0..batch {
                let image = &group[row.min(count - 1) * elems..][..elems];
                chw_to_hwc(image, (h, w, c), &mut self.hwc);
                self.executor.write_f32(self.x, row, &self.hwc)?;
            }
            self.executor.run("infer")?;
            let values = self.executor.read_f32(self.y, 0, count)?;
            if self.image {
                let first = out.len();
                out.resize(first + values.len(), 0.0);
                let pairs = values.chunks_exact(elems).zip(out[first..].chunks_exact_mut(elems));
                pairs.for_each(|(hwc, chw)| hwc_to_chw(hwc, (h, w, c), chw));
            } else {
                out.extend(values);
            }
        }
        Ok(out)
    }
}
