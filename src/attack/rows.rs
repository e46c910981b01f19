//! The batch as a set of seats: an image takes a seat, makes its turns, leaves with an answer, and the next one sits down.
//! Must not know any attack; one that keeps a seat's state on the device (its own turn among it) implements [`Rows`].

use super::{Case, Found, Tell};
use crate::error::Result;

/// What an attack does with the rows of its batch.
pub trait Rows {
    /// Rows.
    fn batch(&self) -> usize;
    /// Puts a case into row `at`, wherever the other rows are.
    ///
    /// # Errors
    /// What the device can fail with.
    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()>;
    /// Puts freshly loaded rows where they start; the others must stay where they are.
    ///
    /// # Errors
    /// What the device can fail with.
    fn begin(&mut self, fresh: &[usize]) -> Result<()>;
    /// One turn of every row.
    ///
    /// # Errors
    /// What the device can fail with.
    fn turn(&mut self) -> Result<()>;
    /// Which rows are through, given the turns that each has made (`None`: nobody sits there).
    ///
    /// # Errors
    /// What the device can fail with.
    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>>;
    /// The answer of a row that is through.
    ///
    /// # Errors
    /// What the device can fail with.
    fn answer(&mut self, at: usize, case: &Case, turns: usize) -> Result<Found>;
    /// Image-steps that a row makes in a turn, for the progress shown.
    fn steps_a_turn(&self) -> u64 {
        1
    }
    /// Whether free seats are taken at once, which pays where rows leave one by one; otherwise when all are free.
    fn refills(&self) -> bool {
        true
    }
}

/// Takes every case through the rows; the answers are in the order of the cases.
///
/// # Errors
/// What the device can fail with, and what `tell` returns.
pub fn drive(rows: &mut dyn Rows, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
    let mut found: Vec<Option<Found>> = cases.iter().map(|_| None).collect();
    let mut seats: Vec<Option<usize>> = vec![None; rows.batch()];
    let mut turns: Vec<Option<usize>> = vec![None; rows.batch()];
    let (mut next, mut done, mut image_steps) = (0, 0, 0u64);
    loop {
        if rows.refills() || seats.iter().all(Option::is_none) {
            let fresh: Vec<usize> = (0..seats.len()).filter(|&at| seats[at].is_none()).take(cases.len() - next).collect();
            for &at in &fresh {
                rows.load(at, cases[next], restart)?;
                (seats[at], turns[at]) = (Some(next), Some(0));
                next += 1;
            }
            if !fresh.is_empty() {
                rows.begin(&fresh)?;
            }
        }
        if seats.iter().all(Option::is_none) {
            break;
        }
        tell(done, image_steps)?;
        rows.turn()?;
        for made in turns.iter_mut().flatten() {
            *made += 1;
            image_steps += rows.steps_a_turn();
        }
        for at in rows.through(&turns)? {
            let case = seats[at].take().expect("only rows with a case can be through");
            let made = turns[at].take().expect("a seat that is taken counts its turns");
            found[case] = Some(rows.answer(at, cases[case], made)?);
            done += 1;
        }
    }
    Ok(found.into_iter().map(|f| f.expect("every case went through a row")).collect())
}
