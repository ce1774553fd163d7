# Recipes for people; `just check` is the quick half of what CI runs, `just test` the whole.

# List the recipes.
default:
    @just --list

# Format and lints, without running a test.
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --locked -- -D warnings
    cargo clippy --workspace --all-targets --locked -- -D warnings -A clippy::unwrap_used -A clippy::expect_used -A clippy::panic -A clippy::indexing_slicing -A clippy::disallowed_methods

# Everything; ends with one line, `N passed, N failed`.
test:
    ./tests/run

# The whole story on this machine: init, unlock, rotation, rekey, retirement. Arguments go to `keymoot demo`.
demo *ARGS:
    cargo run --release --locked -- demo {{ARGS}}

# Licences, banned crates, sources, advisories. Needs cargo-deny.
deny:
    cargo deny check
