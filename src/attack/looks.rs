//! When a loop that leaves its device alone looks at which rows are through: soon at first, then every few turns.
//! Must not know any attack; a row that is through stays as it is, so that looking late changes no result.

/// Turns between two looks at most. A look waits for the device; a turn of an image that is through costs a forward pass.
const MOST: usize = 8;

/// Counts turns since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    since: usize,
}

impl Looks {
    /// Whether to look after one more turn, given the turns of the rows: after 1, 2, 3, 5, 9 turns of the youngest, later every
    /// eighth time. Most images that break do so at once.
    pub fn due(&mut self, turns: &[Option<usize>]) -> bool {
        let youngest = turns.iter().flatten().min().copied().unwrap_or(0);
        self.since += 1;
        let due = self.since >= (youngest / 2).clamp(1, MOST);
        if due {
            self.since = 0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soon_at_first_then_every_eighth_time() {
        let mut looks = Looks::default();
        let when: Vec<usize> = (1..60).filter(|&turn| looks.due(&[None, Some(turn)])).collect();
        assert_eq!(when[..5], [1, 2, 3, 5, 9]);
        assert!(when.windows(2).skip(5).all(|w| w[1] - w[0] <= 8), "{when:?}");
        assert_eq!(when[when.len() - 1] - when[when.len() - 2], 8);
    }
}
