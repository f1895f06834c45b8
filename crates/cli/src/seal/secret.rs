//! Secrets from a terminal, which does not show them, or from standard input.
//!
//! Invariant: a secret is never shown, and never repeated in an error.

use std::io::{self, IsTerminal, Read};

use claviger_crypto::SecretBytes;

use crate::failure::Failure;

/// What standard input may hold, bytes.
const MAX_INPUT: u64 = 64 * 1024;
/// How a share begins.
const SHARE: &str = "clvs1";

/// Where secrets come from.
#[derive(Debug)]
pub(super) enum Input {
    /// Someone who is asked.
    Terminal,
    /// The lines of standard input, those still to be taken; read at the first look.
    Lines(Option<Vec<SecretBytes>>),
}

impl Input {
    /// The terminal when someone can be asked there.
    pub(super) fn of(quiet: bool) -> Self {
        if !quiet && io::stdin().is_terminal() { Self::Terminal } else { Self::Lines(None) }
    }

    /// The next secret: what is typed, or the next line that is not empty. `None`: there is no more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn next(&mut self, prompt: &str) -> Result<Option<SecretBytes>, Failure> {
        match self {
            Self::Terminal => {
                let text = ask(prompt)?;
                Ok((!text.is_empty()).then_some(text))
            }
            Self::Lines(lines) => {
                if lines.is_none() {
                    let mut read = read_lines(&mut io::stdin().lock())?;
                    read.reverse();
                    *lines = Some(read);
                }
                Ok(lines.as_mut().and_then(Vec::pop))
            }
        }
    }

    /// A passphrase to be, typed twice at a terminal.
    ///
    /// # Errors
    /// When there is none, or two different ones.
    pub(super) fn new_passphrase(mut self) -> Result<SecretBytes, Failure> {
        let none = || Failure::local("there is no passphrase: the first line of standard input is one");
        let text = self.next("New passphrase: ")?.ok_or_else(none)?;
        if matches!(self, Self::Terminal) && ask("The same again: ")?.expose() != text.expose() {
            return Err(Failure::local("the two passphrases differ"));
        }
        Ok(text)
    }
}

/// Whether a text is meant as a share.
pub(super) fn is_share(text: &SecretBytes) -> bool {
    let start = text.expose().trim_ascii_start();
    start.get(..SHARE.len()).is_some_and(|start| start.eq_ignore_ascii_case(SHARE.as_bytes()))
}

fn ask(prompt: &str) -> Result<SecretBytes, Failure> {
    let typed = rpassword::prompt_password(prompt);
    typed
        .map(|text| SecretBytes::new(text.into_bytes()))
        .map_err(|error| Failure::local(format!("cannot read from the terminal: {error}")))
}

fn read_lines(from: &mut impl Read) -> Result<Vec<SecretBytes>, Failure> {
    let failed = |error: io::Error| Failure::local(format!("cannot read standard input: {error}"));
    // As large as it may get, so that no copy is left behind.
    let mut bytes = Vec::with_capacity(usize::try_from(MAX_INPUT + 1).unwrap_or_default());
    from.take(MAX_INPUT + 1).read_to_end(&mut bytes).map_err(failed)?;
    let bytes = SecretBytes::new(bytes);
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Failure::local(format!("standard input is longer than {MAX_INPUT} bytes")));
    }
    let lines = bytes.expose().split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(lines.filter(|line| !line.is_empty()).map(|line| SecretBytes::new(line.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let lines = read_lines(&mut &b" a pass phrase \r\n\nclvs1-x\nlast"[..]).unwrap();
        let lines: Vec<&[u8]> = lines.iter().map(SecretBytes::expose).collect();
        assert_eq!(lines, [&b" a pass phrase "[..], b"clvs1-x", b"last"]);
        let long = vec![b'x'; 64 * 1024 + 1];
        assert!(read_lines(&mut long.as_slice()).is_err());
    }

    #[test]
    fn a_share_is_told_from_a_passphrase_by_its_beginning() {
        for (text, expected) in
            [(" CLVS1-3f", true), ("clvs1-", true), ("clvs", false), ("pass clvs1-", false)]
        {
            assert_eq!(is_share(&SecretBytes::new(text.into())), expected, "{text}");
        }
    }
}
