//! What two members say, inside of their TLS.
//!
//! ```text
//! ask    = keyring_id[8]
//! answer = kind u8 ‖ length u32 ‖ payload
//! 0      payload = why nothing is given, in a sentence
//! 1      payload = milliseconds that the window is still open u64 ‖ keys, as `keymoot_keyring::hand_over` has them
//! ```

use std::{io, time::Duration};

use keymoot_keyring::hand_over::BYTES_EACH;
use keymoot_types::{KeyringId, Wiped};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const REFUSED: u8 = 0;
const KEYS: u8 = 1;
const LEFT_BYTES: usize = 8;
/// More versions than a keyring ever has loaded.
const PAYLOAD_BYTES_MAX: usize = LEFT_BYTES + 10_000 * BYTES_EACH;

/// What is answered.
pub(crate) enum Answer {
    /// Nothing, and why.
    Refused(String),
    /// The keys.
    Keys {
        /// For how long the window is still open.
        left: Duration,
        /// Packed.
        keys: Wiped,
    },
}

pub(crate) async fn send_ask(to: &mut (impl AsyncWrite + Unpin), keyring_id: KeyringId) -> io::Result<()> {
    to.write_all(keyring_id.as_bytes()).await?;
    to.flush().await
}

pub(crate) async fn read_ask(from: &mut (impl AsyncRead + Unpin)) -> io::Result<KeyringId> {
    let mut id = [0; 8];
    from.read_exact(&mut id).await?;
    Ok(KeyringId::new(id))
}

pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    let left;
    let (kind, parts): (u8, [&[u8]; 2]) = match answer {
        Answer::Refused(why) => (REFUSED, [why.as_bytes(), &[]]),
        Answer::Keys { left: duration, keys } => {
            left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
            (KEYS, [&left, keys])
        }
    };
    let length: usize = parts.iter().map(|part| part.len()).sum();
    to.write_u8(kind).await?;
    to.write_u32(u32::try_from(length).map_err(io::Error::other)?).await?;
    for part in parts {
        to.write_all(part).await?;
    }
    to.shutdown().await
}

pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Answer> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "its answer is malformed");
    let kind = from.read_u8().await?;
    let length = usize::try_from(from.read_u32().await?).map_err(|_| malformed())?;
    if length > PAYLOAD_BYTES_MAX {
        return Err(malformed());
    }
    let mut payload = Wiped::from(vec![0; length]);
    from.read_exact(&mut payload).await?;
    match kind {
        REFUSED => Ok(Answer::Refused(String::from_utf8_lossy(&payload).chars().take(300).collect())),
        KEYS => {
            let (left, keys) = payload.split_first_chunk::<LEFT_BYTES>().ok_or_else(malformed)?;
            let left = Duration::from_millis(u64::from_be_bytes(*left));
            Ok(Answer::Keys { left, keys: Wiped::from(keys) })
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(answer: &Answer) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, answer).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn an_answer_arrives_as_it_was_sent_or_not_at_all() {
        let keys = Wiped::from(vec![7; 2 * BYTES_EACH]);
        let bytes = sent(&Answer::Keys { left: Duration::from_millis(1234), keys: keys.clone() }).await;
        let Answer::Keys { left, keys: arrived } = read(&mut &bytes[..]).await.unwrap() else { unreachable!() };
        assert_eq!((left, arrived), (Duration::from_millis(1234), keys));
        for end in 0..bytes.len() {
            assert!(read(&mut &bytes[..end]).await.is_err(), "cut at {end}");
        }
        let refused = sent(&Answer::Refused("because".into())).await;
        assert!(matches!(read(&mut &refused[..]).await, Ok(Answer::Refused(why)) if why == "because"));
        assert!(read(&mut &[KEYS, 255, 255, 255, 255, 0][..]).await.is_err(), "a length that nobody sends");
        assert!(read(&mut &[2, 0, 0, 0, 0][..]).await.is_err(), "an unknown kind");
    }
}
