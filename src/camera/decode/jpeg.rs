//! Is a JPEG whole? Walks every bit of its entropy-coded data, which decoders do not insist on: they fill
//! what is missing with grey, and a grey half has no defects.
//!
//! ```text
//! SOI --> tables, frame (SOF) --> scan (SOS): MCU, MCU, … padding --> RSTn, next scan or EOI
//! ```
//!
//! A picture is whole when every code is one of its tables, every block has at most 64 coefficients in the
//! range that 8-bit samples can give, every restart marker stands where it belongs, every scan ends with
//! less than a byte of padding directly before a marker, and at the end marker every coefficient of every
//! component was sent to its last bit. JPEG has no checksum: damage that keeps all of this is not seen.
//!
//! Baseline, extended and progressive pictures with Huffman codes are walked; no decoder here reads others.

use super::huffman::{Bits, Broken, Table};

/// Components of one picture.
const COMPONENTS_MAX: usize = 4;
/// Blocks of one MCU in a scan of several components.
const MCU_BLOCKS_MAX: usize = 10;
/// Largest magnitude of a dequantised coefficient of 8-bit samples; quantisation adds up to one step.
const COEFFICIENT_MAX: i32 = 1024;

type Outcome<T> = Result<T, Broken>;

const fn corrupt<T>(what: &'static str) -> Outcome<T> {
    Err(Broken::Corrupt(what))
}

struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    quantiser: usize,
    /// Blocks in a scan of this component alone.
    blocks_wide: usize,
    blocks_high: usize,
    /// Blocks in a row of whole MCUs.
    stride: usize,
    /// Bits of each coefficient that are still to come; `None` before its first scan.
    missing: [Option<u8>; 64],
    /// Progressive: which coefficients of each block are not zero, one bit each.
    nonzero: Vec<u64>,
}

#[derive(Default)]
struct Frame {
    progressive: bool,
    mcus_wide: usize,
    mcus_high: usize,
    components: Vec<Component>,
}

/// A component's part in one scan.
#[derive(Clone, Copy)]
struct Part {
    component: usize,
    dc: usize,
    ac: usize,
}

/// The band of coefficients and the bits of them that one scan sends.
#[derive(Clone, Copy)]
struct Band {
    first: usize,
    last: usize,
    /// Bits that were to come before this scan; 0: this is the first one.
    high: u8,
    low: u8,
}

/// Everything that markers have set so far.
#[derive(Default)]
struct Walk {
    frame: Option<Frame>,
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    quantisers: [Option<[i32; 64]>; 4],
    restart_every: usize,
}

/// Checks a picture from its first marker to its end marker; what follows is not part of it.
///
/// # Errors
/// It is cut off or damaged.
pub(super) fn check(bytes: &[u8]) -> Outcome<()> {
    let Some([0xff, 0xd8, ..]) = bytes.get(..) else { return corrupt("it does not begin as a JPEG") };
    let (mut walk, mut at) = (Walk::default(), 2);
    loop {
        let marker = marker(bytes, &mut at)?;
        if marker == 0xd9 {
            return walk.finish();
        }
        let body = segment(bytes, &mut at)?;
        match marker {
            0xc0..=0xc2 => walk.frame(body, marker == 0xc2)?,
            0xc4 => walk.huffman_tables(body)?,
            0xdb => walk.quantisation_tables(body)?,
            0xdd => walk.restart_every = usize::from(word(body, 0)?),
            0xda => at = walk.scan(body, bytes, at)?,
            0xc3 | 0xc5..=0xcf | 0xdc | 0xde | 0xdf => {
                return corrupt(
                    "it is a kind of JPEG that is not supported (lossless, arithmetic, hierarchical)",
                );
            }
            // Application data and comments.
            0xe0..=0xfe => {}
            _ => return corrupt("a marker stands where none belongs"),
        }
    }
}

/// The next marker, after its fill bytes.
fn marker(bytes: &[u8], at: &mut usize) -> Outcome<u8> {
    match bytes.get(*at) {
        None => return Err(Broken::Truncated),
        Some(0xff) => {}
        Some(_) => return corrupt("data stands where a marker belongs"),
    }
    let fill = bytes[*at..].iter().take_while(|b| **b == 0xff).count();
    *at += fill + 1;
    bytes.get(*at - 1).copied().ok_or(Broken::Truncated)
}

fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Outcome<&'a [u8]> {
    let rest = bytes.get(*at..).ok_or(Broken::Truncated)?;
    let [high, low, ..] = rest else { return Err(Broken::Truncated) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length < 2 {
        return corrupt("a segment has no length");
    }
    *at += length;
    rest.get(2..length).ok_or(Broken::Truncated)
}

const SHORT: Broken = Broken::Corrupt("a segment is too short");

fn byte(body: &[u8], at: usize) -> Outcome<u8> {
    body.get(at).copied().ok_or(SHORT)
}

fn word(body: &[u8], at: usize) -> Outcome<u16> {
    Ok(u16::from_be_bytes([byte(body, at)?, byte(body, at + 1)?]))
}

impl Walk {
    fn frame(&mut self, body: &[u8], progressive: bool) -> Outcome<()> {
        if self.frame.is_some() {
            return corrupt("it has two frames");
        }
        let (precision, height, width) = (byte(body, 0)?, word(body, 1)?, word(body, 3)?);
        let count = usize::from(byte(body, 5)?);
        if precision != 8 {
            return corrupt("its samples do not have 8 bits");
        }
        if width == 0 || height == 0 || count == 0 || count > COMPONENTS_MAX || body.len() != 6 + 3 * count {
            return corrupt("its frame has no size");
        }
        let mut components = vec![];
        for part in body[6..].chunks_exact(3) {
            let (h, v) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || part[2] > 3 {
                return corrupt("its frame names impossible sampling");
            }
            components.push(Component {
                id: part[0],
                h,
                v,
                quantiser: part[2].into(),
                blocks_wide: 0,
                blocks_high: 0,
                stride: 0,
                missing: [None; 64],
                nonzero: vec![],
            });
        }
        let h_max = components.iter().map(|c| c.h).max().unwrap_or(1);
        let v_max = components.iter().map(|c| c.v).max().unwrap_or(1);
        let (width, height) = (usize::from(width), usize::from(height));
        let (mcus_wide, mcus_high) = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        for c in &mut components {
            c.blocks_wide = (width * c.h).div_ceil(h_max).div_ceil(8);
            c.blocks_high = (height * c.v).div_ceil(v_max).div_ceil(8);
            c.stride = mcus_wide * c.h;
            if progressive {
                c.nonzero = vec![0; c.stride * mcus_high * c.v];
            }
        }
        self.frame = Some(Frame { progressive, mcus_wide, mcus_high, components });
        Ok(())
    }

    fn huffman_tables(&mut self, mut body: &[u8]) -> Outcome<()> {
        while !body.is_empty() {
            let (class, id) = (body[0] >> 4, usize::from(body[0] & 15));
            let counts = body.get(1..17).ok_or(SHORT)?;
            let total: usize = counts.iter().map(|c| usize::from(*c)).sum();
            let symbols = body.get(17..17 + total).ok_or(SHORT)?;
            let tables = if class == 0 { &mut self.dc } else { &mut self.ac };
            let table = Table::new(counts, symbols).filter(|_| class < 2 && id < 4);
            let Some(table) = table else { return corrupt("a table of codes is impossible") };
            tables[id] = Some(table);
            body = &body[17 + total..];
        }
        Ok(())
    }

    fn quantisation_tables(&mut self, mut body: &[u8]) -> Outcome<()> {
        while !body.is_empty() {
            let (wide, id) = (body[0] >> 4, usize::from(body[0] & 15));
            if wide > 1 || id > 3 {
                return corrupt("a table of steps is impossible");
            }
            let mut steps = [0; 64];
            for (i, step) in steps.iter_mut().enumerate() {
                *step = if wide == 1 { word(body, 1 + 2 * i)?.into() } else { byte(body, 1 + i)?.into() };
            }
            self.quantisers[id] = Some(steps);
            body = &body[65 + 64 * usize::from(wide)..];
        }
        Ok(())
    }

    /// One scan; returns where the marker after its data stands.
    fn scan(&mut self, body: &[u8], bytes: &[u8], at: usize) -> Outcome<usize> {
        let Some(frame) = &mut self.frame else { return corrupt("its data comes before its frame") };
        let count = usize::from(byte(body, 0)?);
        if count == 0 || count > frame.components.len() || body.len() != 4 + 2 * count {
            return corrupt("a scan has no components");
        }
        let mut parts = vec![];
        for pair in body[1..=2 * count].chunks_exact(2) {
            let component = frame.components.iter().position(|c| c.id == pair[0]);
            let Some(component) = component else { return corrupt("a scan names an unknown component") };
            parts.push(Part { component, dc: usize::from(pair[1] >> 4), ac: usize::from(pair[1] & 15) });
        }
        let rest = &body[1 + 2 * count..];
        let (first, last) = (usize::from(rest[0]), usize::from(rest[1]));
        let band = if frame.progressive {
            Band { first, last, high: rest[2] >> 4, low: rest[2] & 15 }
        } else {
            Band { first: 0, last: 63, high: 0, low: 0 }
        };
        let mixed = frame.progressive && first == 0 && last != 0;
        if band.last > 63 || band.first > band.last || mixed || (band.first > 0 && count > 1) || band.low > 13
        {
            return corrupt("a scan sends an impossible band");
        }
        for part in &parts {
            let missing = &mut frame.components[part.component].missing[band.first..=band.last];
            let expected = (band.high > 0).then_some(band.high);
            if missing.iter().any(|m| *m != expected) {
                return corrupt("a scan is missing, or comes twice");
            }
            missing.fill(Some(band.low));
        }
        let mut scan = Scan {
            dc: &self.dc,
            ac: &self.ac,
            quantisers: &self.quantisers,
            bits: Bits::new(bytes, at),
            band,
            progressive: frame.progressive,
            previous: [0; COMPONENTS_MAX],
            zero_blocks: 0,
        };
        scan.run(frame, &parts, self.restart_every)
    }

    /// Everything that the frame has was sent.
    fn finish(&self) -> Outcome<()> {
        let Some(frame) = &self.frame else { return Err(Broken::Truncated) };
        let whole = frame.components.iter().all(|c| c.missing.iter().all(|m| *m == Some(0)));
        if whole { Ok(()) } else { Err(Broken::Truncated) }
    }
}

struct Scan<'a> {
    dc: &'a [Option<Table>; 4],
    ac: &'a [Option<Table>; 4],
    quantisers: &'a [Option<[i32; 64]>; 4],
    bits: Bits<'a>,
    band: Band,
    progressive: bool,
    /// The DC value before, by component.
    previous: [i32; COMPONENTS_MAX],
    /// Progressive: blocks to come whose band is zero.
    zero_blocks: u32,
}

impl Scan<'_> {
    fn run(&mut self, frame: &mut Frame, parts: &[Part], restart_every: usize) -> Outcome<usize> {
        let single = match parts {
            [part] => Some(*part),
            _ => None,
        };
        let blocks: usize =
            parts.iter().map(|p| frame.components[p.component].h * frame.components[p.component].v).sum();
        if single.is_none() && blocks > MCU_BLOCKS_MAX {
            return corrupt("a scan has too many blocks in one unit");
        }
        let (wide, high) = single.map_or((frame.mcus_wide, frame.mcus_high), |part| {
            let c = &frame.components[part.component];
            (c.blocks_wide, c.blocks_high)
        });
        let mut restarts = 0;
        for unit in 0..wide * high {
            if restart_every > 0 && unit > 0 && unit % restart_every == 0 {
                self.end()?;
                self.bits.restart(restarts)?;
                restarts = (restarts + 1) % 8;
                self.previous = [0; COMPONENTS_MAX];
            }
            let (x, y) = (unit % wide, unit / wide);
            if let Some(part) = single {
                self.block(frame, part, x, y)?;
            } else {
                for part in parts {
                    let (h, v) = (frame.components[part.component].h, frame.components[part.component].v);
                    for i in 0..h * v {
                        self.block(frame, *part, x * h + i % h, y * v + i / h)?;
                    }
                }
            }
        }
        self.end()?;
        Ok(self.bits.at_marker())
    }

    /// The end of a scan or restart interval: no run of zero blocks goes on, and only padding is left.
    fn end(&mut self) -> Outcome<()> {
        if std::mem::take(&mut self.zero_blocks) > 0 {
            return corrupt("a run of empty blocks goes beyond its scan");
        }
        self.bits.end()
    }

    fn block(&mut self, frame: &mut Frame, part: Part, x: usize, y: usize) -> Outcome<()> {
        let component = &mut frame.components[part.component];
        let Some(steps) = &self.quantisers[component.quantiser] else {
            return corrupt("a table of steps is missing");
        };
        if !self.progressive {
            self.dc_value(part, steps[0])?;
            return self.sequential(part, steps);
        }
        let at = y * component.stride + x;
        let Some(nonzero) = component.nonzero.get_mut(at) else { return corrupt("a block lies outside") };
        match (self.band.first, self.band.high) {
            (0, 0) => self.dc_value(part, steps[0]),
            (0, _) => self.bits.take(1).map(|_| ()),
            (_, 0) => self.band_first(part, steps, nonzero),
            _ => self.band_again(part, nonzero),
        }
    }

    fn dc_value(&mut self, part: Part, step: i32) -> Outcome<()> {
        let Some(table) = &self.dc[part.dc & 3] else { return corrupt("a table of codes is missing") };
        let size = self.bits.symbol(table)?;
        if size > 11 {
            return corrupt("a code is impossible");
        }
        let value = self.previous[part.component] + self.bits.signed(size.into())?;
        self.previous[part.component] = value;
        in_range(value, step, self.band.low)
    }

    fn sequential(&mut self, part: Part, steps: &[i32; 64]) -> Outcome<()> {
        let Some(table) = &self.ac[part.ac & 3] else { return corrupt("a table of codes is missing") };
        let mut k = 1;
        while k < 64 {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), symbol & 15);
            match (run, size) {
                (15, 0) => k += 16,
                (0, 0) => return Ok(()),
                (_, 0) => return corrupt("a code is impossible"),
                _ => {
                    k += run;
                    let Some(step) = steps.get(k) else {
                        return corrupt("a block has too many coefficients");
                    };
                    in_range(self.bits.signed(size.into())?, *step, 0)?;
                    k += 1;
                }
            }
        }
        if k > 64 {
            return corrupt("a block has too many coefficients");
        }
        Ok(())
    }

    /// The first bits of a band of a progressive picture.
    fn band_first(&mut self, part: Part, steps: &[i32; 64], nonzero: &mut u64) -> Outcome<()> {
        if self.zero_blocks > 0 {
            self.zero_blocks -= 1;
            return Ok(());
        }
        let Some(table) = &self.ac[part.ac & 3] else { return corrupt("a table of codes is missing") };
        let mut k = self.band.first;
        while k <= self.band.last {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), symbol & 15);
            if size == 0 && run < 15 {
                self.zero_blocks = (1 << run) + self.bits.take(run as u32)? - 1;
                return Ok(());
            }
            k += run;
            if size > 0 {
                if k > self.band.last {
                    return corrupt("a block has too many coefficients");
                }
                in_range(self.bits.signed(size.into())?, steps[k], self.band.low)?;
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if k > self.band.last + 1 {
            return corrupt("a block has too many coefficients");
        }
        Ok(())
    }

    /// One more bit of a band: of those that are not zero, and of those that become so.
    fn band_again(&mut self, part: Part, nonzero: &mut u64) -> Outcome<()> {
        let Band { first, last, .. } = self.band;
        let mut k = first;
        if self.zero_blocks == 0 {
            let Some(table) = &self.ac[part.ac & 3] else { return corrupt("a table of codes is missing") };
            while k <= last {
                let symbol = self.bits.symbol(table)?;
                let (mut run, size) = (u32::from(symbol >> 4), symbol & 15);
                if size == 0 && run < 15 {
                    self.zero_blocks = (1 << run) + self.bits.take(run)?;
                    break;
                }
                if size > 1 {
                    return corrupt("a code is impossible");
                }
                if size == 1 {
                    self.bits.take(1)?;
                }
                // Skips `run` zeros; what is not zero in between gets its bit.
                loop {
                    if k > last {
                        return corrupt("a block has too many coefficients");
                    }
                    if *nonzero >> k & 1 == 1 {
                        self.bits.take(1)?;
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if size == 1 {
                    *nonzero |= 1 << k;
                }
                k += 1;
            }
        }
        if self.zero_blocks > 0 {
            for k in k..=last {
                if *nonzero >> k & 1 == 1 {
                    self.bits.take(1)?;
                }
            }
            self.zero_blocks -= 1;
        }
        Ok(())
    }
}

fn in_range(value: i32, step: i32, low: u8) -> Outcome<()> {
    let magnitude = (i64::from(value).abs() * i64::from(step)) << low;
    if magnitude > i64::from(COEFFICIENT_MAX) + (i64::from(step) << low) {
        return corrupt("a coefficient is larger than any picture's");
    }
    Ok(())
}
