//! The keyholders of a trial: their age identities and shares, in memory only.

use age::x25519::Identity;
use anyhow::Context as _;
use keymoot_api::{
    init::{HolderSpec, Package},
    unlock::{Parts, PartsRequest},
};
use keymoot_types::{
    HolderName, KeyVersion,
    part::{PartName, PartsFile},
};
use zeroize::Zeroizing;

use crate::identity;

const NAMES: [&str; 24] = [
    "ann", "bob", "cem", "dana", "eve", "femi", "gita", "hugo", "ines", "jun", "kofi", "lena", "mina", "noor",
    "omar", "pia", "quinn", "rosa", "sven", "tara", "uma", "vera", "wen", "yara",
];

/// One keyholder.
pub(crate) struct Holder {
    name: HolderName,
    identity: Identity,
    shares: Vec<(PartName, Zeroizing<String>)>,
}

impl Holder {
    /// Who.
    pub(crate) fn name(&self) -> &HolderName {
        &self.name
    }

    /// Their shares of these versions, in this order.
    pub(crate) fn parts(&self, versions: &[KeyVersion]) -> PartsRequest {
        let share = |version: &KeyVersion| self.shares.iter().find(|(name, _)| name.version == *version);
        let parts = versions.iter().filter_map(share).map(|(name, share)| (name.to_string(), share.clone()));
        PartsRequest { parts: Parts(parts.collect()) }
    }
}

/// All of them.
pub(crate) struct Holders(Vec<Holder>);

impl Holders {
    /// Two dozen, each with a new identity.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let holder = |name: &&str| -> anyhow::Result<Holder> {
            Ok(Holder { name: name.parse()?, identity: Identity::generate(), shares: Vec::new() })
        };
        Ok(Self(NAMES.iter().map(holder).collect::<Result<_, _>>()?))
    }

    /// Everybody.
    pub(crate) fn all(&self) -> &[Holder] {
        &self.0
    }

    /// Two of them, by their place in the list.
    pub(crate) fn pair(&self, first: usize, second: usize) -> anyhow::Result<[&Holder; 2]> {
        let holder = |index: usize| self.0.get(index).context("there is no such holder");
        Ok([holder(first)?, holder(second)?])
    }

    /// What `init` is told of them.
    pub(crate) fn specs(&self) -> Vec<HolderSpec> {
        let spec = |holder: &Holder| HolderSpec {
            name: holder.name.clone(),
            recipient: Some(holder.identity.to_public().to_string()),
        };
        self.0.iter().map(spec).collect()
    }

    /// Each opens their own package and keeps what is in it.
    pub(crate) fn open(&mut self, packages: &[Package]) -> anyhow::Result<()> {
        for package in packages {
            let holder = self.0.iter_mut().find(|holder| holder.name == package.holder);
            let holder = holder.with_context(|| format!("a package for {}, who is no holder", package.holder))?;
            let opened = identity::open(&holder.identity, package.package.as_bytes())?;
            for (name, share) in PartsFile::parse(std::str::from_utf8(&opened)?)?.lines {
                holder.shares.push((name.parse()?, share));
            }
        }
        Ok(())
    }
}
