//! Reads GGUF files without trusting them.
//!
//! ```text
//! file, or part 1 of a split one --header--> metadata, tensors
//!                '--parts--> part 2 --header--> tensors -> … -> one model
//! ```
//!
//! candle's own reader panics on an alignment of 0 and lets products of dimensions overflow, so the
//! header is checked here first: counts, string lengths, dimensions, alignment, and that every
//! tensor lies inside the file and overlaps no other. Tensor bytes are read one tensor at a time,
//! so that loading needs the model's size plus its largest tensor.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> (versions 2 and 3).

mod header;
mod parts;

pub(crate) use parts::hex;

use super::adapter::Adapter;
use super::error::VlmError;
use super::ggml::GgmlType;
use super::kernel::{Bf16, Packed, Widened};
use super::kinds;
use super::precision::Precision;
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest accepted header. Qwen3's vocabulary of 151,936 tokens with its merges takes 6 MB.
pub const HEADER_BYTES_MAX: u64 = 128 << 20;

/// A metadata value. Integers are widened; their signs are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Types u8 to u64.
    Uint(u64),
    /// Types i8 to i64.
    Int(i64),
    /// Types f32 and f64.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Values of one type, no lists.
    List(Vec<Value>),
}

/// One row of the tensor table.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// How its values are stored.
    pub dtype: GgmlType,
    /// Rows first: `[out, in]` for a matrix, the reverse of the file's order.
    pub shape: Vec<usize>,
    /// The part of a split file that holds it; 0 in a whole one.
    pub part: usize,
    /// Place of the first byte in its part.
    pub offset: u64,
    /// In its part.
    pub bytes: u64,
}

/// Where the parts of a header end, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub metadata_end: u64,
    pub table_end: u64,
    /// The first byte of the tensors: `table_end`, aligned.
    pub data_start: u64,
    pub alignment: u64,
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Source {
    Disk(File),
    Memory(Arc<[u8]>),
}

impl Source {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            Self::Disk(file) => file.read_exact_at(out, offset),
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)?.get(..out.len()));
                out.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// One file of a model.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    source: Source,
    bytes: u64,
}

/// An opened GGUF file whose header passed every check, or all parts of a split one.
#[derive(Debug)]
pub struct Gguf {
    /// At least one; the first is the file that was named.
    parts: Vec<Part>,
    /// By key. A split file says here what the whole one would: the keys `split.*` are left out.
    pub metadata: BTreeMap<String, Value>,
    /// By name.
    pub tensors: HashMap<String, TensorInfo>,
    /// Of all parts.
    pub file_bytes: u64,
    /// Where the pieces of the first part's header end.
    pub(crate) layout: Layout,
    /// How the matrices of this file are multiplied.
    pub precision: Precision,
    /// What is added to the matrices as they are read.
    pub(crate) adapter: Option<Arc<Adapter>>,
    /// What tensors that were read take in memory, by the types that take more there than in the file.
    grown: Mutex<BTreeMap<GgmlType, Grown>>,
}

/// Tensors of a type that take more memory than their file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grown {
    pub tensors: usize,
    /// Of the file.
    pub stored_bytes: u64,
    /// Of the memory.
    pub taken_bytes: u64,
}

impl Gguf {
    /// Opens a file and checks its header; with part 1 of a split file all of its parts.
    ///
    /// # Errors
    /// `Io` when it cannot be read, `Model` (with the key or tensor) when it is not sound, or a part is missing.
    pub fn open(path: &Path) -> Result<Self, VlmError> {
        parts::joined(Self::open_one(path)?)
    }

    fn open_one(path: &Path) -> Result<Self, VlmError> {
        let io = |source| VlmError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(bad(path, "file", "is not a regular file"));
        }
        Self::of(path, Source::Disk(file), meta.len())
    }

    /// As `open`, of a file whose bytes are here; `path` names it in messages. It cannot be split.
    ///
    /// # Errors
    /// As `open`.
    pub fn of_bytes(path: &Path, bytes: Arc<[u8]>) -> Result<Self, VlmError> {
        let file_bytes = bytes.len() as u64;
        parts::whole(Self::of(path, Source::Memory(bytes), file_bytes)?)
    }

    fn of(path: &Path, source: Source, bytes: u64) -> Result<Self, VlmError> {
        let mut head = vec![0; bytes.min(HEADER_BYTES_MAX) as usize];
        let part = Part { path: path.to_owned(), source, bytes };
        part.read_exact_at(&mut head, 0)?;
        let (metadata, tensors, layout) = header::header(path, &head, bytes)?;
        Ok(Self {
            parts: vec![part],
            metadata,
            tensors,
            file_bytes: bytes,
            layout,
            precision: Precision::default(),
            adapter: None,
            grown: Mutex::default(),
        })
    }

    /// The path of the file, or of part 1.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// The paths of all parts, in order; one of a file that is whole.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The tensors in the order of the file.
    pub fn in_order(&self) -> Vec<(&String, &TensorInfo)> {
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by_key(|(_, info)| (info.part, info.offset));
        tensors
    }

    /// Bytes that its weights will take in the memory of this machine: some types take more than in the file, and so do
    /// large towers where they are kept in bfloat16.
    pub fn memory_bytes(&self) -> u64 {
        let in_bf16 = Bf16::is_fast_here()
            && self.text("general.architecture").is_ok_and(|found| found == kinds::VISION)
            && Precision::of_files(self.file_bytes, &Device::Cpu) == Precision::Eight;
        let taken = |t: &TensorInfo| {
            let tiles = match t.shape[..] {
                [n, k] if in_bf16 && Packed::bytes_for(t.dtype, n, k).is_some() => {
                    Some(n * k * size_of::<half::bf16>())
                }
                [n, k] if Packed::is_fast_here() => Packed::bytes_for(t.dtype, n, k),
                _ => None,
            };
            let expanded = || t.shape.iter().product::<usize>() * size_of::<f32>();
            tiles.map_or_else(
                || if t.dtype.candle().is_some() { t.bytes } else { expanded() as u64 },
                |n| n as u64,
            )
        };
        self.tensors.values().map(taken).sum()
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>, why: impl Into<String>) -> VlmError {
        bad(self.path(), what, why)
    }

    fn value(&self, key: &str) -> Result<&Value, VlmError> {
        self.metadata.get(key).ok_or_else(|| self.error(format!("key {key}"), "is missing"))
    }

    fn wrong(&self, key: &str, expected: &str) -> VlmError {
        let found = self.metadata.get(key).map_or("nothing".into(), brief);
        self.error(format!("key {key}"), format!("{expected} expected, found {found}"))
    }

    /// A count or size that must lie in `1..=max`.
    pub fn size(&self, key: &str, max: usize) -> Result<usize, VlmError> {
        let n = match *self.value(key)? {
            Value::Uint(n) => n,
            Value::Int(n) => u64::try_from(n).unwrap_or(0),
            _ => 0,
        };
        usize::try_from(n)
            .ok()
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| self.wrong(key, &format!("a whole number from 1 to {max}")))
    }

    /// A finite number.
    pub fn float(&self, key: &str) -> Result<f64, VlmError> {
        let x = match *self.value(key)? {
            Value::Float(x) => x,
            Value::Uint(n) => n as f64,
            Value::Int(n) => n as f64,
            _ => f64::NAN,
        };
        if x.is_finite() { Ok(x) } else { Err(self.wrong(key, "a number")) }
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&str, VlmError> {
        match self.value(key)? {
            Value::Text(s) => Ok(s),
            _ => Err(self.wrong(key, "a text")),
        }
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<&[Value], VlmError> {
        match self.value(key)? {
            Value::List(v) => Ok(v),
            _ => Err(self.wrong(key, "a list")),
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>, VlmError> {
        let mut texts = Vec::new();
        for value in self.list(key)? {
            let Value::Text(text) = value else { return Err(self.wrong(key, "a list of texts")) };
            texts.push(text.as_str());
        }
        Ok(texts)
    }

    /// A list of whole numbers.
    pub fn ints(&self, key: &str) -> Result<Vec<i64>, VlmError> {
        let int = |v: &Value| match *v {
            Value::Uint(n) => i64::try_from(n).ok(),
            Value::Int(n) => Some(n),
            Value::Bool(b) => Some(i64::from(b)),
            _ => None,
        };
        self.list(key)?
            .iter()
            .map(int)
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(key, "a list of whole numbers"))
    }

    /// Reads one tensor of the expected shape.
    ///
    /// # Errors
    /// `Model` naming the tensor when it is missing, has another shape, or a type that is not multiplied; `Io` when
    /// reading fails.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<QTensor, VlmError> {
        let (dtype, bytes) = self.read(name, shape)?;
        self.as_candle(name, shape, dtype, &bytes, device)
    }

    fn as_candle(
        &self,
        name: &str,
        shape: &[usize],
        dtype: GgmlType,
        bytes: &Aligned,
        device: &Device,
    ) -> Result<QTensor, VlmError> {
        if let Some(dtype) = dtype.candle() {
            let storage = QStorage::from_data(Cow::Borrowed(bytes.get()), device, dtype)?;
            return Ok(QTensor::new(storage, shape)?);
        }
        // What candle has not is expanded, which loses nothing but memory.
        let values = dtype.values(bytes.get()).ok_or_else(|| self.not_multiplied(name, dtype))?;
        let values: &[u8] = bytemuck::cast_slice(&values);
        self.note_memory(dtype, bytes.len, values.len());
        let storage = QStorage::from_data(Cow::Borrowed(values), device, GgmlDType::F32)?;
        Ok(QTensor::new(storage, shape)?)
    }

    /// Notes what a tensor takes, where that is more than its bytes in the file.
    fn note_memory(&self, dtype: GgmlType, stored: usize, taken: usize) {
        if taken <= stored + stored / 8 {
            return;
        }
        let mut grown = self.grown.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = grown.entry(dtype).or_default();
        sum.tensors += 1;
        sum.stored_bytes += stored as u64;
        sum.taken_bytes += taken as u64;
    }

    /// What tensors that were read take in memory, by the types that take more there than in the file.
    pub(crate) fn grown(&self) -> BTreeMap<GgmlType, Grown> {
        self.grown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn not_multiplied(&self, name: &str, dtype: GgmlType) -> VlmError {
        let why = format!(
            "its type {} is not supported: take the model in another quantisation, Q4_K_M or Q8_0 for example (llama-quantize makes them of the F16 or BF16 file)",
            dtype.name()
        );
        self.error(format!("tensor {name}"), why)
    }

    /// True where `packed` would give tiles: activations are rounded for such a matrix.
    pub(crate) fn has_tiles(&self, name: &str, n: usize, k: usize) -> bool {
        self.tensors.get(name).is_some_and(|info| Packed::bytes_for(info.dtype, n, k).is_some())
    }

    /// Reads a matrix `[n, k]` into tiles; `None` when its quantisation or its sizes have none.
    ///
    /// # Errors
    /// As `tensor`.
    pub fn packed(&self, name: &str, n: usize, k: usize) -> Result<Option<Packed>, VlmError> {
        let (dtype, bytes) = self.read(name, &[n, k])?;
        let packed = Packed::pack(dtype, bytes.get(), n, k);
        if let Some(packed) = &packed {
            self.note_memory(dtype, bytes.len, packed.bytes());
        }
        Ok(packed)
    }

    /// Reads a matrix `[n, k]` whose products widen it; `None` when it is of another type, or its rows fill no tiles.
    ///
    /// # Errors
    /// As `tensor`.
    pub fn widened(&self, name: &str, n: usize, k: usize) -> Result<Option<Widened>, VlmError> {
        if !self.tensors.get(name).is_some_and(|info| Widened::takes(info.dtype)) {
            return Ok(None);
        }
        let (dtype, bytes) = self.read(name, &[n, k])?;
        Ok(Widened::pack(dtype, bytes.get(), n, k))
    }

    /// The bytes of a tensor as they stand in the file.
    ///
    /// # Errors
    /// As `tensor`.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, VlmError> {
        let shape = self.tensors.get(name).map_or(&[][..], |info| &info.shape);
        Ok(self.stored(name, shape)?.1.get().to_vec())
    }

    /// A tensor with what an adapter adds to it.
    fn read(&self, name: &str, shape: &[usize]) -> Result<(GgmlType, Aligned), VlmError> {
        let (dtype, bytes) = self.stored(name, shape)?;
        let Some(adapter) = &self.adapter else { return Ok((dtype, bytes)) };
        let applied = adapter.applied(name, &self.as_candle(name, shape, dtype, &bytes, &Device::Cpu)?)?;
        Ok(applied.map_or((dtype, bytes), |(dtype, bytes)| (dtype.into(), Aligned::of(&bytes))))
    }

    /// A tensor as it stands in the file.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<(GgmlType, Aligned), VlmError> {
        let what = || format!("tensor {name}");
        let info = self.tensors.get(name).ok_or_else(|| self.error(what(), "is missing"))?;
        if info.shape != shape {
            return Err(self.error(what(), format!("shape {shape:?} expected, found {:?}", info.shape)));
        }
        let mut bytes = Aligned::zeros(info.bytes as usize);
        self.parts[info.part].read_exact_at(bytes.get_mut(), info.offset)?;
        Ok((info.dtype, bytes))
    }
}

/// Bytes of a tensor. Blocks hold f32 and f16 scales: a buffer of u64 is aligned for both.
struct Aligned {
    buffer: Vec<u64>,
    len: usize,
}

impl Aligned {
    fn zeros(len: usize) -> Self {
        Self { buffer: vec![0; len.div_ceil(8)], len }
    }

    fn of(bytes: &[u8]) -> Self {
        let mut out = Self::zeros(bytes.len());
        out.get_mut().copy_from_slice(bytes);
        out
    }

    fn get(&self) -> &[u8] {
        &bytemuck::cast_slice::<u64, u8>(&self.buffer)[..self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut::<u64, u8>(&mut self.buffer)[..self.len]
    }
}

/// A value in a few words, for messages.
pub fn brief(value: &Value) -> String {
    match value {
        Value::Uint(n) => n.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(s) if s.chars().count() <= 80 => format!("{s:?}"),
        Value::Text(s) => format!("a text of {} characters", s.chars().count()),
        Value::List(v) if v.len() <= 8 => format!("[{}]", v.iter().map(brief).collect::<Vec<_>>().join(", ")),
        Value::List(v) => format!("a list of {}", v.len()),
    }
}

fn bad(path: &Path, what: impl Into<String>, why: impl Into<String>) -> VlmError {
    VlmError::Model { path: path.to_owned(), what: what.into(), why: why.into() }
}
