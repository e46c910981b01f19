//! Copies between ordinary memory of the host and the card, through page-locked pieces, so that host and card work at once.
//! Must not know what is copied.

use super::handles::{Done, Mark, Pinned, Stream};

/// Size of a piece: long enough for the full speed of the bus, short enough that copying in and out overlaps.
const PIECE: usize = 4 << 20;
/// Pieces on the way to the card.
const PIECES: usize = 4;
/// Copies begin at multiples of this.
const ALIGN: usize = 256;

/// Page-locked memory, and when the card is done with it.
struct Piece {
    memory: Pinned,
    passed: Mark,
}

impl Piece {
    fn new() -> Done<Self> {
        Ok(Piece { memory: Pinned::new(PIECE)?, passed: Mark::untimed()? })
    }
}

/// To the card: a ring of pieces, filled one after the other.
pub(super) struct Up {
    pieces: Vec<Piece>,
    current: usize,
    /// Bytes of the current piece that are on their way.
    used: usize,
}

impl Up {
    pub fn new() -> Done<Self> {
        let pieces = (0..PIECES).map(|_| Piece::new()).collect::<Done<_>>()?;
        Ok(Up { pieces, current: 0, used: 0 })
    }

    /// Asks for a copy; `src` may change once this returns.
    pub fn send(&mut self, dst: u64, src: &[u8], stream: &Stream) -> Done<()> {
        let mut sent = 0;
        while sent < src.len() {
            if self.used >= PIECE {
                self.advance(stream)?;
            }
            let bytes = (PIECE - self.used).min(src.len() - sent);
            let part = &src[sent..sent + bytes];
            self.pieces[self.current].memory.send(self.used, part, dst + sent as u64, stream)?;
            self.used += bytes.next_multiple_of(ALIGN);
            sent += bytes;
        }
        Ok(())
    }

    /// To the next piece, once the card is done with what it held.
    fn advance(&mut self, stream: &Stream) -> Done<()> {
        self.pieces[self.current].passed.record(stream)?;
        let next = (self.current + 1) % PIECES;
        self.pieces[next].passed.wait()?;
        (self.current, self.used) = (next, 0);
        Ok(())
    }
}

/// From the card: one piece is read while the other is filled.
pub(super) struct Down {
    pieces: [Piece; 2],
}

impl Down {
    pub fn new() -> Done<Self> {
        Ok(Down { pieces: [Piece::new()?, Piece::new()?] })
    }

    /// Fills `dst`, after all work of the stream so far.
    pub fn fetch(&mut self, src: u64, dst: &mut [u8], stream: &Stream) -> Done<()> {
        let len = dst.len();
        self.ask(src, 0, len, stream)?;
        for at in (0..len).step_by(PIECE) {
            self.ask(src, at + PIECE, len, stream)?;
            let piece = &self.pieces[at / PIECE % 2];
            piece.passed.wait()?;
            piece.memory.read(&mut dst[at..len.min(at + PIECE)]);
        }
        Ok(())
    }

    /// Asks for the piece that begins at byte `at` of `len`, if there is one.
    fn ask(&mut self, src: u64, at: usize, len: usize, stream: &Stream) -> Done<()> {
        if at >= len {
            return Ok(());
        }
        let piece = &mut self.pieces[at / PIECE % 2];
        piece.memory.fetch(src + at as u64, PIECE.min(len - at), stream)?;
        piece.passed.record(stream)
    }
}
