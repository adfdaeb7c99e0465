//! The bits of a JPEG's entropy-coded data, and the Huffman codes in them.

use std::fmt;

/// Codes of so many bits are found by one look; longer ones are rare.
const LOOK_BITS: u32 = 9;

/// What is wrong with a JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It ends before its last block, or before its end marker.
    Truncated,
    /// Its data contradicts itself; the words say where.
    Corrupt(&'static str),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("it is cut off before its end"),
            Self::Corrupt(what) => write!(f, "its data is damaged: {what}"),
        }
    }
}

/// A table of codes.
pub(super) struct Table {
    /// By the next [`LOOK_BITS`] bits: length of the code, its symbol; length 0: a longer code.
    look: Vec<(u8, u8)>,
    /// By length: the first code that is too large, shifted to 16 bits.
    end: [u32; 17],
    /// By length: index of the symbol of the first code, less that code.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// A table from the numbers of codes of 1 to 16 bits and their symbols; `None` for codes that overflow.
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Option<Self> {
        let (mut code, mut index) = (0u32, 0usize);
        let mut table = Self {
            look: vec![(0, 0); 1 << LOOK_BITS],
            end: [0; 17],
            offset: [0; 17],
            symbols: symbols.to_vec(),
        };
        for bits in 1..=16u32 {
            table.offset[bits as usize] = index as i32 - code as i32;
            for _ in 0..*counts.get(bits as usize - 1)? {
                if code >> bits > 0 {
                    return None;
                }
                if bits <= LOOK_BITS {
                    let shift = LOOK_BITS - bits;
                    let place = (code << shift) as usize;
                    table.look.get_mut(place..place + (1 << shift))?.fill((bits as u8, *symbols.get(index)?));
                }
                code += 1;
                index += 1;
            }
            table.end[bits as usize] = code << (16 - bits);
            code <<= 1;
        }
        Some(table)
    }
}

/// Reads the data of one scan, bit by bit.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to read; at the end of the data, its marker.
    at: usize,
    /// The bits that were read and not taken, the next one highest.
    store: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Begins at a byte of the picture.
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, store: 0, count: 0 }
    }

    /// Reads until there are more than 48 bits, or the data ends at a marker or with the file.
    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match self.bytes.get(self.at..) {
                Some([0xff, 0x00, ..]) => {
                    self.at += 2;
                    0xff
                }
                Some([0xff, ..] | []) | None => return,
                Some([byte, ..]) => {
                    self.at += 1;
                    *byte
                }
            };
            self.store |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next `count` bits (at most 16) as a number.
    ///
    /// # Errors
    /// The data ends before.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, Broken> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < count {
            self.fill();
            if self.count < count {
                return Err(Broken::Truncated);
            }
        }
        let value = (self.store >> (64 - count)) as u32;
        self.store <<= count;
        self.count -= count;
        Ok(value)
    }

    /// A value of `size` bits with its sign, as coefficients are coded.
    ///
    /// # Errors
    /// The data ends before.
    pub(super) fn signed(&mut self, size: u32) -> Result<i32, Broken> {
        let value = self.take(size)? as i32;
        Ok(if size > 0 && value < 1 << (size - 1) { value - (1 << size) + 1 } else { value })
    }

    /// The symbol of the next code.
    ///
    /// # Errors
    /// The data ends before, or there is no such code.
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Broken> {
        if self.count < 16 {
            self.fill();
        }
        let (bits, symbol) = table.look[(self.store >> (64 - LOOK_BITS)) as usize];
        if bits > 0 {
            self.take(bits.into())?;
            return Ok(symbol);
        }
        let next = (self.store >> 48) as u32;
        let found = (LOOK_BITS + 1..=16).find(|bits| next < table.end[*bits as usize]);
        let Some(bits) = found else {
            let few = self.count < 16;
            return Err(if few {
                Broken::Truncated
            } else {
                Broken::Corrupt("a code is in none of its tables")
            });
        };
        let code = self.take(bits)? as i32;
        let symbol = usize::try_from(code + table.offset[bits as usize]).ok();
        let symbol = symbol.and_then(|at| table.symbols.get(at).copied());
        symbol.ok_or(Broken::Corrupt("a code is in none of its tables"))
    }

    /// The end of the data: less than a byte of padding is left, all ones as the standard says or, as some
    /// cameras do, all zeros; then a marker.
    ///
    /// # Errors
    /// There is more, or the file ends here.
    pub(super) fn end(&mut self) -> Result<(), Broken> {
        self.fill();
        if self.count >= 8 {
            return Err(Broken::Corrupt("it has more data than blocks"));
        }
        let padding = self.take(self.count)?;
        if padding != 0 && (padding + 1) & padding != 0 {
            return Err(Broken::Corrupt("it has more data than blocks"));
        }
        match self.bytes.get(self.at..) {
            Some([0xff, _, ..]) => Ok(()),
            _ => Err(Broken::Truncated),
        }
    }

    /// The restart marker with this number.
    ///
    /// # Errors
    /// Another marker stands here.
    pub(super) fn restart(&mut self, number: u8) -> Result<(), Broken> {
        let fill =
            self.bytes.get(self.at + 1..).unwrap_or_default().iter().take_while(|b| **b == 0xff).count();
        self.at += 1 + fill;
        match self.bytes.get(self.at) {
            Some(marker) if *marker == 0xd0 + number => {
                self.at += 1;
                Ok(())
            }
            Some(0xd9) | None => Err(Broken::Truncated),
            Some(_) => Err(Broken::Corrupt("a restart marker is missing")),
        }
    }

    /// Where the marker after the data stands; call it after `end`.
    pub(super) const fn at_marker(&self) -> usize {
        self.at
    }
}
