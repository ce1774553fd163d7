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

# Ratios to what this machine does without the daemon; docs/performance.md. `just bench --quick` to try it.
bench *ARGS:
    cargo bench --locked --bench ceiling -- {{ARGS}}

# Fuzzes one target of tests/fuzz until Ctrl-C; further arguments go to libFuzzer, such as -max_total_time=30.
# Needs: rustup toolchain install nightly; cargo install --locked cargo-fuzz; a C++ compiler.
fuzz TARGET *ARGS:
    mkdir -p target/fuzz/corpus/{{TARGET}} target/fuzz/artifacts/{{TARGET}}
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz/build {{TARGET}} \
        target/fuzz/corpus/{{TARGET}} tests/fuzz/corpus/{{TARGET}} -- \
        -dict=tests/fuzz/dictionaries/{{TARGET}}.dict -artifact_prefix=target/fuzz/artifacts/{{TARGET}}/ \
        -timeout=1 -max_len=8192 {{ARGS}}

# Every exchange with a daemon cut behind every byte, instead of a sample of them: hours.
every-byte:
    KEYMOOT_TEST_EVERY_BYTE=1 cargo test --locked --test daemon -- --nocapture --test-threads 1 network::

# A thousand clients while the database is away for five minutes, instead of for seconds.
five-minutes-away:
    KEYMOOT_TEST_AWAY_SECONDS=300 cargo test --locked --test cluster -- --nocapture fault_52_a_database_that_is_away

# Licences, banned crates, sources, advisories. Needs cargo-deny.
deny:
    cargo deny check
