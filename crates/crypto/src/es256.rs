//! Signatures by ECDSA on P-256 with SHA-256: the `ES256` of JSON Web Tokens (RFC 7518). Only verified here.
//!
//! Invariant: a signature is the 64 bytes of RFC 7518, never DER, and nothing else is accepted under a key of this
//! kind.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a coordinate.
pub const COORDINATE_BYTES: usize = 32;
/// Bytes of a point that is not compressed (SEC 1): a mark and two coordinates.
const POINT_BYTES: usize = 1 + 2 * COORDINATE_BYTES;
const UNCOMPRESSED: u8 = 4;
const NO_KEY: Error = Error::new(ErrorKind::BadInput, "this is no key on the curve P-256");

/// What verifies: a point on P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; POINT_BYTES]);

impl PublicKey {
    /// The key of two coordinates, in big-endian bytes, as a JSON Web Key has them.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when they are no point on the curve.
    pub fn of_coordinates(x: &[u8], y: &[u8]) -> Result<Self> {
        match (x.len(), y.len()) {
            (COORDINATE_BYTES, COORDINATE_BYTES) => Self::of_point(&[&[UNCOMPRESSED], x, y].concat()),
            _ => Err(NO_KEY),
        }
    }

    /// The key of a point that is not compressed.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it is no point on the curve.
    pub fn of_point(point: &[u8]) -> Result<Self> {
        let bytes: [u8; POINT_BYTES] = point.try_into().map_err(|_| NO_KEY)?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).map_err(|_| NO_KEY)?;
        Ok(Self(bytes))
    }

    /// Its bytes: the point, not compressed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `signature` is of `message` by the owner of this key.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0);
        key.is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn a_signature_verifies_under_its_own_key_and_message_alone() {
        let pair = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (pair, other) = (pair(), pair());
        let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
        let public = PublicKey::of_point(pair.public_key().as_ref()).unwrap();
        assert!(public.verify(b"message", signature.as_ref()));
        assert!(!public.verify(b"massage", signature.as_ref()));
        let other = PublicKey::of_point(other.public_key().as_ref()).unwrap();
        assert!(!other.verify(b"message", signature.as_ref()));
        let mut changed = signature.as_ref().to_vec();
        changed[40] ^= 1;
        assert!(!public.verify(b"message", &changed));
        for length in [0, 63, 65] {
            assert!(!public.verify(b"message", &vec![1; length]), "{length}");
        }
        assert!(!public.verify(b"message", &[0; 64]));
    }

    /// The example of RFC 7515, A.3.
    #[test]
    fn the_example_of_rfc_7515_verifies() {
        use base64::Engine as _;
        let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
        let public = PublicKey::of_coordinates(
            &decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
            &decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
        );
        let message = "eyJhbGciOiJFUzI1NiJ9.\
            eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature =
            decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q");
        assert!(public.unwrap().verify(message.as_bytes(), &signature));
    }

    #[test]
    fn what_is_no_point_is_refused() {
        for bytes in [vec![], vec![4; 64], vec![4; 65], vec![0; 65], vec![2; 33]] {
            assert!(PublicKey::of_point(&bytes).is_err(), "{bytes:?}");
        }
        assert!(PublicKey::of_coordinates(&[1; 31], &[1; 33]).is_err());
    }
}
