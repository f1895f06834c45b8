//! Checkpoints: how many entries a log has and the root of their tree, signed by the log, cosigned by witnesses.
//!
//! Invariant: the origin of a checkpoint is the name of the key that signs it, so a checkpoint of another log never
//! passes for one of this.

use std::fmt;

use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::SecretKey;
use claviger_crypto::ed25519::SigningKey;
use claviger_crypto::sha256;

use super::note::{KeyKind, Note, NoteSignature, VerifierKey};
use super::number;
use super::tree::Hash;

/// What the origins of our logs begin with.
const ORIGIN: &str = "claviger/audit/";
/// Bytes of the public key's hash that tell one log from another.
const ORIGIN_BYTES: usize = 8;

/// The state of a log: its first so many entries. Displays itself as the text that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root of their tree.
    pub root: Hash,
    /// Lines that follow, which mean nothing to us.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// Reads the text of a checkpoint.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("this is no checkpoint: {why}"));
        let text = text.strip_suffix('\n').ok_or_else(|| wrong("it does not end with a line"))?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(wrong("it has not three lines"));
        };
        let size = number(size).ok_or_else(|| wrong("its second line is not a number"))?;
        let root = Hash::parse(root).ok_or_else(|| wrong("its third line is not a hash"))?;
        let extensions: Vec<_> = lines.map(str::to_owned).collect();
        if origin.is_empty() || extensions.iter().any(String::is_empty) {
            return Err(wrong("it has an empty line"));
        }
        Ok(Self { origin: origin.to_owned(), size, root, extensions })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, self.root)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A checkpoint and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The same as text, with the signatures.
    pub note: Note,
}

impl SignedCheckpoint {
    /// Reads a signed checkpoint and checks that the log signed it.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, or none of this key's log; `DataLoss` when its signature is not right.
    pub fn open(note: &[u8], log: &VerifierKey) -> Result<Self> {
        let note = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        if log.kind() != KeyKind::Log {
            return Err(Error::invalid(format!("{} is the key of a witness, not of a log", log.name())));
        }
        if checkpoint.origin != log.name() {
            return Err(Error::invalid(format!(
                "the checkpoint is of the log {}, and the key of {}",
                checkpoint.origin,
                log.name()
            )));
        }
        if log.verify(&note)?.is_none() {
            return Err(Error::new(
                ErrorKind::DataLoss,
                format!("the checkpoint has no signature of {} by this key", log.name()),
            ));
        }
        Ok(Self { checkpoint, note })
    }

    /// When a witness cosigned it, in seconds since the epoch; none when it did not.
    ///
    /// # Errors
    /// `DataLoss` when the signature in the witness's name is not right.
    pub fn cosigned(&self, witness: &VerifierKey) -> Result<Option<(&NoteSignature, u64)>> {
        match witness.kind() {
            KeyKind::Witness => witness.verify(&self.note),
            KeyKind::Log => {
                Err(Error::invalid(format!("{} is the key of a log, not of a witness", witness.name())))
            }
        }
    }
}

/// The key of a log.
#[derive(Debug)]
pub struct LogKey {
    secret: SigningKey,
    verifier: VerifierKey,
}

impl LogKey {
    /// The key of a seed. The log's origin comes of it too.
    ///
    /// # Errors
    /// `Internal` when the library does not take the seed.
    pub fn new(seed: &SecretKey) -> Result<Self> {
        let secret = SigningKey::from_seed(seed)
            .map_err(|e| Error::internal("the key of the audit log cannot be used").because(e))?;
        let hash = sha256(&[&secret.public_key()]);
        let id: String = hash.iter().take(ORIGIN_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let verifier = VerifierKey::new(&format!("{ORIGIN}{id}"), KeyKind::Log, secret.public_key())?;
        Ok(Self { secret, verifier })
    }

    /// What checks its signatures.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs that the log's first `size` entries have this root.
    #[must_use]
    pub fn sign(&self, size: u64, root: Hash) -> SignedCheckpoint {
        let origin = self.verifier.name().to_owned();
        let checkpoint = Checkpoint { origin, size, root, extensions: Vec::new() };
        let text = checkpoint.to_string();
        let signature = self.verifier.sign_line(&self.secret.sign(text.as_bytes()));
        SignedCheckpoint { checkpoint, note: Note { text, signatures: vec![signature] } }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(seed: u8) -> LogKey {
        LogKey::new(&SecretKey::from_slice(&[seed; 32]).unwrap()).unwrap()
    }

    /// A witness: its verifier key, and what signs.
    pub(crate) struct Witness {
        pub(crate) verifier: VerifierKey,
        secret: SigningKey,
    }

    pub(crate) fn witness(name: &str, seed: u8) -> Witness {
        let secret = SigningKey::from_seed(&SecretKey::from_slice(&[seed; 32]).unwrap()).unwrap();
        Witness { verifier: VerifierKey::new(name, KeyKind::Witness, secret.public_key()).unwrap(), secret }
    }

    impl Witness {
        /// The note with a line of this witness more.
        pub(crate) fn cosign(&self, note: &str, time: u64) -> String {
            use base64::Engine as _;
            let text = format!("{}\n", note.rsplit_once("\n\n").unwrap().0);
            let signature = self.secret.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes());
            let key = self.verifier.to_string();
            let id = u32::from_str_radix(key.split('+').nth(1).unwrap(), 16).unwrap();
            let bytes = [&id.to_be_bytes()[..], &time.to_be_bytes(), &signature].concat();
            let bytes = base64::engine::general_purpose::STANDARD.encode(bytes);
            format!("{note}— {} {bytes}\n", self.verifier.name())
        }
    }

    #[test]
    fn the_specifications_example_is_read_and_written_as_it_was() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let note = format!(
            "{text}\n\
            — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
            — witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
        );
        let read = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(read.to_string(), note);
        let checkpoint = Checkpoint::parse(&read.text).unwrap();
        assert_eq!((checkpoint.size, checkpoint.to_string()), (20_852_163, text.to_owned()));
        assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
    }

    #[test]
    fn a_log_signs_and_only_its_own_key_opens_what_it_signed() {
        let signed = key(1).sign(3, Hash::leaf(b"x"));
        let note = signed.note.to_string();
        assert_eq!(SignedCheckpoint::open(note.as_bytes(), key(1).verifier()).unwrap(), signed);
        assert_eq!(key(1).sign(3, Hash::leaf(b"x")).note.to_string(), note);
        let other = SignedCheckpoint::open(note.as_bytes(), key(2).verifier()).unwrap_err();
        assert!(other.message().contains("is of the log claviger/audit/"), "{other}");
        for changed in [note.replace("\n3\n", "\n4\n"), note.replace("\n3\n", "\n3\n\n")] {
            assert!(SignedCheckpoint::open(changed.as_bytes(), key(1).verifier()).is_err(), "{changed}");
        }
        // The same name, and a signature of another key.
        let forged = VerifierKey::new(key(1).verifier().name(), KeyKind::Log, [7; 32]).unwrap();
        assert_eq!(SignedCheckpoint::open(note.as_bytes(), &forged).unwrap_err().kind(), ErrorKind::DataLoss);
    }

    #[test]
    fn a_witness_says_when_it_saw_which_checkpoint() {
        let (log, witness, other) = (key(1), witness("w.example/1", 5), witness("w.example/2", 6));
        let note = witness.cosign(&log.sign(3, Hash::empty()).note.to_string(), 1_700_000_000);
        let signed = SignedCheckpoint::open(note.as_bytes(), log.verifier()).unwrap();
        assert_eq!(signed.cosigned(&witness.verifier).unwrap().unwrap().1, 1_700_000_000);
        assert_eq!(signed.cosigned(&other.verifier).unwrap(), None);
        assert!(signed.cosigned(log.verifier()).is_err());
        // The line moved to another checkpoint.
        let line = note.lines().last().unwrap();
        let moved = format!("{}{line}\n", log.sign(4, Hash::empty()).note);
        let moved = SignedCheckpoint::open(moved.as_bytes(), log.verifier()).unwrap();
        assert_eq!(moved.cosigned(&witness.verifier).unwrap_err().kind(), ErrorKind::DataLoss);
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let root = Hash::empty();
        for wrong in [
            String::new(),
            "o\n1\n".into(),
            format!("o\n1\n{root}"),
            format!("\n1\n{root}\n"),
            format!("o\n01\n{root}\n"),
            format!("o\n-1\n{root}\n"),
            format!("o\n18446744073709551616\n{root}\n"),
            "o\n1\nAAAA\n".into(),
            format!("o\n1\n{root}\n\n"),
        ] {
            assert!(Checkpoint::parse(&wrong).is_err(), "{wrong:?}");
        }
        let extended = format!("o\n0\n{root}\nmore\n");
        assert_eq!(Checkpoint::parse(&extended).unwrap().to_string(), extended);
    }
}
