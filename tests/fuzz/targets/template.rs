//! `just fuzz template`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keymoot_fuzz::template(data));
