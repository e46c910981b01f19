//! The pickle machine: a stream of bytes in, a flat list of plain values out. Nothing is imported, nothing is called.
//! Must not know tensors or PyTorch: a global is a name, a call is a record of what the file asked for.
//! Format: protocols 2 to 5 of <https://docs.python.org/3/library/pickletools.html>.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Take};

/// Values that one pickle may hold, and marks in its memo: a hundred times those of a large checkpoint, at the worst half
/// a gigabyte. Floats and booleans share one value, so that a long history of losses counts for nothing.
const MAX_VALUES: usize = 1 << 22;
/// Bytes of the longest line; of the longest global that is put together from parts, each of which is read but once.
const MAX_LINE: u64 = 4096;
const MAX_GLOBAL: usize = 256;

/// Position of a value in its [`Pickle`]. Values name each other by position, so neither depth nor cycles need a stack.
pub(super) type Id = u32;

/// A value, as far as a reader of weights may ask for it.
#[derive(Debug)]
pub(super) enum Value {
    /// Its content does not matter: none, booleans, floats, byte strings.
    Opaque,
    /// An integer of at most 64 bits.
    Int(i64),
    /// A longer integer, little-endian two's complement.
    Long(Vec<u8>),
    /// A string.
    Text(String),
    /// A tuple or a frozen set.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dict in the order of its making; a key may come twice, the later one counts.
    Dict(Vec<(Id, Id)>),
    /// `module.name`, never looked up.
    Global(String),
    /// What a call would have made, never called.
    Object(Box<Object>),
    /// Something outside the pickle, by the description that it goes by.
    Persistent(Id),
}

/// The record of a call and of what was then put into its result.
#[derive(Debug)]
pub(super) struct Object {
    /// What was to be called.
    pub callee: Id,
    /// Its arguments.
    pub args: Id,
    /// Pairs that were set, as in a dict.
    pub pairs: Vec<(Id, Id)>,
    /// The attributes it was given.
    pub state: Option<Id>,
}

/// One unpickled value and all that it is made of.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    /// The value that was pickled.
    pub root: Id,
}

impl Pickle {
    /// Reads one pickle and leaves `input` behind its last byte.
    ///
    /// # Errors
    /// `InvalidData` where the bytes are no pickle of the protocols 2 to 5, `UnexpectedEof` where they end too early.
    pub fn read(input: &mut Take<impl BufRead>) -> io::Result<Pickle> {
        let machine = Machine { input, values: vec![Value::Opaque], stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        machine.run()
    }

    /// The value at `id`.
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// All values, in the order of their making.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

/// The one opaque value that stands for all.
const OPAQUE: Id = 0;

struct Machine<'a, R> {
    input: &'a mut Take<R>,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<R: BufRead> Machine<'_, R> {
    fn run(mut self) -> io::Result<Pickle> {
        loop {
            let op = self.byte()?;
            if op == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { values: self.values, root });
            }
            if !self.literal(op)? && !self.container(op)? && !self.machinery(op)? {
                return Err(bad(format!("opcode {op:#04x} is not one of those that PyTorch writes")));
            }
        }
    }

    /// Opcodes that carry their value with them. False where `op` is none of them.
    fn literal(&mut self, op: u8) -> io::Result<bool> {
        match op {
            // NONE, NEWTRUE, NEWFALSE
            b'N' | 0x88 | 0x89 => self.stack.push(OPAQUE),
            // BININT, BININT1, BININT2
            b'J' => self.int_of(4)?,
            b'K' => self.small_int(1)?,
            b'M' => self.small_int(2)?,
            // LONG1, LONG4
            0x8a => self.int_of_length(1)?,
            0x8b => self.int_of_length(4)?,
            // BINFLOAT
            b'G' => self.skip_value(8)?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8; SHORT_BINSTRING and BINSTRING are the strings of Python 2
            0x8c | b'U' => self.text_of_length(1)?,
            b'X' | b'T' => self.text_of_length(4)?,
            0x8d => self.text_of_length(8)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.blob_of_length(1)?,
            b'B' => self.blob_of_length(4)?,
            0x8e | 0x96 => self.blob_of_length(8)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes that make and fill tuples, lists, dicts and sets.
    fn container(&mut self, op: u8) -> io::Result<bool> {
        match op {
            // EMPTY_TUPLE, EMPTY_LIST, EMPTY_SET, EMPTY_DICT
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' | 0x8f => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            // TUPLE1, TUPLE2, TUPLE3
            0x85..=0x87 => {
                let start = self.height_after(usize::from(op - 0x84))?;
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items))?;
            }
            // TUPLE, FROZENSET
            b't' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items))?;
            }
            // APPEND, APPENDS, ADDITEMS
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend(items)?;
            }
            // SETITEM, SETITEMS
            b's' => {
                let start = self.height_after(2)?;
                let items = self.stack.split_off(start);
                self.set_pairs(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_pairs(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes about the stack, the memo, names and calls.
    fn machinery(&mut self, op: u8) -> io::Result<bool> {
        match op {
            // PROTO, FRAME
            0x80 => {
                let version = self.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(bad(format!("pickle protocol {version}; 2 to 5 are known")));
                }
            }
            0x95 => self.skip(8)?,
            // MARK, POP, POP_MARK, DUP
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.stack.push(self.top()?),
            // MEMOIZE, BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            0x94 => self.put(self.memo.len() as u32)?,
            b'q' => {
                let key = self.unsigned(1)?;
                self.put(key as u32)?;
            }
            b'r' => {
                let key = self.unsigned(4)?;
                self.put(key as u32)?;
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Value::Global(name))?;
            }
            0x93 => self.stack_global()?,
            // REDUCE, NEWOBJ, NEWOBJ_EX, BUILD, BINPERSID
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            b'b' => {
                let state = self.pop()?;
                let target = self.top()?;
                if let Value::Object(object) = &mut self.values[target as usize] {
                    object.state = Some(state);
                }
            }
            b'Q' => {
                let description = self.pop()?;
                self.push(Value::Persistent(description))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn call(&mut self) -> io::Result<()> {
        let args = self.pop()?;
        let callee = self.pop()?;
        self.push(Value::Object(Box::new(Object { callee, args, pairs: Vec::new(), state: None })))
    }

    fn stack_global(&mut self) -> io::Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.values[module as usize], &self.values[name as usize]) {
            (Value::Text(m), Value::Text(n)) if m.len() + n.len() <= MAX_GLOBAL => {
                let full = format!("{m}.{n}");
                self.push(Value::Global(full))
            }
            (Value::Text(_), Value::Text(_)) => {
                self.stack.push(OPAQUE);
                Ok(())
            }
            _ => Err(bad("a global whose name is no text")),
        }
    }

    fn extend(&mut self, items: Vec<Id>) -> io::Result<()> {
        let target = self.top()?;
        match &mut self.values[target as usize] {
            Value::List(list) => list.extend(items),
            // Lists and queues of unknown classes.
            Value::Object(_) => {}
            _ => return Err(bad("items appended to a value that is no list")),
        }
        Ok(())
    }

    fn set_pairs(&mut self, items: &[Id]) -> io::Result<()> {
        let target = self.top()?;
        let pairs = match &mut self.values[target as usize] {
            Value::Dict(pairs) => pairs,
            Value::Object(object) => &mut object.pairs,
            _ => return Err(bad("items set in a value that is no dict")),
        };
        let (both, rest) = items.as_chunks();
        if !rest.is_empty() {
            return Err(bad("a key without a value"));
        }
        pairs.extend(both.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn push(&mut self, value: Value) -> io::Result<()> {
        if self.values.len() == MAX_VALUES {
            return Err(bad(format!("more than {MAX_VALUES} values in its pickle")));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// The lowest height that the stack may fall to: that of the last mark.
    fn height_after(&self, pops: usize) -> io::Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.len().checked_sub(pops).filter(|&h| h >= floor).ok_or_else(|| bad("a value is taken from an empty stack"))
    }

    fn top(&self) -> io::Result<Id> {
        Ok(self.stack[self.height_after(1)?])
    }

    fn pop(&mut self) -> io::Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn since_mark(&mut self) -> io::Result<Vec<Id>> {
        let start = self.marks.pop().ok_or_else(|| bad("the end of a group that was never begun"))?;
        Ok(self.stack.split_off(start))
    }

    fn put(&mut self, key: u32) -> io::Result<()> {
        if self.memo.len() == MAX_VALUES {
            return Err(bad(format!("more than {MAX_VALUES} values in its memo")));
        }
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    fn recall(&mut self, width: u64) -> io::Result<()> {
        let key = self.unsigned(width)? as u32;
        let id = self.memo.get(&key).ok_or_else(|| bad(format!("value {key} of the memo was never stored")))?;
        self.stack.push(*id);
        Ok(())
    }
}

/// What the machine reads.
impl<R: BufRead> Machine<'_, R> {
    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.unsigned(1)? as u8)
    }

    /// An unsigned little-endian number of at most 8 bytes.
    fn unsigned(&mut self, width: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes[..width as usize])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next `count` bytes; memory grows with what is really there.
    fn bytes(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let got = self.input.by_ref().take(count).read_to_end(&mut bytes)?;
        if got as u64 == count { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let got = io::copy(&mut self.input.by_ref().take(count), &mut io::sink())?;
        if got == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn skip_value(&mut self, count: u64) -> io::Result<()> {
        self.skip(count)?;
        self.stack.push(OPAQUE);
        Ok(())
    }

    fn blob_of_length(&mut self, width: u64) -> io::Result<()> {
        let count = self.unsigned(width)?;
        self.skip_value(count)
    }

    fn text_of_length(&mut self, width: u64) -> io::Result<()> {
        let count = self.unsigned(width)?;
        let text = String::from_utf8(self.bytes(count)?).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        self.push(Value::Text(text))
    }

    /// An unsigned integer of one or two bytes.
    fn small_int(&mut self, width: u64) -> io::Result<()> {
        let value = self.unsigned(width)?;
        self.push(Value::Int(value as i64))
    }

    fn int_of_length(&mut self, width: u64) -> io::Result<()> {
        let count = self.unsigned(width)?;
        self.int_of(count)
    }

    /// A signed little-endian integer of `count` bytes.
    fn int_of(&mut self, count: u64) -> io::Result<()> {
        let bytes = self.bytes(count)?;
        let value = if bytes.len() > 8 {
            Value::Long(bytes)
        } else {
            let fill = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
            let mut wide = [fill; 8];
            wide[..bytes.len()].copy_from_slice(&bytes);
            Value::Int(i64::from_le_bytes(wide))
        };
        self.push(value)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => String::from_utf8(line).map_err(|_| bad("a global whose name is no text")),
            _ => Err(bad("a global whose name does not end")),
        }
    }
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
