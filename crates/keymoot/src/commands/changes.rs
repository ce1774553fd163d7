//! Who stays, who comes and who goes when a version is shared out.

use keymoot_api::{init::HolderSpec, rotate::VersionHolder};

use crate::output::table;

/// The holders to be, each against the present ones, and those who go. Without the present ones nothing is compared.
pub(crate) fn show(wanted: &[HolderSpec], now: Option<&[VersionHolder]>) -> String {
    let to_be = wanted.iter().map(|holder| {
        let plain = || "NONE: the package is the share itself".to_owned();
        let recipient = holder.recipient.clone().unwrap_or_else(plain);
        [holder.name.to_string(), now.map_or("?", |now| change(holder, now)).into(), recipient]
    });
    let gone = now.into_iter().flatten().filter(|holder| !wanted.iter().any(|stays| stays.name == holder.name));
    let gone = gone.map(|holder| [holder.name.to_string(), "goes".into(), String::new()]);
    table(["holder", "change", "recipient"], to_be.chain(gone))
}

/// A package for somebody else's identity under a known name is what must strike the eye.
fn change(holder: &HolderSpec, now: &[VersionHolder]) -> &'static str {
    match now.iter().find(|before| before.name == holder.name) {
        None => "comes",
        Some(before) if before.recipient == holder.recipient => "stays",
        Some(_) => "OTHER RECIPIENT",
    }
}
