//! Which images come when: the held-out part, the order of an epoch, and batches read and varied, the next one ahead.
//! Must not know what is done with them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::augment::{Augment, Draw, below};
use super::engine::Images;
use super::mix::{self, Partners};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};

/// Some images of a set, by position.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    data: Dataset,
    rows: Arc<[usize]>,
    readers: Arc<ThreadPool>,
}

/// So many threads that read images.
///
/// # Errors
/// [`Error::Device`] where they cannot be had.
pub(super) fn readers(threads: usize) -> Result<Arc<ThreadPool>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map(Arc::new).map_err(|e| Error::device(format!("cannot start {threads} threads to read images: {e}")))
}

/// A batch in memory.
pub(super) struct Loaded {
    pub pixels: Vec<f32>,
    pub label: Vec<i32>,
    pub index: Vec<u32>,
    /// What the images were mixed with, where they were.
    pub partners: Option<Partners>,
}

impl Loaded {
    pub fn images(&self) -> Images<'_> {
        Images { pixels: &self.pixels, label: &self.label, index: &self.index }
    }
    /// Image `row`, `[C, H, W]`.
    pub fn image(&self, row: usize) -> &[f32] {
        let size = self.pixels.len() / self.index.len();
        &self.pixels[row * size..(row + 1) * size]
    }
}

impl Pool {
    /// All of a set.
    pub fn whole(data: &Dataset, readers: &Arc<ThreadPool>) -> Self {
        Pool { data: data.clone(), rows: (0..data.len()).collect(), readers: Arc::clone(readers) }
    }

    /// The images to train on, and `val` others drawn by `seed`, each in the order of the set.
    pub fn split(data: &Dataset, val: usize, seed: u64, readers: &Arc<ThreadPool>) -> [Self; 2] {
        let drawn = permutation(seed, 0, 1, data.len());
        let part = |rows: &[usize]| {
            let mut rows = rows.to_vec();
            rows.sort_unstable();
            Pool { data: data.clone(), rows: rows.into(), readers: Arc::clone(readers) }
        };
        let (held, rest) = drawn.split_at(val.min(data.len()));
        [part(rest), part(held)]
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Class of each image.
    pub fn labels(&self) -> Result<Vec<i32>> {
        let labels = self.data.labels();
        let labels = labels.ok_or_else(|| Error::input(format!("`{}` has no labels to learn from", self.data.spec())))?;
        Ok(self.rows.iter().map(|&row| labels[row]).collect())
    }

    /// Positions in this pool in the order of an epoch.
    pub fn order(&self, seed: u64, epoch: usize) -> Vec<usize> {
        permutation(seed, u32::try_from(epoch).expect("fewer than 2^32 epochs"), 0, self.len())
    }

    /// The images at `positions`, each as `vary` makes it from (index, pixels).
    pub fn load(&self, positions: &[usize], vary: impl Fn(u32, &[f32], &mut [f32]) + Sync) -> Result<Loaded> {
        let size: usize = self.data.shape().iter().product();
        let mut pixels = vec![0.0; positions.len() * size];
        let read = |(out, &position): (&mut [f32], &usize)| {
            let row = self.rows[position];
            let batch = self.data.read(row..row + 1)?;
            let label = batch.labels.as_ref().map(|l| l[0]);
            let label = label.ok_or_else(|| Error::input(format!("`{}` has no labels to learn from", self.data.spec())))?;
            let mut plain = vec![0.0; size];
            batch.pixels_f32(0, &mut plain);
            vary(batch.index[0], &plain, out);
            Ok((label, batch.index[0]))
        };
        let all = || pixels.par_chunks_mut(size).zip(positions).map(read).collect::<Result<Vec<(i32, u32)>>>();
        let named = self.readers.install(all)?;
        let (label, index) = named.into_iter().unzip();
        Ok(Loaded { pixels, label, index, partners: None })
    }

    /// The images at `positions` as they are.
    pub fn plain(&self, positions: &[usize]) -> Result<Loaded> {
        self.load(positions, |_, from, to| to.copy_from_slice(from))
    }

    /// The images at `positions`, cropped and flipped; their indices from `first` on.
    fn varied(&self, positions: &[usize], request: &Request, first: u32) -> Result<Loaded> {
        let (shape, &Request { augment, seed, epoch, .. }) = (self.data.shape(), request);
        let vary =
            |index, from: &[f32], to: &mut [f32]| augment.apply(Draw { seed, index: index + first, epoch }, shape, from, to);
        let mut out = self.load(positions, vary)?;
        out.index.iter_mut().for_each(|i| *i += first);
        Ok(out)
    }
}

/// Which images, varied how.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// In the pool.
    pub positions: Vec<usize>,
    /// In the pool of extra images.
    pub extra: Vec<usize>,
    pub augment: Augment,
    pub mixup: Option<f64>,
    pub seed: u64,
    pub epoch: u32,
    /// Number of the batch in its epoch.
    pub batch: u32,
}

impl Request {
    /// Images in the batch.
    pub fn count(&self) -> usize {
        self.positions.len() + self.extra.len()
    }
}

/// Where images come from: the split to train on, and more where asked.
#[derive(Clone)]
struct Sources {
    own: Pool,
    extra: Option<Pool>,
}

impl Sources {
    fn read(&self, request: &Request) -> Result<Loaded> {
        let mut out = self.own.varied(&request.positions, request, 0)?;
        if !request.extra.is_empty() {
            let extra = self.extra.as_ref().expect("extra images are asked for where there are some");
            // No image of one set has the random numbers of one of the other.
            let first = u32::try_from(self.own.data.len()).expect("fewer than 2^32 images");
            let more = extra.varied(&request.extra, request, first)?;
            out.pixels.extend(more.pixels);
            out.label.extend(more.label);
            out.index.extend(more.index);
        }
        if let Some(a) = request.mixup {
            let draw = mix::Draw { seed: request.seed, epoch: request.epoch, batch: request.batch };
            out.partners = Some(mix::mixup(a, draw, &mut out.pixels, &out.label));
        }
        Ok(out)
    }
}

/// Batches for training: while one is used, the next is read.
pub(super) struct Feed {
    sources: Sources,
    ahead: Option<(Request, Receiver<Result<Loaded>>)>,
}

impl Feed {
    pub fn new(own: Pool, extra: Option<Pool>) -> Self {
        Feed { sources: Sources { own, extra }, ahead: None }
    }
    /// The images to train on.
    pub fn pool(&self) -> &Pool {
        &self.sources.own
    }
    /// Positions of extra images in the order of an epoch; none where there are none.
    pub fn extra_order(&self, seed: u64, epoch: usize) -> Vec<usize> {
        let order = |p: &Pool| permutation(seed, u32::try_from(epoch).expect("fewer than 2^32 epochs"), 2, p.len());
        self.sources.extra.as_ref().map(order).unwrap_or_default()
    }

    /// The images of `request`, read by now if they were announced; `next` is announced.
    pub fn take(&mut self, request: &Request, next: Option<Request>) -> Result<Loaded> {
        let ready = self.ahead.take().filter(|(announced, _)| announced == request);
        let batch = match ready.and_then(|(_, reader)| reader.recv().ok()) {
            Some(batch) => batch?,
            None => self.sources.read(request)?,
        };
        self.ahead = next.map(|next| {
            let (sender, receiver) = channel();
            let (sources, request) = (self.sources.clone(), next.clone());
            // Nobody listens where the run has ended.
            self.sources.own.readers.spawn(move || drop(sender.send(sources.read(&request))));
            (next, receiver)
        });
        Ok(batch)
    }
}

/// The numbers below `n` in random order (Fisher and Yates).
fn permutation(seed: u64, step: u32, restart: u16, n: usize) -> Vec<usize> {
    let stream = Stream { seed, index: 0, step, purpose: Purpose::Shuffle, restart };
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(stream.bits(i as u32), i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Dataset {
        let options = crate::data::Options { limit: Some(60), ..Default::default() };
        Dataset::open("synthetic", &options).expect("the synthetic set is always there")
    }

    fn pool(threads: usize) -> Arc<ThreadPool> {
        readers(threads).expect("threads can be started")
    }

    #[test]
    fn as_many_threads_read_as_asked_for() {
        for threads in [1, 3] {
            let whole = Pool::whole(&data(), &pool(threads));
            let counted = |_, _: &[f32], _: &mut [f32]| assert_eq!(rayon::current_num_threads(), threads);
            whole.load(&[0, 1, 2, 3], counted).expect("images of the set");
        }
    }

    #[test]
    fn what_is_read_ahead_is_what_would_be_read() {
        let request = |positions: &[usize], epoch| Request {
            positions: positions.to_vec(),
            extra: vec![8, 9],
            augment: Augment { pad: 4, flip: true, cutout: 0 },
            mixup: Some(1.0),
            seed: 5,
            epoch,
            batch: 3,
        };
        let whole = Pool::whole(&data(), &pool(2));
        let mut feed = Feed::new(whole.clone(), Some(whole.clone()));
        let (first, second, other) = (request(&[3, 1], 0), request(&[7, 2], 0), request(&[7, 2], 1));
        // The second time something else is asked for than was announced.
        for (asked, next) in [(&first, &second), (&second, &second), (&other, &first), (&first, &second)] {
            let got = feed.take(asked, Some(next.clone())).expect("images of the set");
            let want = feed.sources.read(asked).expect("images of the set");
            assert!(got.index[2..] == [68, 69] && got.partners == want.partners, "extra images come last");
            assert!(got.pixels == want.pixels && got.label == want.label && got.index == want.index, "{asked:?}");
        }
    }

    #[test]
    fn held_out_images_are_never_trained_on() {
        let [train, val] = Pool::split(&data(), 20, 7, &pool(1));
        let mut all = [&train.rows[..], &val.rows[..]].concat();
        all.sort_unstable();
        assert_eq!(all, (0..60).collect::<Vec<_>>());
        assert_eq!((train.len(), val.len()), (40, 20));
        assert_ne!(val.rows, Pool::split(&data(), 20, 8, &pool(1))[1].rows, "another seed");
        assert_ne!(val.rows[..], (0..20).collect::<Vec<_>>()[..], "sets are often sorted by class");
    }

    #[test]
    fn orders_hold_everything_once_and_change_with_the_epoch() {
        let pool = Pool::whole(&data(), &pool(1));
        let mut order = pool.order(1, 0);
        assert_eq!(order, pool.order(1, 0));
        assert!(order != pool.order(1, 1) && order != pool.order(2, 0));
        order.sort_unstable();
        assert_eq!(order, (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn batches_keep_image_and_label_together() {
        let [_, val] = Pool::split(&data(), 20, 7, &pool(1));
        let loaded = val.plain(&[5, 2]).expect("images of the set");
        let want = data().read(val.rows[2]..val.rows[2] + 1).expect("an image of the set");
        let mut pixels = vec![0.0; 3072];
        want.pixels_f32(0, &mut pixels);
        assert_eq!(loaded.image(1), pixels);
        assert_eq!(loaded.index, [val.rows[5] as u32, val.rows[2] as u32]);
        assert_eq!(loaded.label[1], want.labels.expect("labels")[0]);
    }
}
