//! Passes each of the hot paths (`common/hot.rs`) many times, to have their instructions counted by callgrind: unlike time, they
//! hardly depend on the machine and on what else it does. `scripts/instructions` runs it; by itself it only prints the paths' names.
#![allow(clippy::print_stdout, reason = "the script reads the names")]

use std::hint::black_box;

#[path = "common/hot.rs"]
mod hot;

/// How often each is passed. The script knows the same number.
const TIMES: u32 = 1_000;
/// What is done the first time only isn't counted.
const WARM_UP: u32 = 16;

/// Callgrind counts inside of this function, and writes down what it has counted whenever it begins.
#[inline(never)]
fn hot_path_counted(run: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        run();
    }
    // Nothing may come to stand behind the loop that makes it a jump out of here.
    black_box(());
}

fn main() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    for mut path in hot::all(dir.path()) {
        (0..WARM_UP).for_each(|_| (path.run)());
        println!("{}", path.name);
        hot_path_counted(&mut *path.run);
    }
}
