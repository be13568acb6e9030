#![no_main]

fencegate_fuzz::target!("answers");
