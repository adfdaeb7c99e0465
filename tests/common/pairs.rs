//! Small model pairs in a folder of their own, sound until a test changes them.

use candle_core::Device;
use std::io::Write;
use std::path::{Path, PathBuf};
use vlm::gguf::{Gguf, Value};
use vlm::synth::write::{NewFile, NewTensor};
use vlm::synth::{Quant, Shape, Vocabulary, text_file, vision_file, write_pair};

const QUANT: Quant = Quant::Q4KM;

/// A pair of files that is removed with the value.
pub(crate) struct Pair {
    pub text: PathBuf,
    pub mmproj: PathBuf,
    shape: Shape,
    _dir: tempfile::TempDir,
}

impl Pair {
    pub(crate) fn sound() -> Self {
        Self::of(&Shape::named("tiny-k").expect("the shape is known"))
    }

    pub(crate) fn of(shape: &Shape) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (text, mmproj) = (dir.path().join("model.gguf"), dir.path().join("mmproj.gguf"));
        write_pair(shape, QUANT, &Vocabulary::bytes(), 1, &text, &mmproj).expect("the pair is written");
        Self { text, mmproj, shape: shape.clone(), _dir: dir }
    }

    pub(crate) fn text_file(&self) -> NewFile {
        text_file(&self.shape, QUANT, &Vocabulary::bytes())
    }

    pub(crate) fn vision_file(&self) -> NewFile {
        vision_file(&self.shape, QUANT)
    }

    /// Bytes of a header, without those of the tensors.
    pub(crate) fn header_bytes(&self, vision: bool) -> usize {
        if vision { self.vision_file() } else { self.text_file() }.header().len()
    }

    /// Writes the text file anew with a changed header; all its weights are 0.
    pub(crate) fn rewrite_text(&self, change: impl FnOnce(&mut NewFile)) {
        rewrite(self.text_file(), &self.text, change);
    }

    /// The same for the vision file.
    pub(crate) fn rewrite_vision(&self, change: impl FnOnce(&mut NewFile)) {
        rewrite(self.vision_file(), &self.mmproj, change);
    }

    /// Writes the text file again in so many parts, as llama.cpp's gguf-split does; their paths.
    pub(crate) fn split_text(&self, parts: usize) -> Vec<PathBuf> {
        let whole = Gguf::open(&self.text).expect("it is sound");
        let file = self.text_file();
        let at_once = file.tensors.len().div_ceil(parts);
        let number = |key: &str, n: usize| (key.to_owned(), Value::Uint(n as u64));
        let part = |(no, tensors): (usize, &[NewTensor])| {
            let mut metadata = if no == 0 { file.metadata.clone() } else { vec![] };
            metadata.extend([number("split.no", no), number("split.count", parts)]);
            metadata.push(("split.tensors.count".to_owned(), Value::Int(file.tensors.len() as i64)));
            let path = self.text.with_file_name(format!("model-{:05}-of-{parts:05}.gguf", no + 1));
            let bytes = |i: usize, out: &mut dyn Write| {
                let t = &tensors[i];
                let tensor = whole.tensor(&t.name, &t.shape, &Device::Cpu).expect("it is there");
                out.write_all(&tensor.data().expect("it is on the CPU"))
            };
            let new = NewFile { metadata, tensors: tensors.to_vec() };
            new.write(&path, bytes).expect("the part is written");
            path
        };
        file.tensors.chunks(at_once).enumerate().map(part).collect()
    }
}

fn rewrite(mut file: NewFile, path: &Path, change: impl FnOnce(&mut NewFile)) {
    change(&mut file);
    let zeros = |i: usize, out: &mut dyn Write| out.write_all(&vec![0; file.tensors[i].bytes()]);
    file.write(path, zeros).expect("the file is written");
}

/// Places of a header that are not in the vocabulary, which takes most of a text file's.
pub(crate) fn outside_the_vocabulary(header: &[u8]) -> Vec<usize> {
    let find = |text: &str| header.windows(text.len()).position(|w| w == text.as_bytes());
    let (start, end) = (find("tokenizer.ggml.tokens"), find("tokenizer.ggml.merges"));
    let skipped = start.map_or(0, |at| at + 64)..end.unwrap_or(0);
    (0..header.len()).filter(|at| !skipped.contains(at)).collect()
}
