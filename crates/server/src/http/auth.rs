//! Who calls: `Authorization: Bearer km_…`, of which only a digest is known here.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, header::AUTHORIZATION};
use jiff::Timestamp;
use keymoot_api::{Problem, data::KeyInfo, routes::Who};
use keymoot_types::{ErrorCode, KeyName};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{Config, Operation, Role};

const TOKEN_PREFIX: &str = "km_";
/// 256 bits as base64url without padding.
const TOKEN_CHARS: usize = 43;

/// Who was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// The keys whose values it may ask about.
    pub keys: Vec<KeyName>,
    /// What it may ask for.
    pub operations: Vec<Operation>,
    expires: Option<Timestamp>,
    sha256: [u8; 32],
}

impl Caller {
    /// Whether this may be asked for, of that key.
    pub fn may(&self, key: &KeyName, operation: Operation) -> Result<(), Problem> {
        if self.keys.contains(key) && self.operations.contains(&operation) {
            Ok(())
        } else {
            Err(Problem::new(ErrorCode::Forbidden, "the token does not allow this operation with this key"))
        }
    }

    /// Whether the caller has one of these roles.
    pub fn is(&self, roles: &[Role]) -> Result<(), Problem> {
        if roles.contains(&self.role) {
            Ok(())
        } else {
            Err(Problem::new(ErrorCode::Forbidden, "the token's role does not allow this"))
        }
    }
}

/// Who may call, and which keys there are: one snapshot of the configuration, swapped whole by a reload.
#[derive(Debug, Default)]
pub struct Access {
    /// By digest. The lookup's timing tells something of a digest, which leads to no token; still the last word
    /// is a comparison in constant time.
    callers: HashMap<[u8; 32], Arc<Caller>>,
    keys: Vec<KeyInfo>,
}

impl Access {
    /// As the configuration has it.
    pub fn new(config: &Config) -> Self {
        let callers = config.tokens.iter().map(|token| {
            let sha256 = *token.sha256.as_bytes();
            let caller = Caller {
                name: token.name.clone(),
                role: token.role,
                keys: token.keys.clone(),
                operations: token.operations.clone(),
                expires: token.expires,
                sha256,
            };
            (sha256, Arc::new(caller))
        });
        let keys = config.keys.iter().map(|key| KeyInfo {
            name: key.name.clone(),
            max_age: key.max_age.map(Into::into),
            only_in_sources: key.only_in_sources,
        });
        Self { callers: callers.collect(), keys: keys.collect() }
    }

    /// The declared keys.
    pub fn keys(&self) -> &[KeyInfo] {
        &self.keys
    }

    /// Who calls; without a known, unexpired token nobody does.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Problem> {
        let refuse =
            || Problem::new(ErrorCode::Unauthenticated, "send a known token as `Authorization: Bearer km_…`");
        let token = bearer(headers).ok_or_else(refuse)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        let caller = self.callers.get(&digest).ok_or_else(refuse)?;
        if !bool::from(caller.sha256.ct_eq(&digest)) {
            return Err(refuse());
        }
        match caller.expires {
            Some(expires) if expires <= now() => {
                Err(Problem::new(ErrorCode::Unauthenticated, "the token has expired"))
            }
            _ => Ok(caller.clone()),
        }
    }

    /// Who calls, where nobody need: no header is nobody, a wrong one is an error.
    pub fn caller_if_any(&self, headers: &HeaderMap) -> Result<Option<Arc<Caller>>, Problem> {
        if headers.contains_key(AUTHORIZATION) { self.caller(headers).map(Some) } else { Ok(None) }
    }

    /// Lets a caller in by a control route's rule. [`Who::Service`] asks only for a token here: key and
    /// operation are [`Caller::may`]'s.
    pub fn admit(&self, who: Who, headers: &HeaderMap) -> Result<Option<Arc<Caller>>, Problem> {
        let roles: &[Role] = match who {
            Who::Anyone | Who::Holder => return self.caller_if_any(headers),
            Who::Service => return self.caller(headers).map(Some),
            Who::Operator => &[Role::Operator],
            Who::Reader => &[Role::Operator, Role::Auditor],
        };
        let caller = self.caller(headers)?;
        caller.is(roles)?;
        Ok(Some(caller))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a token's end is a date, and ends nothing that can't be given again"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// The token's text, if it has a token's shape.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii_start();
    let characters = token.strip_prefix(TOKEN_PREFIX.as_bytes())?;
    let base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (scheme.eq_ignore_ascii_case(b"Bearer ")
        && characters.len() == TOKEN_CHARS
        && characters.iter().all(base64url))
    .then_some(token)
}
