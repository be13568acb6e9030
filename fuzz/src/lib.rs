//! What all programs have in common.
//!
//! Linked in besides is `cover.c`: SQLite is compiled by a C compiler that may know nothing of libFuzzer, and tells through it where it has been.

#[doc(hidden)]
pub use libfuzzer_sys;

unsafe extern "C" {
    fn fencegate_fuzz_cover();
}

/// Looks for a violation of the property of this name.
pub fn check(name: &str, input: &[u8]) {
    // Named, so that the file with the counters is linked.
    // SAFETY: it does nothing.
    unsafe { fencegate_fuzz_cover() };
    fencegate::fuzzing::must_hold(name, input);
}

/// A program for the target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| $crate::check($name, input));
    };
}
