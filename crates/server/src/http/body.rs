//! Reading a body: so long and no longer, in so much time and no more.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, HttpBody as _};
use http_body_util::BodyExt as _;
use keymoot_api::Problem;
use keymoot_types::{ErrorCode, Wiped};
use tokio::{sync::Semaphore, time::timeout};

use super::shed::Admitted;

/// A body of the control listener.
pub const CONTROL_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of the data listener, which may be long.
pub const DATA_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read away of a body that was refused. A client that sends all before it reads anything would
/// otherwise see a broken connection instead of the answer.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);
const LINGER_AT_ONCE: usize = 64;

/// Reads bodies, and reads refused ones away behind their answer's back.
#[derive(Debug, Clone)]
pub struct BodyReader {
    lingering: Arc<Semaphore>,
    timeout: Duration,
}

impl BodyReader {
    /// Gives every body so much time.
    pub fn new(timeout: Duration) -> Self {
        Self { lingering: Arc::new(Semaphore::new(LINGER_AT_ONCE)), timeout }
    }

    /// The whole body; a declared length over the limit is refused before a byte is read. What is read counts
    /// towards `admitted`, where there is one.
    pub async fn read(
        &self,
        mut body: Body,
        bytes_max: usize,
        mut admitted: Option<&mut Admitted>,
    ) -> Result<Wiped, Problem> {
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > bytes_max {
            self.linger(body);
            return Err(too_large(bytes_max));
        }
        let reading = async {
            let mut bytes = Wiped::default();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| Problem::new(ErrorCode::BadRequest, "the body broke off"))?;
                let Ok(data) = frame.into_data() else { continue };
                if data.len() > bytes_max - bytes.len() {
                    return Err(too_large(bytes_max));
                }
                if let Some(admitted) = admitted.as_deref_mut() {
                    admitted.grow_to(bytes.len() + data.len())?;
                }
                append(&mut bytes, &data, declared);
            }
            Ok(bytes)
        };
        let read = timeout(self.timeout, reading).await;
        let read = read.unwrap_or_else(|_| {
            let detail = format!("the body did not arrive within {} seconds", self.timeout.as_secs());
            Err(Problem::new(ErrorCode::BadRequest, detail))
        });
        if read.as_ref().is_err_and(|problem| problem.code != ErrorCode::BadRequest) {
            self.linger(body);
        }
        read
    }

    /// Reads the rest of a body that was refused and throws it away, for a while.
    pub fn linger(&self, mut body: Body) {
        let Ok(slot) = self.lingering.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let reading = async {
                let mut left = LINGER_BYTES_MAX;
                while let Some(Ok(frame)) = body.frame().await {
                    let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                    match left.checked_sub(bytes) {
                        Some(rest) => left = rest,
                        None => break,
                    }
                }
            };
            // Whether it came to its end is nobody's concern.
            drop(timeout(LINGER_TIMEOUT, reading).await);
            drop(slot);
        });
    }
}

/// Grows into a new buffer rather than in place, so that the old one is wiped. A declared length is believed
/// only as far as data has come, but for the first step.
fn append(bytes: &mut Wiped, data: &[u8], declared: usize) {
    const FIRST_BYTES_MAX: usize = 64 * 1024;
    let needed = bytes.len() + data.len();
    if needed > bytes.capacity() {
        let doubled = if bytes.is_empty() { declared.min(FIRST_BYTES_MAX) } else { 2 * bytes.capacity() };
        let doubled = if declared == 0 { doubled } else { doubled.min(declared) };
        let mut larger = Wiped::with_capacity(needed.max(doubled));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(data);
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(ErrorCode::TooLarge, format!("the body may have at most {bytes_max} bytes"))
}
