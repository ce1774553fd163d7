//! `just fuzz parts_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keymoot_fuzz::parts_file(data));
