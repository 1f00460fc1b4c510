#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| slat_fuzz::formats(bytes));
