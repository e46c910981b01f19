//! A compiled kernel: the bytes that a device loads, and what the compiler's log says about them.
//! Must not know who compiles, nor where it is kept.

/// Warnings that say that tensor-core instructions of a kernel wait for each other, which no result shows.
const SERIALISED: [&str; 5] = ["C7507", "C7508", "C7510", "C7511", "C7517"];

/// What comes out of a compiler. One image holds every entry of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Code for one architecture.
    pub cubin: Vec<u8>,
    /// What the compiler said, the assembler's account of resources included.
    pub log: String,
}

/// What one entry takes of a multiprocessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread stores because registers ran out, counted once for each instruction.
    pub spill_stores: u32,
    /// Bytes that it loads again.
    pub spill_loads: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
}

impl Image {
    /// What `entry` takes, if the log says so.
    pub fn usage(&self, entry: &str) -> Option<Usage> {
        let mut found = None;
        let mut current = "";
        for line in self.log.lines() {
            if let Some(name) = between(line, "Compiling entry function '", "'") {
                current = name;
            }
            if current != entry {
                continue;
            }
            let usage: &mut Usage = found.get_or_insert_default();
            // A function that was not inlined reports after the entry that calls it.
            if line.contains("bytes stack frame") {
                usage.stack = usage.stack.max(number(line, "stack frame"));
                usage.spill_stores += number(line, "spill stores");
                usage.spill_loads += number(line, "spill loads");
            }
            if line.contains(" registers") {
                usage.registers = number(line, "registers");
                usage.shared = number(line, "smem");
            }
        }
        found
    }

    /// Lines of the log that say that asynchronous matrix instructions were serialised.
    pub fn serialised(&self) -> Vec<&str> {
        self.log.lines().filter(|line| SERIALISED.iter().any(|code| line.contains(code))).collect()
    }
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.split_once(start)?.1.split_once(end).map(|(name, _)| name)
}

/// The number in the part of a list that names `what`: 24 of `Used 24 registers, 0 bytes smem`.
fn number(line: &str, what: &str) -> u32 {
    let part = line.split([',', ':']).find(|part| part.contains(what)).unwrap_or_default();
    part.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_one' for 'sm_90a'
ptxas info    : Function properties for a_one
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 1056 bytes smem, 400 bytes cmem[0]
ptxas info    : Function properties for called
    16 bytes stack frame, 20 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'a_two' for 'sm_90a'
ptxas info    : Function properties for a_two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 388 bytes cmem[0]
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to .. in function 'a_two'
";

    #[test]
    fn log_is_read_entry_by_entry() {
        let image = Image { cubin: vec![], log: LOG.into() };
        let one = Usage { registers: 255, spill_stores: 24, spill_loads: 12, stack: 16, shared: 1056 };
        assert_eq!(image.usage("a_one"), Some(one));
        assert_eq!(image.usage("a_two"), Some(Usage { registers: 16, ..Usage::default() }));
        assert_eq!(image.usage("a"), None, "part of a name is no entry");
        assert_eq!(image.serialised().len(), 1);
    }
}
