//! Which servers a cluster has, and how they are asked.

use super::Url;
use crate::engine::Admission;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::ClientConfig;

/// What a server is: who is told what in which words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `vllm serve`.
    Vllm,
    /// llama.cpp's `llama-server`.
    Llama,
    /// Anything else that answers chat completions.
    OpenAi,
}

impl Kind {
    /// The words of the config.
    pub const NAMES: [&str; 3] = ["vllm", "llama-server", "openai"];

    /// By its word.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "vllm" => Some(Self::Vllm),
            "llama-server" => Some(Self::Llama),
            "openai" => Some(Self::OpenAi),
            _ => None,
        }
    }

    /// The word that `named` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Llama => "llama-server",
            Self::OpenAi => "openai",
        }
    }
}

/// Which servers, and how they are asked.
#[derive(Clone)]
pub struct Options {
    /// At least one.
    pub servers: Vec<Url>,
    /// `None`: each says itself what it is.
    pub kind: Option<Kind>,
    /// `None`: the only one that they have.
    pub model: Option<String>,
    /// The labels that the model was trained with, in their order; empty: it states none.
    pub labels: Vec<String>,
    /// Sent as a bearer's.
    pub key: Option<String>,
    /// What servers of `https` are trusted by.
    pub tls: Option<Arc<ClientConfig>>,
    /// Of one request, as a whole.
    pub timeout: Duration,
    /// Under way at one server.
    pub requests_max: usize,
    /// Smaller pictures are enlarged to so many pixels, since the servers would do it otherwise.
    pub min_pixels: u32,
    /// Who lets a server's model in.
    pub admission: Arc<dyn Admission>,
}
