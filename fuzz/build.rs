//! Compiles the counters.

fn main() {
    println!("cargo::rerun-if-changed=src/cover.c");
    cc::Build::new().file("src/cover.c").compile("fencegate_fuzz_cover");
}
