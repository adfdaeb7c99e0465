//! The header of one GGUF file, read without trusting it.
//!
//! ```text
//! magic, version | counts | key/value metadata | tensor table | padding | tensor bytes
//! ```

use super::{Layout, TensorInfo, Value, bad, brief};
use crate::error::VlmError;
use crate::ggml::GgmlType;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Largest accepted number of tensors; Qwen3-VL-8B has 400.
const TENSORS_MAX: u64 = 1 << 16;
/// Largest accepted number of metadata keys.
const KEYS_MAX: u64 = 1 << 14;
/// Largest accepted alignment of tensor bytes.
const ALIGNMENT_MAX: u64 = 1 << 16;
const DIMS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;

/// What a header says: the metadata, the tensors by name, and where its parts end.
pub(super) type Header = (BTreeMap<String, Value>, HashMap<String, TensorInfo>, Layout);

/// Reads the header of a file of so many bytes, which begins with `bytes`: with all of it, or with more than a header may
/// have.
///
/// # Errors
/// `Model` naming the key or the tensor that is not sound.
pub(super) fn header(path: &Path, bytes: &[u8], file_bytes: u64) -> Result<Header, VlmError> {
    let c = &mut Cursor { path, bytes, at: 0, truncated: file_bytes == bytes.len() as u64 };
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
        let dtype = GgmlType::of(kind).map_err(|why| self.bad(&what, why))?;
        let block = dtype.block() as u64;
        let row = *shape.last().unwrap_or(&0) as u64;
        if !row.is_multiple_of(block) {
            return Err(self.bad(
                what,
                format!("rows of {row} are not a multiple of {}'s block of {block}", dtype.name()),
            ));
        }
        let bytes = elements / block * dtype.block_bytes() as u64;
        let offset = self.u64(&what)?;
        Ok((name, TensorInfo { dtype, shape, part: 0, offset, bytes }))
    }
}
