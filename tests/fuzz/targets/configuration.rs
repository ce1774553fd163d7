//! `just fuzz configuration`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keymoot_fuzz::configuration(data));
