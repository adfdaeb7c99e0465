//! Reads GGUF files without trusting them.
//!
//! ```text
//! magic, version | counts | key/value metadata | tensor table | padding | tensor bytes
//! ```
//!
//! candle's own reader panics on an alignment of 0 and lets products of dimensions overflow, so the
//! header is checked here first: counts, string lengths, dimensions, alignment, and that every
//! tensor lies inside the file and overlaps no other. Tensor bytes are read one tensor at a time,
//! so that loading needs the model's size plus its largest tensor.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> (versions 2 and 3).

use super::adapter::Adapter;
use super::error::VlmError;
use super::kernel::Packed;
use super::precision::Precision;
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest accepted header. Qwen3's vocabulary of 151,936 tokens with its merges takes 6 MB.
pub const HEADER_BYTES_MAX: u64 = 128 << 20;
/// Largest accepted number of tensors; Qwen3-VL-8B has 400.
pub const TENSORS_MAX: u64 = 1 << 16;
/// Largest accepted number of metadata keys.
pub const KEYS_MAX: u64 = 1 << 14;
/// Largest accepted alignment of tensor bytes.
const ALIGNMENT_MAX: u64 = 1 << 16;
const DIMS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;

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
pub(crate) struct TensorInfo {
    pub dtype: GgmlDType,
    /// Rows first: `[out, in]` for a matrix, the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Place of the first byte in the file.
    pub offset: u64,
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

/// An opened GGUF file whose header passed every check.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    source: Source,
    /// By key.
    pub metadata: BTreeMap<String, Value>,
    pub(crate) tensors: HashMap<String, TensorInfo>,
    pub(crate) file_bytes: u64,
    /// Where the parts of the header end.
    pub(crate) layout: Layout,
    /// How the matrices of this file are multiplied.
    pub(crate) precision: Precision,
    /// What is added to the matrices as they are read.
    pub(crate) adapter: Option<Arc<Adapter>>,
}

impl Gguf {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// `Io` when it cannot be read, `Model` (with the key or tensor) when it is not sound.
    pub fn open(path: &Path) -> Result<Self, VlmError> {
        let io = |source| VlmError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(bad(path, "file", "is not a regular file"));
        }
        Self::of(path, Source::Disk(file), meta.len())
    }

    /// As `open`, of a file whose bytes are here; `path` names it in messages.
    ///
    /// # Errors
    /// As `open`.
    pub fn of_bytes(path: &Path, bytes: Arc<[u8]>) -> Result<Self, VlmError> {
        let file_bytes = bytes.len() as u64;
        Self::of(path, Source::Memory(bytes), file_bytes)
    }

    fn of(path: &Path, source: Source, file_bytes: u64) -> Result<Self, VlmError> {
        let io = |source| VlmError::Io { path: path.to_owned(), source };
        let mut head = vec![0; file_bytes.min(HEADER_BYTES_MAX) as usize];
        source.read_exact_at(&mut head, 0).map_err(io)?;
        let mut cursor = Cursor { path, bytes: &head, at: 0, truncated: file_bytes <= HEADER_BYTES_MAX };
        let (metadata, tensors, layout) = header(&mut cursor, file_bytes)?;
        Ok(Self {
            path: path.to_owned(),
            source,
            metadata,
            tensors,
            file_bytes,
            layout,
            precision: Precision::default(),
            adapter: None,
        })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub fn error(&self, what: impl Into<String>, why: impl Into<String>) -> VlmError {
        VlmError::Model { path: self.path.clone(), what: what.into(), why: why.into() }
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
    /// `Model` naming the tensor when it is missing or has another shape; `Io` when reading fails.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<QTensor, VlmError> {
        let (dtype, bytes) = self.read(name, shape)?;
        let storage = QStorage::from_data(Cow::Borrowed(bytes.get()), device, dtype)?;
        Ok(QTensor::new(storage, shape)?)
    }

    /// Reads a matrix `[n, k]` into tiles; `None` when its quantisation or its sizes have none.
    ///
    /// # Errors
    /// As `tensor`.
    pub fn packed(&self, name: &str, n: usize, k: usize) -> Result<Option<Packed>, VlmError> {
        let (dtype, bytes) = self.read(name, &[n, k])?;
        Ok(Packed::pack(dtype, bytes.get(), n, k))
    }

    /// The bytes of a tensor as they stand in the file.
    ///
    /// # Errors
    /// As `tensor`.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>, VlmError> {
        let shape = self.tensors.get(name).map_or(&[][..], |info| &info.shape);
        Ok(self.stored(name, shape)?.1.get().to_vec())
    }

    /// A tensor with what an adapter adds to it.
    fn read(&self, name: &str, shape: &[usize]) -> Result<(GgmlDType, Aligned), VlmError> {
        let (dtype, bytes) = self.stored(name, shape)?;
        let Some(adapter) = &self.adapter else { return Ok((dtype, bytes)) };
        let base = QStorage::from_data(Cow::Borrowed(bytes.get()), &Device::Cpu, dtype)?;
        let applied = adapter.applied(name, &QTensor::new(base, shape)?)?;
        Ok(applied.map_or((dtype, bytes), |(dtype, bytes)| (dtype, Aligned::of(&bytes))))
    }

    /// A tensor as it stands in the file.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<(GgmlDType, Aligned), VlmError> {
        let what = || format!("tensor {name}");
        let info = self.tensors.get(name).ok_or_else(|| self.error(what(), "is missing"))?;
        if info.shape != shape {
            return Err(self.error(what(), format!("shape {shape:?} expected, found {:?}", info.shape)));
        }
        let mut bytes = Aligned::zeros(info.bytes as usize);
        self.source
            .read_exact_at(bytes.get_mut(), info.offset)
            .map_err(|source| VlmError::Io { path: self.path.clone(), source })?;
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
pub(crate) fn brief(value: &Value) -> String {
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

type Header = (BTreeMap<String, Value>, HashMap<String, TensorInfo>, Layout);

fn header(c: &mut Cursor<'_>, file_bytes: u64) -> Result<Header, VlmError> {
    if c.take(4, "magic")? != b"GGUF" {
        return Err(c.bad("magic", "is not GGUF"));
    }
    let version = c.u32("version")?;
    if !(2..=3).contains(&version) {
        return Err(c.bad("version", format!("2 or 3 expected, found {version}")));
    }
    let tensor_count = c.count("tensor count", TENSORS_MAX)?;
    let key_count = c.count("metadata count", KEYS_MAX)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..key_count {
        let key = c.string("metadata key")?;
        let kind = c.u32(&key)?;
        let value = c.value(&key, kind, true)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(c.bad(format!("key {key}"), "stands twice"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT_DEFAULT,
        Some(&Value::Uint(n)) if n.is_power_of_two() && n <= ALIGNMENT_MAX => n,
        Some(v) => {
            return Err(
                c.bad("key general.alignment", format!("a power of two expected, found {}", brief(v)))
            );
        }
    };
    let metadata_end = c.at as u64;
    let mut table = Vec::with_capacity(tensor_count as usize);
    for _ in 0..tensor_count {
        table.push(c.tensor_row()?);
    }
    let table_end = c.at as u64;
    let layout =
        Layout { metadata_end, table_end, data_start: table_end.next_multiple_of(alignment), alignment };
    let tensors = place(c, table, layout, file_bytes)?;
    Ok((metadata, tensors, layout))
}

/// Turns relative offsets into places in the file; refuses what leaves the file or overlaps.
fn place(
    c: &Cursor<'_>,
    mut table: Vec<(String, TensorInfo)>,
    Layout { data_start, alignment, .. }: Layout,
    file_bytes: u64,
) -> Result<HashMap<String, TensorInfo>, VlmError> {
    table.sort_by_key(|(_, t)| t.offset);
    let mut end = 0;
    let mut tensors = HashMap::with_capacity(table.len());
    for (name, mut info) in table {
        let what = format!("tensor {name}");
        if !info.offset.is_multiple_of(alignment) {
            return Err(c.bad(what, format!("offset {} is not a multiple of {alignment}", info.offset)));
        }
        if info.offset < end {
            return Err(c.bad(what, "overlaps another tensor"));
        }
        end = info.offset.saturating_add(info.bytes);
        if data_start.checked_add(end).is_none_or(|last| last > file_bytes) {
            return Err(c.bad(what, "reaches beyond the end of the file (is the file cut off?)"));
        }
        info.offset += data_start;
        if tensors.insert(name, info).is_some() {
            return Err(c.bad(what, "stands twice"));
        }
    }
    Ok(tensors)
}

/// Walks the header; every step is checked against the bytes that are there.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    /// The bytes end because the file ends, not because the header limit was reached.
    truncated: bool,
}

impl<'a> Cursor<'a> {
    fn bad(&self, what: impl Into<String>, why: impl Into<String>) -> VlmError {
        bad(self.path, what, why)
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], VlmError> {
        let left = &self.bytes[self.at..];
        let n = usize::try_from(n).ok().filter(|n| *n <= left.len()).ok_or_else(|| {
            let why = if self.truncated { "the file ends here" } else { "the header is too large" };
            self.bad(what, why)
        })?;
        self.at += n;
        Ok(&left[..n])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], VlmError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, VlmError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, VlmError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, what: &str, max: u64) -> Result<u64, VlmError> {
        let n = self.u64(what)?;
        if n > max {
            return Err(self.bad(what, format!("at most {max} accepted, found {n}")));
        }
        Ok(n)
    }

    fn string(&mut self, what: &str) -> Result<String, VlmError> {
        let n = self.u64(what)?;
        let bytes = self.take(n, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.bad(what, "is not UTF-8"))
    }

    /// A value of the format's type number `kind`; lists of lists are refused.
    fn value(&mut self, key: &str, kind: u32, list_allowed: bool) -> Result<Value, VlmError> {
        Ok(match kind {
            0 => Value::Uint(self.array::<1>(key)?[0].into()),
            1 => Value::Int(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Uint(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Uint(self.u32(key)?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Value::Bool(self.array::<1>(key)?[0] != 0),
            8 => Value::Text(self.string(key)?),
            9 if list_allowed => {
                let item = self.u32(key)?;
                let n = self.u64(key)?;
                // Every item takes at least one byte, so a count beyond the bytes left is a lie.
                if n > (self.bytes.len() - self.at) as u64 {
                    return Err(
                        self.bad(format!("key {key}"), format!("a list of {n} items does not fit the file"))
                    );
                }
                let mut list = Vec::with_capacity(n as usize);
                for _ in 0..n {
                    list.push(self.value(key, item, false)?);
                }
                Value::List(list)
            }
            10 => Value::Uint(self.u64(key)?),
            11 => Value::Int(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            other => return Err(self.bad(format!("key {key}"), format!("unknown value type {other}"))),
        })
    }

    fn tensor_row(&mut self) -> Result<(String, TensorInfo), VlmError> {
        let name = self.string("tensor name")?;
        let what = format!("tensor {name}");
        let dims = self.u32(&what)?;
        if !(1..=DIMS_MAX).contains(&dims) {
            return Err(self.bad(what, format!("1 to {DIMS_MAX} dimensions expected, found {dims}")));
        }
        let mut shape = Vec::new();
        let mut elements = 1u64;
        for _ in 0..dims {
            let n = self.u64(&what)?;
            elements = elements
                .checked_mul(n)
                .filter(|e| *e > 0 && *e < 1 << 48)
                .ok_or_else(|| self.bad(&what, "its dimensions make no sense"))?;
            shape.push(n as usize);
        }
        shape.reverse();
        let kind = self.u32(&what)?;
        let dtype =
            dtype(kind).ok_or_else(|| self.bad(&what, format!("quantisation {kind} is not supported")))?;
        let block = dtype.block_size() as u64;
        let row = *shape.last().unwrap_or(&0) as u64;
        if !row.is_multiple_of(block) {
            return Err(
                self.bad(what, format!("rows of {row} are not a multiple of {dtype:?}'s block of {block}"))
            );
        }
        let bytes = elements / block * dtype.type_size() as u64;
        let offset = self.u64(&what)?;
        Ok((name, TensorInfo { dtype, shape, offset, bytes }))
    }
}

/// The type numbers of ggml.h that candle can multiply with.
const fn dtype(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}
