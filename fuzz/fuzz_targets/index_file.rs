//! `index_file` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = cometmq_fuzz::targets::index::format(data);
});
