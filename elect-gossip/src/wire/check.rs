//! What must hold for any datagram. Used by the property tests and by the fuzz target `gossip_datagram`; not part
//! of the API.

use super::{Boot, MAX_DATAGRAM, Packet, Sealer};
use crate::config::{ClusterKey, Keyring};

/// The key of [`datagram`]: 32 bytes of 7.
pub fn keyring() -> Keyring {
    Keyring::new(ClusterKey::new([7; 32]))
}

/// Takes `bytes` for a datagram, sealed with [`keyring`], and for the payload of one.
///
/// # Panics
/// If something is let through that does not come back as it was.
pub fn datagram(bytes: &[u8]) {
    let sealer = Sealer::new(&keyring());
    if let Ok((boot, sequence, opened)) = sealer.open(bytes) {
        payload(&opened);
        // The cipher is deterministic; only a datagram that is too long to be sent cannot be made again.
        let again = sealer.seal(boot, sequence, &opened);
        assert_eq!(again.as_deref(), Some(bytes).filter(|bytes| bytes.len() <= MAX_DATAGRAM));
    }
    payload(bytes);
    if let Some(sealed) = sealer.seal(Boot(1), 2, bytes) {
        assert_eq!(sealer.open(&sealed), Ok((Boot(1), 2, bytes.to_vec())));
    }
}

fn payload(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else { return };
    let mut written = Vec::new();
    packet.emit(&mut written);
    assert!(written.len() <= bytes.len(), "{} bytes became {}", bytes.len(), written.len());
    assert_eq!(Packet::parse(&written), Ok(packet));
}
