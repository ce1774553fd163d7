//! The rules of the house: who may use whom, how long a file may be, and that the pages say what is there.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use keymoot_api::{problem::code_name, routes};
use keymoot_types::{ErrorCode, RefusalCode};
use serde_json::Value as Json;

const LINES_MAX: usize = 500;
/// The one module that may be unsafe: it locks memory.
const UNSAFE_MODULE: &str = "crates/server/src/memory.rs";

/// Who may use whom. `keymoot`, the binary, may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("keyring", &["types"]),
    ("quorum", &["keyring", "types"]),
    ("storage", &["types"]),
    ("rekey", &["keyring", "storage", "types"]),
    ("api", &["types"]),
    ("client", &["api", "types"]),
    ("server", &["types", "keyring", "quorum", "storage", "rekey", "api"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below `folder` whose name ends so, as paths from the root.
fn files(folder: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().is_some_and(|path| path.ends_with(end)) {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<String> {
    [files("crates", ".rs"), files("tests", ".rs")].concat()
}

/// The pages that tell people something about the project.
fn pages() -> Vec<String> {
    let mut pages = files("docs", ".md");
    pages.extend(["README.md", "ARCHITECTURE.md", "SECURITY.md"].map(String::from));
    pages
}

/// The names of all functions that are tests.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files() {
        let mut is_test = false;
        for line in read(&file).lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
                if is_test {
                    names.insert(name.split(['(', '<']).next().unwrap().to_owned());
                }
                is_test = false;
            } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            }
        }
    }
    names
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The paragraph that begins with `start`, as one line each time it occurs.
fn paragraphs<'t>(text: &'t str, start: &'t str) -> impl Iterator<Item = &'t str> {
    text.split("\n\n").map(str::trim).filter(move |paragraph| paragraph.starts_with(start))
}

/// The code in fenced blocks, and whole spans of inline code.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if inside {
            found.push(line.trim().trim_start_matches("$ ").to_owned());
        } else {
            found.extend(quoted(line).map(str::to_owned));
        }
    }
    found
}

fn keymoot(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keymoot")).args(arguments).env_clear().output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The commands that `keymoot [ARGUMENTS] --help` lists.
fn listed(arguments: &[&str]) -> BTreeSet<String> {
    let output = keymoot(&[arguments, &["--help"]].concat());
    assert!(output.status.success(), "keymoot {arguments:?} --help: {output:?}");
    let help = stdout(&output);
    let lines = help.lines().skip_while(|line| line.trim() != "Commands:").skip(1);
    lines
        .take_while(|line| !line.trim().is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Whether `keymoot` has what stands in a page: `keymoot rotate stage --…`.
fn exists(command: &str) -> Result<(), String> {
    let mut known: Vec<&str> = Vec::new();
    let mut below = listed(&[]);
    for word in command.split_whitespace().skip(1) {
        if below.is_empty() {
            break;
        }
        if !below.contains(word) {
            return Err(format!("`{command}`: there is no `{word}` after `keymoot {}`", known.join(" ")));
        }
        known.push(word);
        below = listed(&known);
    }
    Ok(())
}

#[test]
fn crates_use_only_whom_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Json = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(name) = name.strip_prefix("keymoot-") else {
            assert_eq!(name, "keymoot");
            continue;
        };
        seen.insert(name);
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} has no rule in MAY_USE"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            assert_ne!(dependency, "keymoot", "{name} uses the binary");
            if let Some(ours) = dependency.strip_prefix("keymoot-") {
                assert!(allowed.contains(&ours), "{name} may not use {ours}");
            }
        }
    }
    assert_eq!(seen, allowed.keys().copied().collect(), "a crate is missing");
}

#[test]
fn every_crate_follows_the_lints_of_the_workspace() {
    for file in files("crates", "Cargo.toml") {
        assert!(read(&file).contains("[lints]\nworkspace = true"), "{file}");
    }
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    let long: Vec<_> = rust_files()
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn nothing_is_unsafe_outside_of_one_module() {
    let marks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "(unsafe_code"];
    for file in files("crates", ".rs").into_iter().filter(|file| file != UNSAFE_MODULE) {
        for (index, line) in read(&file).lines().enumerate() {
            let code = line.split("//").next().unwrap();
            assert!(!marks.iter().any(|mark| code.contains(mark)), "{file}:{}: {line}", index + 1);
        }
    }
}

#[test]
fn the_example_configuration_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let text = read("deploy/keymoot.example.toml")
        .replace("/var/lib/keymoot", &format!("{place}/data"))
        .replace("/srv/app/db", &format!("{place}/db"));
    let file = folder.path().join("keymoot.toml");
    fs::write(&file, &text).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = keymoot(&["config", "check", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");

    // The proof that the check looks: one more setting, and it is refused by name.
    fs::write(&file, format!("colour = \"blue\"\n{text}")).unwrap();
    let output = keymoot(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    assert!(String::from_utf8(said).unwrap().contains("colour"));
}

#[test]
fn every_setting_on_the_page_is_known_and_every_one_of_the_example_is_on_the_page() {
    let page = read("docs/configuration.md");
    let documented: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect();
    let parser = ["parse", "rekey"].map(|file| read(&format!("crates/server/src/config/{file}.rs"))).concat();
    for setting in &documented {
        let field = setting.rsplit('.').next().unwrap();
        assert!(parser.contains(&format!("(\"{field}\"")), "{setting} is not read");
    }
    let mut section = String::new();
    for line in read("deploy/keymoot.example.toml").lines().map(|line| line.trim_start_matches('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_start_matches('[').split(']').next().unwrap());
        } else if let Some((field, _)) = line.split_once('=').filter(|(field, _)| !field.trim().contains(' ')) {
            let setting = format!("{section}{}", field.trim());
            assert!(documented.contains(&setting), "docs/configuration.md lacks {setting}");
        }
    }
}

#[test]
fn every_page_names_tests_that_exist() {
    let known = tests();
    for page in files("docs", ".md") {
        let text = read(&page);
        let lines: Vec<_> = paragraphs(&text, "Kept true by:").collect();
        assert!(!lines.is_empty(), "{page} does not say which test keeps it true");
        let names: Vec<_> = lines.iter().flat_map(|line| quoted(line)).collect();
        assert!(!names.is_empty(), "{page} names no test");
        for name in names {
            let there = if name.contains('/') { root().join(name).is_file() } else { known.contains(name) };
            assert!(there, "{page} names {name}, which does not exist");
        }
    }
}

#[test]
fn every_invariant_names_the_test_that_guards_it() {
    let known = tests();
    let text = read("ARCHITECTURE.md");
    let invariants: Vec<_> = paragraphs(&text, "**Invariant:**").collect();
    assert!(invariants.len() >= 5, "ARCHITECTURE.md lost its invariants");
    for invariant in invariants {
        let (_, guards) = invariant.split_once("Guarded by").unwrap_or_else(|| panic!("no guard: {invariant}"));
        assert!(quoted(guards).count() > 0, "no guard: {invariant}");
        for name in quoted(guards) {
            assert!(known.contains(name), "there is no test {name}: {invariant}");
        }
    }
}

#[test]
fn the_track_record_lists_every_fault_that_is_tested_and_no_other() {
    let text = read("docs/track-record.md");
    let listed: BTreeSet<_> = quoted(&text).filter(|name| name.starts_with("fault_")).map(str::to_owned).collect();
    let known: BTreeSet<_> = tests().into_iter().filter(|name| name.starts_with("fault_")).collect();
    let missing: Vec<_> = known.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&known).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not listed: {missing:?}; not there: {invented:?}");
    for row in text.lines().filter(|line| line.contains("`fault_")) {
        let number = row.trim_start_matches("| ").split(' ').next().unwrap();
        for name in quoted(row).filter(|name| name.starts_with("fault_")) {
            assert!(name.starts_with(&format!("fault_{number}_")), "{name} stands in row {number}");
        }
    }
}

#[test]
fn every_outage_that_is_replayed_is_on_the_page_of_past_mistakes() {
    let page = read("docs/past-mistakes.md");
    if root().join("tests/incidents").is_dir() {
        for file in files("tests/incidents", ".rs") {
            let replays = read(&file).contains("#[test]") || read(&file).contains("#[tokio::test");
            assert!(!replays || page.contains(&format!("`{file}`")), "docs/past-mistakes.md lacks {file}");
        }
    }
}

#[test]
fn every_command_on_a_page_exists() {
    for page in pages() {
        for command in commands(&read(&page)).iter().filter(|command| command.starts_with("keymoot ")) {
            let plain = command.split(['|', '>', '#', '…', '·']).next().unwrap();
            exists(plain).unwrap_or_else(|error| panic!("{page}: {error}"));
        }
    }
}

#[test]
fn every_recipe_and_script_of_the_readme_exists() {
    let justfile = read("justfile");
    let mut scripts = 0;
    for command in commands(&read("README.md")) {
        if let Some(recipe) = command.strip_prefix("just ") {
            let recipe = recipe.split_whitespace().next().unwrap();
            let there = justfile.lines().any(|line| {
                line.strip_prefix(recipe).is_some_and(|rest| rest.starts_with(':') || rest.starts_with(" *"))
            });
            assert!(there, "there is no recipe {recipe}");
        } else if let Some(script) = command.strip_prefix("./") {
            let script = script.split_whitespace().next().unwrap();
            assert!(root().join(script).is_file(), "there is no {script}");
            scripts += 1;
        } else if let Some(arguments) = command.strip_prefix("cargo run --release -- ") {
            exists(&format!("keymoot {arguments}")).unwrap();
            scripts += 1;
        }
    }
    assert!(scripts >= 2, "the README lost its two commands");
}

#[test]
fn the_table_of_commands_is_the_programs_own() {
    let page = read("docs/operation.md");
    let documented: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `keymoot ")?.split(['`', ' ']).next().map(str::to_owned))
        .collect();
    assert_eq!(documented, listed(&[]));
}

#[test]
fn the_page_of_the_interface_lists_every_address_and_code() {
    let page = read("docs/api.md");
    for route in routes::ALL {
        let line = format!("| `{} {}` |", format!("{:?}", route.method).to_uppercase(), route.path);
        assert!(page.contains(&line), "docs/api.md lacks {line}");
    }
    let server: String = files("crates/server/src", ".rs").iter().map(|file| read(file)).collect();
    let table = read("crates/api/src/routes.rs");
    for line in table.lines().filter(|line| line.contains(" = Route")) {
        let name = line.split_whitespace().next().unwrap();
        let mark = format!("routes::{name}");
        let served = server.match_indices(&mark).any(|(at, _)| {
            !server[at + mark.len()..].starts_with(|c: char| c == '_' || c.is_ascii_alphanumeric())
        });
        let path = line.split('"').nth(1).unwrap();
        let method = ["Get", "Patch", "Delete"].into_iter().find(|method| line.contains(method)).unwrap_or("Post");
        let start = format!("| `{} {path}` |", method.to_uppercase());
        let row = page.lines().find(|row| row.starts_with(&start)).unwrap_or_else(|| panic!("no {start}"));
        assert_eq!(served, !row.contains("*Not yet*"), "is {name} served? {row}");
    }
    for code in ErrorCode::ALL {
        let line = format!("| `{}` | {} | {} |", code_name(code), code.status(), code.verdict());
        assert!(page.contains(&line), "docs/api.md lacks {line}");
    }
}

#[test]
fn the_page_of_operation_lists_every_code_of_a_refused_part_and_of_a_gate() {
    let page = read("docs/operation.md");
    let rows: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    let source = read("crates/types/src/refusal.rs");
    let codes: Vec<_> = source.lines().filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).collect();
    assert_eq!(codes.first(), Some(&RefusalCode::MalformedShare.as_str()));
    for code in codes {
        assert!(rows.contains(code), "docs/operation.md lacks the refusal {code}");
    }
    let gates = read("crates/quorum/src/gate.rs");
    for code in gates.split("Missing::new(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(rows.contains(code), "docs/operation.md lacks the gate {code}");
    }
}

#[test]
fn no_page_leans_on_a_folder_that_a_clone_does_not_have() {
    for page in pages() {
        let text = read(&page);
        let folder = Path::new(&page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") {
                assert!(root().join(&folder).join(target).exists(), "{page} links to {target}");
            }
        }
    }
}
