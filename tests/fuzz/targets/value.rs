//! `just fuzz value`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keymoot_fuzz::value(data));
