//! Text to tokens by bytes: enough to try a prompt on any file, and no more.
//!
//! It does not apply the file's own merges, so a trained model sees its prompt spelled letter by letter;
//! whoever shows its output says so.

use crate::gguf::{Array, Gguf, Value};

/// Byte-level tokenizer with the file's own token texts for output.
#[derive(Debug)]
pub struct Tokenizer {
    /// Token of each byte.
    bytes: Vec<u32>,
    /// Text of each token, if the file has them.
    pieces: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// The tokenizer for a file of `vocab` tokens. Bytes are the tokens `<0x00>` to `<0xFF>` where the
    /// vocabulary has them, else 3 to 258 (Llama's convention), folded into a smaller vocabulary.
    pub fn from_gguf(gguf: &Gguf, vocab: usize) -> Self {
        let pieces = match gguf.get("tokenizer.ggml.tokens") {
            Some(Value::Array(Array::String(pieces))) => pieces.clone(),
            _ => Vec::new(),
        };
        let special = |key: &str| {
            let id = gguf.get(key)?.as_u64()?;
            u32::try_from(id).ok().filter(|id| (*id as usize) < vocab)
        };
        let bytes = (0..256usize).map(|b| {
            let name = format!("<0x{b:02X}>");
            let id = pieces.iter().take(vocab).position(|p| *p == name).unwrap_or(b + 3);
            (id % vocab) as u32
        });
        Tokenizer {
            bytes: bytes.collect(),
            bos: special("tokenizer.ggml.bos_token_id"),
            eos: special("tokenizer.ggml.eos_token_id"),
            pieces,
        }
    }

    /// The tokens of `text`, the beginning-of-sequence token first if the file names one.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.bos.into_iter().chain(text.bytes().map(|b| self.bytes[usize::from(b)])).collect()
    }

    /// The token that ends a text, if the file names one.
    pub fn end(&self) -> Option<u32> {
        self.eos
    }

    /// Bytes to print for `token`.
    pub fn decode(&self, token: u32) -> Vec<u8> {
        if let Some(byte) = self.bytes.iter().position(|&t| t == token) {
            return vec![byte as u8];
        }
        match self.pieces.get(token as usize) {
            Some(piece) => piece.replace('\u{2581}', " ").into_bytes(),
            None => format!("<{token}>").into_bytes(),
        }
    }
}
