//! What an operator asks the holders for. Nothing is made until enough of them have consented.

use std::path::Path;

use anyhow::{Context as _, bail};
use keymoot_api::{
    init::HolderSpec,
    rotate::{
        ImportRequest, ReleaseRequest, RequestBody, ReshareRequest, RetireOverrideRequest, StageRequest,
        VersionDetail,
    },
};
use keymoot_client::Control;
use keymoot_types::{HolderName, KeyName, KeyVersion, SourceName, VersionState};

use crate::{
    cli::Context,
    commands::{changes, value::AssociatedData},
    exit::{Exit, wrong_usage},
    files,
    output::note,
};

/// A value, or a manifest with all its holders; the request must fit into 1 MiB.
const WITNESS_BYTES_MAX: u64 = 512 * 1024;

/// The next version.
pub(super) async fn stage(context: &Context, control: &Control, stage: StageRequest) -> anyhow::Result<Exit> {
    ask(context, control, &RequestBody::Stage(stage)).await
}

/// New shares of a version: for the holders named, or for those of now.
pub(super) async fn reshare(
    context: &Context,
    control: &Control,
    version: Option<KeyVersion>,
    holders: Vec<HolderSpec>,
    threshold: Option<u8>,
) -> anyhow::Result<Exit> {
    let now = present(control, version).await?;
    let holders: Vec<_> = if holders.is_empty() {
        now.holders.iter().map(|holder| spec(&now, holder.name.clone(), None)).collect()
    } else {
        holders.into_iter().map(|holder| spec(&now, holder.name, holder.recipient)).collect()
    };
    show(&now, &holders, threshold);
    let request = ReshareRequest { version: now.version, holders, threshold };
    ask(context, control, &RequestBody::Reshare(request)).await
}

/// New shares of a version for everybody but one, whose share is lost.
pub(super) async fn replace(
    context: &Context,
    control: &Control,
    holder: &HolderName,
    with: Option<HolderSpec>,
    version: Option<KeyVersion>,
) -> anyhow::Result<Exit> {
    let now = present(control, version).await?;
    let holders = replaced(&now, holder, with)?;
    show(&now, &holders, None);
    let request = ReshareRequest { version: now.version, holders, threshold: None };
    ask(context, control, &RequestBody::Replace(request)).await
}

/// The present list with one place taken by another, or by nobody.
fn replaced(
    now: &VersionDetail,
    holder: &HolderName,
    with: Option<HolderSpec>,
) -> anyhow::Result<Vec<HolderSpec>> {
    let names = || now.holders.iter().map(|holder| &holder.name);
    if !names().any(|name| name == holder) {
        let holders: Vec<_> = names().map(ToString::to_string).collect();
        return Err(wrong_usage(format!(
            "{holder} holds no share of v{}: {} do",
            now.version,
            holders.join(", ")
        )));
    }
    if let Some(with) = with.as_ref().filter(|with| with.name != *holder && names().any(|name| *name == with.name))
    {
        return Err(wrong_usage(format!("{} holds a share of v{} already", with.name, now.version)));
    }
    let mut holders = Vec::new();
    for name in names() {
        match &with {
            _ if name != holder => holders.push(spec(now, name.clone(), None)),
            Some(with) => holders.push(spec(now, with.name.clone(), with.recipient.clone())),
            None => {}
        }
    }
    Ok(holders)
}

/// Out of use without the evidence.
pub(super) async fn retire_override(
    context: &Context,
    control: &Control,
    version: KeyVersion,
    reason: String,
) -> anyhow::Result<Exit> {
    let request = RetireOverrideRequest { version, reason };
    ask(context, control, &RequestBody::RetireOverride(request)).await
}

/// Into plaintext again.
pub(super) async fn release(context: &Context, control: &Control, source: SourceName) -> anyhow::Result<Exit> {
    ask(context, control, &RequestBody::Release(ReleaseRequest { source })).await
}

/// Back from being forgotten.
pub(super) async fn import(
    context: &Context,
    control: &Control,
    version: KeyVersion,
    witness: &Path,
    key: Option<KeyName>,
    associated_data: &AssociatedData,
) -> anyhow::Result<Exit> {
    let bytes = files::read(witness, WITNESS_BYTES_MAX).map_err(|error| wrong_usage(format!("{error:#}")))?;
    let witness = std::str::from_utf8(&bytes).context("the witness is not text")?.trim().to_owned();
    if witness.is_empty() {
        return Err(wrong_usage(
            "there is no witness: give one value of that version, or a manifest that knows it",
        ));
    }
    let request = ImportRequest { version, witness, key, associated_data: associated_data.read()? };
    ask(context, control, &RequestBody::Import(request)).await
}

/// Who holds a version now; without a number the primary.
async fn present(control: &Control, version: Option<KeyVersion>) -> anyhow::Result<VersionDetail> {
    let versions = control.versions().await.context("asking who holds it now")?.versions;
    let is_meant = |detail: &VersionDetail| match version {
        Some(version) => detail.version == version,
        None => detail.state == VersionState::Primary,
    };
    match (versions.into_iter().find(is_meant), version) {
        (Some(detail), _) => Ok(detail),
        (None, Some(version)) => Err(wrong_usage(format!("this keyring has no v{version}"))),
        (None, None) => bail!("the node knows of no primary version"),
    }
}

/// A holder as named; who is there already and comes without a recipient keeps theirs.
fn spec(now: &VersionDetail, name: HolderName, recipient: Option<String>) -> HolderSpec {
    let before = now.holders.iter().find(|holder| holder.name == name);
    let recipient = recipient.or_else(|| before.and_then(|holder| holder.recipient.clone()));
    HolderSpec { name, recipient }
}

fn show(now: &VersionDetail, holders: &[HolderSpec], threshold: Option<u8>) {
    let threshold = match threshold.filter(|threshold| *threshold != now.threshold) {
        Some(threshold) => format!("{threshold} shares needed instead of {}", now.threshold),
        None => format!("{} shares needed, as now", now.threshold),
    };
    let table = changes::show(holders, Some(&now.holders));
    note(format!("new shares of v{} for {} holders, {threshold}\n{table}", now.version, holders.len()));
}

/// Makes the request, and says what the holders do now.
pub(in crate::commands) async fn ask(
    context: &Context,
    control: &Control,
    body: &RequestBody,
) -> anyhow::Result<Exit> {
    let answer = control.request(body).await.context("asking for the holders' consent")?;
    context.out.result(&answer, |answer| {
        format!(
            "request {}\ndigest  {}\n{} of {} consents\n",
            answer.id, answer.digest, answer.have, answer.needed
        )
    })?;
    note(format!(
        "{} holders look at it and consent, within 24 hours, each with\n  keymoot holder consent {} FILE\n{}",
        answer.needed,
        answer.id,
        afterwards(body)
    ));
    Ok(Exit::Done)
}

/// What the operator does once the holders have consented.
fn afterwards(body: &RequestBody) -> String {
    match body {
        RequestBody::Stage(_) => {
            "then, with the number that the last of them is shown\n  keymoot rotate packages vN --out DIR".into()
        }
        RequestBody::Reshare(new) | RequestBody::Replace(new) => {
            let version = new.version;
            format!(
                "then, within the hour\n  keymoot rotate packages v{version} --out DIR\nThe old shares work until \
                 enough new ones are proved, and are to be destroyed then: resharing does not make them worthless"
            )
        }
        RequestBody::Window(window) => format!(
            "with the last of them it is open for {}, and ends by itself; to end it at once\n  keymoot window end ID",
            window.duration
        ),
        RequestBody::Import(import) => format!("then load v{} with\n  keymoot unlock FILE…", import.version),
        RequestBody::Release(release) => format!(
            "with the last of them a job begins to write {} in clear: `keymoot rekey watch`",
            release.source
        ),
        _ => "with the last of them it is done".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> VersionDetail {
        let holders = json!([
            {"name": "ann", "x": 1, "recipient": "age1a"},
            {"name": "bob", "x": 2, "recipient": "age1b"},
            {"name": "eve", "x": 3},
        ]);
        serde_json::from_value(json!({
            "version": 9, "key_id": "00".repeat(16), "state": "primary", "created": "2026-01-01T00:00:00Z",
            "required": true, "validated": true, "threshold": 2, "holders": holders,
        }))
        .unwrap()
    }

    fn shown(holders: &[HolderSpec]) -> Vec<String> {
        let recipient = |holder: &HolderSpec| holder.recipient.clone().unwrap_or_default();
        holders.iter().map(|holder| format!("{} {}", holder.name, recipient(holder))).collect()
    }

    #[test]
    fn a_lost_place_goes_to_another_or_to_nobody_and_the_others_keep_theirs() {
        let bob = "bob".parse().unwrap();
        let spec = |name: &str, recipient: Option<&str>| HolderSpec {
            name: name.parse().unwrap(),
            recipient: recipient.map(Into::into),
        };
        let with = |with| shown(&replaced(&now(), &bob, with).unwrap());
        assert_eq!(with(None), ["ann age1a", "eve "]);
        assert_eq!(with(Some(spec("joe", Some("age1j")))), ["ann age1a", "joe age1j", "eve "]);
        assert_eq!(with(Some(spec("bob", Some("age1new")))), ["ann age1a", "bob age1new", "eve "]);
        assert_eq!(with(Some(spec("bob", None))), ["ann age1a", "bob age1b", "eve "]);
        assert!(replaced(&now(), &bob, Some(spec("ann", Some("age1x")))).is_err());
        assert!(replaced(&now(), &"joe".parse().unwrap(), None).is_err());
    }
}
