//! Signed notes: a text and lines of signatures, and the keys that check them.
//!
//! Invariant: what a note's text says counts only after [`VerifierKey::verify`]. A key is known by its name and its id
//! together; signatures of other keys are kept and mean nothing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_core::{Error, Result};
use claviger_crypto::ed25519::{self, PUBLIC_KEY_BYTES, SIGNATURE_BYTES};
use claviger_crypto::sha256;

/// A note with its signatures, bytes at most.
pub const MAX_NOTE_BYTES: usize = 128 * 1024;
/// Signatures of a note, at most.
const MAX_SIGNATURES: usize = 64;
/// What a line of a signature begins with: an em dash and a blank.
const MARK: &str = "\u{2014} ";
const ID_BYTES: usize = 4;
const TIME_BYTES: usize = 8;

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519 of the text: the key of a log.
    Log = 1,
    /// Ed25519 of a time and the text: the key of a witness.
    Witness = 4,
}

/// A public key, as its owner tells it: `NAME+ID+KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    id: [u8; ID_BYTES],
    public: [u8; PUBLIC_KEY_BYTES],
}

impl VerifierKey {
    /// A key by its parts.
    ///
    /// # Errors
    /// `InvalidArgument` when the name is empty or has blanks, a plus or control characters.
    pub fn new(name: &str, kind: KeyKind, public: [u8; PUBLIC_KEY_BYTES]) -> Result<Self> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.contains(odd) {
            return Err(Error::invalid("the name of a key must not be empty nor have blanks or '+'"));
        }
        let hash = sha256(&[name.as_bytes(), b"\n", &[kind as u8], &public]);
        let id = hash.first_chunk().copied().unwrap_or_default();
        Ok(Self { name: name.to_owned(), kind, id, public })
    }

    /// Reads `NAME+ID+KEY`.
    ///
    /// # Errors
    /// `InvalidArgument` when that is no key, or one of a kind that is not known here.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("this is no verifier key (NAME+ID+KEY): {why}"));
        let mut parts = text.trim_end_matches('\n').splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it has not three parts"));
        };
        let bytes = BASE64.decode(key).map_err(|_| wrong("its last part is not base64"))?;
        let kind = match bytes.first() {
            Some(1) => KeyKind::Log,
            Some(4) => KeyKind::Witness,
            _ => {
                return Err(wrong(
                    "it is neither an Ed25519 key nor one of a witness that signs with Ed25519",
                ));
            }
        };
        let public = bytes.get(1..).and_then(|public| public.try_into().ok());
        let key = Self::new(name, kind, public.ok_or_else(|| wrong("its key has not 32 bytes"))?)?;
        if key.shown_id() == id { Ok(key) } else { Err(wrong("its id is not that of its name and key")) }
    }

    /// Whose key it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it signs.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    fn shown_id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The signature of this key in a note, when it is right; of a witness with the time in seconds.
    ///
    /// # Errors
    /// `DataLoss` when the note has a signature in this key's name that is not right.
    pub fn verify<'a>(&self, note: &'a Note) -> Result<Option<(&'a NoteSignature, u64)>> {
        let mut right = None;
        for signature in &note.signatures {
            if signature.name != self.name || signature.id != self.id {
                continue;
            }
            let time = self.check(&note.text, &signature.bytes).ok_or_else(|| {
                Error::new(
                    claviger_core::ErrorKind::DataLoss,
                    format!("the signature of {} is not of this text", self.name),
                )
            })?;
            right = Some((signature, time));
        }
        Ok(right)
    }

    fn check(&self, text: &str, signature: &[u8]) -> Option<u64> {
        match self.kind {
            KeyKind::Log => ed25519::verify(&self.public, text.as_bytes(), signature).then_some(0),
            KeyKind::Witness => {
                let (time, signature) = signature.split_first_chunk::<TIME_BYTES>()?;
                let time = u64::from_be_bytes(*time);
                let message = witnessed(text, time);
                ed25519::verify(&self.public, message.as_bytes(), signature).then_some(time)
            }
        }
    }

    /// A line of a signature that this key's owner made.
    pub(super) fn sign_line(&self, signature: &[u8; SIGNATURE_BYTES]) -> NoteSignature {
        NoteSignature { name: self.name.clone(), id: self.id, bytes: signature.to_vec() }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<u8> = [self.kind as u8].into_iter().chain(self.public).collect();
        write!(f, "{}+{}+{}", self.name, self.shown_id(), BASE64.encode(key))
    }
}

/// What a witness signs: that it saw this text at a time.
fn witnessed(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// A line of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// Whose it is said to be.
    pub name: String,
    id: [u8; ID_BYTES],
    bytes: Vec<u8>,
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = self.id.iter().chain(&self.bytes).copied().collect();
        write!(f, "{MARK}{} {}", self.name, BASE64.encode(bytes))
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(MARK)?.split_once(' ')?;
        let odd = |c: char| c.is_whitespace() || c == '+';
        let bytes = BASE64.decode(signature).ok()?;
        let (id, bytes) = bytes.split_first_chunk()?;
        (!name.is_empty() && !name.contains(odd) && !bytes.is_empty()).then(|| Self {
            name: name.to_owned(),
            id: *id,
            bytes: bytes.to_vec(),
        })
    }
}

/// A text and its signatures. Displays itself as it is sent and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The text; it ends with a newline.
    pub text: String,
    /// The signatures, which may be of anyone.
    pub signatures: Vec<NoteSignature>,
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none.
    pub fn parse(note: &[u8]) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("this is no signed note: {why}"));
        if note.len() > MAX_NOTE_BYTES {
            return Err(wrong("it is too long"));
        }
        let note = std::str::from_utf8(note).map_err(|_| wrong("it is not UTF-8"))?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(wrong("it has control characters"));
        }
        let (text, lines) = note.rsplit_once("\n\n").ok_or_else(|| wrong("it has no signatures"))?;
        let lines = lines.strip_suffix('\n').ok_or_else(|| wrong("it does not end with a line"))?;
        let signatures: Option<Vec<_>> = lines.split('\n').map(NoteSignature::parse).collect();
        let signatures = signatures.ok_or_else(|| wrong("a line of a signature is wrong"))?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(wrong("it has too many signatures"));
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of golang.org/x/mod/sumdb/note, where signed notes come from.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_first_implementations_example_verifies_and_is_written_as_it_was_read() {
        let key = VerifierKey::parse(KEY).unwrap();
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        assert!(key.verify(&note).unwrap().is_some());
        assert_eq!((key.to_string(), note.to_string()), (KEY.to_owned(), NOTE.to_owned()));
        let changed = Note::parse(NOTE.replace("answer", "Answer").as_bytes()).unwrap();
        assert!(key.verify(&changed).is_err());
        let other = VerifierKey::new("PeterNeumann", KeyKind::Log, [9; 32]).unwrap();
        assert_eq!(other.verify(&note).unwrap(), None);
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let line = NOTE.lines().last().unwrap();
        for wrong in [
            "",
            "\n",
            "text\n",
            "text\n\n",
            "text\n\nno signature\n",
            &NOTE[..NOTE.len() - 1],
            &NOTE.replace("think", "th\tink"),
            &NOTE.replace("— ", "- "),
            &NOTE.replace("x08g", "x08!"),
            "text\n\n— a b\n",
            "text\n\n— a AAAAAA==\n\n",
            "text\n\n—  AAAAAAA=\n",
            &format!("text\n\n{}", format!("{line}\n").repeat(MAX_SIGNATURES + 1)),
            &format!("{}\n\n{line}\n", "x".repeat(MAX_NOTE_BYTES)),
        ] {
            assert!(Note::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Note::parse(b"\xff\n\n").is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in [
            "",
            "PeterNeumann",
            "PeterNeumann+c74f20a3",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+AhpcZQcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+ARpc",
            "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert!(VerifierKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
