//! Compiles the counters.

fn main() {
    println!("cargo::rerun-if-changed=src/cover.c");
    cc::Build::new().file("src/cover.c").compile("fencegate_fuzz_cover");
    // libFuzzer has a function of the same name that only says that it isn't made for this; the first one that is found is taken.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,muldefs");
}
