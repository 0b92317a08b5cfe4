//! Authenticated encryption of whole datagrams: XChaCha20-Poly1305 (RFC 8439, draft-irtf-cfrg-xchacha-03).

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::{Boot, MAGIC, MAX_DATAGRAM, WireError};
use crate::config::{ClusterKey, Keyring};

/// Bytes before the payload.
pub const HEADER_LEN: usize = MAGIC.len() + 16 + 8;

/// Bytes after the payload.
pub const TAG_LEN: usize = 16;

/// Seals and opens datagrams with the keys of the cluster.
pub struct Sealer {
    seal: XChaCha20Poly1305,
    accept: Vec<XChaCha20Poly1305>,
}

impl Sealer {
    /// Seals with the first key of `keys`, opens with all.
    pub fn new(keys: &Keyring) -> Self {
        let cipher = |key: &ClusterKey| XChaCha20Poly1305::new(key.bits().into());
        Self { seal: cipher(&keys.seal), accept: keys.accept.iter().map(cipher).collect() }
    }

    /// The datagram with this payload, or `None` if it would be too long. A pair of `boot` and `sequence` must
    /// not be used twice.
    pub fn seal(&self, boot: Boot, sequence: u64, payload: &[u8]) -> Option<Vec<u8>> {
        let length = HEADER_LEN + payload.len() + TAG_LEN;
        if length > MAX_DATAGRAM {
            return None;
        }
        let mut datagram = Vec::with_capacity(length);
        datagram.extend_from_slice(&MAGIC);
        datagram.extend_from_slice(&boot.0.to_be_bytes());
        datagram.extend_from_slice(&sequence.to_be_bytes());
        datagram.extend_from_slice(payload);
        let nonce = nonce(boot, sequence);
        let body = datagram.get_mut(HEADER_LEN..)?;
        let tag = self.seal.encrypt_inout_detached(&nonce, &MAGIC, body.into()).ok()?;
        datagram.extend_from_slice(&tag);
        Some(datagram)
    }

    /// The sender's run, the sequence and the payload of a datagram.
    ///
    /// # Errors
    /// Whatever is not of a member of the cluster: [`WireError::Short`], [`WireError::Magic`],
    /// [`WireError::Unauthentic`].
    pub fn open(&self, datagram: &[u8]) -> Result<(Boot, u64, Vec<u8>), WireError> {
        let (magic, rest) = datagram.split_first_chunk::<4>().ok_or(WireError::Short)?;
        if *magic != MAGIC {
            return Err(WireError::Magic);
        }
        let (boot, rest) = rest.split_first_chunk::<16>().ok_or(WireError::Short)?;
        let (sequence, rest) = rest.split_first_chunk::<8>().ok_or(WireError::Short)?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(WireError::Short)?;
        let (boot, sequence) = (Boot(u128::from_be_bytes(*boot)), u64::from_be_bytes(*sequence));
        let nonce = nonce(boot, sequence);
        for cipher in std::iter::once(&self.seal).chain(&self.accept) {
            let mut payload = sealed.to_vec();
            let body = payload.as_mut_slice().into();
            if cipher.decrypt_inout_detached(&nonce, &MAGIC, body, tag.into()).is_ok() {
                return Ok((boot, sequence, payload));
            }
        }
        Err(WireError::Unauthentic)
    }
}

fn nonce(boot: Boot, sequence: u64) -> XNonce {
    let mut nonce = [0; 24];
    let (high, low) = nonce.split_at_mut(16);
    high.copy_from_slice(&boot.0.to_be_bytes());
    low.copy_from_slice(&sequence.to_be_bytes());
    nonce.into()
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}
