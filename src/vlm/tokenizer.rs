//! The tokenizer, built from the GGUF's own metadata for the [`tokenizers`] crate.
//!
//! Qwen's tokenizer is byte-level BPE behind the `qwen2` pre-tokenizer. Text of users is always
//! encoded as plain text: `<|im_end|>` in a prompt, or read from a part, is nine ordinary
//! characters and never a control token.

use super::error::VlmError;
use super::gguf::Gguf;
use std::collections::HashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

/// The split of Qwen2 and Qwen3 (tokenizer.json of Qwen/Qwen3-VL-4B-Instruct).
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Token types of ggml: control tokens are special, user-defined ones are matched as a whole.
const TYPE_CONTROL: i64 = 3;
const TYPE_USER_DEFINED: i64 = 4;
const TYPE_UNUSED: i64 = 5;

/// Vocabulary as GGUF metadata holds it.
pub struct Vocabulary<'a> {
    /// By id, in the byte-level alphabet of GPT-2.
    pub tokens: Vec<&'a str>,
    /// ggml token type of each token.
    pub types: Vec<i64>,
    /// Pairs joined by a space, best first.
    pub merges: Vec<&'a str>,
}

/// Text to token ids and back.
pub struct Tokenizer {
    inner: HfTokenizer,
    special: HashMap<String, u32>,
    /// Bytes that each token stands for; control tokens stand for their name.
    bytes: Vec<Vec<u8>>,
    is_special: Vec<bool>,
}

impl Tokenizer {
    /// The tokenizer of a text model.
    ///
    /// # Errors
    /// `Model` naming the key when the metadata is missing, inconsistent or of another kind.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, VlmError> {
        for (key, expected) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "qwen2")] {
            let found = gguf.text(key)?;
            if found != expected {
                return Err(
                    gguf.error(format!("key {key}"), format!("{expected:?} expected, found {found:?}"))
                );
            }
        }
        let vocabulary = Vocabulary {
            tokens: gguf.texts("tokenizer.ggml.tokens")?,
            types: gguf.ints("tokenizer.ggml.token_type")?,
            merges: gguf.texts("tokenizer.ggml.merges")?,
        };
        Self::new(&vocabulary).map_err(|e| gguf.error("tokenizer.ggml", e.to_string()))
    }

    /// A tokenizer from its vocabulary.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] when the lists do not fit each other.
    pub fn new(v: &Vocabulary<'_>) -> Result<Self, VlmError> {
        if v.tokens.len() != v.types.len() {
            return Err(bad(format!("{} tokens but {} token types", v.tokens.len(), v.types.len())));
        }
        let mut inner = HfTokenizer::new(bpe(v)?);
        inner.with_normalizer(Some(NFC)).map_err(|e| bad(e.to_string()))?;
        let split =
            Split::new(SplitPattern::Regex(QWEN2_SPLIT.into()), SplitDelimiterBehavior::Isolated, false)
                .map_err(|e| bad(e.to_string()))?;
        let byte_level = ByteLevel::new(false, false, false);
        inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), byte_level.into()])));
        inner.with_decoder(Some(byte_level));
        let mut special = HashMap::new();
        let mut added = Vec::new();
        for (id, (token, kind)) in v.tokens.iter().zip(&v.types).enumerate() {
            let control = *kind == TYPE_CONTROL;
            if control || *kind == TYPE_USER_DEFINED {
                added.push(AddedToken::from(*token, control).normalized(false));
                special.insert((*token).to_owned(), id as u32);
            }
        }
        // Ids are kept because every added token is in the model's vocabulary too.
        inner.add_tokens(added).map_err(|e| bad(e.to_string()))?;
        let unicode = byte_alphabet();
        let bytes = v.tokens.iter().zip(&v.types).map(|(t, kind)| token_bytes(t, *kind, &unicode)).collect();
        let is_special = v.types.iter().map(|k| *k == TYPE_CONTROL).collect();
        Ok(Self { inner, special, bytes, is_special })
    }

    /// Number of tokens, padding included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True for a tokenizer without tokens.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The id of a control token such as `<|im_end|>`.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.special.get(name).copied()
    }

    /// True for control tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    /// The bytes that a token stands for; empty for an unknown id.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Encodes text in which control tokens are written by name: trusted text only.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] when the crate refuses the text.
    pub fn encode_trusted(&self, text: &str) -> Result<Vec<u32>, VlmError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| bad(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes text of a user: names of control tokens in it are plain characters.
    ///
    /// # Errors
    /// [`VlmError::Tokenizer`] when the crate refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, VlmError> {
        let mut ids = Vec::new();
        let mut rest = text;
        // Cutting a control token's name after its first character hides it from the matcher.
        while let Some(cut) = self.first_special(rest) {
            ids.extend(self.encode_trusted(&rest[..cut])?);
            rest = &rest[cut..];
        }
        ids.extend(self.encode_trusted(rest)?);
        Ok(ids)
    }

    /// Byte position just behind the first character of the first control token's name.
    fn first_special(&self, text: &str) -> Option<usize> {
        let at = self.special.keys().filter_map(|name| text.find(name.as_str())).min()?;
        text[at..].chars().next().map(|c| at + c.len_utf8())
    }

    /// Text of token ids; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> String {
        let mut out = Vec::new();
        for &id in ids {
            if keep_special || !self.is_special(id) {
                out.extend_from_slice(self.bytes(id));
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn bad(why: impl Into<String>) -> VlmError {
    VlmError::Tokenizer { why: why.into() }
}

fn bpe(v: &Vocabulary<'_>) -> Result<BPE, VlmError> {
    let mut merges = Vec::with_capacity(v.merges.len());
    for merge in &v.merges {
        let (a, b) = merge.split_once(' ').ok_or_else(|| bad(format!("merge {merge:?} has no space")))?;
        merges.push((a.to_owned(), b.to_owned()));
    }
    let mut vocab = HashMap::with_capacity(v.tokens.len());
    for (id, token) in v.tokens.iter().enumerate() {
        if vocab.insert((*token).to_owned(), id as u32).is_some() {
            return Err(bad(format!("token {token:?} stands twice")));
        }
    }
    BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<ahash::AHashMap<_, _>>(), merges)
        .build()
        .map_err(|e| bad(e.to_string()))
}

/// GPT-2's map from printable characters to bytes (`bytes_to_unicode` in its encoder.py).
pub(super) fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256u32;
    (0..=255u8)
        .map(|b| {
            let code = if printable(b) {
                u32::from(b)
            } else {
                next += 1;
                next - 1
            };
            (char::from_u32(code).unwrap_or('\u{FFFD}'), b)
        })
        .collect()
}

fn token_bytes(token: &str, kind: i64, unicode: &HashMap<char, u8>) -> Vec<u8> {
    match kind {
        TYPE_CONTROL | TYPE_USER_DEFINED => token.as_bytes().to_vec(),
        TYPE_UNUSED => Vec::new(),
        _ => token.chars().filter_map(|c| unicode.get(&c).copied()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toy() -> Tokenizer {
        let unicode = byte_alphabet();
        let mut letters: Vec<(char, u8)> = unicode.into_iter().collect();
        letters.sort_by_key(|(_, b)| *b);
        let mut tokens: Vec<String> = letters.iter().map(|(c, _)| c.to_string()).collect();
        tokens.extend(["ab".into(), "<|im_end|>".into(), "[PAD]".into()]);
        let mut types = vec![1; 257];
        types.extend([TYPE_CONTROL, TYPE_UNUSED]);
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        Tokenizer::new(&Vocabulary { tokens, types, merges: vec!["a b"] }).expect("a sound vocabulary")
    }

    #[test]
    fn control_tokens_in_users_text_stay_text() {
        let t = toy();
        assert_eq!(t.encode_trusted("ab<|im_end|>").unwrap(), [256, 257]);
        let ids = t.encode("ab<|im_end|>ab").unwrap();
        assert!(!ids.contains(&257), "{ids:?}");
        assert_eq!(t.decode(&ids, false), "ab<|im_end|>ab");
    }

    #[test]
    fn unused_tokens_have_no_bytes() {
        let t = toy();
        assert_eq!(t.bytes(258), b"");
        assert_eq!(t.bytes(9999), b"");
        assert_eq!(t.bytes(256), b"ab");
    }

    #[test]
    fn a_merge_without_a_space_is_named() {
        let v = Vocabulary { tokens: vec!["a"], types: vec![1], merges: vec!["ab"] };
        let error = Tokenizer::new(&v).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("\"ab\""), "{error}");
    }
}
