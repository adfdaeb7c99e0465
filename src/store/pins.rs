//! The model that was accepted: its files' hashes, by whom and when. Another pair does not answer the line. Beside it
//! stands which known pictures it has told.

use super::Store;
use super::error::StoreError;
use serde::{Deserialize, Serialize};

/// The name of the accepted pair.
const MODEL: &str = "pins/model";
/// Of what a pair has told.
const PROOF: &str = "pins/proof";

/// An accepted pair of model files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPin {
    /// The model's own name, for people.
    pub name: String,
    /// sha256 (hex) of the text file and of the vision file.
    pub text_sha256: String,
    pub mmproj_sha256: String,
    /// Of servers beside the files, the marks of what they say; `None`: there were none, or none was let in yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<ServersPin>,
    /// RFC 3339, UTC.
    pub at: String,
    /// Who accepted it, as far as that is known.
    pub by: String,
}

/// Accepted servers beside a pair of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServersPin {
    /// Their model's name, for people.
    pub name: String,
    /// The marks that stand in the place of a text file's hash and a vision file's.
    pub text_sha256: String,
    pub mmproj_sha256: String,
}

/// Known pictures that a pair has told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofPin {
    /// sha256 (hex) of the text file and of the vision file.
    pub text_sha256: String,
    pub mmproj_sha256: String,
    /// A digest of each picture and its question, the newest first. Whoever writes them bounds them.
    pub held: Vec<String>,
}

impl Store {
    /// What some pair has told; `None`: nothing was asked yet.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn proof_pin(&self) -> Result<Option<ProofPin>, StoreError> {
        self.remembered(PROOF)
    }

    /// Keeps what a pair has told instead of the former; durable when it returns.
    ///
    /// # Errors
    /// As `remember`.
    pub fn pin_proof(&self, pin: &ProofPin) -> Result<(), StoreError> {
        self.remember(PROOF, pin)
    }

    /// The accepted pair; `None`: none was accepted yet.
    ///
    /// # Errors
    /// As `remembered`.
    pub fn model_pin(&self) -> Result<Option<ModelPin>, StoreError> {
        self.remembered(MODEL)
    }

    /// Accepts a pair instead of the former one; durable when it returns.
    ///
    /// # Errors
    /// As `remember`.
    pub fn pin_model(&self, pin: &ModelPin) -> Result<(), StoreError> {
        self.remember(MODEL, pin)
    }
}
