//! The text form of lowered plans: a line a launch, with kernel, geometry, bytes and floating-point operations.
//! Must not know drivers: nothing here has run.

use std::fmt;

use super::lower::{Launch, Lowered, SCRATCH};

impl fmt::Display for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, launches) in &self.programs {
            writeln!(f, "{name}")?;
            for launch in launches {
                writeln!(f, "  {launch}")?;
            }
            let sum = |part: fn(&Launch) -> u64| launches.iter().map(part).sum::<u64>();
            let (bytes, flops) = (mega(sum(|l| l.work.bytes)), mega(sum(|l| l.work.flops)));
            writeln!(f, "  {} launches, {bytes} MB, {flops} MFLOP", launches.len())?;
        }
        let kernels: std::collections::BTreeSet<_> = self.programs.iter().flat_map(|(_, l)| l.iter().map(|l| &l.spec)).collect();
        let (scratch, rest) = (self.buffers[SCRATCH].bytes, self.buffers[SCRATCH + 1..].iter().map(|b| b.bytes).sum::<u64>());
        write!(f, "{} kernels, scratch {} MB, packed weights and tables {} MB", kernels.len(), mega(scratch), mega(rest))
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.dims.grid;
        let grid = [x, y, z].map(|n| n.to_string());
        let used = if z > 1 { 3 } else { 1 + usize::from(y > 1) };
        write!(f, "{:<28} {} <{}; {}", self.label, self.spec, grid[..used].join("x"), self.dims.block)?;
        if self.dims.shared > 0 {
            write!(f, "; {} B", self.dims.shared)?;
        }
        write!(f, "> {} MB", mega(self.work.bytes))?;
        if self.work.flops > 0 {
            write!(f, ", {} MFLOP", mega(self.work.flops))?;
        }
        Ok(())
    }
}

/// Millions, with three digits after the point.
fn mega(count: u64) -> String {
    format!("{:.3}", count as f64 / 1e6)
}
