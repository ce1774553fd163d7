//! `just fuzz share`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keymoot_fuzz::share(data));
