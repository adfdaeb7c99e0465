//! Small model pairs in a folder of their own, sound until a test changes them.

use inspectd::vlm::synth::write::NewFile;
use inspectd::vlm::synth::{Quant, Shape, Vocabulary, text_file, vision_file, write_pair};
use std::io::Write;
use std::path::{Path, PathBuf};

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
