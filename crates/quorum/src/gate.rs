//! The gates: what is missing before a version is activated or retired. An empty list is the only permission.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keymoot_types::{
    HolderName, KeyName, KeyVersion, Manifest, NodeName, SourceName, VersionState, manifest::VersionRecord,
};

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The gate's code.
    pub code: &'static str,
    /// The holder, node, source or key that it is about.
    pub who: Option<String>,
    /// What is missing and what to do.
    pub detail: String,
}

impl Missing {
    /// One thing that is missing.
    pub fn new(code: &'static str, who: Option<String>, detail: impl Into<String>) -> Self {
        Self { code, who, detail: detail.into() }
    }
}

/// What one member reports about the version to be activated.
#[derive(Debug, Clone)]
pub struct MemberFacts {
    /// Its name.
    pub node: NodeName,
    /// Why it does not count as being there under its present boot.
    pub absent: Option<String>,
    /// Whether (version, key id) is validated there.
    pub loaded: bool,
    /// Whether the version's canaries decrypt there through the serving path; else the keys whose do not.
    pub canaries_failed: Vec<KeyName>,
    /// How its keys and sources are declared otherwise than here.
    pub config_differs: Vec<String>,
    /// Why its manifest is not to be followed.
    pub diverged: Option<String>,
}

/// All that the activation gate looks at.
pub struct ActivationFacts<'a> {
    /// The version to be activated.
    pub version: KeyVersion,
    /// Every member that is not excluded.
    pub members: Vec<MemberFacts>,
    /// Who has proved each version, by its present share set.
    pub proofs: &'a BTreeMap<KeyVersion, BTreeSet<HolderName>>,
    /// Holders excused by name.
    pub excused: &'a [HolderName],
    /// Sources that were reached, that hold values of a version, and of which not one authenticated.
    pub samples_failed: Vec<SourceName>,
}

/// What is missing before `version` may become primary. A version that was primary before needs no new proofs,
/// and only the nodes in service: the way back must be open at once. One that was out of use, or given up, meanwhile
/// needs every member: whoever is away may serve without it.
pub fn activation(manifest: &Manifest, record: &VersionRecord, facts: &ActivationFacts<'_>) -> Vec<Missing> {
    let mut missing = Vec::new();
    let rollback = matches!(record.state, VersionState::DecryptOnly | VersionState::Primary);
    let of_all = !rollback || record.brought_back || record.given_up.is_some();
    for member in facts.members.iter().filter(|member| member.absent.is_none() || of_all) {
        member_lacks(facts.version, member, &mut missing);
    }
    if !facts.members.iter().any(|member| member.absent.is_none()) {
        let detail = format!("no member in service has reported on v{}", facts.version);
        missing.push(Missing::new("member_missing", Some(format!("v{}", facts.version)), detail));
    }
    if !rollback {
        proofs(record, facts, &mut missing);
        way_back(manifest, facts.proofs, &mut missing);
    }
    // A wrong configuration closes no way back.
    if rollback {
        missing.retain(|entry| entry.code != "config_differs");
        return missing;
    }
    for source in &facts.samples_failed {
        let detail = "the source was reached and not one sampled value of a version authenticated: a wrong key name \
             or associated data?";
        missing.push(Missing::new("sample_failed", Some(source.to_string()), detail));
    }
    missing
}

fn member_lacks(version: KeyVersion, member: &MemberFacts, missing: &mut Vec<Missing>) {
    let who = || Some(member.node.to_string());
    if let Some(why) = &member.absent {
        missing.push(Missing::new("member_missing", who(), why.clone()));
        return;
    }
    if let Some(reason) = &member.diverged {
        missing.push(Missing::new("diverged", who(), reason.clone()));
    }
    if !member.loaded {
        let detail = format!("v{version} is not validated there; submit its shares with `keymoot unlock`");
        missing.push(Missing::new("not_loaded", who(), detail));
    }
    if !member.canaries_failed.is_empty() {
        let keys: Vec<_> = member.canaries_failed.iter().map(KeyName::as_str).collect();
        let detail = format!("canaries of v{version} do not decrypt for {}", keys.join(", "));
        missing.push(Missing::new("canary_failed", who(), detail));
    }
    if !member.config_differs.is_empty() {
        let detail = format!("its configuration is another: {}", member.config_differs.join(", "));
        missing.push(Missing::new("config_differs", who(), detail));
    }
}

fn proofs(record: &VersionRecord, facts: &ActivationFacts<'_>, missing: &mut Vec<Missing>) {
    let version = record.version;
    let none = BTreeSet::new();
    let proved = facts.proofs.get(&version).unwrap_or(&none);
    for holder in &record.share_set.holders {
        if !proved.contains(&holder.name) && !facts.excused.contains(&holder.name) {
            let detail =
                format!("has not proved their share of v{version}; `keymoot holder prove`, or excuse them");
            missing.push(Missing::new("not_proved", Some(holder.name.to_string()), detail));
        }
    }
    let holders = record.share_set.holders.len();
    let least = (usize::from(record.share_set.threshold) + 1).min(holders);
    let have = record.share_set.holders.iter().filter(|holder| proved.contains(&holder.name)).count();
    if have < least {
        let detail = format!("{least} holders must have proved v{version}, however many are excused; {have} have");
        missing.push(Missing::new("not_proved", Some(format!("v{version}")), detail));
    }
}

/// A threshold of holders must be known to hold the primary, which is the way back.
fn way_back(manifest: &Manifest, proofs: &BTreeMap<KeyVersion, BTreeSet<HolderName>>, missing: &mut Vec<Missing>) {
    let version = manifest.primary;
    let Some(record) = manifest.version(version) else {
        let detail = format!("the manifest has never heard of v{version}, its primary");
        missing.push(Missing::new("way_back", Some(format!("v{version}")), detail));
        return;
    };
    let (version, threshold) = (record.version, usize::from(record.share_set.threshold));
    let none = BTreeSet::new();
    let proved = proofs.get(&version).unwrap_or(&none);
    let have = record.share_set.holders.iter().filter(|holder| proved.contains(&holder.name)).count();
    if have < threshold {
        let detail = format!(
            "{threshold} holders must have proved v{version}, so that it can be unlocked again; {have} have"
        );
        missing.push(Missing::new("way_back", Some(format!("v{version}")), detail));
    }
}

/// One source in one census, as far as the retirement gate looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CensusFacts {
    /// The source.
    pub source: SourceName,
    /// Values of each version, ascending.
    pub values: Vec<(KeyVersion, u64)>,
    /// Rows that begin as values do and can't be read.
    pub unreadable: u64,
    /// Why nothing may be concluded from it.
    pub why_not: Option<String>,
}

/// A census of all sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Service time at which it began.
    pub began: Duration,
    /// Service time at which it ended: one of a large table takes hours.
    pub ended: Duration,
    /// Why it is none of the two in a row, such as that it is of some sources only. What it found counts all the same.
    pub set_aside: Option<String>,
    /// Its sources.
    pub sources: Vec<CensusFacts>,
}

/// How long the values of a key live outside the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLife {
    /// The key.
    pub key: KeyName,
    /// `None` where the configuration says neither `max_age` nor `only_in_sources`.
    pub max_age: Option<Duration>,
}

/// What is in quarantine of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The source.
    pub source: SourceName,
    /// Rows.
    pub rows: u64,
    /// The ids of the first of them.
    pub first: Vec<String>,
}

/// All that the retirement gate looks at. Durations are service time, see [`crate::elapsed`].
pub struct RetirementFacts<'a> {
    /// The version to be retired.
    pub version: KeyVersion,
    /// Members that have not adopted the present revision, and how that is known.
    pub unsettled: Vec<(NodeName, String)>,
    /// When the version stopped encrypting and every member had adopted that.
    pub stopped: Option<Duration>,
    /// Now.
    pub now: Duration,
    /// The longest that a writer holds a value before it stores it.
    pub max_write_delay: Duration,
    /// How long no value of it may have authenticated.
    pub quiet: Duration,
    /// When one last did, for a service.
    pub last_use: Option<Duration>,
    /// The newest censuses, the newest last.
    pub censuses: &'a [Census],
    /// Whether one is running.
    pub census_running: bool,
    /// Sources that were ever declared and are not declared gone.
    pub sources: &'a [SourceName],
    /// Of these, the ones in this node's configuration.
    pub configured: &'a [SourceName],
    /// What is in quarantine.
    pub quarantined: &'a [Quarantined],
    /// Every key that ever was.
    pub keys: &'a [KeyLife],
    /// Who has proved each version.
    pub proofs: &'a BTreeMap<KeyVersion, BTreeSet<HolderName>>,
}

/// What is missing before `version` may be thrown away.
pub fn retirement(manifest: &Manifest, facts: &RetirementFacts<'_>) -> Vec<Missing> {
    let mut missing = Vec::new();
    stopped_encrypting(manifest, facts, &mut missing);
    for (node, why) in &facts.unsettled {
        let detail =
            format!("has not adopted the present revision: {why}. A member that is gone is declared destroyed");
        missing.push(Missing::new("not_settled", Some(node.to_string()), detail));
    }
    let stopped = facts.stopped.unwrap_or(facts.now);
    censuses(facts, &counted(manifest, facts), stopped, &mut missing);
    // What was declared and is asked about no more is gone, and nobody can repair its rows.
    let known = |source: &SourceName| manifest.declared.sources.iter().any(|declared| declared.name == *source);
    let gone = |source: &SourceName| known(source) && !facts.sources.contains(source);
    for Quarantined { source, rows, first } in
        facts.quarantined.iter().filter(|left| left.rows > 0 && !gone(&left.source))
    {
        let ids: String = first.iter().map(|id| format!("{id}, ")).collect();
        let detail = format!(
            "{rows} rows are in quarantine ({ids}…): `keymoot rekey quarantine` lists them; repair or remove them, \
             then `keymoot census` looks at them again"
        );
        missing.push(Missing::new("quarantine_left", Some(source.to_string()), detail));
    }
    for source in facts.sources.iter().filter(|source| !facts.configured.contains(source)) {
        let detail = "was declared once and is not in the configuration, or could not be opened, as the node's log \
                      says; bring it back, or, where it is not declared, declare it gone by name";
        missing.push(Missing::new("source_missing", Some(source.to_string()), detail));
    }
    waits(manifest, facts, stopped, &mut missing);
    way_back(manifest, facts.proofs, &mut missing);
    missing
}

fn stopped_encrypting(manifest: &Manifest, facts: &RetirementFacts<'_>, missing: &mut Vec<Missing>) {
    let version = facts.version;
    let state = manifest.version(version).map(|record| record.state);
    let detail = match state {
        Some(VersionState::DecryptOnly | VersionState::Retired) if facts.stopped.is_some() => return,
        Some(VersionState::DecryptOnly | VersionState::Retired) => {
            format!("it is not known since when v{version} encrypts nothing on any member")
        }
        Some(state) => format!("v{version} is {state}; only a decrypt-only version retires"),
        None => format!("the manifest has never heard of v{version}"),
    };
    missing.push(Missing::new("not_settled", Some(format!("v{version}")), detail));
}

/// What was found in a source counts unless the manifest itself says that it is gone: that it is not on the list
/// of those that are asked about is no reason to look away.
fn counted<'a>(manifest: &Manifest, facts: &RetirementFacts<'a>) -> BTreeSet<&'a SourceName> {
    let gone = |source: &SourceName| {
        manifest.declared.sources.iter().any(|declared| declared.name == *source && declared.gone.is_some())
    };
    let found = looked_at(facts).iter().flat_map(|census| &census.sources).map(|found| &found.source);
    facts.sources.iter().chain(found.filter(|source| !gone(source))).collect()
}

/// The newest two censuses in a row, and what was counted beside and after them.
fn looked_at<'a>(facts: &RetirementFacts<'a>) -> &'a [Census] {
    let whole = facts.censuses.iter().enumerate().filter(|(_, census)| census.set_aside.is_none());
    let from = whole.map(|(at, _)| at).rev().take(2).last().unwrap_or(0);
    facts.censuses.get(from..).unwrap_or_default()
}

/// How long a census says how things are: a restored backup, or a writer that was forgotten, comes afterwards.
pub const CENSUS_FRESH: Duration = Duration::from_secs(3600);

/// The earliest service time at which a census counts: nobody can write an old value any more.
pub fn census_from(stopped: Duration, max_write_delay: Duration) -> Duration {
    stopped.saturating_add(max_write_delay)
}

fn censuses(
    facts: &RetirementFacts<'_>,
    counted: &BTreeSet<&SourceName>,
    stopped: Duration,
    missing: &mut Vec<Missing>,
) {
    let from = census_from(stopped, facts.max_write_delay);
    if facts.census_running {
        missing.push(Missing::new("census_running", None, "a census is running; ask again when it is done"));
    }
    let looked_at = looked_at(facts);
    let in_a_row: Vec<_> = looked_at.iter().filter(|census| census.set_aside.is_none()).collect();
    if in_a_row.len() < 2 || in_a_row.iter().any(|census| census.began < from) || !fresh(facts.now, &in_a_row) {
        missing.push(Missing::new("census_stale", None, stale(facts, &in_a_row, from)));
    }
    for source in counted {
        for census in looked_at {
            census_of_source(facts, source, census, missing);
        }
    }
    // Both censuses say the same of most sources; once is enough.
    let mut seen = BTreeSet::new();
    missing.retain(|entry| seen.insert((entry.code, entry.who.clone())));
}

/// The newest says how things are now, and the one before was just before it.
fn fresh(now: Duration, in_a_row: &[&Census]) -> bool {
    let since = |census: &&Census| census.began;
    let then = in_a_row.iter().skip(1).map(since).chain([now]);
    // One that is dated after now is of a time that was lost: how old it is nobody knows.
    let past = |census: &&Census| census.began.max(census.ended) <= now;
    in_a_row.iter().all(past)
        && in_a_row.iter().zip(then).all(|(census, then)| then.saturating_sub(census.ended) <= CENSUS_FRESH)
}

/// What is wrong with the censuses that there are.
fn stale(facts: &RetirementFacts<'_>, in_a_row: &[&Census], from: Duration) -> String {
    let mut detail = String::from(
        "two censuses in a row are needed, both begun after the version stopped encrypting and max_write_delay",
    );
    let early = in_a_row.iter().filter(|census| census.began < from).count();
    let undated = in_a_row.iter().filter(|census| census.began.max(census.ended) > facts.now).count();
    match facts.censuses {
        [] => detail.push_str("; none was taken"),
        _ if undated > 0 => detail.push_str(&format!(
            "; {undated} of the newest two are dated after this node's service time, some of which was lost: take two \
             more with `keymoot census`"
        )),
        _ if in_a_row.len() > 1 && early == 0 => {
            let hours = CENSUS_FRESH.as_secs() / 3600;
            detail.push_str(&format!("; the newest two are too old: each counts for {hours} h after it ended"));
        }
        _ if early > 0 => detail.push_str(&format!("; {early} of the newest two began before that")),
        _ => detail.push_str(&format!("; there is {} so far", in_a_row.len())),
    }
    let mut reasons: Vec<&str> =
        facts.censuses.iter().filter_map(|census| census.set_aside.as_deref()).rev().collect();
    reasons.dedup();
    if let Some(newest) = reasons.first() {
        detail.push_str(&format!("; one does not count: {newest}"));
    }
    if facts.now < from {
        detail.push_str(&format!("; the first can begin in {} s", seconds_until(from, facts.now)));
    }
    detail
}

fn census_of_source(
    facts: &RetirementFacts<'_>,
    source: &SourceName,
    census: &Census,
    missing: &mut Vec<Missing>,
) {
    let version = facts.version;
    let who = || Some(source.to_string());
    // One source may be counted more than once, such as on each node of a cluster: all of it counts.
    let mut counted = false;
    for found in census.sources.iter().filter(|found| found.source == *source) {
        counted = true;
        if let Some(why_not) = &found.why_not {
            missing.push(Missing::new("census_inconclusive", who(), why_not.clone()));
        }
        let of_version = found.values.iter().filter(|(counted, _)| *counted == version);
        let left = of_version.fold(0_u64, |left, (_, count)| left.saturating_add(*count));
        if left > 0 {
            let detail = format!("{left} values of v{version} are left; `keymoot rekey start`");
            missing.push(Missing::new("values_left", who(), detail));
        }
        if found.unreadable > 0 {
            let detail = format!(
                "{} rows begin as values do and can't be read: `keymoot rekey start` puts them in quarantine, where \
                 `keymoot rekey quarantine` names them; repair or remove them",
                found.unreadable
            );
            missing.push(Missing::new("unreadable_left", who(), detail));
        }
    }
    if !counted && census.set_aside.is_none() && facts.configured.contains(source) {
        missing.push(Missing::new("census_stale", who(), "was not counted in the newest two censuses"));
    }
}

fn waits(manifest: &Manifest, facts: &RetirementFacts<'_>, stopped: Duration, missing: &mut Vec<Missing>) {
    let lives = facts.keys.iter().map(|life| (&life.key, life.max_age));
    let declared = manifest.declared.keys.iter().map(|declared| &declared.name);
    let unsaid = declared.filter(|name| facts.keys.iter().all(|life| life.key != **name)).map(|name| (name, None));
    for (key, max_age) in lives.chain(unsaid) {
        let who = || Some(key.to_string());
        match max_age {
            None => {
                let detail = "says neither only_in_sources nor max_age: where its values live is not known";
                missing.push(Missing::new("key_undeclared", who(), detail));
            }
            Some(max_age) if facts.now < stopped.saturating_add(max_age) => {
                let left = seconds_until(stopped.saturating_add(max_age), facts.now);
                let detail = format!("values outside the sources may live for another {left} s");
                missing.push(Missing::new("max_age", who(), detail));
            }
            Some(_) => {}
        }
    }
    let quiet_since = facts.last_use.unwrap_or(stopped).max(stopped);
    let quiet_until = quiet_since.saturating_add(facts.quiet);
    if facts.now < quiet_until {
        let left = seconds_until(quiet_until, facts.now);
        let detail = format!("v{} must authenticate nothing for a service for another {left} s", facts.version);
        missing.push(Missing::new("quiet_period", Some(format!("v{}", facts.version)), detail));
    }
}

/// Whole seconds, never too few.
fn seconds_until(then: Duration, now: Duration) -> u64 {
    then.saturating_sub(now).as_secs().saturating_add(1)
}
