#![no_main]

fencegate_fuzz::target!("plain");
