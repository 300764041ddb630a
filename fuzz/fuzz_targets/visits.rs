#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coterie_fuzz::run("visits", data));
