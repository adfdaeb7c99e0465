//! Writes GGUF version 3: header first, then the tensors one after the other, never two in memory.

use crate::ggml::GgmlType;
use crate::gguf::Value;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Alignment of tensor bytes; the format's default.
const ALIGNMENT: u64 = 32;
const BUFFER_BYTES: usize = 1 << 20;

/// The header of a file that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewFile {
    /// Keys and values, in the order of the file.
    pub metadata: Vec<(String, Value)>,
    /// In the order of the file.
    pub tensors: Vec<NewTensor>,
}

/// One tensor of it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTensor {
    /// As the loader asks for it, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Rows first, as `TensorInfo::shape`.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub dtype: GgmlType,
}

impl NewTensor {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.elements() / self.dtype.block() * self.dtype.block_bytes()
    }
}

impl NewFile {
    /// Magic, counts, metadata, tensor table and the padding behind them.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        self.metadata.iter().for_each(|(key, value)| put_pair(&mut out, key, value));
        let mut offset = 0u64;
        for t in &self.tensors {
            put_text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
            out.extend(t.dtype.number().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + t.bytes() as u64).next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        out
    }

    /// Writes the file; `fill` writes the bytes of tensor `i`, all of them.
    ///
    /// # Errors
    /// The disk's, or `InvalidData` when `fill` wrote more or less than the tensor has.
    pub fn write(
        &self,
        path: &Path,
        fill: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.write_to(&mut File::create(path)?, fill)
    }

    /// As `write`, into a file that is open and empty, or into memory.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_to(
        &self,
        to: &mut impl Write,
        mut fill: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = Counted { to: BufWriter::with_capacity(BUFFER_BYTES, to), bytes: 0 };
        out.write_all(&self.header())?;
        for (i, t) in self.tensors.iter().enumerate() {
            let start = out.bytes;
            fill(i, &mut out)?;
            let wrote = out.bytes - start;
            if wrote != t.bytes() as u64 {
                let why = format!("tensor {}: {} bytes expected, {wrote} written", t.name, t.bytes());
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let pad = wrote.next_multiple_of(ALIGNMENT) - wrote;
            out.write_all(&[0; ALIGNMENT as usize][..pad as usize])?;
        }
        out.to.flush()
    }
}

struct Counted<W: Write> {
    to: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// One key with its value, as a header holds them one after the other.
pub fn put_pair(out: &mut Vec<u8>, key: &str, value: &Value) {
    put_text(out, key);
    out.extend(kind(value).to_le_bytes());
    put(out, value);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The narrow kinds that llama.cpp's converter writes; `gguf::Value` has widened them.
fn kind(value: &Value) -> u32 {
    match value {
        Value::Uint(n) if u32::try_from(*n).is_ok() => 4,
        Value::Uint(_) => 10,
        Value::Int(n) if i32::try_from(*n).is_ok() => 5,
        Value::Int(_) => 11,
        Value::Float(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::List(_) => 9,
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Uint(n) => match u32::try_from(*n) {
            Ok(n) => out.extend(n.to_le_bytes()),
            Err(_) => out.extend(n.to_le_bytes()),
        },
        Value::Int(n) => match i32::try_from(*n) {
            Ok(n) => out.extend(n.to_le_bytes()),
            Err(_) => out.extend(n.to_le_bytes()),
        },
        Value::Float(x) => out.extend((*x as f32).to_le_bytes()),
        Value::Bool(b) => out.push((*b).into()),
        Value::Text(s) => put_text(out, s),
        Value::List(items) => {
            // A list has one kind; an empty one is a list of texts.
            out.extend(items.first().map_or(8, kind).to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put(out, item));
        }
    }
}
